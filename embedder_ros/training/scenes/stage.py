# SPDX-License-Identifier: Apache-2.0
"""Colour images and exact instance masks of things in a room, rendered with MuJoCo.

MuJoCo is only the renderer here: nothing moves or collides. It runs without a screen through EGL or OSMesa
(`MUJOCO_GL=egl` is the default of this module).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder_ros.training.scenes.kinds import Kind, Piece
from embedder_ros.training.scenes.meshes import Array, Mesh, merge
from embedder_ros.training.scenes.meshes import slab as slab_mesh
from embedder_ros.training.scenes.surfaces import Image, Paint
from embedder_ros.types import UserError

if 'mujoco' in sys.modules and 'MUJOCO_GL' not in os.environ:  # it chose a way that needs a screen, or crashes
    raise UserError('mujoco was imported before MUJOCO_GL was set; run with MUJOCO_GL=egl (or osmesa)')
os.environ.setdefault('MUJOCO_GL', 'egl')

import mujoco  # noqa: E402  (reads MUJOCO_GL when imported)

WIDTH, HEIGHT = 640, 480
LIGHTS = 3
_XML = """<mujoco><visual><global offwidth="{w}" offheight="{h}"/><quality shadowsize="{shadow}"
offsamples="{samples}"/><map znear="0.02" zfar="30"/><headlight ambient=".2 .2 .2" diffuse=".1 .1 .1" specular="0 0 0"/>
</visual><statistic extent="1"/><worldbody/></mujoco>"""


@dataclass(frozen=True, slots=True)
class Slab:
    """A box of scenery: full `size` and `centre`, (3,) metres, with `texel` metres per repeat of its texture."""

    size: tuple[float, float, float]
    centre: tuple[float, float, float]
    paint: Paint
    texel: float = 0.5


@dataclass(frozen=True, slots=True)
class Thing:
    """One individual: what kind it is, its pieces, and its id, which stays the same in every view."""

    instance: str
    kind: Kind
    pieces: tuple[Piece, ...]

    def vertices(self) -> Array:
        """(N, 3) of the whole thing."""
        return np.concatenate([piece.mesh.vertices for piece in self.pieces])


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a thing stands: (3,) metres and a (3, 3) rotation."""

    position: Array
    rotation: Array = field(default_factory=lambda: np.eye(3))


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera at `eye` that looks at `target`, (3,) metres; `fovy` and `roll` in degrees and radians."""

    eye: Array
    target: Array
    fovy: float = 50.0
    roll: float = 0.0

    def rotation(self) -> Array:
        """(3, 3) with the camera's right, up and backward axes as columns."""
        forward = np.asarray(self.target, dtype=float) - self.eye
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        up = np.cross(right, forward)
        c, s = np.cos(self.roll), np.sin(self.roll)
        return np.stack([c * right + s * up, c * up - s * right, -forward], axis=1)

    def focal(self, height: int = HEIGHT) -> float:
        """Focal length in pixels of an image of that height."""
        return float(height / 2 / np.tan(np.radians(self.fovy) / 2))

    def project(self, points: ArrayLike, width: int = WIDTH, height: int = HEIGHT) -> Array:
        """(N, 2) pixels of (N, 3) world points; NaN behind the camera."""
        local = (np.asarray(points) - self.eye) @ self.rotation()
        depth = np.where(local[:, 2] < -1e-3, -local[:, 2], np.nan)[:, None]
        return self.focal(height) * local[:, :2] * [1, -1] / depth + [width / 2, height / 2]


@dataclass(frozen=True, slots=True)
class Light:
    """A lamp at (3,) metres that shines towards `target` in an (3,) RGB strength."""

    position: Array
    strength: Array
    target: Array = field(default_factory=lambda: np.zeros(3))
    shadow: bool = True


@dataclass(frozen=True, slots=True)
class Shot:
    """One rendered view.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        owner: (H, W) int16 index of the thing seen at each pixel, -1 for scenery.
        surface: (H, W) int16 index into `Stage.surfaces` of the piece seen there, -1 for scenery.
    """

    image: Image
    owner: NDArray[np.int16]
    surface: NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Surface:
    """All pieces of a thing that share a part and a paint."""

    owner: int
    part: str
    colours: tuple[str, ...]


class Stage:
    """A room with things that can be rearranged, lit and looked at; close it when done.

    Args:
        things: individuals, in the order of `Shot.owner`.
        scenery: boxes without a name.
        shadow: side of the shadow map in pixels; more is sharper and slower.
        samples: samples per pixel along edges.
    """

    def __init__(
        self, things: Sequence[Thing], scenery: Sequence[Slab], *, shadow: int = 1024, samples: int = 4
    ) -> None:
        self.things = tuple(things)
        self.surfaces: list[Surface] = []
        self._spec = mujoco.MjSpec.from_string(_XML.format(w=WIDTH, h=HEIGHT, shadow=shadow, samples=samples))
        self._materials: dict[int, str] = {}
        self._add_scenery(scenery)
        for index, thing in enumerate(self.things):
            self._add_thing(index, thing)
        self._spec.worldbody.add_camera(name='eye', pos=[0, 0, 1])
        for i in range(LIGHTS):
            self._spec.worldbody.add_light(name=f'light{i}', pos=[0, 0, 3], castshadow=True)
        self._model = self._spec.compile()
        self._data = mujoco.MjData(self._model)
        self._renderer = mujoco.Renderer(self._model, HEIGHT, WIDTH)
        geoms = [self._model.geom(f's{i}').id for i in range(len(self.surfaces))]
        self._surface_of = np.full(self._model.ngeom + 1, -1, dtype=np.int16)
        self._surface_of[geoms] = np.arange(len(geoms))
        self._owner_of = np.array([s.owner for s in self.surfaces] + [-1], dtype=np.int16)

    def close(self) -> None:
        """Free the graphics memory."""
        self._renderer.close()

    def _material(self, paint: Paint) -> str:
        name = self._materials.get(id(paint))
        if name is None:
            name = self._materials[id(paint)] = f'm{len(self._materials)}'
            shine = paint.shine
            made = self._spec.add_material(
                name=name, rgba=[*paint.rgb, paint.alpha], specular=0.7 * shine, shininess=0.2 + 0.7 * shine
            )
            if paint.texture is not None:
                self._add_texture(name, paint.texture)
                made.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = f't_{name}'
        return name

    def _add_texture(self, name: str, image: Image) -> None:
        texture = self._spec.add_texture(
            name=f't_{name}',
            type=mujoco.mjtTexture.mjTEXTURE_2D,
            height=image.shape[0],
            width=image.shape[1],
            nchannel=3,
        )
        texture.data = image.tobytes()

    def _add_scenery(self, scenery: Sequence[Slab]) -> None:
        for i, slab in enumerate(scenery):
            mesh = slab_mesh(slab.size)
            name = f'b{i}'
            self._add_mesh(name, Mesh(mesh.vertices + slab.centre, mesh.faces, mesh.uv / slab.texel), slab.paint)
            self._add_geom(self._spec.worldbody, name, slab.paint)

    def _add_thing(self, index: int, thing: Thing) -> None:
        body = self._spec.worldbody.add_body(name=f'thing{index}')
        groups: dict[tuple[str, int], list[Piece]] = {}
        for piece in thing.pieces:
            groups.setdefault((piece.part, id(piece.paint)), []).append(piece)
        for pieces in groups.values():
            name = f's{len(self.surfaces)}'
            self._add_mesh(name, merge([p.mesh for p in pieces]), pieces[0].paint)
            self.surfaces.append(Surface(index, pieces[0].part, pieces[0].paint.colours))
            self._add_geom(body, name, pieces[0].paint)

    def _add_geom(self, body: mujoco.MjsBody, name: str, paint: Paint) -> None:
        kind = mujoco.mjtGeom.mjGEOM_MESH
        body.add_geom(name=name, type=kind, meshname=name, material=self._material(paint), contype=0, conaffinity=0)

    def _add_mesh(self, name: str, mesh: Mesh, paint: Paint) -> None:
        self._spec.add_mesh(
            name=name,
            uservert=mesh.vertices.ravel(),
            userface=mesh.faces.ravel(),
            usertexcoord=(mesh.uv * paint.repeat).ravel(),
            inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,
        )

    def arrange(self, poses: Sequence[Pose | None]) -> None:
        """Put every thing at its pose; None takes it off the stage."""
        for index, pose in enumerate(poses):
            body = self._model.body(f'thing{index}').id
            self._model.body_pos[body] = (0, 0, -50) if pose is None else pose.position
            if pose is not None:
                mujoco.mju_mat2Quat(self._model.body_quat[body], pose.rotation.ravel())

    def light(self, lights: Sequence[Light], ambient: ArrayLike) -> None:
        """Set up to `LIGHTS` lamps and the (3,) light that is everywhere."""
        for i in range(LIGHTS):
            lamp = lights[i] if i < len(lights) else None
            self._model.light_active[i] = lamp is not None
            if lamp is not None:
                toward = lamp.target - lamp.position
                self._model.light_pos[i] = lamp.position
                self._model.light_dir[i] = toward / np.linalg.norm(toward)
                self._model.light_diffuse[i] = lamp.strength
                self._model.light_specular[i] = 0.5 * lamp.strength
                self._model.light_castshadow[i] = lamp.shadow
                self._model.light_cutoff[i] = 80
                self._model.light_exponent[i] = 1
        self._model.vis.headlight.ambient[:] = ambient

    def shoot(self, camera: Camera) -> Shot:
        """Render one view and its masks."""
        image = self.picture(camera)
        self._renderer.enable_segmentation_rendering()
        self._renderer.update_scene(self._data, camera='eye')
        ids = self._renderer.render()
        self._renderer.disable_segmentation_rendering()
        geom = np.where(ids[..., 1] == int(mujoco.mjtObj.mjOBJ_GEOM), ids[..., 0], self._model.ngeom)
        surface = self._surface_of[geom]
        return Shot(image, self._owner_of[surface], surface)

    def picture(self, camera: Camera) -> Image:
        """Render one view without masks, (H, W, 3) uint8 RGB."""
        eye = self._model.camera('eye').id
        self._model.cam_pos[eye] = camera.eye
        mujoco.mju_mat2Quat(self._model.cam_quat[eye], camera.rotation().ravel())
        self._model.cam_fovy[eye] = camera.fovy
        mujoco.mj_forward(self._model, self._data)
        self._renderer.update_scene(self._data, camera='eye')
        self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        return np.array(self._renderer.render())

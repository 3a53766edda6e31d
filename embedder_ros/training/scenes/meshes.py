# SPDX-License-Identifier: Apache-2.0
"""Triangle meshes from a few numbers: turned, lofted and swept surfaces.

Household things are mostly solids of revolution (mugs, bottles, bowls), stacks of outlines (trays, boxes) and bent
tubes (handles, spouts), so those three make every kind we render. All surfaces are closed and face outwards, since the
renderer culls back faces. Lengths are metres, z points up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Mesh:
    """A closed triangle mesh.

    Attributes:
        vertices: (N, 3) float64 metres.
        faces: (M, 3) int, counter-clockwise seen from outside.
        uv: (N, 2) float64 texture coordinates.
    """

    vertices: Array
    faces: NDArray[np.int64]
    uv: Array

    def moved(self, offset: ArrayLike) -> Mesh:
        """The mesh shifted by `offset`, (3,) metres."""
        return Mesh(self.vertices + np.asarray(offset), self.faces, self.uv)

    def turned(self, rotation: Array) -> Mesh:
        """The mesh rotated about the origin by a (3, 3) rotation matrix."""
        return Mesh(self.vertices @ rotation.T, self.faces, self.uv)

    def scaled(self, factors: ArrayLike) -> Mesh:
        """The mesh scaled by positive `factors`, () or (3,)."""
        return Mesh(self.vertices * np.asarray(factors), self.faces, self.uv)


def rotation(axis: str, angle: float) -> Array:
    """The (3, 3) matrix that turns by `angle` radians about 'x', 'y' or 'z'."""
    c, s = np.cos(angle), np.sin(angle)
    i = 'xyz'.index(axis)
    j, k = (i + 1) % 3, (i + 2) % 3
    matrix = np.eye(3)
    matrix[j, j], matrix[j, k], matrix[k, j], matrix[k, k] = c, -s, s, c
    return matrix


def merge(meshes: Sequence[Mesh]) -> Mesh:
    """Several meshes as one, none of their surfaces joined."""
    starts = np.cumsum([0] + [len(m.vertices) for m in meshes[:-1]])
    faces = [m.faces + start for m, start in zip(meshes, starts, strict=True)]
    return Mesh(
        np.concatenate([m.vertices for m in meshes]), np.concatenate(faces), np.concatenate([m.uv for m in meshes])
    )


def loft(rings: ArrayLike) -> Mesh:
    """The surface through a stack of outlines, its first and last outline closed with a fan.

    Args:
        rings: (P, K, 3) points. Each outline runs counter-clockwise about the direction of travel, which makes the
            surface face outwards. A path that comes back down inside makes a thin wall.

    Returns:
        The mesh; u runs once around the outline and v from the first ring to the last by length.
    """
    rings = np.asarray(rings, dtype=float)
    count, points = rings.shape[:2]
    around = np.concatenate([rings, rings[:, :1]], axis=1)  # the seam twice, so that textures do not run backwards
    step = np.linalg.norm(np.diff(rings, axis=0), axis=2).mean(axis=1)
    v = np.concatenate([[0.0], np.cumsum(step)]) / max(step.sum(), 1e-9)
    uv = np.stack(np.broadcast_arrays(np.linspace(0, 1, points + 1)[None, :], v[:, None]), axis=2)
    wall = Mesh(around.reshape(-1, 3), _wall_faces(count, points), uv.reshape(-1, 2))
    return merge([wall, _lid(rings[0, ::-1]), _lid(rings[-1])])


def _wall_faces(count: int, points: int) -> NDArray[np.int64]:
    index = np.arange(count * (points + 1)).reshape(count, points + 1)
    a, b = index[:-1, :-1].ravel(), index[:-1, 1:].ravel()
    c, d = index[1:, 1:].ravel(), index[1:, :-1].ravel()
    return np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])


def _lid(ring: Array) -> Mesh:
    """A fan over an outline, its texture laid flat."""
    points = len(ring)
    vertices = np.concatenate([ring, ring.mean(axis=0, keepdims=True)])
    around = np.arange(points)
    faces = np.stack([np.full(points, points), around, np.roll(around, -1)], axis=1)
    low, extent = vertices.min(axis=0), np.ptp(vertices, axis=0)
    across = np.sort(np.argsort(extent)[-2:])
    return Mesh(vertices, faces, (vertices[:, across] - low[across]) / np.maximum(extent[across], 1e-9))


def smooth(points: ArrayLike, count: int) -> Array:
    """(count, D) points on a Catmull-Rom curve through `points`, (P, D), so that corners become bends."""
    given = np.asarray(points, dtype=float)
    padded = np.concatenate([2 * given[:1] - given[1:2], given, 2 * given[-1:] - given[-2:-1]])
    place = np.linspace(0, len(given) - 1, count)
    i = np.minimum(place.astype(int), len(given) - 2)
    t = (place - i)[:, None]
    p0, p1, p2, p3 = padded[i], padded[i + 1], padded[i + 2], padded[i + 3]
    return 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)


def lathe(profile: ArrayLike, points: int = 28) -> Mesh:
    """A turned solid.

    Args:
        profile: (P, 2) radius and height in metres, from the bottom centre outwards and up; coming back down inside
            makes a hollow vessel.
        points: corners around; more is rounder and slower.
    """
    profile = np.asarray(profile, dtype=float)
    angle = np.arange(points) * 2 * np.pi / points
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    rings = np.empty((len(profile), points, 3))
    rings[:, :, :2] = np.maximum(profile[:, None, :1], 1e-5) * circle
    rings[:, :, 2] = profile[:, 1:]
    return loft(rings)


def vessel(outside: ArrayLike, wall: float, points: int = 28) -> Mesh:
    """A hollow turned body: `outside`, (P, 2) radius and height from the foot to the rim, with a wall inside it."""
    outside = np.asarray(outside, dtype=float)
    inside = outside[::-1] - [wall, 0.0]
    inside[:, 1] = np.maximum(inside[:, 1], outside[0, 1] + wall)
    inside[:, 0] = np.maximum(inside[:, 0], 1e-4)
    return lathe(np.concatenate([[[1e-5, outside[0, 1]]], outside, inside, [[1e-5, outside[0, 1] + wall]]]), points)


def outline(width: float, depth: float, corner: float, points: int = 5) -> Array:
    """(4 points, 2) counter-clockwise rectangle of full `width` and `depth` with corners of radius `corner`."""
    corner = min(corner, width / 2 - 1e-5, depth / 2 - 1e-5)
    angle = np.linspace(0, np.pi / 2, points)
    arc = corner * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    centres = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [width / 2 - corner, depth / 2 - corner]
    turns = [rotation('z', quarter * np.pi / 2)[:2, :2] for quarter in range(4)]
    return np.concatenate([centre + arc @ turn.T for centre, turn in zip(centres, turns, strict=True)])


def stack(layers: Sequence[tuple[Array, float]]) -> Mesh:
    """The loft through flat outlines, each (K, 2) at its height."""
    return loft([np.column_stack([shape, np.full(len(shape), height)]) for shape, height in layers])


def tub(width: float, depth: float, height: float, wall: float, corner: float, flare: float = 1.0) -> Mesh:
    """An open rectangular container on z = 0 whose rim is `flare` times as wide as its foot."""

    def ring(size: float, inset: float, z: float) -> tuple[Array, float]:
        return outline(width * size - 2 * inset, depth * size - 2 * inset, max(corner - inset, 1e-3)), z

    return stack([ring(1, 0, 0), ring(flare, 0, height), ring(flare, wall, height), ring(1, wall, wall)])


def block(width: float, depth: float, height: float, corner: float = 0.004) -> Mesh:
    """A box with rounded edges on z = 0, centred in x and y."""
    steps = np.linspace(0, np.pi / 2, 3)
    layers = []
    for angle in steps:
        inset, z = corner * (1 - np.sin(angle)), corner * (1 - np.cos(angle))
        layers.append((outline(width - 2 * inset, depth - 2 * inset, max(corner - inset, 1e-4), 3), z))
    mirrored = [(shape, height - z) for shape, z in reversed(layers)]
    return stack(layers + mirrored)


def slab(size: Sequence[float], cell: float = 0.2) -> Mesh:
    """A sharp box about the origin, full `size` (3,) metres, its texture coordinates in metres.

    The renderer lights corners and blends between them, so a large face needs corners every `cell` metres or so.
    """
    faces = []
    for axis in range(3):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        for side in (-1, 1):
            across = size[i] * side, size[j]
            grid = _grid(across, max(1, int(size[i] / cell)), max(1, int(size[j] / cell)))
            vertices = np.empty_like(grid.vertices)
            vertices[:, [i, j]] = grid.vertices[:, :2]
            vertices[:, axis] = side * size[axis] / 2
            flat = [0, 1] if axis == 2 else ([1, 2] if axis == 0 else [0, 2])  # v runs upwards on a wall
            faces.append(Mesh(vertices, grid.faces, vertices[:, flat]))
    return merge(faces)


def _grid(size: tuple[float, float], columns: int, rows: int) -> Mesh:
    """A flat (columns x rows) grid about the origin that faces +z; a negative width turns it over."""
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, columns + 1) * size[0], np.linspace(-0.5, 0.5, rows + 1) * size[1])
    vertices = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
    return Mesh(vertices, _wall_faces(rows + 1, columns), vertices[:, :2])


def ball(radius: float, squash: Sequence[float] = (1.0, 1.0, 1.0), points: int = 24) -> Mesh:
    """An ellipsoid about the origin."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, points // 2 + 1)
    return lathe(radius * np.stack([np.cos(angle), np.sin(angle)], axis=1), points).scaled(squash)


def sweep(path: ArrayLike, section: ArrayLike, size: ArrayLike = 1.0) -> Mesh:
    """A tube along a curve.

    Args:
        path: (P, 3) points of the curve.
        section: (K, 2) counter-clockwise outline in the plane across the curve.
        size: () or (P,) factor on the section along the curve.
    """
    path, section = np.asarray(path, dtype=float), np.asarray(section, dtype=float)
    tangents = np.gradient(path, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    normal = np.cross(tangents[0], np.eye(3)[np.argmin(np.abs(tangents[0]))])
    factors = np.broadcast_to(np.asarray(size, dtype=float), len(path))
    rings = []
    for point, tangent, factor in zip(path, tangents, factors, strict=True):
        normal = normal - tangent * (normal @ tangent)  # carried along, so that the tube does not twist
        normal /= np.linalg.norm(normal)
        across = np.stack([normal, np.cross(tangent, normal)])
        rings.append(point + factor * section @ across)
    return loft(rings)


def disc(radius: float, points: int = 12, flat: float = 1.0) -> Array:
    """(points, 2) counter-clockwise circle, its second axis `flat` times as long."""
    angle = np.arange(points) * 2 * np.pi / points
    return radius * np.stack([np.cos(angle), flat * np.sin(angle)], axis=1)


def tube(path: ArrayLike, radius: float, flat: float = 1.0, count: int = 14, points: int = 10) -> Mesh:
    """A round or flattened tube along a smooth curve through `path`, (P, 3)."""
    return sweep(smooth(path, count), disc(radius, points, flat))


def scattered(mesh: Mesh, count: int) -> Array:
    """(count, 3) points spread evenly over a surface, the same ones every time."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(mesh.faces), count, p=area / area.sum())
    u, v = rng.random((2, count, 1))
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    return a[chosen] + u * (b[chosen] - a[chosen]) + v * (c[chosen] - a[chosen])

# SPDX-License-Identifier: Apache-2.0
"""The kitchen of the sample bag: what stands where, how it is lit and how the camera moves.

Drawers and doors have handles in five colours, only one of them red; red things without a handle stand near it. The
blue mug is out of view for some seconds in the middle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from embedder_ros.training.scenes import furniture, goods, surfaces, tableware
from embedder_ros.training.scenes.furniture import Fitting, Fronts
from embedder_ros.training.scenes.kinds import KINDS, Draw, Piece
from embedder_ros.training.scenes.meshes import Array, disc, merge, rotation, smooth, sweep, tube
from embedder_ros.training.scenes.stage import Camera, Light, Pose, Slab, Thing
from embedder_ros.training.scenes.surfaces import Paint

RECIPES = (tableware, goods, furniture)  # importing them fills KINDS
SECONDS = 13.0
RATE = 10.0
FOVY = 48.0
HIGH = 0.82  # of the worktop
# Cleaner and calmer than the training colours, which have to span what cameras make of them.
TONES = {
    'red': (0.78, 0.07, 0.06),
    'green': (0.13, 0.5, 0.2),
    'blue': (0.09, 0.24, 0.72),
    'yellow': (0.95, 0.76, 0.1),
    'orange': (0.93, 0.46, 0.08),
    'white': (0.93, 0.92, 0.88),
    'gray': (0.55, 0.56, 0.58),
    'black': (0.06, 0.06, 0.07),
    'purple': (0.4, 0.16, 0.55),
}
CREAM = Paint(('white',), np.array([0.97, 0.95, 0.89]), shine=0.15)
# kind, colour, seed of its shape, x and y on the worktop, turn in degrees
WORKTOP: tuple[tuple[str, str, int, float, float, float], ...] = (
    ('mug', 'blue', 7, -0.92, -0.13, -35),
    ('kettle', 'gray', 1, -0.62, 0.06, 200),
    ('mug', 'white', 5, -0.4, -0.12, 20),
    ('plant', 'green', 2, -1.12, 0.12, 0),
    ('bowl', 'orange', 4, -0.12, -0.06, 0),
    ('bottle', 'green', 6, -0.2, 0.16, 0),
    ('apple', 'red', 0, 0.14, -0.16, 0),
    ('lemon', 'yellow', 1, 0.25, -0.1, 30),
    ('orange', 'orange', 2, 0.2, 0.0, 0),
    ('toaster', 'red', 3, 0.5, 0.12, 8),
    ('mug', 'yellow', 28, 0.5, -0.16, -40),
    ('bottle', 'blue', 9, 0.8, 0.08, 0),
    ('pot', 'white', 2, 1.08, 0.0, 15),
)


def _paint(name: str, shine: float = 0.5) -> Paint:
    return (
        surfaces.metal(np.random.default_rng(1))
        if name == 'steel'
        else Paint((name,), np.array(TONES[name]), shine=shine)
    )


def _pull(length: float) -> Fitting:
    half, out = length / 2, 0.042
    rod = sweep(smooth([(-half, -out, 0), (0, -out - 0.004, 0), (half, -out, 0)], 8), disc(0.0105, 16, 1.85))
    posts = [tube([(s * 0.72 * half, 0.002, 0), (s * 0.72 * half, -out, 0)], 0.009, 1, 3, 10) for s in (-1, 1)]
    return Fitting(merge([rod, *posts]), 'handle')


def _drawers(colours: Sequence[str], wide: float) -> list[Piece]:
    fronts = Fronts(CREAM, True, _pull(0.24), tuple(_paint(c) for c in colours))
    return furniture.drawer_unit(CREAM, fronts, (wide, 0.56, 0.78))


def _cupboard(
    colours: Sequence[str], wide: float, size: tuple[float, float] = (0.56, 0.78), lift: float = 0.24
) -> list[Piece]:
    hung = _pull(0.22).mesh.turned(rotation('y', np.pi / 2))
    fronts = Fronts(CREAM, True, Fitting(hung, 'handle'), tuple(_paint(c) for c in colours))
    return furniture.door_unit(CREAM, fronts, (wide, *size), lift=lift)


def _built_in() -> Iterator[tuple[str, list[Piece], float, float, float]]:
    """Kind, pieces, and x, y, z of what belongs to the room."""
    yield 'base cabinet', _drawers(('green', 'yellow', 'blue'), 0.6), -0.9, 0.0, 0.0
    yield 'kitchen cupboard', _cupboard(('green', 'red'), 0.8), -0.2, 0.0, 0.0
    yield 'base cabinet', _drawers(('blue', 'green', 'yellow'), 0.6), 0.5, 0.0, 0.0
    yield 'kitchen cupboard', _cupboard(('yellow',), 0.5), 1.05, 0.0, 0.0
    for x in (-0.75, 0.85):
        yield 'wall cupboard', _cupboard(('gray', 'gray'), 0.8, (0.3, 0.6), -0.28), x, 0.14, 1.5


def things() -> tuple[tuple[Thing, ...], list[Pose | None]]:
    """The individuals and where they stand."""
    cast, poses = [], []
    for kind, pieces, x, y, z in _built_in():
        cast.append((kind, pieces))
        poses.append(Pose(np.array([x, y, z])))
    for kind, colour, seed, x, y, turn in WORKTOP:
        pieces = KINDS[kind].recipe(Draw(np.random.default_rng(seed)), _paint('steel' if kind == 'kettle' else colour))
        cast.append((kind, pieces))
        low = min(float(p.mesh.vertices[:, 2].min()) for p in pieces)
        poses.append(Pose(np.array([x, y, HIGH - low]), rotation('z', np.radians(turn))))
    names = [kind.replace(' ', '_') for kind, _ in cast]
    ids = [f'{name}_{names[:i].count(name)}' for i, name in enumerate(names)]
    made = [Thing(name, KINDS[kind], tuple(pieces)) for name, (kind, pieces) in zip(ids, cast, strict=True)]
    return tuple(made), list(poses)


def scenery() -> tuple[Slab, ...]:
    """Worktop, plinth, tiled splashback, walls and floor."""
    rng = np.random.default_rng(7)

    def along_x(planks: surfaces.Image) -> surfaces.Image:
        return np.ascontiguousarray(planks.swapaxes(0, 1))

    oak = Paint((), np.ones(3), along_x(surfaces.wood(rng, (0.58, 0.39, 0.22), (0.76, 0.56, 0.36), 512)), shine=0.3)
    tile = Paint(
        (), np.ones(3), surfaces.tiles(np.random.default_rng(5), (0.82, 0.87, 0.86), (0.7, 0.72, 0.7), 512), shine=0.5
    )
    floor = Paint((), np.ones(3), along_x(surfaces.wood(rng, (0.46, 0.37, 0.3), (0.6, 0.49, 0.4), 512)), shine=0.15)
    wall = Paint((), np.array([0.86, 0.84, 0.79]), shine=0.0)
    dark = Paint((), np.array([0.2, 0.19, 0.18]), shine=0.1)
    return (
        Slab((2.62, 0.66, 0.04), (0.05, -0.01, HIGH - 0.02), oak, 0.7),
        Slab((2.5, 0.5, 0.02), (0.05, 0.02, 0.01), dark),
        Slab((7, 0.02, 0.7), (0, 0.315, HIGH + 0.34), tile, 0.45),
        Slab((7, 0.1, 3), (0, 0.37, 1.5), wall),
        Slab((0.1, 5, 3), (-2.4, -2, 1.5), wall),
        Slab((0.1, 5, 3), (2.6, -2, 1.5), wall),
        Slab((7, 0.1, 3), (0, -4.4, 1.5), wall),
        Slab((7, 5, 0.1), (0, -2, -0.05), floor, 0.9),
        Slab((7, 5, 0.1), (0, -2, 2.75), wall),
    )


def lights(count: int) -> list[tuple[list[Light], Array]]:
    """`count` sets of lamps that together make a window on the left, a ceiling panel and light from all over."""
    rng = np.random.default_rng(11)
    order = rng.permutation(count)
    sets = []
    for i in range(count):
        u, v = (i + 0.5) / count, (order[i] + 0.5) / count
        window = Light(
            np.array([-2.1, -1.6 + 1.1 * u, 1.3 + 0.9 * v]), 0.5 * np.array([1.0, 1.0, 1.03]), np.array([0.2, 0, 0.7])
        )
        panel = Light(
            np.array([-0.6 + 1.8 * v, -1.3 + 0.9 * u, 2.6]), 0.34 * np.array([1.02, 1.0, 0.95]), np.array([0.1, 0, 0.6])
        )
        turn = 2 * np.pi * u
        around = np.array([1.9 * np.sin(turn), -1.7 + 1.3 * np.cos(turn), 0.7 + 1.8 * v])
        sets.append(
            ([window, panel, Light(around, np.full(3, 0.26), np.array([0.1, 0, 0.6]))], np.array([0.3, 0.3, 0.31]))
        )
    return sets


# Seconds, eye x y z, target x y z: it looks left, walks to the right and back.
PATH = np.array(
    [
        (0.0, -0.25, -1.95, 1.48, -0.22, 0.0, 0.76),
        (1.5, -0.4, -1.75, 1.42, -0.36, 0.0, 0.74),
        (3.0, -0.5, -1.45, 1.34, -0.45, 0.0, 0.72),
        (4.5, 0.1, -1.4, 1.3, 0.12, 0.0, 0.72),
        (6.0, 0.6, -1.4, 1.32, 0.45, 0.0, 0.73),
        (7.5, 0.62, -1.38, 1.36, 0.46, 0.0, 0.73),
        (9.0, 0.15, -1.45, 1.32, 0.1, 0.0, 0.72),
        (10.5, -0.45, -1.5, 1.33, -0.42, 0.0, 0.72),
        (12.0, -0.35, -1.75, 1.42, -0.3, 0.0, 0.75),
        (13.5, -0.2, -1.9, 1.48, -0.2, 0.0, 0.76),
    ]
)


def cameras() -> list[Camera]:
    """One camera per frame along the path, held by a slightly unsteady hand."""
    count = round(SECONDS * RATE)
    time = np.arange(count) / RATE
    fine = smooth(PATH, 600)
    place = np.stack([np.interp(time, fine[:, 0], fine[:, i]) for i in range(1, 7)], axis=1)
    sway = np.stack([np.sin(time * f + p) for f, p in ((2.1, 0.3), (2.9, 1.1), (3.7, 2.0), (1.7, 0.7))], axis=1)
    place[:, [0, 2, 3, 5]] += 0.006 * sway
    roll = 0.006 * np.sin(1.3 * time)
    return [Camera(p[:3], p[3:], FOVY, float(r)) for p, r in zip(place, roll, strict=True)]

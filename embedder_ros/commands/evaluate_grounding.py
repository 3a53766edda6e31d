# SPDX-License-Identifier: Apache-2.0
"""`embedder-ros evaluate grounding`: is what a name means first, on photos with named boxes."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from embedder_ros.commands import options as build

_MEANING = {
    'first': 'own boxes: the right thing is first',
    'found': 'own boxes: FOUND, and right',
    'loose': 'own boxes: FOUND on it, IoU below 0.5',
    'wrong': 'own boxes: FOUND on something else',
    'ambiguous': 'own boxes: AMBIGUOUS',
    'boxed': 'own boxes: some box covers it',
    'given': 'two given boxes or more: the right one is first',
    'distracted': 'given boxes and random ones: the right one is first',
}


def add(kinds: argparse._SubParsersAction) -> None:
    """Add the kind."""
    command = kinds.add_parser('grounding', help='photos with named boxes')
    command.add_argument('file', metavar='FILE', type=Path, help='list of {image, objects: [{name, box}]}, or of '
                         '{image, objects: [{box_frac, queries}]}')  # fmt: skip
    command.add_argument('--images', metavar='DIR', type=Path, required=True, help='what file names are relative to')
    which = command.add_mutually_exclusive_group()
    which.add_argument('--videos', metavar='PREFIX', nargs='+', default=(), help='only photos whose "video" begins so')
    which.add_argument(
        '--held-out', action='store_true', help='of the kitchen photos, the person nano never trained on'
    )
    command.add_argument('--limit', type=build.positive, default=0, help='only the first photos')
    command.add_argument('--json', action='store_true', help='numbers as JSON')
    build.add_model(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Ask for everything that is labelled; print shares with 95 % intervals."""
    from embedder_ros.evaluation.named import evaluate, read_photos
    from embedder_ros.training.photos import HELD_BACK

    videos = (HELD_BACK,) if options.held_out else options.videos
    photos = read_photos(options.file, options.limit, videos)
    pipeline = build.pipeline(options)
    result = evaluate(pipeline, photos, options.images, quiet=not sys.stderr.isatty())
    numbers = {f.name: getattr(result, f.name).as_dict() for f in fields(result)}
    if options.json:
        print(json.dumps({'model_id': pipeline.embedder.info.model_id, 'photos': len(photos), **numbers}, indent=2))
        return
    print(f'{pipeline.embedder.info.model_id} on {len(photos)} photos, IoU 0.5')
    for name, meaning in _MEANING.items():
        n = numbers[name]
        print(f'{meaning:52} {n["right"]:5} of {n["of"]:5}{_share(n)}')


def _share(n: dict[str, Any]) -> str:
    if not n['of']:
        return ''
    low, high = n['interval']
    return f'  {n["share"]:.2f}  ({low:.2f} to {high:.2f}, {n["interval_by"]} photos)'

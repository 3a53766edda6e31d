# SPDX-License-Identifier: Apache-2.0
"""`embedder-ros evaluate splits`: everything a model is judged by, on named splits, each number with its interval."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from embedder_ros.commands import options as build
from embedder_ros.types import UserError

if TYPE_CHECKING:
    from embedder_ros.evaluation.splits import Split


def add(kinds: argparse._SubParsersAction) -> None:
    """Add the kind."""
    from embedder_ros.evaluation.splits import FRAMES, SPLITS

    command = kinds.add_parser(
        'splits',
        help='grounding, refusal, boxes, re-identification and cost on named splits',
        description=f'Splits:\n{SPLITS}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument('split', metavar='SPLIT', nargs='+')
    command.add_argument('--photos', metavar='DIR', type=Path, help='holds things/ and grocery/, for mosaics')
    command.add_argument('--classes', metavar='FILE', type=Path, help='ImageNet names, one class a line, for mosaics')
    command.add_argument('--frames', type=build.positive, default=FRAMES, help=f'of each split; default {FRAMES}')
    command.add_argument('--json', action='store_true', help='numbers as JSON')
    build.add_model(command)
    command.set_defaults(run=run)


def splits(options: argparse.Namespace) -> list[Split]:
    """The splits that the options ask for. Raises UserError."""
    from embedder_ros.evaluation.splits import open_split

    found = [
        open_split(spec, photo_folder=options.photos, classes=options.classes, frames=options.frames)
        for spec in options.split
    ]
    if len({split.name for split in found}) < len(found):
        raise UserError('two splits have the same name; measure them one after the other')
    return found


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    from embedder_ros.evaluation.report import lines, measure, plain

    found = splits(options)
    report = measure(build.pipeline(options), found, quiet=not sys.stderr.isatty())
    print(json.dumps(plain(report), indent=2) if options.json else '\n'.join(lines(report)))

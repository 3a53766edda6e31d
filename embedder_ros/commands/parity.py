# SPDX-License-Identifier: Apache-2.0
"""`embedder-ros parity`: compare the networks with numbers that another implementation gave."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from embedder_ros.types import UserError


def add(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        'parity', help="compare ObjEmbed or WeDetect-Uni with another implementation's numbers"
    )
    command.add_argument('folder', metavar='FOLDER', type=Path, help='checkpoint, inputs and expected outputs')
    command.add_argument('--salt', default='a', help="salt of WeDetect's weights made by rule; default 'a'")
    command.set_defaults(run=parity)


def parity(options: argparse.Namespace) -> None:
    """Print the largest difference per output; exit with 1 if one is beyond its tolerance."""
    try:
        from embedder_ros.evaluation.parity import check

        report = check(options.folder, salt=options.salt)
    except ImportError as error:
        why = str(error).splitlines()[0]
        raise UserError(
            f'parity needs torch and transformers ({why}); run: pip install "embedder_ros[objembed]"'
        ) from error
    width = max((len(d.output) for d in report.differences), default=0)
    for d in report.differences:
        kind = 'relative' if d.relative else 'absolute'
        verdict = 'ok' if d.agrees else 'BEYOND'
        print(f'{d.output:<{width}}  {d.largest:.2e} {kind}, tolerance {d.tolerance:.0e}  {verdict}  {d.note}'.rstrip())
    for name in report.left_out:
        print(f'{name:<{width}}  not compared: not an output of this model')
    beyond = sum(not d.agrees for d in report.differences)
    print(f'{len(report.differences)} outputs compared, {beyond} beyond the tolerance')
    if beyond:
        sys.exit(1)

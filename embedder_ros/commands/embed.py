# SPDX-License-Identifier: Apache-2.0
"""`embedder-ros embed`: texts as vectors, for a vector store of your own."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from embedder_ros.commands import options as build


def add(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    command = commands.add_parser('embed', help='texts to vectors, as JSON or .npy')
    command.add_argument('text', metavar='TEXT', nargs='+')
    command.add_argument('--kind', default='object', choices=('object', 'image'), help='what they are compared with')
    command.add_argument('--output', metavar='OUT.npy', type=Path, help='write (T, D) float32 instead of JSON')
    build.add_model(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print or write the vectors, with what is needed to compare them."""
    from embedder_ros.models.base import TextKind

    if options.output:
        build.check_array(options.output)
    embedder = build.embedder(options)
    rows = embedder.embed_text(options.text, TextKind[options.kind.upper()])
    c = embedder.info.calibration
    scale, bias = (c.scale, c.bias) if options.kind == 'object' else (c.image_scale, c.image_bias)
    head = {'model_id': embedder.info.model_id, 'dim': embedder.info.dim, 'scale': scale, 'bias': bias}
    if options.output:
        build.write_array(options.output, rows)
        print(json.dumps({**head, 'written': str(options.output)}))
    else:
        print(json.dumps({**head, 'embeddings': rows.tolist()}))

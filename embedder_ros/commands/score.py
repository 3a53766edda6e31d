# SPDX-License-Identifier: Apache-2.0
"""`embedder-ros score`: another detector's boxes on a photo get a predicted IoU, and an embedding if wanted."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from embedder_ros.commands import options as build
from embedder_ros.types import Boxes, FloatArray, Frame, UserError


def add(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    command = commands.add_parser('score', help="how well another detector's boxes fit, and their embeddings")
    command.add_argument('path', metavar='PHOTO', type=Path)
    command.add_argument(
        '--boxes', metavar='FILE.json', type=Path, required=True, help='a list of [x0, y0, x1, y1] in pixels'
    )
    command.add_argument('--find', metavar='TEXT', help='also how well each box shows this')
    command.add_argument('--embeddings', metavar='OUT.npy', type=Path, help='write the embeddings, a row for each box')
    build.add_model(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print one JSON object per box, in the file's order."""
    from embedder_ros.bags.source import read_photo

    if options.embeddings:
        build.check_array(options.embeddings)
    frame = Frame(read_photo(options.path), 0, options.path.stem)
    boxes = _boxes(options.boxes, frame)
    embedder = build.embedder(options)
    given = Boxes(boxes, np.ones(len(boxes), np.float32))
    observation = embedder.embed([frame], embedder.encode([frame]), [given])[0]
    semantic = None
    if options.find:
        query = embedder.embed_text([options.find])[0]
        semantic = embedder.info.calibration.semantic(observation.embeddings @ query)
    for i, (box, iou) in enumerate(zip(observation.boxes, observation.iou, strict=True)):
        line = {'box': [round(float(v), 1) for v in box], 'iou': round(float(iou), 4)}
        if semantic is not None:
            line |= {'semantic': round(float(semantic[i]), 4), 'score': round(float(semantic[i] * iou), 4)}
        print(json.dumps(line))
    if options.embeddings:
        build.write_array(options.embeddings, observation.embeddings)


def _boxes(path: Path, frame: Frame) -> FloatArray:
    try:
        boxes = np.asarray(json.loads(path.read_text(encoding='utf-8')), np.float32).reshape(-1, 4)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f'{path} is no list of boxes [x0, y0, x1, y1] ({error})') from error
    inside = np.clip(boxes, 0, [frame.width, frame.height] * 2).astype(np.float32)
    bad = ~(np.isfinite(boxes).all(axis=1) & (inside[:, 2:] > inside[:, :2]).all(axis=1))
    if bad.any():
        raise UserError(
            f'{path}: box {int(bad.argmax())} {boxes[bad][0].tolist()} has no area in the {frame.width}x{frame.height} '
            'photo; give x0 < x1 and y0 < y1 in pixels'
        )
    return inside

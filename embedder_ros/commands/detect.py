# SPDX-License-Identifier: Apache-2.0
"""`embedder-ros detect`: all things of the named kinds, in every frame."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from embedder_ros.commands import options as build
from embedder_ros.types import Frame, UserError

PRINTED = 20  # detections told per frame


def add(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    command = commands.add_parser('detect', help='open-vocabulary detection: where are things of these names')
    command.add_argument('path', metavar='PATH', help='photo, folder, video or bag')
    command.add_argument('name', metavar='NAME', nargs='+', help='what to look for: mug bottle "red handle"')
    command.add_argument(
        '--threshold', type=float, metavar='SCORE', help="score a detection needs; default the model's own"
    )
    command.add_argument('--single', action='store_true', help='each box bears its best name alone')
    command.add_argument('--annotate', metavar='OUT.png', type=Path, help='draw the frame with the best detection')
    command.add_argument('--json', action='store_true', help='one JSON object per frame')
    build.add_source(command)
    build.add_model(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Detect in every frame and print."""
    from embedder_ros.bags.source import open_source
    from embedder_ros.draw import draw_labels
    from embedder_ros.grounding.detect import detect

    if options.annotate:
        build.check_picture(options.annotate)
    source = open_source(options.path, topics=options.topic)
    pipeline = build.pipeline(options)
    names, calibration = pipeline.embedder.embed_text(options.name), pipeline.embedder.info.calibration
    floor = calibration.found if options.threshold is None else options.threshold
    best: tuple[float, Any] = (-1.0, None)
    for frame in build.progress(source):
        observation = pipeline.observe([frame])[0]
        found = detect(observation, names, calibration, floor=floor, single=options.single, things=True)
        words = [options.name[label] for label in found.labels]
        print(_line(frame, source.photo(frame.stamp), found, words, as_json=options.json))
        if options.annotate and (score := float(found.scores.max(initial=0.0))) > best[0]:
            best = score, draw_labels(frame.image, found.boxes, found.scores, words)
    if not source.counts['frames']:
        raise UserError(f'{source.path}: none of its images can be read')
    if options.annotate:
        build.write_picture(options.annotate, best[1])


def _line(frame: Frame, photo: str, found: Any, words: list[str], *, as_json: bool) -> str:
    if as_json:
        things = [
            {
                'name': word,
                'box': [round(float(v), 1) for v in box],
                'score': round(float(score), 4),
                'semantic': round(float(semantic), 4),
                'iou': round(float(iou), 4),
            }
            for word, box, score, semantic, iou in zip(
                words, found.boxes, found.scores, found.semantic, found.iou, strict=True
            )
        ]
        return json.dumps({'photo': photo, 'camera': frame.camera, 'stamp': frame.stamp, 'detections': things})
    lines = [f'{photo or f"{frame.camera} {frame.stamp}"}: {len(found)} found']
    for word, box, score in list(zip(words, found.boxes, found.scores, strict=True))[:PRINTED]:
        lines.append(f'  {word:20} {score:.3f}  box ' + ' '.join(f'{v:.0f}' for v in box))
    return '\n'.join(lines)

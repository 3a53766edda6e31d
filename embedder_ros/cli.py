# SPDX-License-Identifier: Apache-2.0
"""`embedder-ros`: ask about and annotate photos, videos and bags, without ROS.

What the user can correct is one line on stderr and exit status 2. Subcommands import what they need, so that `--help`
is instant.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedder_ros import __version__
from embedder_ros.commands import detect, embed, evaluate, finetune, parity, score, search
from embedder_ros.commands import options as build
from embedder_ros.types import Answer, Frame, Outcome, UserError

if TYPE_CHECKING:
    from embedder_ros.bags.source import Source
    from embedder_ros.pipeline import Pipeline

USER_ERROR, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
_ORDER = (Outcome.NOT_FOUND, Outcome.AMBIGUOUS, Outcome.FOUND)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; return the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format='embedder-ros: %(message)s')
    try:
        options.run(options)
    except UserError as error:
        print(f'embedder-ros: {error}', file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever reads, `head` for one, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return 0


@dataclass(slots=True)
class Best:
    """The best answer to one text over many frames, and in how many it was found."""

    text: str
    frame: Frame | None = None
    answer: Answer | None = None
    found: int = 0
    rank: tuple[int, float] = (-1, 0.0)

    def take(self, frame: Frame, answer: Answer) -> None:
        """Keep it if it is better: FOUND before AMBIGUOUS before NOT_FOUND, then by score."""
        self.found += answer.outcome is Outcome.FOUND
        rank = _ORDER.index(answer.outcome), max((c.score for c in answer.candidates), default=0.0)
        if rank > self.rank:
            self.frame, self.answer, self.rank = frame, answer, rank


def find(options: argparse.Namespace) -> None:
    """Ground every text in every frame; tell the best frame for each."""
    from embedder_ros.bags.source import open_source
    from embedder_ros.grounding.ground import ground

    if options.annotate:
        build.check_picture(options.annotate)
    source = open_source(options.path, topics=options.topic)
    pipeline = build.pipeline(options)
    queries = pipeline.embedder.embed_text(options.text)
    bests = [Best(text) for text in options.text]
    for frame in build.progress(source):
        observations = pipeline.observe([frame])
        for best, query in zip(bests, queries, strict=True):
            best.take(frame, ground(query, observations, pipeline.embedder.info.calibration))
    if not source.counts['frames']:
        raise UserError(f'{source.path}: none of its images can be read')
    if options.annotate:
        _draw(bests, options.annotate)
    _tell(source, pipeline, bests, as_json=options.json)


def annotate(options: argparse.Namespace) -> None:
    """Every frame through the pipeline into a new bag."""
    from embedder_ros.bags.source import open_source
    from embedder_ros.bags.write import annotate as write

    source = open_source(options.input, topics=options.topic)
    frames = write(source, build.pipeline(options), options.output, storage=options.storage, images=options.images)
    print(f'{frames} frames into {options.output}{_skipped(source)}')


def to_bag(options: argparse.Namespace) -> None:
    """Photos or a video as a bag of images."""
    from embedder_ros.bags.source import open_source
    from embedder_ros.bags.write import to_bag as write

    source = open_source(options.input, topics=options.topic)
    frames = write(source, options.output, storage=options.storage, compressed=not options.raw)
    print(f'{frames} images into {options.output}{_skipped(source)}')


def models(options: argparse.Namespace) -> None:
    """Load models and say what their embeddings are."""
    from embedder_ros.models.registry import load_model

    for name in options.name:
        info = load_model(name, device=options.device, proposals='nano').embedder.info  # boxes do not matter here
        c, view = info.calibration, info.identity_view
        print(f'{name}: {info.model_id}')
        identity = info.dim if view is None else view.shape[1]
        print(f'  embeddings of {info.dim} numbers; individuals are compared by {identity}')
        print(f'  semantic = sigmoid({c.scale:.2f} cos {c.bias:+.2f})')
        print(f'  FOUND needs score {c.found:.3f}, and a margin of {c.margin:.3f} over the second')


def params(options: argparse.Namespace) -> None:
    """The nodes' parameters, as YAML or as the README's tables."""
    from embedder_ros.nodes import parameters

    print(parameters.markdown() if options.markdown else parameters.yaml_text(), end='')


def _skipped(source: Source) -> str:
    skipped = [f'; skipped: {count} {reason}' for reason, count in source.counts.items() if reason != 'frames']
    return ''.join(skipped) + (f'; {source.damage}' if source.damage else '')


def _tell(source: Source, pipeline: Pipeline, bests: Sequence[Best], *, as_json: bool) -> None:
    frames = source.counts['frames']
    if as_json:
        answers = [_as_dict(b, source) for b in bests]
        head = {'path': str(source.path), 'model_id': pipeline.embedder.info.model_id, 'frames': frames}
        print(json.dumps(head | {'damage': source.damage, 'answers': answers}, indent=2))
        return
    for best in bests:
        print('\n'.join(_lines(best, source)))
    if note := _skipped(source).removeprefix('; '):
        print(note)


def _lines(best: Best, source: Source) -> Iterator[str]:
    assert best.answer is not None and best.frame is not None
    answer, frames, stamp = best.answer, source.counts['frames'], best.frame.stamp
    place = source.photo(stamp) or f'camera {best.frame.camera} at {stamp} ns'
    where = f', in {best.found} of {frames} frames; best in {place}'
    yield f'{best.text}: {answer.outcome.name} ({answer.reason}){where if frames > 1 else ""}'
    for c in answer.candidates[: 1 if answer.outcome is Outcome.FOUND else None]:
        box = ' '.join(f'{v:.0f}' for v in c.box)
        yield f'  box {box}  score {c.score:.3f} = semantic {c.semantic:.3f} x iou {c.iou:.3f}'
    if answer.outcome is not Outcome.FOUND:
        yield f'  FOUND needs score {answer.threshold:.3f}'


def _as_dict(best: Best, source: Source) -> dict[str, Any]:
    assert best.answer is not None and best.frame is not None
    frame, answer = best.frame, best.answer
    numbers = ('score', 'semantic', 'iou', 'objectness')
    candidates = [
        {'box': [round(float(v), 1) for v in c.box]} | {name: round(float(getattr(c, name)), 4) for name in numbers}
        for c in answer.candidates
    ]
    return {
        'text': best.text,
        'outcome': answer.outcome.name,
        'reason': answer.reason,
        'found_in_frames': best.found,
        'photo': source.photo(frame.stamp),
        'camera': frame.camera,
        'stamp': frame.stamp,
        'width': frame.width,
        'height': frame.height,
        'margin': float(answer.margin),
        'threshold': float(answer.threshold),
        'candidates': candidates,
    }


def _draw(bests: Sequence[Best], path: Path) -> None:
    """One answer as it is, several on a sheet."""
    from embedder_ros.draw import contact_sheet, draw_answer

    pictures = [
        draw_answer(b.frame.image, b.text, b.answer.outcome, b.answer.candidates) for b in bests if b.frame and b.answer
    ]
    picture = contact_sheet(pictures, columns=min(2, len(pictures)))
    build.write_picture(path, picture)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='embedder-ros', description='Ask about and annotate photos, videos and bags.')
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    commands = parser.add_subparsers(required=True, metavar='COMMAND')

    command = commands.add_parser('find', help='ground texts in a photo, folder, video or bag')
    command.add_argument('path', metavar='PATH')
    command.add_argument('text', metavar='TEXT', nargs='+', help='what to look for: "the red handle"')
    command.add_argument(
        '--annotate', metavar='OUT.png', type=Path, help='draw the answers on the frames they are best in'
    )
    command.add_argument('--json', action='store_true', help='answers as JSON')
    build.add_source(command)
    build.add_model(command)
    command.set_defaults(run=find)

    command = commands.add_parser('annotate', help='every frame through the pipeline, into a new bag with /objects')
    build.add_output(command)
    command.add_argument('--images', action='store_true', help='copy the images into the new bag, too')
    build.add_model(command)
    command.set_defaults(run=annotate)

    command = commands.add_parser('to-bag', help='a photo, folder or video as a bag of images')
    build.add_output(command)
    command.add_argument('--raw', action='store_true', help='sensor_msgs/Image, not JPEG')
    command.set_defaults(run=to_bag)

    command = commands.add_parser('models', help='load models and describe them')
    command.add_argument('name', metavar='MODEL', nargs='*', default=['nano'], help="registered name or folder; 'nano'")
    command.add_argument('--device', default='auto', choices=('auto', 'cpu', 'cuda'))
    command.set_defaults(run=models)

    command = commands.add_parser('params', help="the nodes' parameters with their defaults")
    form = command.add_mutually_exclusive_group()
    form.add_argument('--yaml', action='store_true', help='as a parameter file; the default')
    form.add_argument('--markdown', action='store_true', help='as tables')
    command.set_defaults(run=params)

    for module in (detect, search, score, embed, evaluate, finetune, parity):
        module.add(commands)
    return parser


if __name__ == '__main__':
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""`embedder-ros evaluate coco|lvis|refcoco|retrieval|captions|proposals`: benchmarks on your disk."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedder_ros.commands import options as build

_HELP = {
    'coco': 'detection on COCO-style annotations, AP by pycocotools; with ObjEmbed use --prompt det',
    'lvis': 'detection on LVIS-style annotations, fixed AP; with ObjEmbed use --prompt det',
    'refcoco': 'referring expressions: accuracy at IoU 0.5 among the first 1, 5, 10',
    'retrieval': 'which image of a gallery shows it: R@1/5/10 and mAP@50 (SORCE, REIRCOCO, ILIAS)',
    'captions': 'images and captions, R@1 both ways',
    'proposals': 'what worse boxes cost, on COCO-style annotations: recall and AP',
}
_LAYOUT = {
    'lvis': "LVIS' JSON",
    'refcoco': 'list of {image, box: [x0, y0, x1, y1], expressions}, or COCO with a caption for every image entry',
    'retrieval': '{gallery: [file, ...], queries: [{text or image, positives: [file, ...]}, ...]}',
    'captions': 'list of {image, captions}',
}


def add(kinds: argparse._SubParsersAction) -> None:
    """Add the kinds."""
    for name, sentence in _HELP.items():
        command = kinds.add_parser(name, help=sentence)
        command.add_argument('file', metavar='FILE', type=Path, help=_LAYOUT.get(name, "COCO's JSON"))
        command.add_argument('--images', metavar='DIR', type=Path, required=True, help='folder of the images')
        if name in ('coco', 'lvis', 'refcoco', 'proposals'):
            command.add_argument('--limit', type=build.positive, default=0, help='only the first images')
        if name == 'retrieval':
            command.add_argument(
                '--wording',
                default='object',
                choices=('object', 'image'),
                help="image: ObjEmbed's wording for images, with which the authors measured REIRCOCO and ILIAS",
            )
        if name == 'captions':
            command.add_argument('--long', action='store_true', help='read the detailed frame embedding')
        command.add_argument('--json', action='store_true', help='numbers as JSON')
        build.add_model(command)
        command.set_defaults(run=run, kind=name)


def run(options: argparse.Namespace) -> None:
    """Measure, and print the published numbers beside ours."""
    ours, published = _KINDS[options.kind](options)
    if options.json:
        rows = [_strict(row) for row in ours] if isinstance(ours, list) else _strict(ours)
        print(
            json.dumps({'kind': options.kind, 'model': options.model, 'ours': rows, 'published': published}, indent=2)
        )
        return
    from embedder_ros.evaluation.published import NOTE

    for row in ours if isinstance(ours, list) else [ours]:
        print(f'{options.model}: ' + ', '.join(f'{name} {_text(value)}' for name, value in row.items()))
    for name, value in published.items():
        print(f'published, {name}: {_text(value)}')
    print(NOTE)


def _strict(row: Mapping[str, Any]) -> dict[str, Any]:
    """Without NaN (nothing to find), which is no JSON."""
    return {name: None if value != value else value for name, value in row.items()}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f'{value:.3f}' if abs(value) <= 1 else f'{value:.1f}'
    if isinstance(value, Mapping):
        return ', '.join(f'{name} {_text(v)}' for name, v in value.items())
    return '/'.join(map(_text, value)) if isinstance(value, tuple) else str(value)


def _quiet() -> bool:
    return not sys.stderr.isatty()


def _detection(options: argparse.Namespace) -> tuple[Any, Mapping[str, Any]]:
    from embedder_ros.evaluation import published
    from embedder_ros.evaluation.detection import read_dataset, run_detection

    lvis = options.kind == 'lvis'
    dataset = read_dataset(options.file, options.limit)
    ours = run_detection(build.pipeline(options), dataset, options.images, lvis=lvis, quiet=_quiet())
    return ours, published.LVIS if lvis else published.COCO


def _refcoco(options: argparse.Namespace) -> tuple[Any, Mapping[str, Any]]:
    from embedder_ros.evaluation import published
    from embedder_ros.evaluation.refer import accuracy, read_expressions

    expressions = read_expressions(options.file, options.limit)
    counts = accuracy(build.pipeline(options), expressions, options.images, quiet=_quiet())
    shares = {name: n / counts['expressions'] for name, n in counts.items() if name != 'expressions'}
    return {'expressions': counts['expressions'], **shares}, {f'{k}, val': v for k, v in published.REFCOCO_VAL.items()}


def _retrieval(options: argparse.Namespace) -> tuple[Any, Mapping[str, Any]]:
    from embedder_ros.evaluation import published
    from embedder_ros.evaluation.retrieval import read_retrieval, retrieve

    gallery, queries = read_retrieval(options.file)
    ours = retrieve(
        build.pipeline(options), gallery, queries, options.images,
        image_wording=options.wording == 'image', quiet=_quiet(),
    )  # fmt: skip
    return {'queries': len(queries), **ours}, published.RETRIEVAL


def _captions(options: argparse.Namespace) -> tuple[Any, Mapping[str, Any]]:
    from embedder_ros.evaluation import published
    from embedder_ros.evaluation.retrieval import captions, read_captions
    from embedder_ros.grounding.retrieve import LONG, SHORT

    entries = read_captions(options.file)
    row = LONG if options.long else SHORT
    ours = captions(build.pipeline(options), entries, options.images, row=row, quiet=_quiet())
    return {'images': len(entries), **ours}, published.CAPTIONS


def _proposals(options: argparse.Namespace) -> tuple[Any, Mapping[str, Any]]:
    from embedder_ros.evaluation import published
    from embedder_ros.evaluation.degrade import study
    from embedder_ros.evaluation.detection import read_dataset

    dataset = read_dataset(options.file, options.limit)
    rows = list(study(build.pipeline(options), dataset, options.images, quiet=_quiet()))
    return rows, {'COCO, ObjEmbed-4B, AP': published.COCO_PROPOSALS, 'LVIS, fixed AP': published.LVIS_PROPOSALS}


_KINDS = {
    'coco': _detection,
    'lvis': _detection,
    'refcoco': _refcoco,
    'retrieval': _retrieval,
    'captions': _captions,
    'proposals': _proposals,
}

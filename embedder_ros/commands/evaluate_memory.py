# SPDX-License-Identifier: Apache-2.0
"""`embedder-ros evaluate memory`: is what a recording showed found in memory afterwards, where it was last seen."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from embedder_ros.commands import options as build
from embedder_ros.commands.evaluate_reid import check_truths, observations


def add(commands: argparse._SubParsersAction) -> None:
    """Add `memory` to the evaluations."""
    command = commands.add_parser('memory', help='is what a recording showed found in memory, where it was last seen')
    command.add_argument(
        'path', metavar='BAG', nargs='+', help='bag (with images, or with /objects), folder or video; a memory for each'
    )
    command.add_argument(
        '--truth',
        metavar='FILE',
        type=Path,
        action='append',
        required=True,
        help='what each BAG shows, in the layout of test/sample/kitchen_truth.json, once per BAG',
    )
    command.add_argument('--every', metavar='N', type=build.positive, default=1, help='use every Nth frame')
    command.add_argument('--json', action='store_true', help='every answer and all numbers as JSON')
    build.add_source(command)
    build.add_model(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    from embedder_ros.evaluation import recall
    from embedder_ros.evaluation.truth import Truth
    from embedder_ros.memory.policy import PERSON_WORDS

    check_truths(options)
    pipeline = build.pipeline(options)
    embedder = pipeline.embedder
    truths = [Truth(path) for path in options.truth]
    texts = sorted({text for truth in truths for text in truth.questions})
    vectors = dict(zip(texts, embedder.embed_text(texts), strict=True))
    person = embedder.embed_text([PERSON_WORDS])[0]
    asked = []
    for number, (path, truth) in enumerate(zip(options.path, truths, strict=True)):
        seen = observations(pipeline, path, options)
        asked += recall.ask(number, seen, truth, embedder.info, vectors, person)
    measured = recall.shares(asked)
    if not options.json:
        print('\n'.join(recall.lines(measured)))
        return
    numbers = {group: {name: one.as_dict() for name, one in kinds.items()} for group, kinds in measured.items()}
    answers = [dataclasses.asdict(one) for one in asked]
    print(
        json.dumps({'paths': options.path, 'model_id': embedder.info.model_id, **numbers, 'answers': answers}, indent=2)
    )

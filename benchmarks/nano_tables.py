# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/nano.md from a result of nano_evaluation.py: `python benchmarks/nano_tables.py [RESULT.json]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from report import RESULTS, table

from embedder_ros.evaluation.estimates import short

KINDS = {
    'all': 'all',
    'noun': '"the mug"',
    'colour noun': '"the blue mug"',
    'part': '"the handle", "the lid", ...',
    'colour part': '"the red handle", "the red lid", ...',
    'owned part': '"the drawer handle", "the pot lid", ...',
    'given': '"a cat", "the helmet", ...',
}
PARTS = {
    'colour part: handle': '"the red handle"',
    'owned part: drawer handle': '"the drawer handle"',
    'part: handle': '"the handle"',
    'colour part: knob': '"the red knob"',
    'part: knob': '"the knob"',
}
ABSENT = {'absent': 'things', 'absent colour': 'colours of things that are there'}
ENDED = ('n', 'boxed', 'first', '95 %', 'found', 'loose', 'wrong', 'ambiguous')
Row = list[object]


def main() -> None:
    """Print the tables."""
    result = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS / 'nano_evaluation.json'
    measured = json.loads(result.read_text())['measurements']
    splits = measured['splits']
    tables = (
        table(('frames', 'question', *ENDED, 'with given boxes'), grounding(splits)),
        table(('frames', 'parts', *ENDED), parts(splits)),
        table(('frames', 'absent', 'n', 'AUROC', 'answered FOUND', '95 %', 'AMBIGUOUS'), absence(splits)),
        table(
            (
                'frames',
                'recall of things at 30, 64, 100',
                'of parts',
                'of handles and knobs',
                'IoU head, rank correlation',
                'IoU of the box chosen by score · iou^a, a = 0, ½, 1, 2',
            ),
            boxes(splits),
        ),
        table(('frames', 'view', 'n', 'first in the frame', 'pool', 'first in the pool', '95 %'), individuals(splits)),
        table(
            ('', 'encode', 'propose', 'embed', 'whole frame', 'new text', 'known text', 'peak memory, MiB'),
            cost(measured['cost']),
        ),
    )
    print('\n\n'.join('\n'.join(lines) for lines in tables))


def grounding(splits: Mapping[str, Any]) -> Iterator[Row]:
    """What is asked for and there."""
    for name, split in splits.items():
        for kind, row in split['grounding'].items():
            if kind == 'all' and len(split['grounding']) == 2:
                continue  # one kind alone: the same once more
            given = split['given boxes'].get(kind, {}).get('with distractors', {})
            yield [name if kind in ('all', 'noun', 'given') else '', KINDS[kind], *ended(row), share(given)]


def parts(splits: Mapping[str, Any]) -> Iterator[Row]:
    """Parts by what is asked for, and by how wide they are in the image."""
    for name, split in splits.items():
        rows = {text: split['parts'].get(kind) for kind, text in PARTS.items()} | split['parts by width']
        told = [(text, row) for text, row in rows.items() if row]
        for index, (text, row) in enumerate(told):
            yield [name if not index else '', text, *ended(row)]


def ended(row: Mapping[str, Any]) -> Row:
    """How many questions there were and how they ended, as ENDED names it."""
    first = row['first']
    shares = (share(row[kind]) for kind in ('found', 'loose', 'wrong', 'ambiguous'))
    return [first['count'], share(row['boxed']), share(first), interval(first), *shares]


def absence(splits: Mapping[str, Any]) -> Iterator[Row]:
    """What is asked for and not there."""
    for name, split in splits.items():
        for kind, told in ABSENT.items():
            row = split['not there'].get(kind)
            if row and row['false found']['value'] is not None:
                false = row['false found']
                counted = (share(row['auroc']), share(false), interval(false), share(row['ambiguous']))
                yield [name, told, false['count'], *counted]


def boxes(splits: Mapping[str, Any]) -> Iterator[Row]:
    """Proposals and the IoU head."""
    for name, split in splits.items():
        recall, chosen = split['proposal recall'], split['score * iou ** a']['own boxes of the thing']
        curve = ', '.join(share(chosen[f'a = {a}'], 3) for a in ('0', '0.5', '1', '2'))
        kinds = [recall.get(kind) for kind in ('things', 'parts', 'handles and knobs')]
        told = [', '.join(share(kind[n]) for n in ('30', '64', '100')) if kind else '' for kind in kinds]
        yield [name, *told, share(split['iou head']['own boxes']), curve]


def individuals(splits: Mapping[str, Any]) -> Iterator[Row]:
    """The same individual in another view."""
    for name, split in splits.items():
        for view, row in split.get('re-identification', {}).items():
            frame, pool = row['rank 1 in frame'], row['rank 1 in pool']
            yield [name, view, frame['count'], share(frame), row['pool'], share(pool), interval(pool)]


def cost(measured: Mapping[str, Any]) -> Iterator[Row]:
    """Time per stage, and what the process took at most."""
    for quantile in ('p50', 'p95'):
        stages = [measured['ms'][stage][quantile] for stage in ('encode', 'propose', 'embed', 'frame')]
        texts = [measured['text_ms'][text][quantile] for text in ('new', 'known')]
        memory = measured['peak_memory_mib'] if quantile == 'p50' else ''
        yield [f'{quantile}, ms', *(f'{value:.3g}' for value in (*stages, *texts)), memory]


def share(row: Mapping[str, Any], digits: int = 2) -> str:
    """A share as in the tables; '' when there was nothing to count."""
    value = row.get('value')
    return '' if value is None else short(value, digits)


def interval(row: Mapping[str, Any]) -> str:
    """The 95 % interval of a share."""
    return f'{short(row["low"])} to {short(row["high"])}'


if __name__ == '__main__':
    main()

# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/nano.md from a result of nano_evaluation.py: `python benchmarks/nano_tables.py [RESULT.json]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / 'results' / 'nano_evaluation.json'
KINDS = {
    'all': 'all',
    'noun': '"the mug"',
    'colour noun': '"the blue mug"',
    'part': '"the handle"',
    'colour part': '"the red handle"',
    'owned part': '"the drawer handle"',
}


def main() -> None:
    """Print the tables."""
    measured = json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else RESULT).read_text())['measurements']
    for table in (grounding, absence, boxes, individuals):
        print('\n'.join(table(measured['splits'])), end='\n\n')
    print('\n'.join(cost(measured['cost'])))


def grounding(splits: Mapping[str, Any]) -> Iterator[str]:
    """What is asked for and there."""
    yield '| frames | question | n | boxed | first | 95 % | found | wrong | ambiguous | with given boxes |'
    yield '|---|---|---|---|---|---|---|---|---|---|'
    for name, split in splits.items():
        for kind, row in split['grounding'].items():
            if kind == 'all' and 'noun' in split['grounding'] and len(split['grounding']) == 2:
                continue  # nouns alone: the same once more
            given = split['given boxes'].get(kind, {}).get('with distractors', {})
            first = row['first']
            cells = [
                name if kind in ('all', 'noun') else '',
                KINDS[kind],
                str(first['count']),
                *(share(row[k]) for k in ('boxed', 'first')),
                f'{two(first["low"])} to {two(first["high"])}',
                *(share(row[k]) for k in ('found', 'wrong', 'ambiguous')),
                share(given),
            ]
            yield f'| {" | ".join(cells)} |'


def absence(splits: Mapping[str, Any]) -> Iterator[str]:
    """What is asked for and not there."""
    yield '| frames | absent | n | AUROC | answered FOUND | 95 % | AMBIGUOUS |'
    yield '|---|---|---|---|---|---|---|'
    kinds = {'absent': 'things', 'absent colour': 'colours of things that are there'}
    for name, split in splits.items():
        for kind, told in kinds.items():
            row = split['not there'].get(kind)
            if row and row['false found']['value'] is not None:
                false = row['false found']
                interval = f'{two(false["low"])} to {two(false["high"])}'
                cells = (name, told, str(false['count']), share(row['auroc']), share(false), interval)
                yield f'| {" | ".join(cells)} | {share(row["ambiguous"])} |'


def boxes(splits: Mapping[str, Any]) -> Iterator[str]:
    """Proposals and the IoU head."""
    yield (
        '| frames | recall of things at 30, 64, 100 | of parts | of handles and knobs | IoU head, rank correlation '
        '| IoU of the box chosen by score · iou^a, a = 0, ½, 1, 2 |'
    )
    yield '|---|---|---|---|---|---|'
    for name, split in splits.items():
        recall, chosen = split['proposal recall'], split['score * iou ** a']['own boxes of the thing']
        curve = ', '.join(share(chosen[f'a = {a}'], 3) for a in ('0', '0.5', '1', '2'))
        kinds = [recall.get(kind) for kind in ('things', 'parts', 'handles and knobs')]
        told = [', '.join(share(kind[n]) for n in ('30', '64', '100')) if kind else '' for kind in kinds]
        yield f'| {name} | {" | ".join(told)} | {share(split["iou head"]["own boxes"])} | {curve} |'


def individuals(splits: Mapping[str, Any]) -> Iterator[str]:
    """The same individual in another view."""
    yield '| frames | view | n | first in the frame | pool | first in the pool | 95 % |'
    yield '|---|---|---|---|---|---|---|'
    for name, split in splits.items():
        for view, row in split.get('re-identification', {}).items():
            frame, pool = row['rank 1 in frame'], row['rank 1 in pool']
            interval = f'{two(pool["low"])} to {two(pool["high"])}'
            yield (
                f'| {name} | {view} | {frame["count"]} | {share(frame)} | {row["pool"]} | {share(pool)} | {interval} |'
            )


def cost(measured: Mapping[str, Any]) -> Iterator[str]:
    """Time per stage."""
    yield '| | encode | propose | embed | whole frame | new text | known text |'
    yield '|---|---|---|---|---|---|---|'
    for quantile in ('p50', 'p95'):
        stages = [measured['ms'][stage][quantile] for stage in ('encode', 'propose', 'embed', 'frame')]
        texts = [measured['text_ms'][text][quantile] for text in ('new', 'known')]
        yield f'| {quantile}, ms | {" | ".join(f"{value:.3g}" for value in (*stages, *texts))} |'


def share(row: Mapping[str, Any], digits: int = 2) -> str:
    """A share as in the tables; '' when there was nothing to count."""
    return two(row.get('value'), digits)


def two(value: float | None, digits: int = 2) -> str:
    """0.5 as .50."""
    return '' if value is None else f'{value:.{digits}f}'.removeprefix('0') if value < 1 else f'{value:.{digits}f}'


if __name__ == '__main__':
    main()

# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/reid.md: `python benchmarks/reid_tables.py [ROOMS.json SAMPLE.json VIDEO.json]`.

The files are what the three `embedder-ros evaluate reid --json` of docs/reid.md print; they are kept together in
results/reid.json, which is read when none is given.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from report import RESULTS, table

from embedder_ros.evaluation.estimates import short

RESULT = RESULTS / 'reid.json'
RECORDINGS = {
    'rooms': 'rendered rooms, gaps up to 60 s',
    'sample': 'sample bag, things hidden 1.5 to 6 s',
    'video': 'pedestrian video (vtest.avi), labels from tracks',
}
METHODS = {'memory': '**memory**', 'nearest': 'nearest neighbour', 'tracker': 'tracker only'}
CLASSES = {'gap': 'gap', 'pool': 'things known', 'camera': 'camera', 'light': 'light'}
REASONS = ('below_threshold', 'small_margin', 'held', 'seen_together', 'slipped', 'undecided')


def main() -> None:
    """Keep the reports, if any are given, and print the tables."""
    if sys.argv[1:]:
        given = [json.loads(Path(path).read_text()) for path in sys.argv[1:]]
        RESULT.write_text(json.dumps(dict(zip(RECORDINGS, given, strict=True)), indent=1) + '\n')
    reports = json.loads(RESULT.read_text())
    rooms = reports['rooms']
    for part in (methods(reports), slid(reports), classes(rooms), alike(rooms), margins(reports), nearest(reports)):
        print('\n'.join(part), end='\n\n')


def methods(reports: Mapping[str, Any]) -> Iterator[str]:
    """Memory, nearest neighbour and tracker on each recording."""
    counts = ('returns', 'right', 'wrong', 'new', 'unnamed')
    rows = (
        [
            RECORDINGS[name] if method == 'memory' else '',
            told,
            *(report[method][key] for key in counts),
            *shares(report[method]),
            f'{report[method]["wrong_per_hour"]:.0f}',
            report[method]['covisible'],
        ]
        for name, report in reports.items()
        for method, told in METHODS.items()
    )
    counted = ('returns', 'right', 'wrong', 'new', 'none')
    return table(('recording', 'method', *counted, 'precision', 'recall', 'wrong an hour', 'in view together'), rows)


def slid(reports: Mapping[str, Any]) -> Iterator[str]:
    """How many of the wrong merges were the tracker's."""
    rooms = reports['rooms']
    counts = ', '.join(f'{report["memory"]["slid"]} ({name})' for name, report in reports.items())
    yield f'Rooms: {rooms["things"]} individuals (with parts) in {rooms["frames"]} frames.'
    yield f'Wrong merges of the memory in which the tracker slid: {counts}.'


def classes(rooms: Mapping[str, Any]) -> Iterator[str]:
    """The memory by gap, pool, camera, light and part."""
    memory = rooms['memory']
    named = [
        ('' if number else told, name, row)
        for kind, told in CLASSES.items()
        for number, (name, row) in enumerate(memory['by'][kind].items())
    ]
    named += [('restart in every pause', '', rooms['restart']), ('parts (handles, drawers)', '', memory['parts'])]
    counts = ('returns', 'right', 'wrong')
    rows = ([told, name, *(row[key] for key in counts), *shares(row)] for told, name, row in named)
    return table(('rooms, memory by', 'class', *counts, 'precision', 'recall'), rows)


def alike(rooms: Mapping[str, Any]) -> Iterator[str]:
    """Look-alikes, and why a track got no name."""
    memory, nearest = rooms['memory'], rooms['nearest']
    merged = ', '.join(
        f'{how} {row["met"]}, {row["merged"]} (nearest neighbour {nearest["look-alikes"][how]["merged"]})'
        for how, row in memory['look-alikes'].items()
    )
    yield f'Look-alikes met while the other was known, and merged with it: {merged}.'
    why = ', '.join(f'{reason} {memory["reasons"].get(reason, 0)}' for reason in REASONS)
    yield ''
    yield f'Why the memory did not name a track (rooms, counted per change of verdict): {why}.'


def margins(reports: Mapping[str, Any]) -> Iterator[str]:
    """The memory at other refusal margins."""
    yield 'Refusal margin (odds by which the first must beat the second), precision / recall / wrong an hour:'
    yield ''
    yield from curve(reports, 'margins', 'odds', lambda row: [*shares(row), f'{row["wrong_per_hour"]:.0f}'])


def nearest(reports: Mapping[str, Any]) -> Iterator[str]:
    """Nearest neighbour at other thresholds."""
    yield 'Nearest neighbour, probability needed, precision / recall:'
    yield ''
    yield from curve(reports, 'thresholds', 'same', shares)


def curve(
    reports: Mapping[str, Any], name: str, by: str, cells: Callable[[Mapping[str, Any]], list[str]]
) -> Iterator[str]:
    """A row for each recording and a column for each value of `by`."""
    head = [by, *(f'{row[by]:g}' for row in reports['rooms'][name])]
    return table(head, ([k, *(' / '.join(cells(row)) for row in r[name])] for k, r in reports.items()))


def shares(row: Mapping[str, Any]) -> list[str]:
    """Precision and recall."""
    return [short(row['precision'], 3), short(row['recall'], 3)]


if __name__ == '__main__':
    main()

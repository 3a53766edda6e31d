# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/reid.md: `python benchmarks/reid_tables.py [ROOMS.json SAMPLE.json VIDEO.json]`.

The files are what the three `embedder-ros evaluate reid --json` of docs/reid.md print; they are kept together in
results/reid.json, which is read when none is given.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / 'results' / 'reid.json'
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
    yield (
        '| recording | method | returns | right | wrong | new | none | precision | recall | wrong an hour '
        '| in view together |'
    )
    yield '|---|---|---|---|---|---|---|---|---|---|---|'
    for name, report in reports.items():
        for method, told in METHODS.items():
            row = report[method]
            counts = ' | '.join(str(row[key]) for key in ('returns', 'right', 'wrong', 'new', 'unnamed'))
            yield (
                f'| {RECORDINGS[name] if method == "memory" else ""} | {told} | {counts} | {share(row["precision"])} '
                f'| {share(row["recall"])} | {row["wrong_per_hour"]:.0f} | {row["covisible"]} |'
            )


def slid(reports: Mapping[str, Any]) -> Iterator[str]:
    """How many of the wrong merges were the tracker's."""
    rooms = reports['rooms']
    counts = ', '.join(f'{report["memory"]["slid"]} ({name})' for name, report in reports.items())
    yield f'Rooms: {rooms["things"]} individuals (with parts) in {rooms["frames"]} frames.'
    yield f'Wrong merges of the memory in which the tracker slid: {counts}.'


def classes(rooms: Mapping[str, Any]) -> Iterator[str]:
    """The memory by gap, pool, camera, light and part."""
    yield '| rooms, memory by | class | returns | right | wrong | precision | recall |'
    yield '|---|---|---|---|---|---|---|'
    for kind, told in CLASSES.items():
        for number, (name, row) in enumerate(rooms['memory']['by'][kind].items()):
            yield f'| {"" if number else told} | {name} | {counted(row)} |'
    yield f'| restart in every pause | | {counted(rooms["restart"])} |'
    yield f'| parts (handles, drawers) | | {counted(rooms["memory"]["parts"])} |'


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
    odds = [f'{row["odds"]:g}' for row in reports['rooms']['margins']]
    yield f'| odds | {" | ".join(odds)} |'
    yield '|---' * (len(odds) + 1) + '|'
    for name, report in reports.items():
        rows = (f'{both(row)} / {row["wrong_per_hour"]:.0f}' for row in report['margins'])
        yield f'| {name} | {" | ".join(rows)} |'


def nearest(reports: Mapping[str, Any]) -> Iterator[str]:
    """Nearest neighbour at other thresholds."""
    yield 'Nearest neighbour, probability needed, precision / recall:'
    yield ''
    needed = [f'{row["same"]:g}' for row in reports['rooms']['thresholds']]
    yield f'| | {" | ".join(needed)} |'
    yield '|---' * (len(needed) + 1) + '|'
    for name, report in reports.items():
        yield f'| {name} | {" | ".join(both(row) for row in report["thresholds"])} |'


def counted(row: Mapping[str, Any]) -> str:
    """Counts, precision and recall, in cells."""
    counts = ' | '.join(str(row[key]) for key in ('returns', 'right', 'wrong'))
    return f'{counts} | {share(row["precision"])} | {share(row["recall"])}'


def both(row: Mapping[str, Any]) -> str:
    """Precision and recall in one cell."""
    return f'{share(row["precision"])} / {share(row["recall"])}'


def share(value: float) -> str:
    """0.5 as .500."""
    return f'{value:.3f}'.removeprefix('0') if value < 1 else '1.0'


if __name__ == '__main__':
    main()

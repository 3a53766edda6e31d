# SPDX-License-Identifier: Apache-2.0
"""How well things are known again: memory against appearance alone and against tracking alone, on the same frames.

One call gives precision and recall by gap, by how many things are known, by camera, after a restart and in another
light; every wrong merge with what it was taken for; the memory's refusals by reason; and the curve over refusal
margins. Numbers are per spell, see reid_score.py. Not measured here: positions; recordings with poses would veto more.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from embedder_ros.evaluation import reid_score as scoring
from embedder_ros.evaluation.reid_clips import Clip, seen_together
from embedder_ros.evaluation.reid_methods import (
    Method,
    Nearest,
    Remembering,
    Tracked,
    TrackerOnly,
    identify,
    track,
    track_ids,
)
from embedder_ros.evaluation.reid_score import Result
from embedder_ros.memory.policy import MARGIN_ODDS as DEFAULT_ODDS
from embedder_ros.memory.policy import Settings, lead_of
from embedder_ros.types import NANOSECONDS, FloatArray, ModelInfo

GOAL_GAP = 60.0  # seconds up to which the headline counts
OFF = 10.0  # seconds of a pause in which the restart is made
MARGIN_ODDS = (1.0, DEFAULT_ODDS, 2.0, 4.0, 8.0, 16.0)  # of the curve of refusal margins; 1 never refuses for a rival
THRESHOLDS = (0.5, 0.8, 0.9, 0.95, 0.99)  # of the nearest neighbour's curve


def evaluate(
    clip: Clip, model: ModelInfo, *, settings: Settings | None = None, person: FloatArray | None = None
) -> dict[str, Any]:
    """All numbers of one recording, ready for JSON.

    Args:
        clip: what was seen and what it was.
        model: how embeddings are compared.
        settings: the memory's; None means its defaults.
        person: (D,) text vector of a person; None identifies people like things.
    """
    settings, tracked = settings or Settings(), track(clip, model)
    with tempfile.TemporaryDirectory(prefix='reid') as folder:
        stores = (Path(folder) / f'{n}.db' for n in itertools.count())

        def memory(given: Settings) -> contextlib.closing[Remembering]:
            return contextlib.closing(Remembering(model, next(stores), settings=given, person=person))

        with memory(settings) as main, memory(settings) as again:
            report: dict[str, Any] = {
                'frames': len(clip.shown),
                'hours': round(scoring.hours(clip), 5),
                'things': len({name for s in clip.shown for name in s.labels if name}),
                'memory': measured(clip, tracked, main),
                'nearest': measured(clip, tracked, Nearest(model)),
                'tracker': measured(clip, tracked, TrackerOnly()),
                'restart': after_restart(clip, model, again, pauses(clip)),
                'margins': [],
                'thresholds': [
                    {'same': same, **headline(clip, tracked, Nearest(model, same=same))} for same in THRESHOLDS
                ],
            }
        for odds in MARGIN_ODDS:
            with memory(_with_odds(settings, odds, model)) as one:
                report['margins'].append({'odds': odds, **headline(clip, tracked, one)})
        return report


def _with_odds(settings: Settings, odds: float, model: ModelInfo) -> Settings:
    return replace(settings, margin=lead_of(odds, model.calibration))


def run(
    clip: Clip, tracked: Tracked, method: Method, restarts: Sequence[int] = ()
) -> tuple[list[list[str]], list[Result]]:
    """Ids of every row, and how every spell ended."""
    ids = identify(clip, tracked, method, restarts)
    found = scoring.spells(clip, ids, restarts, track_ids(clip, tracked, restarts))
    return ids, scoring.judge(clip, found, seen_together(clip.shown))


def measured(clip: Clip, tracked: Tracked, method: Method) -> dict[str, Any]:
    """Every number of one method."""
    ids, everything = run(clip, tracked, method)
    results, parts = _things(clip, everything), [r for r in everything if r.spell.label in clip.parts]
    classes = {
        'gap': scoring.gap_class,
        'pool': lambda r: scoring.pool_class(r) if r.returns else '',
        'camera': lambda r: r.places,
        'light': lambda r: ('another light' if r.relit else 'same light') if r.returns else '',
    }
    return {
        **_headline(clip, ids, everything),
        'parts': scoring.as_dict(scoring.score(parts)),
        'by': {
            name: {group: scoring.as_dict(s) for group, s in scoring.by(results, key).items()}
            for name, key in classes.items()
        },
        'merges': merges(results),
        'look-alikes': look_alikes(clip, results),
        'reasons': method.counts(),
    }


def headline(clip: Clip, tracked: Tracked, method: Method) -> dict[str, Any]:
    """The few numbers that curves are made of; `own_precision` leaves out the merges that a sliding track made."""
    return _headline(clip, *run(clip, tracked, method))


def _things(clip: Clip, results: Sequence[Result]) -> list[Result]:
    """Parts are counted apart: many have equals on the same thing, which no look can tell from one another."""
    return [r for r in results if r.spell.label not in clip.parts]


def _headline(clip: Clip, ids: Sequence[Sequence[str]], results: Sequence[Result]) -> dict[str, Any]:
    within = [r for r in _things(clip, results) if r.gap <= GOAL_GAP]
    total, time = scoring.score(within), scoring.hours(clip)
    slid = sum(how == scoring.SLID for r in within for _, how in r.merged)
    return {
        **scoring.as_dict(total),
        'slid': slid,
        'own_precision': round(total.right / max(1, total.right + total.wrong - slid), 4) if total.right else 1.0,
        'wrong_per_hour': round(total.wrong / time, 2) if time else 0.0,
        'covisible': len(scoring.covisible(clip, ids)),
        'switches': scoring.switches(clip, ids),
    }


def merges(results: Sequence[Result]) -> dict[str, int]:
    """How many wrong merges there are, by what the two things are to one another."""
    return dict(Counter(how for r in results for _, how in r.merged).most_common())


def look_alikes(clip: Clip, results: Sequence[Result]) -> dict[str, dict[str, int]]:
    """For each way of being alike: spells of things whose look-alike was known, and how many were merged with it."""
    known: set[str] = set()
    out: dict[str, dict[str, int]] = {}
    pairs = [(a, b, how) for twin, (of, how) in clip.twins.items() for a, b in ((twin, of), (of, twin))]
    for r in results:
        for a, b, how in pairs:
            if a == r.spell.label and b in known:
                count = out.setdefault(how, {'met': 0, 'merged': 0})
                count['met'] += 1
                count['merged'] += any(other == b for other, _ in r.merged)
        known.add(r.spell.label)
    return out


def pauses(clip: Clip) -> list[int]:
    """Numbers of the frames after a pause of `OFF` seconds; the middle one when there is no pause."""
    stamps = [s.observation.stamp for s in clip.shown]
    steps = zip(stamps, stamps[1:], strict=False)
    return [n for n, (a, b) in enumerate(steps, 1) if b - a > OFF * NANOSECONDS] or [len(stamps) // 2]


def after_restart(clip: Clip, model: ModelInfo, method: Remembering, restarts: Sequence[int]) -> dict[str, Any]:
    """Things seen for the first time since the store was opened again by a new memory, that it should know."""
    _, results = run(clip, track(clip, model, restarts), method, restarts)
    return scoring.as_dict(scoring.score([r for r in _things(clip, results) if r.restarted]))


def lines(report: dict[str, Any]) -> Iterator[str]:
    """The report for people."""
    yield f'{report["things"]} things in {report["frames"]} frames, {report["hours"] * 60:.1f} minutes looked at'
    if not report['memory']['returns']:
        yield f'nothing comes back within {GOAL_GAP:.0f} s: precision and recall have nothing to divide by (-)'
    columns = f'{"returns":>8}{"right":>7}{"wrong":>7}{"new":>6}{"none":>6}{"unknown":>9}'
    yield f'{"":22}{columns}{"precision":>11}{"recall":>8}'
    for name in ('memory', 'nearest', 'tracker'):
        yield from _method_lines(name, report[name])
    yield _line('after a restart', report['restart'])
    yield 'margins: odds, precision, recall, wrong merges an hour, merges of what is in view together'
    for at in report['margins']:
        yield f'  {at["odds"]:5.1f} {_curve(at)}'
    yield 'nearest neighbour: probability needed, and the same'
    for at in report['thresholds']:
        yield f'  {at["same"]:5.2f} {_curve(at)}'


def _method_lines(name: str, method: dict[str, Any]) -> Iterator[str]:
    yield _line(name, method)
    hourly = f'{method["wrong_per_hour"]} wrong merges an hour, {method["covisible"]} of what was in view together'
    yield f'  {hourly}; the tracker slid {method["slid"]} times; {method["switches"]} changes of id in view'
    if name == 'tracker':
        return
    yield _line('  parts of things', method['parts'])
    for kind, groups in method['by'].items():
        for group, one in groups.items():
            yield _line(f'  {kind}: {group}', one)
    for title in ('merges', 'look-alikes', 'reasons'):
        if method[title]:
            yield f'  {title}: ' + ', '.join(f'{what} {count}' for what, count in method[title].items())


def _line(name: str, one: dict[str, Any]) -> str:
    counts = f'{one["returns"]:8}{one["right"]:7}{one["wrong"]:7}{one["new"]:6}{one["unnamed"]:6}{one["unknown"]:9}'
    precision, recall = _shares(one)
    return f'{name:22}{counts}{precision:>11}{recall:>8}'


def _curve(at: dict[str, Any]) -> str:
    precision, recall = _shares(at)
    return f'{precision:>7}{recall:>7}{at["wrong_per_hour"]:8.1f}{at["covisible"]:4}'


def _shares(one: dict[str, Any]) -> tuple[str, str]:
    """Precision and recall, '-' where there is nothing to divide by."""
    precision = f'{one["precision"]:.3f}' if one['right'] + one['wrong'] else '-'
    return precision, f'{one["recall"]:.3f}' if one['returns'] else '-'

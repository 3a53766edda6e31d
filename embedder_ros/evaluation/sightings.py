# SPDX-License-Identifier: Apache-2.0
"""Is a thing known again in another view, by its identity embedding alone, in labelled boxes?

A query is a thing in one view; the candidates are the things of the next view that shows it, or that sighting among
many of other individuals. Not measured: what the memory adds (`evaluate reid` does).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedder_ros.evaluation.estimates import Estimate, share
from embedder_ros.memory.policy import Settings, margin_of
from embedder_ros.training.photos import shared_look
from embedder_ros.types import NANOSECONDS, Calibration, FloatArray

POOL = 350  # sightings that a thing is looked for among, its own included
GAPS = (0.0, 3.0)  # seconds between the two views, at least; other than 0 for recordings alone
MARGINS = (0.0, 0.05, 0.1, 0.2)  # lead in cosine that a claim needs, beside the one the memory takes


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The whole things of one labelled frame.

    Attributes:
        unit: answers of one unit are not independent.
        group: views of one group show the same individuals.
        stamp: nanoseconds; 0 where there is no time.
        names: of the individuals.
        looks: (K, D) their identity views, unit rows.
    """

    unit: str
    group: str
    stamp: int
    names: tuple[str, ...]
    looks: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Return:
    """A thing seen again.

    Attributes:
        unit: of the first view.
        same: cosine with itself in the later view.
        others: (M,) cosines with other individuals.
    """

    unit: str
    same: float
    others: FloatArray

    @property
    def first(self) -> bool:
        """Whether itself is nearest."""
        return bool(self.same > self.others.max(initial=-1.0))


def returns(views: Sequence[View], *, gap: float = 0.0) -> tuple[list[Return], list[tuple[FloatArray, View, int]]]:
    """Each thing in each view, against the things of the next view of its group that shows it.

    Returns:
        The returns within the later view, and for each the query vector with that view and its row there.
    """
    out, found = [], []
    for number, view in enumerate(views):
        later = [v for v in views[number + 1 :] if v.group == view.group and v.stamp - view.stamp >= gap * NANOSECONDS]
        for name, query in zip(view.names, view.looks, strict=True):
            after = next((v for v in later if name in v.names), None)
            if after is not None:
                cosines, row = after.looks @ query, after.names.index(name)
                others = [look_of(other) != look_of(name) for other in after.names]
                out.append(Return(view.unit, float(cosines[row]), cosines[others]))
                found.append((query, after, row))
    return out, found


def look_of(name: str) -> str:
    """What tells an individual from others: its name, or the look it shares with its like."""
    return shared_look(name) or name


def in_pool(
    kept: Sequence[Return], found: Sequence[tuple[FloatArray, View, int]], pool: Sequence[View]
) -> list[Return]:
    """The same returns among POOL - 1 sightings of other individuals, of as many individuals as there are."""
    every = [(name, look) for v in pool for name, look in zip(v.names, v.looks, strict=True)]
    shuffled = [every[i] for i in np.random.default_rng(0).permutation(len(every))]
    seen: Counter[str] = Counter()
    turns = []  # of each sighting: how many of its individual come before it
    for name, _ in shuffled:
        turns.append(seen[name])
        seen[name] += 1
    order = np.argsort(turns, kind='stable')
    names, looks = np.array([look_of(shuffled[i][0]) for i in order]), np.stack([shuffled[i][1] for i in order])
    out = []
    for one, (query, view, row) in zip(kept, found, strict=True):
        others = np.flatnonzero(names != look_of(view.names[row]))[: POOL - 1]
        out.append(Return(one.unit, one.same, looks[others] @ query))
    return out


def refusal(kept: Sequence[Return], calibration: Calibration, margin: float) -> dict[str, Estimate]:
    """Precision and recall where a claim needs even odds and a lead, each thing asked with itself there and without.

    precision: of all claims, those that name the thing itself; half of the questions have no right answer.
    recall: of the things that are there, those that are claimed, rightly.
    false: of the questions without the thing, those that claim another one.
    """
    units = [r.unit for r in kept]
    there = [_claim(np.append(r.others, r.same), calibration, margin) for r in kept]
    right = [claimed and r.first for claimed, r in zip(there, kept, strict=True)]
    gone = [_claim(r.others, calibration, margin) for r in kept]
    claims = [(ok, u) for ok, claimed, u in zip(right, there, units, strict=True) if claimed]
    claims += [(False, u) for claimed, u in zip(gone, units, strict=True) if claimed]
    return {
        'precision': share([ok for ok, _ in claims], [u for _, u in claims]),
        'recall': share(right, units),
        'false': share(gone, units),
    }


def _claim(cosines: FloatArray, calibration: Calibration, margin: float) -> bool:
    best = np.sort(cosines)[::-1][:2]
    if not len(best) or calibration.same(best[:1])[0] < Settings().same:
        return False
    return len(best) < 2 or bool(best[0] - best[1] >= margin)


def summary(views: Sequence[View], pool: Sequence[View], calibration: Calibration) -> dict[str, Any]:
    """Rank 1 in the next view and in the pool, and refusal over MARGINS and the memory's own margin."""
    out: dict[str, Any] = {}
    leads = {f'lead {m:g}': m for m in MARGINS} | {"the memory's lead": margin_of(Settings(), calibration)}
    for gap in GAPS:
        kept, found = returns(views, gap=gap)
        if not kept:
            continue
        among = in_pool(kept, found, pool)
        rivals = [r for r in kept if len(r.others)]
        out['next view' if not gap else f'{gap:g} s later'] = {
            'rank 1 in frame': share([r.first for r in rivals], [r.unit for r in rivals]),
            'rank 1 in pool': share([r.first for r in among], [r.unit for r in among]),
            'pool': 1 + min(len(r.others) for r in among),
            'individuals': len({name for v in pool for name in v.names}),
            'in frame': {name: refusal(kept, calibration, m) for name, m in leads.items()},
            'in pool': {name: refusal(among, calibration, m) for name, m in leads.items()},
        }
    return out

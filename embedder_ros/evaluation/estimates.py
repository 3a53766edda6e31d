# SPDX-License-Identifier: Apache-2.0
"""A measured number with its 95 % interval, for answers that come in bunches: those of one frame are not independent.

Intervals come from drawing whole units (frames, scenes, seconds of a recording) anew. A share has Wilson's interval
over units instead where every unit holds one answer, where all answers agree so that drawing shows no spread, and where
units are few. Not covered: that the units themselves may come from few rooms or persons; a user's room is another draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder_ros.evaluation.images import interval

RESAMPLES = 500
FEW = 5  # units below which drawing them anew says nothing: shares get Wilson's interval, other numbers none
FINE = 0.02  # width of an interval below which three digits are told
INSIDE = (2.5, 97.5)  # percentiles that bound 95 %


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, its 95 % interval, how many answers it rests on, and how the interval was found; NaN for unknown."""

    value: float
    low: float
    high: float
    count: int
    by: str = ''

    def as_dict(self) -> dict[str, Any]:
        """For JSON: rounded, None for unknown."""
        numbers = {name: getattr(self, name) for name in ('value', 'low', 'high')}
        rounded = {name: round(v, 4) if math.isfinite(v) else None for name, v in numbers.items()}
        return {**rounded, 'count': self.count, 'by': self.by}

    def __str__(self) -> str:
        if not math.isfinite(self.low):
            return short(self.value) if math.isfinite(self.value) else '-'
        digits = 2 if self.high - self.low >= FINE else 3
        value, low, high = (short(v, digits) for v in (self.value, self.low, self.high))
        return f'{value} ({low} to {high})'


def short(value: float, digits: int = 2) -> str:
    """'.25', '-.01', '1.00'."""
    text = f'{value:.{digits}f}'
    return text.replace('0.', '.', 1) if abs(float(text)) < 1 else text


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


def share(hits: ArrayLike, units: Sequence[str]) -> Estimate:
    """Share of true answers; `units` says for each which frame, scene or second it belongs to."""
    right = np.asarray(hits, np.float64)
    if not len(right):
        return NOTHING
    separate = len(set(units))
    if FEW <= separate < len(right) and 0 < right.mean() < 1:
        return mean(right, units)
    low, high = interval(right.mean() * separate, separate)
    return Estimate(float(right.mean()), low, high, len(right), f'Wilson over {separate}')


def mean(values: ArrayLike, units: Sequence[str]) -> Estimate:
    """Mean over all answers, with a bootstrap over units."""
    numbers = np.asarray(values, np.float64)
    if not len(numbers):
        return NOTHING
    _, owner = np.unique(np.asarray(units), return_inverse=True)
    sums, counts = np.bincount(owner, numbers), np.bincount(owner)
    draws = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    return _between(float(numbers.mean()), sums[draws].sum(axis=1) / counts[draws].sum(axis=1), len(numbers), len(sums))


def bootstrap(statistic: Callable[[NDArray[np.int64]], float], units: Sequence[str]) -> Estimate:
    """Any statistic of rows, given their numbers, with a bootstrap over units."""
    if not len(units):
        return NOTHING
    names, owner = np.unique(np.asarray(units), return_inverse=True)
    rows = np.split(np.argsort(owner, kind='stable'), np.cumsum(np.bincount(owner))[:-1])
    random = np.random.default_rng(0)
    drawn = (random.integers(0, len(names), len(names)) for _ in range(RESAMPLES))
    values = [statistic(np.concatenate([rows[i] for i in draw])) for draw in drawn]
    return _between(statistic(np.arange(len(owner))), values, len(owner), len(names))


def _between(value: float, values: ArrayLike, count: int, units: int) -> Estimate:
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    if units < FEW or not len(known):
        return Estimate(value, math.nan, math.nan, count, f'none: {units} units are too few')
    low, high = np.percentile(known, INSIDE)
    return Estimate(value, float(low), float(high), count, f'bootstrap over {units}')


def auroc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Chance that a positive scores above a negative, ties half; NaN without both."""
    from scipy.stats import rankdata

    is_positive = np.asarray(positive, bool)
    yes, no = int(is_positive.sum()), int((~is_positive).sum())
    if not yes or not no:
        return math.nan
    above = rankdata(scores)[is_positive].sum() - yes * (yes + 1) / 2  # Mann and Whitney's U
    return float(above / (yes * no))


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's; NaN for fewer than three pairs or where one side is constant."""
    from scipy.stats import spearmanr

    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if len(x) < 3 or not np.ptp(x) or not np.ptp(y):
        return math.nan
    return float(spearmanr(x, y)[0])

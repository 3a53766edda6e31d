# SPDX-License-Identifier: Apache-2.0
"""Is this the same one as before? Vetoes first, then one-to-one on appearance, then refusal.

Facts about the world rule pairs out: one thing is not at two places at once, does not outrun a hand, and does not
change its map. Appearance decides only among what is left, and only with a lead over the second object *and* over the
second track that could be this object; otherwise nothing is decided. A wrong merge is worse than a split.
Not measured here: how often a calibrated model is wrong on real video, see `embedder-ros evaluate reid`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from embedder_ros.types import NANOSECONDS, Candidate, FloatArray, Object, Sighting

Bools = NDArray[np.bool_]

# Stamps from here on (the year 2001) are time of day, and go on across restarts; smaller ones start anew with each run.
TIME_OF_DAY = 10**9 * NANOSECONDS


class Same(Enum):
    """Whether this is a remembered individual; the values are those of srv/Reidentify.srv."""

    UNKNOWN = 0
    SAME = 1
    REFUSED = 2


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """Whether this is a remembered individual.

    Attributes:
        outcome: UNKNOWN, SAME or REFUSED.
        candidates: remembered objects that were not ruled out, best first; `semantic` is the probability of being
            the same.
        margin: identity cosine of the first minus that of the second; of the first when there is no second.
        reasons: how many candidates were ruled out by each veto, and the refusal.
    """

    outcome: Same
    candidates: tuple[Candidate, ...] = ()
    margin: float = 0.0
    reasons: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """When and where something was seen without a gap: the facts that vetoes are made of.

    Attributes:
        run, camera: which run's camera; '' when unknown.
        first, last: stamps, nanoseconds.
        places: (stamp, (3,) metres in the map) of the first and the last sighting with a position.
        second_box_of: tracks that it was seen on top of, as a second box; being seen with them proves nothing.
        seen_with: tracks of its camera that some frame showed apart from it. None: not known, all that there were then.
    """

    run: str
    camera: str
    first: int
    last: int
    places: tuple[tuple[int, NDArray[np.float64]], ...] = ()
    second_box_of: Collection[int] = ()
    seen_with: Collection[int] | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Thresholds of one decision: identity cosines, see policy.Settings; `near` is what being at its place adds."""

    same: float
    similar: float
    margin: float
    near: float


@dataclass(frozen=True, slots=True)
class World:
    """What a veto needs to know beside the pair.

    Attributes:
        model_id, map_id, map_frame: of this memory.
        runs: the runs whose stamps are being taken now.
        max_speed, slack: see policy.Settings.
    """

    model_id: str
    map_id: str
    map_frame: str
    runs: Collection[str]
    max_speed: float
    slack: float


def veto(span: Span, known: Object, world: World) -> str:
    """Why what was seen in `span` cannot be this object; '' when it can."""
    if known.model_id != world.model_id:
        return 'other_model'
    if known.map_id != world.map_id:
        return 'other_map'
    if any(_together(span, s) for s in known.sightings):
        return 'seen_together'
    return 'too_fast' if _too_fast(span, known, world) else ''


def _together(span: Span, sighting: Sighting) -> bool:
    if (sighting.run, sighting.camera) != (span.run, span.camera) or sighting.track_id in span.second_box_of:
        return False
    if span.seen_with is not None and sighting.track_id not in span.seen_with:
        return False
    return sighting.first <= span.last and span.first <= sighting.last


def _too_fast(span: Span, known: Object, world: World) -> bool:
    if known.position is None or known.position_frame != world.map_frame or not known.sightings:
        return False
    same_clock = known.sightings[-1].run in world.runs
    for stamp, place in span.places:
        seconds = (stamp - known.last_seen) / NANOSECONDS
        if not same_clock and (seconds <= 0 or known.last_seen < TIME_OF_DAY):
            continue  # stamps of a run that is over, of a clock that starts anew
        distance = float(np.linalg.norm(place - known.position))
        if distance - world.slack > world.max_speed * abs(seconds):
            return True
    return False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided about one track.

    Attributes:
        outcome: UNKNOWN, SAME or REFUSED.
        column: the object it is, or the likeliest; -1 when none is similar.
        margin: lead of that object; its similarity when there is no other.
        reason: below_threshold, small_margin or held; '' unless REFUSED.
        rivals: the other objects that it may as well be.
    """

    outcome: Same
    column: int = -1
    margin: float = 0.0
    reason: str = ''
    rivals: tuple[int, ...] = ()


def decide(
    cosines: FloatArray,
    possible: Bools,
    limits: Limits,
    *,
    held: Bools | None = None,
    near: Bools | None = None,
    asked: Bools | None = None,
    apart: Bools | None = None,
    distinct: Bools | None = None,
) -> list[Verdict]:
    """Which tracks of one camera are which objects, each object at most once.

    The clearest pairs are taken first and leave the others fewer rivals, as long as any pair is clear.

    Args:
        cosines: (T, C) identity similarity of every track and object.
        possible: (T, C), False where a veto rules the pair out.
        limits: thresholds.
        held: (T, C), True where the object may not be given away yet; it is still a rival.
        near: (T, C), True where the track is at the object's remembered place.
        asked: (T,), False for tracks that are rivals but are not to be decided.
        apart: (T, T), False where two tracks overlap, so that they may be boxes of one thing and are no rivals.
        distinct: (C, C), the same for objects.
    """
    held = np.zeros_like(possible) if held is None else held
    asked = np.ones(len(cosines), bool) if asked is None else asked
    apart, distinct = _others(apart, len(cosines)), _others(distinct, cosines.shape[1])
    value = cosines + (0.0 if near is None else np.where(near, limits.near, 0.0))
    open_pairs = possible & (cosines >= limits.similar)
    verdicts = [Verdict(Same.UNKNOWN)] * len(cosines)
    clear = (cosines >= limits.same) & ~held & asked[:, None]
    while True:
        leads = _leads(value, open_pairs, apart, distinct)
        taken = [(i, j) for i, j in _assigned(value, open_pairs) if clear[i, j] and leads[i, j] >= limits.margin]
        if not taken:
            break
        for i, j in taken:
            verdicts[i] = Verdict(Same.SAME, j, float(leads[i, j]))
            open_pairs[i], open_pairs[:, j] = False, False
    for i in np.flatnonzero(open_pairs.any(axis=1)).tolist():
        j = int(np.where(open_pairs[i], value[i], -np.inf).argmax())
        reason = _reason(cosines[i, j], bool(held[i, j]), limits)
        rivals = open_pairs[i] & distinct[j] & (value[i] > value[i, j] - limits.margin)
        verdicts[i] = Verdict(Same.REFUSED, j, float(leads[i, j]), reason, tuple(np.flatnonzero(rivals).tolist()))
    return verdicts


def _reason(cosine: float, held: bool, limits: Limits) -> str:
    if held:
        return 'held'
    return 'below_threshold' if cosine < limits.same else 'small_margin'


def _assigned(value: FloatArray, open_pairs: Bools) -> Iterable[tuple[int, int]]:
    if not open_pairs.any():
        return []
    worth = np.where(open_pairs, value + 2, 0)  # cosines are above -1: every open pair is worth something
    pairs = zip(*linear_sum_assignment(worth, maximize=True), strict=True)
    return [(int(i), int(j)) for i, j in pairs if open_pairs[i, j]]


def _others(rivals: Bools | None, count: int) -> Bools:
    """(n, n) who is whose rival: all others, unless it is told."""
    others = ~np.eye(count, dtype=bool)
    return others if rivals is None else rivals & others


def _leads(value: FloatArray, open_pairs: Bools, apart: Bools, distinct: Bools) -> FloatArray:
    """(T, C) lead of each pair over the best other of its track or object; the pair itself when there is none."""
    rated = np.where(open_pairs, value, -np.inf)
    other_tracks = np.where(apart[:, :, None], rated[None], -np.inf).max(axis=1, initial=-np.inf)
    other_objects = np.where(distinct[None], rated[:, None, :], -np.inf).max(axis=2, initial=-np.inf)
    rival = np.maximum(other_objects, other_tracks)
    return np.where(open_pairs, value - np.where(np.isfinite(rival), rival, 0), -np.inf)

# SPDX-License-Identifier: Apache-2.0
"""From ids to numbers: was a thing that came back given the id it had, a new one, or that of another thing?

What is counted is a spell: one thing in view of one camera without a break of `BREAK` seconds. Spells depend on the
recording alone, so all methods are asked the same. A spell is right when it is named as an earlier spell of its thing
was; it is wrong for every id of another thing that it carries, even beside a right one. An id belongs to the thing that
carried it first.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from embedder_ros.evaluation.reid_clips import Clip
from embedder_ros.types import NANOSECONDS

BREAK = 1.0  # seconds out of view after which a thing has to be recognised again
# Sightings of a thing that must carry an id for it to count. From 2 on a single box between two things is no merge.
CARRIED = 2
PAUSE = 1.0  # seconds; a longer gap between frames is no time in which anything could be merged

SLID = 'the tracker slid'  # one track ran over both things: the id was right, the track was not

GAPS = (1.0, 3.0, 10.0, 30.0, 60.0)  # upper ends of the classes of gaps, seconds
POOLS = (10, 30, 100)  # upper ends of the classes of pools, known things

Ids = Sequence[Sequence[str]]  # per frame of a clip, per row: the id it was given, '' for none


@dataclass(slots=True)
class Spell:
    """One thing in view of one camera without a break.

    Attributes:
        label: the thing.
        camera: name of the camera.
        epoch: counts the restarts before it.
        light: of its first frame.
        first, last: stamps, nanoseconds.
        rows: (frame of the clip, row) of its sightings.
        ids: how many of its sightings carry each id.
        claimed: stamp at which each id had been carried `CARRIED` times.
        tracks: the tracks that brought each id.
    """

    label: str
    camera: str
    epoch: int
    light: str
    first: int
    last: int
    rows: list[tuple[int, int]] = field(default_factory=list)
    ids: Counter[str] = field(default_factory=Counter)
    claimed: dict[str, int] = field(default_factory=dict)
    tracks: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    @property
    def main(self) -> str:
        """The id that most of its sightings carry, of those that count; '' for none."""
        return max(self.claimed, key=lambda i: self.ids[i], default='')


@dataclass(frozen=True, slots=True)
class Result:
    """How one spell ended.

    Attributes:
        spell: the spell.
        outcome: 'right', 'new' (an id of its own), 'wrong', 'unknown' (an id of a thing that may be the same one) or
            'unnamed' (no id at all).
        returns: whether its thing had been in view before.
        gap: seconds since then, 0 when another camera still sees it; -1 when it does not return.
        pool: things known before it.
        places: 'same camera', or 'another camera' when this camera never saw the thing; '' when it does not return.
        restarted: whether all earlier spells lie before a restart.
        relit: whether all earlier spells were in another light.
        merged: the other things whose ids it carries, each with how they are related.
    """

    spell: Spell
    outcome: str
    returns: bool
    gap: float
    pool: int
    places: str
    restarted: bool
    relit: bool
    merged: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Score:
    """Shares of spells; precision and recall are 1 and 0 when there is nothing to divide by.

    Attributes:
        returns: spells of things that had been in view before.
        right, wrong, new, unnamed, unknown: how spells ended; wrong also counts ids beside the main one.
        precision: right / (right + wrong).
        recall: right / returns.
    """

    returns: int
    right: int
    wrong: int
    new: int
    unnamed: int
    unknown: int
    precision: float
    recall: float


def spells(clip: Clip, ids: Ids, restarts: Sequence[int] = (), tracks: Ids | None = None) -> list[Spell]:
    """The clip's spells in order of their first stamps.

    Args:
        clip: what was seen.
        ids: per frame and row the id given, '' for none.
        restarts: numbers of the frames that follow one.
        tracks: per frame and row the track, to tell whether the tracker is to blame for a merge.
    """
    out: list[Spell] = []
    live: dict[tuple[str, str], Spell] = {}
    for number, (shown, given) in enumerate(zip(clip.shown, ids, strict=True)):
        stamp, camera = shown.observation.stamp, shown.observation.camera
        epoch = sum(number >= r for r in restarts)
        for row, (label, name) in enumerate(zip(shown.labels, given, strict=True)):
            if not label:
                continue
            spell = live.get((camera, label))
            if spell is None or (stamp - spell.last) / NANOSECONDS >= BREAK or spell.epoch != epoch:
                spell = live[camera, label] = Spell(label, camera, epoch, shown.light, stamp, stamp)
                out.append(spell)
            spell.rows.append((number, row))
            _add(spell, stamp, name)
            if name and tracks is not None:
                spell.tracks[name].add(tracks[number][row])
    return [s for s in out if len(s.rows) >= CARRIED]


def _add(spell: Spell, stamp: int, name: str) -> None:
    spell.last = stamp
    if name:
        spell.ids[name] += 1
        if spell.ids[name] == CARRIED:
            spell.claimed[name] = stamp


def owners(found: Iterable[Spell]) -> dict[str, str]:
    """Each id's thing: the one that carried it first."""
    claims = sorted((stamp, name, s.label) for s in found for name, stamp in s.claimed.items())
    owner: dict[str, str] = {}
    for _, name, label in claims:
        owner.setdefault(name, label)
    return owner


def judge(clip: Clip, found: Sequence[Spell], together: set[frozenset[str]]) -> list[Result]:
    """How each spell ended; `together` are the pairs of things that some frame showed at once."""
    owner = owners(found)
    worn: defaultdict[str, set[str]] = defaultdict(set)
    for spell in found:
        for track in set().union(*spell.tracks.values()):
            worn[track].add(spell.label)
    before: defaultdict[str, list[Spell]] = defaultdict(list)
    out = []
    for spell in found:
        earlier = before[spell.label]
        out.append(_result(clip, spell, earlier, owner, len(before) - (not earlier), together, worn))
        earlier.append(spell)
    return out


def _result(
    clip: Clip,
    spell: Spell,
    earlier: Sequence[Spell],
    owner: dict[str, str],
    pool: int,
    together: set[frozenset[str]],
    worn: dict[str, set[str]],
) -> Result:
    merged = tuple(
        (
            other,
            SLID if any(other in worn[t] for t in spell.tracks[name]) else relation(clip, spell.label, other, together),
        )
        for name in spell.claimed
        if (other := owner[name]) != spell.label and clip.apart(other, spell.label)
    )
    end = max((e.last for e in earlier), default=0)
    return Result(
        spell,
        _outcome(clip, spell, earlier, owner),
        bool(earlier),
        max(0.0, (spell.first - end) / NANOSECONDS) if earlier else -1.0,
        pool,
        _places(spell, earlier),
        bool(earlier) and all(e.epoch < spell.epoch for e in earlier),
        bool(earlier) and all(e.light != spell.light for e in earlier),
        merged,
    )


def _outcome(clip: Clip, spell: Spell, earlier: Sequence[Spell], owner: dict[str, str]) -> str:
    if not spell.main:
        return 'unnamed'
    if owner[spell.main] != spell.label:
        return 'wrong' if clip.apart(owner[spell.main], spell.label) else 'unknown'
    return 'right' if any(spell.main in e.claimed for e in earlier) else 'new'


def _places(spell: Spell, earlier: Sequence[Spell]) -> str:
    if not earlier:
        return ''
    return 'same camera' if any(e.camera == spell.camera for e in earlier) else 'another camera'


def relation(clip: Clip, label: str, other: str, together: set[frozenset[str]]) -> str:
    """Why two things may have been taken for one another."""
    for a, b in ((label, other), (other, label)):
        if clip.twins.get(a, ('', ''))[0] == b:
            return clip.twins[a][1]
    return 'seen together' if frozenset((label, other)) in together else 'other'


def score(results: Iterable[Result]) -> Score:
    """Totals over spells."""
    results = list(results)
    ends = Counter(r.outcome for r in results if r.returns)
    right, wrong = ends['right'], sum(len(r.merged) for r in results)
    returns = sum(r.returns for r in results)
    return Score(
        returns,
        right,
        wrong,
        ends['new'],
        ends['unnamed'],
        sum(r.outcome == 'unknown' for r in results),
        right / (right + wrong) if right + wrong else 1.0,
        right / returns if returns else 0.0,
    )


def by(results: Iterable[Result], key: Callable[[Result], str]) -> dict[str, Score]:
    """Totals by class; results whose key is '' are left out."""
    groups: defaultdict[str, list[Result]] = defaultdict(list)
    for r in results:
        if name := key(r):
            groups[name].append(r)
    return {name: score(group) for name, group in sorted(groups.items())}


def gap_class(result: Result) -> str:
    """Class of the gap a spell follows, '' for a first one; names sort by length."""
    if not result.returns:
        return ''
    low = 0.0
    for high in GAPS:
        if result.gap <= high:
            return f'{low:02.0f}-{high:02.0f} s'
        low = high
    return f'over {low:.0f} s'


def pool_class(result: Result) -> str:
    """Class of the number of things known before a spell; names sort by size."""
    low = 0
    for high in POOLS:
        if result.pool < high:
            return f'{low:03d}-{high - 1:03d}'
        low = high
    return f'{low:03d} and more'


def covisible(clip: Clip, ids: Ids) -> set[tuple[str, frozenset[str]]]:
    """Ids that one frame gives to two things at once, with the things. There must be none."""
    out = set()
    for shown, given in zip(clip.shown, ids, strict=True):
        carried: defaultdict[str, set[str]] = defaultdict(set)
        for label, name in zip(shown.labels, given, strict=True):
            if label and name:
                carried[name].add(label)
        out |= {(name, frozenset(labels)) for name, labels in carried.items() if len(labels) > 1}
    return out


def hours(clip: Clip) -> float:
    """Time that was looked at, hours; pauses between frames do not count."""
    stamps = sorted({s.observation.stamp for s in clip.shown})
    steps = (b - a for a, b in zip(stamps, stamps[1:], strict=False))
    return sum(step for step in steps if step <= PAUSE * NANOSECONDS) / NANOSECONDS / 3600


def switches(clip: Clip, ids: Ids) -> int:
    """How often a thing's id changes while it stays in view."""
    return sum(max(0, len(s.claimed) - 1) for s in spells(clip, ids))


def as_dict(one: Score) -> dict[str, Any]:
    """For JSON, shares rounded."""
    counts = {name: getattr(one, name) for name in ('returns', 'right', 'wrong', 'new', 'unnamed', 'unknown')}
    return counts | {'precision': round(one.precision, 4), 'recall': round(one.recall, 4)}

# SPDX-License-Identifier: Apache-2.0
"""What re-identification is measured on: observations whose rows say which individual they show.

The individuals come from ground truth, or without any labels from tracks: a track is one thing, two tracks seen in one
frame are two. A recording in which little leaves is made to test memory all the same: `drop` leaves out a share of the
frames, and `hide` takes single things out of them for a while.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder_ros.evaluation.truth import by_frame, frame_of
from embedder_ros.tracking.tracker import Tracker
from embedder_ros.types import NANOSECONDS, FloatArray, ModelInfo, Observation, TrackStatus, UserError, box_iou

RIGHT_IOU = 0.5  # overlap with a labelled box that makes a row show that thing
# Visible share of a thing from which its sightings are scored. Raising it leaves hard sightings out of the numbers.
MIN_VISIBLE = 0.3
# What goes out of view with a thing: rows that overlap it so much, or have such a share inside its box. Raising them
# leaves second boxes of a thing that is said to be away.
HIDES, INSIDE = 0.1, 0.5
SECOND = 0.3  # overlap with a longer track from which a track is a second box, and no thing of its own
MIN_TRACK = 2.0  # seconds a track must last to be a thing in recordings without labels
SHOWN = 1.0  # seconds that a thing stays in view before and after it is hidden


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """One frame: what the pipeline saw, which individual each row shows ('' unknown), and in what light."""

    observation: Observation
    labels: tuple[str, ...]
    light: str = ''


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A recording to be scored.

    Attributes:
        shown: its frames, in the order of their stamps.
        apart: whether two individuals are known to be different.
        twins: look-alike -> its original and how it differs.
        parts: individuals that are parts of others: handles, drawers.
        by_tracks: its individuals are tracks, whose names mean others in another recording.
    """

    shown: tuple[Shown, ...]
    apart: Callable[[str, str], bool]
    twins: dict[str, tuple[str, str]] = field(default_factory=dict)
    parts: frozenset[str] = frozenset()
    by_tracks: bool = False


def labelled(observations: Iterable[Observation], truth: Path) -> Clip:
    """Observations with the individuals of a truth file in the sample bag's layout.

    Beside `frames: [{stamp, objects: [{box, instance, part_of, visible}]}]` the file may say each frame's `topic` (with
    several cameras) and `light`, and `twins: [{instance, of, how}]`. Frames it does not have are left out.

    Raises:
        UserError: the file is no such truth, or of another recording.
    """
    try:
        content = json.loads(truth.read_text(encoding='utf-8'))
        frames = by_frame(content)
        twins = {t['instance']: (t['of'], t['how']) for t in content.get('twins', ())}
        shown = [_shown(o, frame) for o in observations if (frame := frame_of(frames, o.camera, o.stamp)) is not None]
        objects = [o for entry in content['frames'] for o in entry['objects']]
        whole = {o['instance']: o['part_of'] for o in objects if o.get('part_of')}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'{truth} is no ground truth ({type(error).__name__}: {error}); render it again') from error
    if not shown:
        raise UserError(f'{truth} has no stamp of this recording; give the truth that belongs to it')
    return Clip(_sorted(shown), lambda a, b: not _of_one(a, b, whole), twins, frozenset(whole))


def _of_one(a: str, b: str, whole: dict[str, str]) -> bool:
    """Whether two names mean one thing, or a thing and a part of it: their boxes are often much the same."""
    for part, other in ((a, b), (b, a)):
        while part in whole and part != other:
            part = whole[part]
        if part == other:
            return True
    return False


def from_tracks(observations: Iterable[Observation], model: ModelInfo) -> Clip:
    """Observations in which every track that lasts `MIN_TRACK` seconds is an individual; for recordings without labels.

    Of tracks that run over one another the longest is taken. Two are known to differ only if some frame shows both.
    """
    shown = unlabelled(observations)
    tracks = track_rows([s.observation for s in shown], model)
    labels = [[''] * len(s.labels) for s in shown]
    for name, at in sorted(tracks.items(), key=lambda item: -len(item[1])):
        if _lasts(shown, at) and not _second(shown, labels, at):
            for frame, row in at:
                labels[frame][row] = name
    return _by_tracks(replace(s, labels=tuple(names)) for s, names in zip(shown, labels, strict=True))


def _by_tracks(shown: Iterable[Shown]) -> Clip:
    shown = _sorted(shown)
    together = seen_together(shown)
    return Clip(shown, lambda a, b: frozenset((a, b)) in together, by_tracks=True)


def unlabelled(observations: Iterable[Observation]) -> tuple[Shown, ...]:
    """Observations of which no row is known, in order of their stamps."""
    return _sorted([Shown(o, ('',) * len(o)) for o in observations])


def track_rows(observations: Sequence[Observation], model: ModelInfo) -> dict[str, list[tuple[int, int]]]:
    """Name of each confirmed track -> (frame, row) of its sightings."""
    ids, trackers = itertools.count(1), dict[str, Tracker]()
    rows: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for number, o in enumerate(observations):
        tracker = trackers.setdefault(o.camera, Tracker(o.camera, ids=ids, identity=model.identity))
        for track in tracker.update(o):
            if track.status is TrackStatus.TRACKED:
                rows[f'{o.camera} {track.track_id}'].append((number, track.row))
    return dict(rows)


def seen_together(shown: Iterable[Shown]) -> set[frozenset[str]]:
    """Pairs of individuals that some frame shows at once."""
    return {
        frozenset(pair)
        for names in {frozenset(s.labels) - {''} for s in shown}
        for pair in itertools.combinations(names, 2)
    }


def joined(clips: Sequence[Clip]) -> Clip:
    """Several recordings as one, in order of their stamps.

    Their individuals differ, but of tracks nobody knows: what one recording shows another may show again.
    """
    if len(clips) == 1:
        return clips[0]
    if all(clip.by_tracks for clip in clips):
        return _by_tracks(_numbered(s, n) for n, clip in enumerate(clips, 1) for s in clip.shown)
    owner = {name: n for n, clip in enumerate(clips) for s in clip.shown for name in s.labels}
    apart = [clip.apart for clip in clips]

    def differ(a: str, b: str) -> bool:
        return owner[a] == owner[b] and apart[owner[a]](a, b) or owner[a] != owner[b]

    twins = {name: twin for clip in clips for name, twin in clip.twins.items()}
    parts = frozenset().union(*(clip.parts for clip in clips))
    return Clip(_sorted([s for clip in clips for s in clip.shown]), differ, twins, parts)


def _numbered(shown: Shown, number: int) -> Shown:
    return replace(shown, labels=tuple(f'{number} {name}' if name else '' for name in shown.labels))


def drop(clip: Clip, share: float, seed: int = 0) -> Clip:
    """The clip without a random `share` of its frames, 0..1."""
    kept = np.random.default_rng([seed, 1]).random(len(clip.shown)) >= share
    return replace(clip, shown=tuple(itertools.compress(clip.shown, kept)))


def hide(clip: Clip, gaps: Sequence[float], seed: int = 0) -> Clip:
    """The clip with every thing taken out of view for spans of `gaps` seconds, each thing at times of its own.

    A span needs `SHOWN` seconds in view before and after it; things that are not in view for so long are left alone.
    """
    rng = np.random.default_rng([seed, 2])
    seen: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for s in clip.shown:
        for name in s.labels:
            if name and name not in clip.parts:
                seen[s.observation.camera, name].append(s.observation.stamp)
    spans = {key: _spans(stamps, gaps, rng) for key, stamps in sorted(seen.items())}
    return replace(clip, shown=tuple(_without(s, spans) for s in clip.shown))


def _spans(stamps: Sequence[int], gaps: Sequence[float], rng: np.random.Generator) -> list[tuple[int, int]]:
    """Spans that fit into the time a thing is in view, one after the other."""
    spans: list[tuple[int, int]] = []
    start, shown = stamps[0], round(SHOWN * NANOSECONDS)
    while True:
        start += shown + int(rng.uniform(0, 1) * NANOSECONDS)
        fitting = [g for g in gaps if start + round(g * NANOSECONDS) + shown <= stamps[-1]]
        if not fitting:
            return spans
        end = start + round(float(rng.choice(fitting)) * NANOSECONDS)
        spans.append((start, end))
        start = end


def _without(shown: Shown, spans: dict[tuple[str, str], list[tuple[int, int]]]) -> Shown:
    o = shown.observation
    hidden = [
        row
        for row, name in enumerate(shown.labels)
        if any(start <= o.stamp < end for start, end in spans.get((o.camera, name), ()))
    ]
    if not hidden:
        return shown
    kept = np.flatnonzero(~_covered(o.boxes, o.boxes[hidden]))
    return replace(shown, observation=rows(o, kept), labels=tuple(shown.labels[i] for i in kept))


def _covered(boxes: FloatArray, hidden: FloatArray) -> NDArray[np.bool_]:
    """(N,) which boxes go with the hidden ones."""
    low = np.maximum(boxes[:, None, :2], hidden[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], hidden[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    inside = shared >= INSIDE * (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)[:, None]
    return (inside | (box_iou(boxes, hidden) >= HIDES)).any(axis=1)


def rows(o: Observation, kept: NDArray[np.int64]) -> Observation:
    """The observation with these rows alone."""
    per_row = {name: getattr(o, name)[kept] for name in ('boxes', 'objectness', 'iou', 'embeddings')}
    return replace(o, **per_row, positions=None if o.positions is None else o.positions[kept])


def _shown(observation: Observation, frame: dict[str, Any]) -> Shown:
    objects = frame['objects']
    boxes = np.asarray([o['box'] for o in objects], np.float32).reshape(-1, 4)
    scored = [o['instance'] if o.get('visible', 1.0) >= MIN_VISIBLE else '' for o in objects]
    return Shown(observation, match(observation.boxes, boxes, scored), str(frame.get('light', '')))


def match(boxes: FloatArray, labelled_boxes: FloatArray, names: Sequence[str]) -> tuple[str, ...]:
    """The name of the labelled box that each box covers best; '' for none. Second boxes of a thing show it, too."""
    if not len(labelled_boxes):
        return ('',) * len(boxes)
    overlap = box_iou(boxes, labelled_boxes)
    best = overlap.argmax(axis=1)
    return tuple(names[j] if overlap[i, j] >= RIGHT_IOU else '' for i, j in enumerate(best))


def _lasts(shown: Sequence[Shown], at: Sequence[tuple[int, int]]) -> bool:
    first, last = shown[at[0][0]].observation.stamp, shown[at[-1][0]].observation.stamp
    return (last - first) / NANOSECONDS >= MIN_TRACK


def _second(shown: Sequence[Shown], labels: Sequence[Sequence[str]], at: Sequence[tuple[int, int]]) -> bool:
    """Whether a track runs over one that is a thing already."""
    for frame, row in at:
        boxes = shown[frame].observation.boxes
        things = [i for i, name in enumerate(labels[frame]) if name]
        if things and box_iou(boxes[row], boxes[things]).max() >= SECOND:
            return True
    return False


def _sorted(shown: Iterable[Shown]) -> tuple[Shown, ...]:
    return tuple(sorted(shown, key=lambda s: s.observation.stamp))

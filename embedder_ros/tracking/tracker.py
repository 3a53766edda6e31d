# SPDX-License-Identifier: Apache-2.0
"""Observations of one camera to tracks: which box of this frame continues which chain of boxes.

Our own short tracker rather than the `trackers` package, whose ages are counted in frames (a robot drops frames), which
does not look at embeddings, and which pulls the GUI build of OpenCV. Boxes decide where they overlap; the identity
part of the embedding decides where the thing has moved; a look-alike out of reach is never picked up. A turn of the
camera is read from the step on which most things agree, so that it does not cost their tracks. Not handled: a camera
that turns over a regular grid of identical things, half of which are not proposed.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from embedder_ros.types import NANOSECONDS, FloatArray, Observation, Track, TrackStatus, box_iou, unit_rows

# Worth of a box that looks right but does not overlap, against up to 2 for one that does both. From 1 on two such
# guesses outweigh one certain match, and a row of look-alikes hands its tracks on.
GUESS = 0.75
# Share of a box's size within which two things agree on how the view moved. Raising it takes things that move by
# themselves for a turn of the camera.
SHIFT_SLACK = 0.3
# Pairs of a track and a box that vote on it, nearest first. Raising it costs time in a scene of look-alikes.
SHIFT_PAIRS = 300
# Seconds between two frames over which a thing seen in both is still one chain, whatever max_lost. Raising it carries
# tracks over a gap in the stamps; lowering it breaks every track of a slower model.
MAX_PERIOD = 10.0
# Share of a new view in the running appearance and velocity. Raising it follows changes and drifts to neighbours.
APPEARANCE_STEP = 0.2
VELOCITY_STEP = 0.5


@dataclass(slots=True)
class _State:
    """A track between frames.

    `velocity` is (2,) pixels a second of the box's centre, `place` the box moved by what the view moved since.
    """

    track_id: int
    box: FloatArray
    place: FloatArray
    velocity: FloatArray
    embedding: FloatArray
    looks: FloatArray
    iou: float
    objectness: float
    first_stamp: int
    last_stamp: int
    sightings: int = 1
    confirmed: bool = False


def _same(embeddings: FloatArray) -> FloatArray:
    return embeddings


class Tracker:
    """Tracks one camera.

    Args:
        camera: its name.
        ids: where track ids come from; share one iterator between cameras to keep ids unique.
        identity: (N, D) embeddings to (N, K) unit rows that compare individuals.
        max_lost: seconds a confirmed track may stay unseen. Raising it bridges longer occlusions and risks picking up
            a look-alike.
        max_new_lost: seconds an unconfirmed track may stay unseen. Raising it keeps more false proposals alive.
        confirm: seconds over which a track must be seen, at least twice, to be TRACKED. Raising it delays true tracks.
        min_iou: overlap with the predicted box that continues a track. Raising it loses fast things, lowering it swaps
            neighbours.
        min_looks: identity cosine that an overlapping box needs. Raising it breaks tracks when the view changes.
        reacquire_looks: identity cosine with which a box that does not overlap continues a track. Lowering it swaps
            look-alikes.
        reach: image widths a second that a thing may move against its prediction. Raising it swaps look-alikes.
        max_scale: factor by which a box's area may change between sightings.
    """

    def __init__(
        self,
        camera: str,
        *,
        ids: Iterator[int] | None = None,
        identity: Callable[[FloatArray], FloatArray] = _same,
        max_lost: float = 3.0,
        max_new_lost: float = 0.5,
        confirm: float = 0.15,
        min_iou: float = 0.25,
        min_looks: float = 0.2,
        reacquire_looks: float = 0.8,
        reach: float = 0.5,
        max_scale: float = 4.0,
    ) -> None:
        self.camera = camera
        self.counts: Counter[str] = Counter()
        self._ids = ids if ids is not None else itertools.count(1)
        self._identity = identity
        self._max_lost, self._max_new_lost, self._confirm = max_lost, max_new_lost, confirm
        self._min_iou, self._min_looks, self._reacquire = min_iou, min_looks, reacquire_looks
        self._reach, self._max_scale = reach, max_scale
        self._states: list[_State] = []
        self._model: tuple[str, int] | None = None
        self._stamp: int | None = None
        self._last: list[Track] = []

    def update(self, observation: Observation) -> list[Track]:
        """Take the next frame's observation; return every live track, and those REMOVED by this frame once.

        A stamp that goes backwards, or another model, removes all tracks and starts anew (counted as 'restarts'); a
        repeated stamp changes nothing ('repeated stamps'); rows that are not finite or whose box is empty are left out
        ('bad rows').
        """
        if observation.stamp == self._stamp:
            self.counts['repeated stamps'] += 1
            return [t for t in self._last if t.status is not TrackStatus.REMOVED]
        ended = self._restart(observation)
        rows, looks = self._good_rows(observation)
        matches = self._match(observation, rows, looks)
        removed = self._continue(observation, rows, looks, matches)
        seen = {**matches, **self._begin(observation, rows, looks, set(matches.values()))}
        live = [self._track(s, observation, rows[seen[i]] if i in seen else -1) for i, s in enumerate(self._states)]
        self._states = [s for i, s in enumerate(self._states) if i not in removed]
        self._stamp = observation.stamp
        self._last = ended + live
        return list(self._last)

    def _restart(self, observation: Observation) -> list[Track]:
        model = (observation.model_id, observation.dim)
        backwards = self._stamp is not None and observation.stamp < self._stamp
        if not backwards and self._model in (None, model):
            self._model = model
            return []
        self.counts['restarts'] += 1
        stamp = self._stamp if self._stamp is not None else observation.stamp
        ended = [self._frozen(s, TrackStatus.REMOVED, -1, stamp) for s in self._states]
        self._states, self._model = [], model
        return ended

    def _good_rows(self, observation: Observation) -> tuple[list[int], FloatArray]:
        good = np.isfinite(observation.boxes).all(axis=1) & np.isfinite(observation.embeddings).all(axis=1)
        good &= (observation.boxes[:, 2:] > observation.boxes[:, :2]).all(axis=1)
        self.counts['bad rows'] += int((~good).sum())
        rows = np.flatnonzero(good)
        return rows.tolist(), self._identity(observation.embeddings[rows])

    def _match(self, observation: Observation, rows: list[int], looks: FloatArray) -> dict[int, int]:
        """One-to-one: index of a state -> index into `rows`."""
        if not self._states or not rows:
            return {}
        worth = self._worth(observation, observation.boxes[rows], looks)
        pairs = zip(*linear_sum_assignment(worth, maximize=True), strict=True)
        return {int(i): int(j) for i, j in pairs if worth[i, j] > 0}

    def _worth(self, observation: Observation, boxes: FloatArray, looks: FloatArray) -> FloatArray:
        """(states, boxes) how much speaks for continuing this state with that box; 0 forbids it."""
        gap = np.array([(observation.stamp - s.last_stamp) / NANOSECONDS for s in self._states], np.float32)[:, None]
        seen = np.array([s.last_stamp == self._stamp for s in self._states])[:, None]
        places = np.stack([s.place for s in self._states])
        cosine = np.stack([s.looks for s in self._states]) @ looks.T
        scale = _area(boxes)[None] / _area(places)[:, None]
        possible = np.maximum(scale, 1 / scale) <= self._max_scale
        possible &= gap <= np.where(seen, max(self._max_lost, MAX_PERIOD), self._max_lost)
        alike = possible & (cosine >= self._reacquire)
        shifted = self._follow_view(places, _shift(places, boxes, alike, seen))
        moving = _moved(places, np.stack([s.velocity for s in self._states]) * np.minimum(gap, 1.0))
        iou = np.max([box_iou(at, boxes) for at in (places, shifted, moving)], axis=0)
        reach = self._reach * observation.width * np.minimum(gap, 1.0)
        away = np.minimum(_distances(shifted, boxes), _distances(moving, boxes)) / reach
        overlaps = possible & (iou >= self._min_iou) & (cosine >= self._min_looks)
        guess = np.where(alike & (away <= 1), cosine * (GUESS - 0.25 * away), 0)
        return np.where(overlaps, iou + cosine, guess)

    def _follow_view(self, places: FloatArray, shift: FloatArray) -> FloatArray:
        shifted = _moved(places, shift)
        for state, place in zip(self._states, shifted, strict=True):
            state.place = place
        return shifted

    def _continue(
        self, observation: Observation, rows: list[int], looks: FloatArray, matches: dict[int, int]
    ) -> set[int]:
        """Update matched states; return the indices of those that have been unseen for too long."""
        if matches:
            self._sight(observation, [rows[j] for j in matches.values()], looks[list(matches.values())], list(matches))
        return {
            i
            for i, state in enumerate(self._states)
            if i not in matches and (observation.stamp - state.last_stamp) / NANOSECONDS > self._patience(state)
        }

    def _patience(self, state: _State) -> float:
        return self._max_lost if state.confirmed else min(self._max_new_lost, self._max_lost)

    def _sight(self, observation: Observation, rows: list[int], looks: FloatArray, indices: list[int]) -> None:
        """Continue the states at `indices` with `rows`; all at once, because a few numpy calls per track add up."""
        states = [self._states[i] for i in indices]
        boxes = observation.boxes[rows]
        gaps = np.array([(observation.stamp - s.last_stamp) / NANOSECONDS for s in states], np.float32)[:, None]
        steps = (_centre(boxes) - _centre(np.stack([s.box for s in states]))) / gaps
        velocities = (1 - VELOCITY_STEP) * np.stack([s.velocity for s in states]) + VELOCITY_STEP * steps
        embeddings = _blend(np.stack([s.embedding for s in states]), observation.embeddings[rows])
        looks = _blend(np.stack([s.looks for s in states]), looks)
        for n, (state, row) in enumerate(zip(states, rows, strict=True)):
            state.box = state.place = boxes[n]
            state.velocity, state.embedding, state.looks = velocities[n], embeddings[n], looks[n]
            state.iou, state.objectness = float(observation.iou[row]), float(observation.objectness[row])
            state.last_stamp = observation.stamp
            state.sightings += 1
            state.confirmed |= (state.last_stamp - state.first_stamp) / NANOSECONDS >= self._confirm

    def _begin(self, observation: Observation, rows: list[int], looks: FloatArray, taken: set[int]) -> dict[int, int]:
        """A new track for every row that continues none: index of its state -> index into `rows`."""
        begun = {}
        for j, row in enumerate(rows):
            if j in taken:
                continue
            begun[len(self._states)] = j
            self._states.append(
                _State(
                    track_id=next(self._ids),
                    box=observation.boxes[row].copy(),
                    place=observation.boxes[row].copy(),
                    velocity=np.zeros(2, np.float32),
                    embedding=observation.embeddings[row].copy(),
                    looks=looks[j].copy(),
                    iou=float(observation.iou[row]),
                    objectness=float(observation.objectness[row]),
                    first_stamp=observation.stamp,
                    last_stamp=observation.stamp,
                )
            )
        return begun

    def _track(self, state: _State, observation: Observation, row: int) -> Track:
        if row >= 0:
            status = TrackStatus.TRACKED if state.confirmed else TrackStatus.NEW
        else:
            unseen = (observation.stamp - state.last_stamp) / NANOSECONDS
            status = TrackStatus.REMOVED if unseen > self._patience(state) else TrackStatus.LOST
        return self._frozen(state, status, row, observation.stamp)

    def _frozen(self, state: _State, status: TrackStatus, row: int, stamp: int) -> Track:
        return Track(
            track_id=state.track_id,
            camera=self.camera,
            status=status,
            row=row,
            box=state.box,
            embedding=state.embedding,
            iou=state.iou,
            objectness=state.objectness,
            first_stamp=state.first_stamp,
            last_stamp=state.last_stamp,
            stamp=stamp,
        )


def _centre(boxes: FloatArray) -> FloatArray:
    return (boxes[:, :2] + boxes[:, 2:]) / np.float32(2)


def _moved(boxes: FloatArray, step: FloatArray) -> FloatArray:
    return boxes + np.concatenate([step, step], axis=-1)


def _distances(a: FloatArray, b: FloatArray) -> FloatArray:
    x, y = (_centre(a)[:, None] - _centre(b)[None]).transpose(2, 0, 1)
    return np.sqrt(x * x + y * y)


def _shift(places: FloatArray, boxes: FloatArray, alike: NDArray[np.bool_], seen: NDArray[np.bool_]) -> FloatArray:
    """(2,) pixels by which the view moved since the last frame; 0 where that is not clear.

    Every pair of a thing seen in the last frame and a box that looks like it is a guess. The guess that explains most
    boxes wins if it explains half of the things, and twice as many boxes as standing still does.
    """
    slack = SHIFT_SLACK * np.sqrt(_area(boxes))
    still = (alike & (_distances(places, boxes) <= slack)).any(axis=0).sum()
    needed = max(2, seen.sum() / 2, 2 * still + 1)
    if needed > len(boxes):  # the usual case: the view stands still
        return np.zeros(2, np.float32)
    i, j = np.nonzero(alike & seen)
    steps = _centre(boxes)[j] - _centre(places)[i]
    near = np.argsort(np.linalg.norm(steps, axis=1), kind='stable')[:SHIFT_PAIRS]
    j, steps = j[near], steps[near]
    agree = np.linalg.norm(steps[:, None] - steps[None], axis=2) <= slack[j]
    votes = (agree.astype(np.float32) @ np.eye(len(boxes), dtype=np.float32)[j] > 0).sum(axis=1)
    if votes.max(initial=0) < needed:
        return np.zeros(2, np.float32)
    return np.median(steps[agree[votes.argmax()]], axis=0)


def _area(boxes: FloatArray) -> FloatArray:
    return np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1e-6)


def _blend(old: FloatArray, new: FloatArray) -> FloatArray:
    return unit_rows((1 - APPEARANCE_STEP) * old + APPEARANCE_STEP * new)

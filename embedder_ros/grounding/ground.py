# SPDX-License-Identifier: Apache-2.0
"""A query vector against what is in view: found, ambiguous or not found, and why.

score = semantic * iou (MODELS.md 1.8). Several boxes on one thing count as one: otherwise every answer would be
ambiguous with itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from embedder_ros.types import (
    Answer,
    Calibration,
    Candidate,
    FloatArray,
    Observation,
    Outcome,
    Track,
    UserError,
    box_iou,
)

# Overlap from which two boxes are taken for one thing. Raising it makes answers ambiguous with a second box on the
# same thing; lowering it hides a neighbour.
SAME_IOU = 0.45
# Share of the smaller box inside the larger from which they are nested: a handle on its drawer, a mug without its
# handle.
NESTED = 0.8
# Share of the smaller box inside the larger from which both are one place: listed as candidates of their own, but no
# rivals, since whoever goes there finds what was asked for. On real photos most rivals of a right answer were other
# boxes on the same thing. Raising it makes answers ambiguous with themselves, lowering it hides that a thing stands in
# front of another of its kind.
ONE_PLACE = 0.5
# Overlap with an answer's best box from which other boxes have a say in where it is (box voting, Gidaris and Komodakis
# 2015), each by the square of its score: by the score itself the many loose boxes outvote the few tight ones. Raising
# it to 1 keeps the best box as it is; lowering it lets neighbours of the same kind pull at it.
VOTES_IOU = 0.35
# Ranked rows that are looked at for distinct candidates; rows beyond it cannot be among the best few.
RANKED = 200

Identity = Callable[[FloatArray], FloatArray]


def ground(
    query: FloatArray,
    observations: Sequence[Observation],
    calibration: Calibration,
    *,
    identity: Identity | None = None,
    tracks: Sequence[Track] = (),
    others: Sequence[Track] = (),
    ages: Sequence[float] | None = None,
    max_age: float = float('inf'),
    max_candidates: int = 5,
) -> Answer:
    """Answer which observed object the query means.

    FOUND needs a score of `calibration.found`, and `calibration.margin` over the best rival: the next distinct object
    in another place (ONE_PLACE) of the same camera. An object in another camera may well be the same thing, so it is
    listed but is no rival.

    Args:
        query: (D,) unit vector: a text's embedding, or an object's with `identity`.
        observations: the newest of each camera, all of one model.
        calibration: how cosines are read, and the thresholds.
        identity: given when the query is an object's embedding: the map to the part that compares individuals.
        tracks: live tracks of these observations, to name the candidates.
        others: those of them that are known not to be meant; no box on one is an answer or a rival.
        ages: seconds since each observation; None means all are fresh.
        max_age: observations older than this are not searched.
        max_candidates: most candidates in the answer.

    Raises:
        UserError: the query's length is not the observations' (another model's vector), or the observations are of
            several models.
    """
    _one_model(observations)
    ages = [0.0] * len(observations) if ages is None else ages
    newest = min(ages, default=-1.0)
    fresh = [(o, age) for o, age in zip(observations, ages, strict=True) if age <= max_age]
    if not fresh:
        reason = 'stale_frames' if observations else 'no_frames'
        return Answer(Outcome.NOT_FOUND, reason, threshold=calibration.found, age=newest)
    ranked = _ranked(query, fresh, calibration, identity)
    found = _distinct(ranked)
    candidates = [c for c, other in zip(found, _under(found, others), strict=True) if other is None]
    outcome, reason, margin = _judge(candidates, calibration)
    shown = candidates[:max_candidates]
    if identity is None:  # an object's own box is the best that there is
        shown = [_voted(c, ranked) for c in shown]
    return Answer(
        outcome,
        reason,
        _named(shown, tracks),
        margin,
        calibration.found,
        frames_searched=len(fresh),
        objects_searched=sum(len(o) for o, _ in fresh),
        age=newest,
    )


def match(
    query: FloatArray, observation: Observation, calibration: Calibration, identity: Identity | None
) -> FloatArray:
    """How well each object of an observation matches the query, (N,) in 0..1, without iou."""
    if query.shape != (observation.dim,):
        raise UserError(
            f'the query has {query.shape[-1]} numbers and model {observation.model_id} has {observation.dim}: '
            'embed it with that model'
        )
    if identity is None:
        return calibration.semantic(observation.embeddings @ query)
    return calibration.same(identity(observation.embeddings) @ identity(query[None])[0])


def _one_model(observations: Sequence[Observation]) -> None:
    models = sorted({o.model_id for o in observations})
    if len(models) > 1:
        raise UserError(f'observations of models {" and ".join(models)} cannot be compared: ask about one at a time')


def _ranked(
    query: FloatArray, aged: Sequence[tuple[Observation, float]], calibration: Calibration, identity: Identity | None
) -> list[Candidate]:
    rows = [(o, age, r) for o, age in aged for r in range(len(o))]
    if not rows:
        return []
    semantic = np.concatenate([match(query, o, calibration, identity) for o, _ in aged])
    score = semantic * np.concatenate([o.iou for o, _ in aged])
    best = [i for i in np.argsort(-score, kind='stable')[:RANKED] if np.isfinite(score[i])]  # NaN is sorted last
    return [_candidate(*rows[int(i)], score=float(score[i]), semantic=float(semantic[i])) for i in best]


def _candidate(observation: Observation, age: float, row: int, score: float, semantic: float) -> Candidate:
    o = observation
    return Candidate(
        camera=o.camera,
        frame_id=o.frame_id,
        stamp=o.stamp,
        box=o.boxes[row],
        score=score,
        semantic=semantic,
        iou=float(o.iou[row]),
        objectness=float(o.objectness[row]),
        row=row,
        position=None if o.positions is None else o.positions[row],
        unseen=age,
    )


def _distinct(ranked: Sequence[Candidate]) -> list[Candidate]:
    """The best box of every thing."""
    if not ranked:
        return []
    boxes, cameras = np.stack([c.box for c in ranked]), np.array([c.camera for c in ranked])
    one_thing = (box_iou(boxes, boxes) >= SAME_IOU) & (cameras[:, None] == cameras[None])
    kept: list[int] = []
    for i in range(len(ranked)):
        if not one_thing[i, kept].any():
            kept.append(i)
    return [ranked[i] for i in kept]


def _under(candidates: Sequence[Candidate], tracks: Sequence[Track]) -> list[Track | None]:
    """For each the track of its frame that it is a box on, which need not be the box that the tracker took."""
    shown = [t for t in tracks if t.row >= 0]
    if not candidates or not shown:
        return [None] * len(candidates)
    overlap = box_iou(np.stack([c.box for c in candidates]), np.stack([t.box for t in shown]))
    for place in ('camera', 'stamp'):
        overlap[np.array([getattr(c, place) for c in candidates])[:, None] != [getattr(t, place) for t in shown]] = 0
    return [shown[i] if row[i] >= SAME_IOU else None for row, i in zip(overlap, overlap.argmax(axis=1), strict=True)]


def _voted(candidate: Candidate, ranked: Sequence[Candidate]) -> Candidate:
    """The candidate where the boxes on it say that it is: their mean, weighted by squared score."""
    beside = [c for c in ranked if c.camera == candidate.camera]
    boxes = np.stack([c.box for c in beside])
    weights = np.array([c.score for c in beside]) ** 2 * (box_iou(boxes, candidate.box[None])[:, 0] >= VOTES_IOU)
    if not weights.sum() > 0:
        return candidate
    return replace(candidate, box=(weights @ boxes / weights.sum()).astype(np.float32))


def _judge(candidates: Sequence[Candidate], calibration: Calibration) -> tuple[Outcome, str, float]:
    if not candidates:
        return Outcome.NOT_FOUND, 'no_objects', 0.0
    best = candidates[0]
    rivals = (c for c in candidates[1:] if c.camera == best.camera and not nested(best.box, c.box, ONE_PLACE)[0, 0])
    margin = best.score - next((c.score for c in rivals), 0.0)
    if best.score < calibration.found:
        return Outcome.NOT_FOUND, 'below_threshold', margin
    if margin < calibration.margin:
        return Outcome.AMBIGUOUS, 'small_margin', margin
    return Outcome.FOUND, 'found', margin


def nested(a: FloatArray, b: FloatArray, share: float = NESTED) -> NDArray[np.bool_]:
    """Which boxes of a (N, 4) and b (M, 4) have at least this share of the smaller one in the larger; (N, M)."""
    a, b = a.reshape(-1, 4), b.reshape(-1, 4)
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    smaller = np.minimum.outer((a[:, 2:] - a[:, :2]).prod(axis=1), (b[:, 2:] - b[:, :2]).prod(axis=1))
    inside: NDArray[np.bool_] = shared >= share * smaller
    return inside


def _named(candidates: Sequence[Candidate], tracks: Sequence[Track]) -> list[Candidate]:
    """Each candidate with its track, if it has one, and with the object that it is a box on.

    Only one box of a thing becomes an object: a second box bears the id of the object below it.
    """
    shown = {(t.camera, t.stamp, t.row): t for t in tracks}
    out = []
    for c, below in zip(candidates, _under(candidates, [t for t in tracks if t.object_id]), strict=True):
        own: Track | Candidate = shown.get((c.camera, c.stamp, c.row), c)
        object_id = own.object_id or (below.object_id if below else '')
        out.append(replace(c, track_id=own.track_id, status=own.status, object_id=object_id))
    return out

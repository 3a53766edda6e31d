# SPDX-License-Identifier: Apache-2.0
"""Questions to the memory: where was it last seen, is it the same one, which frame showed it.

An object whose place was seen empty is still listed, with where and when it last was, but never answered as if it were
there, and it is no rival of one that is. Nor are objects rivals that may be one thing remembered twice: the one seen
last is the answer then, since that is where the thing is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedder_ros.memory.known import Known, Working
from embedder_ros.memory.policy import Settings, limits_of
from embedder_ros.memory.reid import Decision, Same, Span, World, decide, veto
from embedder_ros.memory.rivals import ONE_TIME, rivals
from embedder_ros.memory.store import Filter, Store, StoredFrame
from embedder_ros.memory.views import Gallery, similarities
from embedder_ros.types import (
    NANOSECONDS,
    Answer,
    Candidate,
    FloatArray,
    ModelInfo,
    Object,
    Outcome,
    UserError,
)

# Objects that are looked at closely, beside twice as many as were asked for. Raising it ranks by iou among more objects
# that match equally well, and costs time per question.
NEIGHBOURS = 8
# Length that a unit vector may differ from 1 by.
UNIT = 1e-2
# Objects listed in a remembered frame.
SHOWN = 3

Scored = tuple[Candidate, Known]  # an object, and what it is as an answer


@dataclass(frozen=True, slots=True, eq=False)
class FoundFrame:
    """A remembered frame that matches: how well, and its best objects, best first."""

    frame: StoredFrame
    score: float
    objects: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FoundFrames:
    """Remembered frames that match, best first, and how many were searched."""

    frames: tuple[FoundFrame, ...]
    searched: int


class Questions:
    """Answers from the store and the objects in use.

    Args:
        store, working, model, settings, map_frame: of the memory.
    """

    def __init__(self, store: Store, working: Working, model: ModelInfo, settings: Settings, map_frame: str) -> None:
        self._store, self._working, self._model, self._settings = store, working, model, settings
        self._map_frame = map_frame
        self._limits = limits_of(settings, model.calibration)

    def checked(self, vector: FloatArray) -> FloatArray:
        """The vector. Raises UserError unless it is a unit vector of this model's length."""
        vector = np.asarray(vector, np.float32)
        if vector.shape != (self._model.dim,):
            raise UserError(
                f'the query has shape {vector.shape} and model {self._model.model_id} has ({self._model.dim},): '
                'embed it with that model'
            )
        if not abs(float(np.linalg.norm(vector)) - 1) <= UNIT:
            raise UserError('the query vector is not of length 1, or not finite: embed it again')
        return vector

    def find(self, vector: FloatArray, which: Filter, limit: int, stamp: int, *, by_identity: bool) -> Answer:
        """See Memory.find."""
        newest, matching = self._store.objects(which, 1)
        frames = self._store.count()[1]
        threshold = self._model.calibration.found
        candidates = self._candidates(vector, which, limit, stamp, by_identity)
        if not candidates:
            reason = 'stale_frames' if self._store.count()[0] else 'no_objects'
            return Answer(Outcome.NOT_FOUND, reason, threshold=threshold, frames_searched=frames)
        there = [(c, k) for c, k in candidates if k.object.presence >= self._settings.gone]
        gone = [c for c, k in candidates if k.object.presence < self._settings.gone]
        margin = self._lead(there)
        shown = [c for c, _ in self._latest_first(there)]
        outcome, reason = self._judge(shown, gone, margin)
        last = max([o.last_seen for o in newest] + [c.stamp for c, _ in candidates])
        return Answer(
            outcome,
            reason,
            (shown + gone)[:limit],
            margin,
            threshold,
            frames_searched=frames,
            objects_searched=max(matching, len(candidates)),
            age=max(0.0, (stamp - last) / NANOSECONDS),
        )

    def _judge(self, there: Sequence[Candidate], gone: Sequence[Candidate], margin: float) -> tuple[Outcome, str]:
        calibration = self._model.calibration
        if not there or there[0].score < calibration.found:
            stale = bool(gone) and gone[0].score >= calibration.found
            return Outcome.NOT_FOUND, 'stale_frames' if stale else 'below_threshold'
        if margin < calibration.margin:
            return Outcome.AMBIGUOUS, 'small_margin'
        return Outcome.FOUND, 'found'

    def _lead(self, found: Sequence[Scored]) -> float:
        """Score of the first minus that of the next one that is another thing."""
        if not found:
            return 0.0
        best, one = found[0]
        return best.score - next((c.score for c, k in found[1:] if self._distinct(one, k)), 0.0)

    def _latest_first(self, found: Sequence[Scored]) -> Sequence[Scored]:
        """The same; of what may be the first one's thing and matches as well, the one seen last comes first."""
        if not found:
            return found
        best, one = found[0]
        least = max(best.score - self._model.calibration.margin, self._model.calibration.found)
        same = [(c, k) for c, k in found[1:] if c.score >= least and not self._distinct(one, k)]
        latest = max([found[0], *same], key=lambda f: f[0].stamp)
        if latest[0].stamp - best.stamp <= ONE_TIME:
            return found
        return [latest, *(f for f in found if f is not latest)]

    def _distinct(self, a: Known, b: Known) -> bool:
        """Whether they are two things: unlike, seen together, or in two places of the map.

        Two that are only similar count as one: measured on rendered rooms, most rivals of a right answer were the thing
        itself, remembered again from another side.
        """
        alike = np.inf if self._elsewhere(a.object, b.object) else self._limits.similar
        return bool(rivals([a, b], alike)[0, 1])

    def _elsewhere(self, a: Object, b: Object) -> bool:
        if a.position is None or b.position is None or not a.position_frame == b.position_frame == self._map_frame:
            return False
        return float(np.linalg.norm(a.position - b.position)) > self._settings.moved

    def _candidates(self, vector: FloatArray, which: Filter, limit: int, stamp: int, by_identity: bool) -> list[Scored]:
        """Candidates, best first."""
        hits = self._store.search(vector[None], 2 * limit + NEIGHBOURS, which, identity=by_identity)[0]
        known = self._in_question([h.object_id for h in hits], which)
        if not known:
            return []
        semantic = self._semantic(vector, np.concatenate([_embeddings(k) for k in known]), by_identity)
        found, start = [], 0
        for k in known:
            views = k.gallery.views
            scores = semantic[start : start + len(views)] * np.array([v.iou for v in views], np.float32)
            best = int(scores.argmax())
            found.append((_candidate(k, best, float(semantic[start + best]), stamp), k))
            start += len(views)
        return sorted(found, key=lambda c: -c[0].score)

    def _in_question(self, object_ids: Sequence[str], which: Filter) -> list[Known]:
        """The objects, as they are now, and those that changed since they were written and so may be missed."""
        known = {k.object.object_id: k for k in self._working.load(object_ids)}
        known |= {k.object.object_id: k for k in self._working.dirty()}
        return [k for k in known.values() if k.gallery.views and _counts(k.object, which)]

    def _semantic(self, vector: FloatArray, embeddings: FloatArray, by_identity: bool) -> FloatArray:
        calibration, identity = self._model.calibration, self._model.identity
        if by_identity:
            return calibration.same(identity(embeddings) @ identity(vector[None])[0])
        return calibration.semantic(embeddings @ vector)

    def reidentify(
        self, gallery: Gallery, spans: Sequence[Span], own: str, which: Filter, limit: int, stamp: int,
        world: World,
    ) -> Decision:  # fmt: skip
        """Whether something with these views, seen in these spans, is a remembered object other than `own`."""
        vector = gallery.mean
        hits = self._store.search(vector[None], self._settings.neighbours + 1, which, identity=True)[0]
        known = [k for k in self._in_question([h.object_id for h in hits], which) if k.object.object_id != own]
        cosines = similarities([gallery], [k.gallery for k in known])
        reasons: dict[str, int] = {}
        possible = np.ones(cosines.shape, bool)
        for j in np.flatnonzero(cosines[0] >= self._limits.similar):
            why = next(filter(None, (veto(s, known[j].object, world) for s in spans)), '')
            if why:
                possible[0, j] = False
                reasons[why] = reasons.get(why, 0) + 1
        distinct = rivals(known, self._limits.same, possible & (cosines >= self._limits.similar))
        verdict = decide(cosines, possible, self._limits, distinct=distinct)[0]
        if verdict.reason:
            reasons[verdict.reason] = 1
        order = [int(j) for j in np.argsort(-cosines[0], kind='stable') if possible[0, j]]
        return Decision(
            verdict.outcome,
            tuple(self._same_candidate(known[j], float(cosines[0, j]), stamp) for j in order[:limit]),
            _first_lead([float(cosines[0, j]) for j in order[:2]]),
            reasons,
        )

    def certain(self, known: Known, stamp: int) -> Decision:
        """The decision that was made before: a live track's object."""
        return Decision(Same.SAME, (self._same_candidate(known, 1.0, stamp),), 1.0)

    def _same_candidate(self, known: Known, cosine: float, stamp: int) -> Candidate:
        same = float(self._model.calibration.same(np.array(cosine, np.float32)))
        return _candidate(known, int(known.gallery.weights.argmax()), same, stamp)

    def search_frames(
        self, vector: FloatArray, by: str, which: Filter, limit: int, *, by_identity: bool
    ) -> FoundFrames:
        """See Memory.search_frames."""
        row = {'objects': -1, 'short': 0, 'long': 1}.get(by)
        if row is None:
            raise UserError(f"frames are searched by 'objects', 'short' or 'long' captions, not by '{by}'")
        found = []
        for hit in self._store.search_frames(vector, limit, which, row=row):
            frame = self._store.get_frame(hit.camera, hit.stamp)
            if frame is None:
                continue
            objects = self._frame_objects(vector, frame, by_identity)
            whole = float(self._model.calibration.whole(np.array(hit.cosine, np.float32)))
            found.append(
                FoundFrame(frame, whole if row >= 0 else max((c.semantic for c in objects), default=0), objects)
            )
        return FoundFrames(tuple(sorted(found, key=lambda f: -f.score)), self._store.count()[1])

    def _frame_objects(self, vector: FloatArray, frame: StoredFrame, by_identity: bool) -> tuple[Candidate, ...]:
        if not len(frame.boxes):
            return ()
        semantic = self._semantic(vector, frame.embeddings, by_identity)
        best = np.argsort(-semantic, kind='stable')[:SHOWN]
        return tuple(
            Candidate(
                camera=frame.camera,
                frame_id=frame.frame_id,
                stamp=frame.stamp,
                box=frame.boxes[i],
                score=float(semantic[i] * frame.iou[i]),
                semantic=float(semantic[i]),
                iou=float(frame.iou[i]),
                object_id=frame.object_ids[i],
                row=int(i),
            )
            for i in best
        )


def _embeddings(known: Known) -> FloatArray:
    return np.stack([v.embedding for v in known.gallery.views])


def _counts(thing: Object, which: Filter) -> bool:
    """Whether the filter lets it through, as the store would."""
    text = which.text.lower()
    return (
        thing.last_seen >= which.since
        and (not which.until or thing.last_seen < which.until)
        and (not which.cameras or thing.camera in which.cameras)
        and (not text or any(text in t.lower() for t in (thing.name, *thing.labels)))
    )


def _candidate(known: Known, view: int, semantic: float, stamp: int) -> Candidate:
    thing, seen = known.object, known.gallery.views[view]
    return Candidate(
        camera=thing.camera,
        frame_id=thing.frame_id,
        stamp=thing.last_seen,
        box=thing.box,
        score=semantic * seen.iou,
        semantic=semantic,
        iou=seen.iou,
        objectness=seen.objectness,
        track_id=next((number for camera, number in sorted(known.tracks) if camera == thing.camera), 0),
        object_id=thing.object_id,
        position=None if thing.position is None else thing.position.astype(np.float32),
        unseen=max(0.0, (stamp - thing.last_seen) / NANOSECONDS),
        position_frame=thing.position_frame,
    )


def _first_lead(cosines: Sequence[float]) -> float:
    return cosines[0] - cosines[1] if len(cosines) > 1 else sum(cosines)

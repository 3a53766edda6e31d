# SPDX-License-Identifier: Apache-2.0
"""What is in view now: the newest observation and the live tracks of every camera, and questions about them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from embedder_ros.grounding.ground import RANKED, ground, match
from embedder_ros.tracking.tracker import Tracker
from embedder_ros.types import (
    NANOSECONDS,
    Answer,
    Calibration,
    Candidate,
    FloatArray,
    ModelInfo,
    Observation,
    Outcome,
    Track,
    UserError,
)


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What is looked for.

    Attributes:
        vector: (D,) unit vector of the running model.
        words: the question for people.
        by_identity: the vector is an object's, not a text's: compare individuals, not kinds.
        track_id: the very track that is meant, 0 when none; it decides among look-alikes while it is in view.
        object_id: the remembered object that is meant, '' when none; whatever is known to be another is not it.
    """

    vector: FloatArray
    words: str
    by_identity: bool = False
    track_id: int = 0
    object_id: str = ''


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One camera's newest observation, its tracks, and when it arrived (nanoseconds of the node's clock)."""

    observation: Observation
    tracks: list[Track]
    arrival: int


class Scene:
    """Feeds each camera's tracker and keeps its newest view.

    Age is counted from arrival on the node's own clock, not from the stamp, so that a camera or a bag whose clock is
    off is still answered from; how old the stamps are is a matter for /diagnostics.

    Args:
        model: how the embeddings are read; observations of another model are refused.
        calibration: the model's, or with other thresholds.
        max_lost: seconds a track may stay unseen, see Tracker.
    """

    def __init__(self, model: ModelInfo, calibration: Calibration | None = None, *, max_lost: float = 3.0) -> None:
        self.model = model
        self.calibration = calibration or model.calibration
        self.views: dict[str, View] = {}
        self._max_lost = max_lost
        self._ids = itertools.count(1)
        self._trackers: dict[str, Tracker] = {}

    def update(self, observation: Observation, now: int) -> list[Track]:
        """Take one camera's newest observation; return its tracks. Raises UserError for another model's.

        A repeated stamp keeps the view, whose rows the tracks point at. A clock that jumped back, as in a bag that
        loops, leaves views from the future, which would stay fresh until it has caught up: they are dropped.
        """
        model = self.model
        if (observation.model_id, observation.dim) != (model.model_id, model.dim):
            raise UserError(
                f'observation of model {observation.model_id} with {observation.dim} numbers, '
                f'expected {model.model_id} with {model.dim}'
            )
        self.views = {name: view for name, view in self.views.items() if view.arrival <= now}
        tracks = self._tracker(observation.camera).update(observation)
        old = self.views.get(observation.camera)
        if old is None or old.observation.stamp != observation.stamp:
            self.views[observation.camera] = View(observation, tracks, now)
        return tracks

    def recognised(self, camera: str, tracks: list[Track]) -> None:
        """Take over the object ids of the camera's newest tracks, so that answers name them."""
        view = self.views.get(camera)
        if view is not None and any(t.stamp == view.observation.stamp for t in tracks):
            self.views[camera] = replace(view, tracks=tracks)

    def find(
        self,
        question: Question,
        *,
        now: int,
        max_age: float = float('inf'),
        cameras: Sequence[str] = (),
        max_candidates: int = 5,
    ) -> Answer:
        """Ground a question in the newest views of the given cameras; of all cameras when none is named.

        Raises:
            UserError: a camera that has never been seen, or a vector of another model.
        """
        unknown = [c for c in cameras if c not in self.views]
        if unknown:
            raise UserError(f"no camera '{unknown[0]}'; seen so far: {', '.join(sorted(self.views)) or 'none'}")
        views = [v for name, v in self.views.items() if not cameras or name in cameras]
        tracks = [t for v in views for t in v.tracks]
        answer = ground(
            question.vector,
            [v.observation for v in views],
            self.calibration,
            identity=self.model.identity if question.by_identity else None,
            tracks=tracks,
            others=[t for t in tracks if question.object_id and t.object_id not in ('', question.object_id)],
            ages=[max(0, now - v.arrival) / NANOSECONDS for v in views],
            max_age=max_age,
            max_candidates=RANKED,
        )
        answer = _meant(answer, question)
        return replace(answer, candidates=answer.candidates[:max_candidates])

    def silent(self, camera: str, now: int) -> bool:
        """Whether the camera has shown nothing new for longer than a track may stay unseen."""
        view = self.views.get(camera)
        return view is None or (now - view.arrival) / NANOSECONDS > self._max_lost

    def semantic(self, question: Question, observation: Observation) -> FloatArray:
        """How well each object of an observation matches, (N,) in 0..1, without iou."""
        identity = self.model.identity if question.by_identity else None
        return match(question.vector, observation, self.calibration, identity)

    def same(self, a: FloatArray, b: FloatArray) -> float:
        """How probable it is that two (D,) embeddings show one individual."""
        cosine = self.model.identity(a[None]) @ self.model.identity(b[None]).T
        return float(self.calibration.same(cosine)[0, 0])

    def track(self, track_id: int) -> Track:
        """A live track. Raises UserError when there is none with this id."""
        for view in self.views.values():
            for track in view.tracks:
                if track.track_id == track_id:
                    return track
        raise UserError(f'no live track {track_id}; see topic tracks')

    def _tracker(self, camera: str) -> Tracker:
        if camera not in self._trackers:
            self._trackers[camera] = Tracker(
                camera, ids=self._ids, identity=self.model.identity, max_lost=self._max_lost
            )
        return self._trackers[camera]


def _meant(answer: Answer, question: Question) -> Answer:
    """The answer with the track or object that was asked for in front: who names it does not mean its look-alikes."""
    candidates = sorted(answer.candidates, key=lambda c: not _is_named(c, question))
    if not candidates or not _is_named(candidates[0], question):
        return answer
    return replace(answer, outcome=Outcome.FOUND, reason='found', candidates=candidates, margin=candidates[0].score)


def _is_named(candidate: Candidate, question: Question) -> bool:
    by_track = bool(question.track_id) and candidate.track_id == question.track_id
    return by_track or (bool(question.object_id) and candidate.object_id == question.object_id)

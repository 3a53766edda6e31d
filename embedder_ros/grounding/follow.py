# SPDX-License-Identifier: Apache-2.0
"""Following one target: find it once, stay on its track, take it up again after it was lost.

While its track is seen, the track decides. When it is not, the target is taken up again only where the question
grounds again *and* the thing looks like the same individual, so that following "the red mug" does not jump to
another red mug that comes into view. A track that was ever seen beside the target is another thing, whatever it
looks like. When the memory has recognised the target, its object id decides in every camera: the track that bears it is
the target, and one that bears another is not. A camera that falls silent hands the target over as one that lost it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import Enum

from embedder_ros.grounding.scene import Question, Scene
from embedder_ros.types import (
    NANOSECONDS,
    Answer,
    Candidate,
    FloatArray,
    Observation,
    Outcome,
    Track,
    TrackStatus,
    box_iou,
    unit_rows,
)

# Probability of being the same individual that taking up again needs. Raising it loses the target for good more often;
# lowering it jumps to look-alikes.
SAME = 0.5
# Share of a new view in the memory of how the target looks. Raising it follows changes and forgets faster.
LOOKS_STEP = 0.1


class FollowOutcome(Enum):
    """How following ended by itself; the values are those of action/Follow.action."""

    NOT_FOUND = 1
    AMBIGUOUS = 2
    LOST = 3


class Follower:
    """One target.

    Args:
        scene: what is in view.
        question: what to follow.
        find: grounds the question in the scene, with the goal's cameras and age.
        find_timeout: seconds to find the target.
        lost_timeout: seconds it may stay lost; 0 means for ever.
        now: nanoseconds of the clock that `outcome` is asked with.
    """

    def __init__(
        self,
        scene: Scene,
        question: Question,
        find: Callable[[], Answer],
        *,
        find_timeout: float,
        lost_timeout: float,
        now: int,
    ) -> None:
        self.question = question
        self.target: Candidate | None = None
        self.frames = 0
        self._scene, self._find = scene, find
        self._find_timeout, self._lost_timeout = find_timeout, lost_timeout
        self._begun = now
        self._seen = now
        self._looks: FloatArray | None = None
        self._ambiguous = False
        self._others: set[int] = set()

    def on_frame(self, observation: Observation, tracks: list[Track], now: int) -> Candidate | None:
        """The target in this frame; None before it was found and for frames of another camera."""
        self._set_back(now)
        if self.target is None:
            self._search(observation, tracks)
        elif self.target.camera == observation.camera:
            self._stay(observation, tracks)
        elif self._scene.silent(self.target.camera, now):
            self.target = replace(self.target, status=TrackStatus.REMOVED)
        if self.target is not None and self.target.status in (TrackStatus.LOST, TrackStatus.REMOVED):
            self._take_up_again(observation, tracks)
        if self.target is None or self.target.camera != observation.camera:
            return None
        if self.target.stamp == observation.stamp:
            self._seen = now
            self.frames += 1
            return self.target
        unseen = (observation.stamp - self.target.stamp) / NANOSECONDS
        return replace(self.target, status=TrackStatus.LOST, unseen=max(0.0, unseen))

    def outcome(self, now: int) -> FollowOutcome | None:
        """Why following has to end now; None to go on."""
        self._set_back(now)
        if self.target is None and (now - self._begun) / NANOSECONDS > self._find_timeout:
            return FollowOutcome.AMBIGUOUS if self._ambiguous else FollowOutcome.NOT_FOUND
        lost = self.target is not None and (now - self._seen) / NANOSECONDS
        if lost and self._lost_timeout and lost > self._lost_timeout:
            return FollowOutcome.LOST
        return None

    def _set_back(self, now: int) -> None:
        """A clock that jumped back, as in a bag that loops, must not put the timeouts off until it has caught up."""
        self._begun, self._seen = min(self._begun, now), min(self._seen, now)

    def _search(self, observation: Observation, tracks: list[Track]) -> None:
        if self._take_up_by_id(observation, tracks):
            return
        answer = self._find()
        self._ambiguous = answer.outcome is Outcome.AMBIGUOUS
        best = answer.candidates[0] if answer.outcome is Outcome.FOUND else None
        if best is not None and _shown(best, observation):
            self._bind(best, observation)

    @property
    def _object_id(self) -> str:
        """The remembered object that is followed, '' when it is none."""
        return self.question.object_id or (self.target.object_id if self.target is not None else '')

    def _is_another(self, candidate: Candidate) -> bool:
        """Whether the memory knows it as another object."""
        return bool(self._object_id and candidate.object_id and candidate.object_id != self._object_id)

    def _take_up_by_id(self, observation: Observation, tracks: list[Track]) -> bool:
        """Bind to the track that the memory has recognised as the target; whether there is one."""
        track = next((t for t in tracks if self._object_id and t.object_id == self._object_id and t.row >= 0), None)
        if track is None:
            return False
        o, row = observation, track.row
        self.target = Candidate(
            o.camera, o.frame_id, o.stamp, o.boxes[row], 0.0, 0.0, 0.0, track_id=track.track_id,
            object_id=track.object_id,
        )  # fmt: skip
        self._see(track, observation)
        return True

    def _stay(self, observation: Observation, tracks: list[Track]) -> None:
        assert self.target is not None
        track = next((t for t in tracks if t.track_id == self.target.track_id), None)
        self._others &= {t.track_id for t in tracks}
        if track is None or (self.question.object_id and track.object_id not in ('', self.question.object_id)):
            self.target = replace(self.target, status=TrackStatus.REMOVED)
        elif track.row < 0:
            self.target = replace(self.target, status=track.status)
        else:
            self._see(track, observation)
            self._others |= {t.track_id for t in tracks if t.row >= 0 and _apart(t.box, track.box)}

    def _see(self, track: Track, observation: Observation) -> None:
        assert self.target is not None
        o, row = observation, track.row
        semantic = float(self._scene.semantic(self.question, o.row(row))[0])
        self.target = replace(
            self.target,
            stamp=o.stamp,
            frame_id=o.frame_id,
            box=o.boxes[row],
            iou=float(o.iou[row]),
            semantic=semantic,
            score=semantic * float(o.iou[row]),
            objectness=float(o.objectness[row]),
            object_id=track.object_id or self.target.object_id,
            status=track.status,
            row=row,
            position=None if o.positions is None else o.positions[row],
        )
        self._remember(o.embeddings[row])

    def _take_up_again(self, observation: Observation, tracks: list[Track]) -> None:
        """Bind to the target's object, else to the candidate that looks most like it and clears both thresholds."""
        if self._take_up_by_id(observation, tracks):
            return
        assert self._looks is not None
        best, best_same = None, SAME
        for candidate in self._find().candidates:
            if not _shown(candidate, observation) or candidate.score < self._scene.calibration.found:
                continue
            if candidate.track_id in self._others or self._is_another(candidate):
                continue
            same = self._scene.same(self._looks, observation.embeddings[candidate.row])
            if same >= best_same:
                best, best_same = candidate, same
        if best is not None:
            self._bind(best, observation)

    def _bind(self, candidate: Candidate, observation: Observation) -> None:
        self.target = replace(candidate, object_id=candidate.object_id or self._object_id)
        self._remember(observation.embeddings[candidate.row])

    def _remember(self, embedding: FloatArray) -> None:
        old = embedding if self._looks is None else self._looks
        self._looks = unit_rows((1 - LOOKS_STEP) * old + LOOKS_STEP * embedding)


def _shown(candidate: Candidate, observation: Observation) -> bool:
    """Whether this observation shows it; cameras that are triggered together share their stamps."""
    return (candidate.stamp, candidate.camera) == (observation.stamp, observation.camera)


def _apart(a: FloatArray, b: FloatArray) -> bool:
    """Whether two boxes of one frame cannot be of one thing; a second box on it, or on a part of it, overlaps."""
    return not box_iou(a[None], b[None]).any()

# SPDX-License-Identifier: Apache-2.0
"""Cases in which grounding or following once went wrong: twins, silent cameras, clocks that jump, unclean rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from embedder_ros.grounding.follow import Follower, FollowOutcome
from embedder_ros.grounding.ground import ground
from embedder_ros.grounding.scene import Question, Scene
from embedder_ros.tracking.tracker import Tracker
from embedder_ros.types import (
    NANOSECONDS,
    Calibration,
    Candidate,
    ModelInfo,
    Observation,
    Outcome,
    TrackStatus,
    UserError,
    unit_rows,
)

# Embeddings: one number for 'mug', the others for the individual.
DIM = 20
VIEW = np.eye(DIM, dtype=np.float32)[:, 1:]
MODEL = ModelInfo('m-1', DIM, Calibration(20.0, -8.0, 0.3, 0.1, identity_scale=20.0, identity_bias=-12.0), VIEW)
MUG = Question(np.eye(DIM, dtype=np.float32)[0], 'the mug')
LEFT, MIDDLE, RIGHT = (50, 100, 110, 160), (280, 100, 340, 160), (500, 100, 560, 160)

Seen = Sequence[tuple[int, Sequence[float]]]  # which individual, where; best fitting box first


def observe(seen: Seen, seconds: float, camera: str = 'front') -> Observation:
    n = len(seen)
    eye = np.eye(DIM, dtype=np.float32)
    embeddings = unit_rows([eye[0] + eye[1 + who] for who, _ in seen]) if n else np.zeros((0, DIM), np.float32)
    boxes = np.array([box for _, box in seen], np.float32).reshape(n, 4)
    iou = np.linspace(0.95, 0.9, n, dtype=np.float32)
    return Observation(
        round(seconds * NANOSECONDS), camera, camera, 640, 480, boxes, np.ones(n, np.float32), iou, embeddings,
        np.zeros((0, DIM), np.float32), 'm-1',
    )  # fmt: skip


class Run:
    """A scene and a follower at ten frames a second; the node's clock is the stamps'."""

    def __init__(self, **timeouts: float) -> None:
        self.scene, self.seconds = Scene(MODEL, max_lost=1.0), 0.0
        self.follower = Follower(
            self.scene, MUG, lambda: self.scene.find(MUG, now=self.now, max_age=2.0, max_candidates=100), now=0,
            **{'find_timeout': 5.0, 'lost_timeout': 0.0, **timeouts},
        )  # fmt: skip

    @property
    def now(self) -> int:
        return round(self.seconds * NANOSECONDS)

    def frames(self, seconds: float, cameras: Mapping[str, Seen]) -> list[Candidate]:
        out = []
        for _ in range(round(seconds * 10)):
            self.seconds = round(self.seconds + 0.1, 6)
            for camera, seen in cameras.items():
                observation = observe(seen, self.seconds, camera)
                tracks = self.scene.update(observation, self.now)
                out.append(self.follower.on_frame(observation, tracks, self.now))
        return [target for target in out if target is not None]


def test_a_twin_seen_beside_the_target_is_never_taken_for_it() -> None:
    """Not even one that looks exactly the same."""
    run = Run()
    run.frames(1, {'front': [(1, LEFT)]})
    run.frames(1, {'front': [(1, LEFT), (1, RIGHT)]})
    alone = run.frames(5, {'front': [(1, RIGHT)]})
    assert len(alone) == 50 and all(t.status is TrackStatus.LOST and t.box.tolist() == list(LEFT) for t in alone)
    assert run.frames(1, {'front': [(1, RIGHT), (1, MIDDLE)]})[-1].box.tolist() == list(MIDDLE)


def test_a_second_box_on_the_target_does_not_keep_it_from_being_taken_up_again() -> None:
    run, looser = Run(), (45, 90, 120, 170)
    run.frames(1, {'front': [(1, LEFT)]})
    run.frames(1, {'front': [(1, LEFT), (1, looser)]})
    assert run.frames(4, {'front': [(1, looser)]})[-1].status is TrackStatus.TRACKED


def test_a_camera_that_falls_silent_hands_the_target_over() -> None:
    run = Run()
    run.frames(1, {'front': [(1, LEFT)]})
    handed = run.frames(6, {'rear': [(1, RIGHT)]})
    assert len(handed) == 50, 'after max_lost'
    assert {(t.camera, t.status) for t in handed[3:]} == {('rear', TrackStatus.TRACKED)}


def test_the_target_is_taken_up_again_among_many_that_fit_the_words_better() -> None:
    run = Run()
    run.frames(1, {'front': [(0, LEFT)]})
    others = [(who, (60 * who - 50, 300, 60 * who, 350)) for who in range(1, 10)]
    run.frames(3, {'front': others})
    back = run.frames(1, {'front': [*others, (0, RIGHT)]})[-1]
    assert (back.status, back.box.tolist()) == (TrackStatus.TRACKED, list(RIGHT))


def test_a_clock_that_jumps_back_does_not_put_timeouts_off() -> None:
    run = Run(lost_timeout=2.0)
    run.seconds = 100.0
    run.frames(1, {'front': [(1, LEFT)]})
    run.seconds = 0.0
    run.frames(3, {'front': []})
    assert run.follower.outcome(run.now) is FollowOutcome.LOST
    searching = Run(find_timeout=2.0)
    assert searching.follower.outcome(-100 * NANOSECONDS) is None
    assert searching.follower.outcome(-97 * NANOSECONDS) is FollowOutcome.NOT_FOUND


def test_a_clock_that_jumps_back_does_not_keep_a_silent_camera_fresh() -> None:
    scene = Scene(MODEL)
    scene.update(observe([(1, LEFT)], 100), 100 * NANOSECONDS)
    scene.update(observe([], 0, 'rear'), 0)
    assert scene.find(MUG, now=NANOSECONDS, max_age=2).outcome is Outcome.NOT_FOUND
    assert scene.find(MUG, now=9 * NANOSECONDS, max_age=2).reason == 'stale_frames'


@pytest.mark.parametrize('meant', [1, 2])
def test_who_names_a_track_means_that_one_of_two_twins(meant: int) -> None:
    scene = Scene(MODEL)
    for n in range(5):
        scene.update(observe([(1, LEFT), (1, RIGHT)], n / 10), 0)
    vector = scene.track(meant).embedding
    assert scene.find(Question(vector, 'one', by_identity=True), now=0).outcome is Outcome.AMBIGUOUS
    answer = scene.find(Question(vector, 'one', by_identity=True, track_id=meant), now=0, max_candidates=1)
    assert (answer.outcome, [c.track_id for c in answer.candidates]) == (Outcome.FOUND, [meant])


def test_the_same_model_id_with_another_dim_is_refused() -> None:
    scene, odd = Scene(MODEL), observe([(1, LEFT)], 0)
    with pytest.raises(UserError, match='m-1 with 21 numbers, expected m-1 with 20'):
        scene.update(replace(odd, embeddings=np.ones((1, 21), np.float32) / np.sqrt(np.float32(21))), 0)


def test_observations_of_two_models_are_not_compared() -> None:
    first = observe([(1, LEFT)], 0)
    with pytest.raises(UserError, match='m-1 and m-2'):
        ground(MUG.vector, [first, replace(first, model_id='m-2', camera='rear')], MODEL.calibration)


@pytest.mark.parametrize('field', ['iou', 'embeddings'])
def test_a_row_that_is_no_number_is_not_found(field: str) -> None:
    observation = observe([(1, LEFT), (2, RIGHT)], 0)
    getattr(observation, field)[0] = np.nan
    answer = ground(MUG.vector, [observation], MODEL.calibration)
    assert (answer.outcome, [c.row for c in answer.candidates]) == (Outcome.FOUND, [1])
    assert ground(MUG.vector, [observation.row(0)], MODEL.calibration).reason == 'no_objects'


def test_a_repeated_stamp_keeps_the_view_that_the_tracks_point_at() -> None:
    scene = Scene(MODEL)
    scene.update(observe([(1, LEFT), (2, RIGHT)], 0), 0)
    scene.update(observe([(2, RIGHT), (1, LEFT)], 0), NANOSECONDS)
    for candidate in scene.find(MUG, now=NANOSECONDS).candidates:
        assert scene.track(candidate.track_id).box.tolist() == candidate.box.tolist()
        assert candidate.unseen == 1.0, 'a frame shown twice is not news'


@pytest.mark.parametrize('box', [(5, 5, 5, 9), (9, 9, 2, 2)])
def test_an_empty_box_begins_no_track(box: Sequence[float]) -> None:
    tracker = Tracker('front')
    assert [t.row for t in tracker.update(observe([(1, box), (2, LEFT)], 0))] == [1]
    assert tracker.counts['bad rows'] == 1

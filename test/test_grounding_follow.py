# SPDX-License-Identifier: Apache-2.0
"""The scene that questions are asked of, and following one target in it through all that may happen to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from embedder_ros.grounding.follow import Follower, FollowOutcome
from embedder_ros.grounding.scene import Question, Scene
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

# Embeddings: two numbers for the kind, six for the individual.
VIEW = np.zeros((8, 6), np.float32)
VIEW[2:] = np.eye(6)
MODEL = ModelInfo('m-1', 8, Calibration(20.0, -8.0, 0.3, 0.1, identity_scale=20.0, identity_bias=-12.0), VIEW)
MUG = Question(np.eye(8, dtype=np.float32)[0], 'the mug')
FPS = 10
LEFT, MIDDLE, RIGHT = (50, 100, 110, 160), (280, 100, 340, 160), (500, 100, 560, 160)

Places = Mapping[str, Sequence[float]]


def looks(name: str) -> np.ndarray:
    """'mug 1': its kind and its individual, half and half."""
    kind, number = name.split()
    vector = np.zeros(8, np.float32)
    vector[['mug', 'box'].index(kind)], vector[2 + int(number)] = 1, 1
    return unit_rows(vector[None])[0]


def observe(places: Places, seconds: float, camera: str = 'front', model: str = 'm-1') -> Observation:
    n = len(places)
    return Observation(
        round(seconds * NANOSECONDS), camera, camera, 640, 480,
        np.array(list(places.values()), np.float32).reshape(n, 4), np.ones(n, np.float32), np.full(n, 0.9, np.float32),
        np.array([looks(name) for name in places], np.float32).reshape(n, 8), np.zeros((0, 8), np.float32), model,
    )  # fmt: skip


class Run:
    """A scene and a follower that see the same frames; the node's clock is the stamps'."""

    def __init__(self, question: Question = MUG, find_timeout: float = 5.0, lost_timeout: float = 0.0) -> None:
        self.scene = Scene(MODEL, max_lost=1.0)
        self.seconds = 0.0
        self.follower = Follower(
            self.scene, question, lambda: self.scene.find(question, now=self.now, max_age=2.0),
            find_timeout=find_timeout, lost_timeout=lost_timeout, now=0,
        )  # fmt: skip

    @property
    def now(self) -> int:
        return round(self.seconds * NANOSECONDS)

    def show(self, places: Places, camera: str = 'front') -> Candidate | None:
        observation = observe(places, self.seconds, camera)
        return self.follower.on_frame(observation, self.scene.update(observation, self.now), self.now)

    def frames(self, places: Places | Callable[[float], Places], seconds: float) -> list[Candidate | None]:
        """`seconds` of frames of camera front; places may depend on the seconds since then."""
        begin, out = self.seconds, []
        for _ in range(round(seconds * FPS)):
            self.seconds = round(self.seconds + 1 / FPS, 6)
            out.append(self.show(places(self.seconds - begin) if callable(places) else places))
        return out


def boxes(targets: Sequence[Candidate | None]) -> Iterator[tuple[float, ...] | None]:
    return (None if t is None else tuple(t.box.tolist()) for t in targets)


def test_it_stays_on_a_moving_target_and_says_how_well_it_fits() -> None:
    run = Run()
    targets = run.frames(lambda t: {'mug 1': (50 + 60 * t, 100, 110 + 60 * t, 160), 'box 2': RIGHT}, 3)
    assert [t.box[0] for t in targets if t] == pytest.approx([50 + 60 * n / FPS for n in range(1, 31)])
    assert len({t.track_id for t in targets if t}) == 1 and run.follower.frames == 30
    last = targets[-1]
    assert last is not None and last.status is TrackStatus.TRACKED and last.stamp == run.now
    assert last.score == pytest.approx(last.semantic * 0.9) and last.semantic > 0.95
    assert run.follower.outcome(run.now) is None


def test_through_an_occlusion_it_keeps_track_and_box() -> None:
    run = Run()
    run.frames({'mug 1': LEFT, 'box 2': RIGHT}, 1)
    track = run.follower.target.track_id if run.follower.target else 0
    hidden = run.frames({'box 2': RIGHT}, 0.9)
    assert all(t is not None and t.status is TrackStatus.LOST for t in hidden)
    assert set(boxes(hidden)) == {LEFT}
    assert [t.unseen for t in hidden if t] == pytest.approx([n / FPS for n in range(1, 10)])
    back = run.frames({'mug 1': LEFT, 'box 2': RIGHT}, 0.5)
    assert all(t is not None and t.track_id == track and t.status is TrackStatus.TRACKED for t in back)
    assert run.follower.frames == 15


@pytest.mark.parametrize('hidden', [0.5, 5.0])
def test_it_does_not_jump_to_a_twin(hidden: float) -> None:
    """Neither while the track lives nor after it was removed."""
    run = Run()
    run.frames({'mug 1': LEFT}, 1)
    without = run.frames({'mug 2': RIGHT}, hidden)
    assert all(t is not None and t.status is TrackStatus.LOST for t in without) and set(boxes(without)) == {LEFT}
    back = list(boxes(run.frames({'mug 2': RIGHT, 'mug 1': MIDDLE}, 1)))
    assert set(back) <= {LEFT, MIDDLE} and back[-1] == MIDDLE


def test_it_takes_up_again_after_removal() -> None:
    run = Run()
    first = run.frames({'mug 1': LEFT}, 1)[-1]
    run.frames({}, 4)
    assert run.follower.target is not None and run.follower.target.status is TrackStatus.REMOVED
    again = run.frames({'mug 1': RIGHT}, 1)
    assert set(boxes(again)) == {RIGHT}
    assert first is not None and all(t is not None and t.track_id > first.track_id for t in again)
    assert run.follower.frames == 20


def test_a_restart_of_the_stamps_costs_at_most_a_frame() -> None:
    """A bag that loops: the tracks end, the target is taken up again by its looks."""
    run = Run()
    run.frames({'mug 1': LEFT, 'mug 2': RIGHT}, 0)
    run.frames({'mug 1': LEFT}, 2)
    run.seconds = 0.0
    again = run.frames({'mug 2': LEFT, 'mug 1': RIGHT}, 1)
    assert set(boxes(again)) == {RIGHT}


def test_not_found_after_find_timeout() -> None:
    run = Run(find_timeout=2.0)
    assert run.frames({'box 1': LEFT}, 2) == [None] * 20
    assert run.follower.outcome(run.now) is None
    run.frames({'box 1': LEFT}, 0.1)
    assert run.follower.outcome(run.now) is FollowOutcome.NOT_FOUND


def test_twins_are_ambiguous_until_one_leaves() -> None:
    run = Run(find_timeout=2.0)
    assert set(run.frames({'mug 1': LEFT, 'mug 2': RIGHT}, 1.5)) == {None}
    assert run.follower.outcome(2 * NANOSECONDS + 1) is FollowOutcome.AMBIGUOUS
    found = run.frames({'mug 2': RIGHT}, 0.5)
    assert set(boxes(found)) == {RIGHT} and run.follower.outcome(10 * NANOSECONDS) is None


@pytest.mark.parametrize(('lost_timeout', 'ends'), [(0.0, None), (2.0, FollowOutcome.LOST), (8.0, None)])
def test_lost_timeout(lost_timeout: float, ends: FollowOutcome | None) -> None:
    run = Run(lost_timeout=lost_timeout)
    run.frames({'mug 1': LEFT}, 1)
    run.frames({}, 2)
    assert run.follower.outcome(run.now) is None
    run.frames({}, 1)
    assert run.follower.outcome(run.now) is ends


def test_being_seen_in_time_starts_lost_timeout_again() -> None:
    run = Run(lost_timeout=1.0)
    for _ in range(4):
        run.frames({'mug 1': LEFT}, 0.3)
        run.frames({}, 0.8)
        assert run.follower.outcome(run.now) is None


def test_an_individual_can_be_followed_among_its_twins() -> None:
    run = Run(Question(looks('mug 2'), 'that one', by_identity=True))
    assert set(boxes(run.frames({'mug 1': LEFT, 'mug 2': MIDDLE, 'mug 3': RIGHT}, 1))) == {MIDDLE}


def test_two_cameras_of_one_stamp() -> None:
    """Cameras that are triggered together: an answer in one must not be bound by the other's frame."""
    run = Run()
    run.show({'mug 2': LEFT, 'mug 3': RIGHT}, 'front')
    run.seconds = 1 / FPS
    assert run.show({'box 3': MIDDLE, 'mug 1': RIGHT}, 'rear') is None, 'front still shows two'
    assert run.show({}, 'front') is None
    run.seconds = 2 / FPS
    assert run.show({}, 'front') is None
    target = run.show({'box 3': MIDDLE, 'mug 1': RIGHT}, 'rear')
    assert target is not None and (target.camera, tuple(target.box.tolist())) == ('rear', RIGHT)


def test_the_target_is_handed_over_to_another_camera() -> None:
    """Only after its track in the first has ended, and only to the same individual."""
    run = Run()
    run.frames({'mug 1': LEFT}, 1)
    cameras = []
    for _ in range(20):
        run.seconds = round(run.seconds + 1 / FPS, 6)
        run.show({}, 'front')
        target = run.show({'mug 2': LEFT} if len(cameras) < 15 else {'mug 2': LEFT, 'mug 1': RIGHT}, 'rear')
        cameras.append(target and target.camera)
    assert cameras == [None] * 15 + ['rear'] * 5


def test_a_scene_keeps_cameras_apart_and_ids_unique() -> None:
    scene = Scene(MODEL)
    for n in range(5):
        tracks = [
            scene.update(observe({'mug 1': LEFT, 'box 2': RIGHT}, n / FPS, camera), n) for camera in ('front', 'rear')
        ]
    assert [t.track_id for camera in tracks for t in camera] == [1, 2, 3, 4]
    assert [t.camera for camera in tracks for t in camera] == ['front', 'front', 'rear', 'rear']
    assert scene.track(3).camera == 'rear'
    with pytest.raises(UserError, match='no live track 9'):
        scene.track(9)


def test_a_scene_is_asked_for_some_cameras_by_the_age_of_arrival() -> None:
    scene = Scene(MODEL)
    assert scene.find(MUG, now=0).reason == 'no_frames'
    scene.update(observe({'mug 1': LEFT}, 1e6, 'front'), 0)  # a camera whose clock is off
    scene.update(observe({'mug 2': LEFT}, 0, 'rear'), NANOSECONDS)
    answer = scene.find(MUG, now=3 * NANOSECONDS, max_age=2.5)
    assert [(c.camera, c.unseen, c.track_id) for c in answer.candidates] == [('rear', 2.0, 2)]
    assert scene.find(MUG, now=3 * NANOSECONDS, max_age=2.5, cameras=['front']).reason == 'stale_frames'
    assert scene.find(MUG, now=3 * NANOSECONDS, cameras=['front']).candidates[0].unseen == 3.0
    with pytest.raises(UserError, match="no camera 'roof'; seen so far: front, rear"):
        scene.find(MUG, now=0, cameras=['front', 'roof'])


def test_a_scene_refuses_another_model_and_keeps_what_it_has() -> None:
    scene = Scene(MODEL)
    scene.update(observe({'mug 1': LEFT}, 0), 0)
    with pytest.raises(UserError, match='m-2'):
        scene.update(observe({'mug 1': LEFT}, 1, model='m-2'), 1)
    assert scene.find(MUG, now=0).outcome is Outcome.FOUND
    strict = Scene(MODEL, replace(MODEL.calibration, found=0.95))
    strict.update(observe({'mug 1': LEFT}, 0), 0)
    assert strict.find(MUG, now=0).reason == 'below_threshold'

# SPDX-License-Identifier: Apache-2.0
"""Following a remembered object: its id takes it up again in any camera, and keeps look-alikes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from embedder_ros.grounding.follow import Follower
from embedder_ros.grounding.scene import Question, Scene
from embedder_ros.types import NANOSECONDS, Calibration, Candidate, ModelInfo, Observation, Outcome, TrackStatus

MODEL = ModelInfo('m-1', 4, Calibration(20.0, -8.0, 0.3, 0.1, identity_scale=20.0, identity_bias=-12.0))
MUG, OTHER_SIDE, BOWL = np.eye(4, dtype=np.float32)[:3]
LEFT, RIGHT = (50, 100, 110, 160), (500, 100, 560, 160)


class Run:
    """A scene whose tracks are given object ids by where they are told to be seen; the clock is the stamps'."""

    def __init__(self, question: Question) -> None:
        self.scene = Scene(MODEL, max_lost=0.5)
        self.seconds = 0.0
        self.follower = Follower(
            self.scene, question, lambda: self.scene.find(question, now=self.now), find_timeout=5.0, lost_timeout=0.0,
            now=0,
        )  # fmt: skip

    @property
    def now(self) -> int:
        return round(self.seconds * NANOSECONDS)

    def show(self, things: Mapping[tuple, tuple[np.ndarray, str]], camera: str = 'front') -> Candidate | None:
        """Box -> (look, object id), one frame."""
        n = len(things)
        observation = Observation(
            self.now, camera, camera, 640, 480, np.array(list(things), np.float32).reshape(n, 4),
            np.ones(n, np.float32), np.full(n, 0.9, np.float32),
            np.array([look for look, _ in things.values()], np.float32).reshape(n, 4), np.zeros((0, 4), np.float32),
            'm-1',
        )  # fmt: skip
        ids = [object_id for _, object_id in things.values()]
        tracks = self.scene.update(observation, self.now)
        tracks = [replace(t, object_id=ids[t.row]) if t.row >= 0 else t for t in tracks]
        self.scene.recognised(camera, tracks)
        return self.follower.on_frame(observation, tracks, self.now)

    def frames(self, things: Mapping, seconds: float, camera: str = 'front') -> Candidate | None:
        for _ in range(round(seconds * 10)):
            self.seconds = round(self.seconds + 0.1, 6)
            target = self.show(things, camera)
        return target


def test_a_remembered_object_is_followed_by_its_id_alone() -> None:
    """From a side that the question's vector does not show, beside a thing that looks more like it."""
    run = Run(Question(MUG, 'object a', by_identity=True, object_id='a'))
    target = run.frames({LEFT: (OTHER_SIDE, 'a'), RIGHT: (MUG, 'b')}, 0.3)
    assert target is not None and tuple(target.box) == LEFT and target.object_id == 'a'
    assert target.semantic < 0.01 and target.status is TrackStatus.TRACKED


def test_the_id_takes_it_up_again_in_another_camera() -> None:
    """Its looks there are too different to be taken up by them."""
    run = Run(Question(MUG, 'the mug'))
    target = run.frames({LEFT: (MUG, 'a')}, 0.5)
    assert target is not None and target.object_id == 'a'
    run.frames({}, 1.0)
    assert run.frames({RIGHT: (OTHER_SIDE, '')}, 0.5, 'rear') is None
    target = run.frames({RIGHT: (OTHER_SIDE, 'a')}, 0.5, 'rear')
    assert target is not None and (target.camera, tuple(target.box)) == ('rear', RIGHT)
    assert run.follower.frames == 10


def test_a_look_alike_with_another_id_is_not_taken_up() -> None:
    run = Run(Question(MUG, 'the mug'))
    run.frames({LEFT: (MUG, 'a')}, 0.5)
    run.frames({}, 1.0)
    lost = run.frames({LEFT: (MUG, 'b')}, 1.0)
    assert lost is not None and lost.status is TrackStatus.LOST
    found = run.frames({LEFT: (MUG, 'b'), RIGHT: (MUG, 'a')}, 0.3)
    assert found is not None and tuple(found.box) == RIGHT


def test_a_track_that_turns_out_to_be_another_object_is_left() -> None:
    run = Run(Question(MUG, 'object a', by_identity=True, object_id='a'))
    assert run.frames({LEFT: (MUG, '')}, 0.3) is not None
    lost = run.frames({LEFT: (MUG, 'b')}, 0.3)
    assert lost is not None and lost.status is TrackStatus.LOST
    assert run.frames({LEFT: (MUG, 'b'), RIGHT: (BOWL, 'a')}, 0.2).box[0] == RIGHT[0]


def test_answers_about_now_name_the_object() -> None:
    run = Run(Question(MUG, 'the mug'))
    run.frames({LEFT: (MUG, 'a')}, 0.5)
    assert run.scene.find(run.follower.question, now=run.now).candidates[0].object_id == 'a'


def test_an_object_that_is_asked_for_is_no_look_alike_that_is_known_as_another() -> None:
    """Nor is a second box on the look-alike; the object itself is found from a side that its vector does not show."""
    run = Run(Question(MUG, 'object a', by_identity=True, object_id='a'))
    run.frames({RIGHT: (MUG, 'b'), (505, 100, 562, 160): (MUG, '')}, 0.3)
    alone = run.scene.find(run.follower.question, now=run.now)
    assert alone.outcome is Outcome.NOT_FOUND and not alone.candidates
    run.frames({LEFT: (OTHER_SIDE, 'a'), RIGHT: (MUG, 'b')}, 0.3)
    both = run.scene.find(run.follower.question, now=run.now)
    assert both.outcome is Outcome.FOUND and [c.object_id for c in both.candidates] == ['a']


def test_an_answer_on_a_second_box_names_the_object_below() -> None:
    """Only one of a thing's boxes becomes an object."""
    run = Run(Question(MUG, 'the mug'))
    run.frames({LEFT: (OTHER_SIDE, 'a'), (53, 100, 112, 160): (MUG, ''), RIGHT: (BOWL, 'b')}, 0.3)
    best = run.scene.find(run.follower.question, now=run.now).candidates[0]
    assert best.box[0] == 53 and best.object_id == 'a'

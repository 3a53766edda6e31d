# SPDX-License-Identifier: Apache-2.0
"""The main job on every second frame of the sample bag (5 a second), without DDS: the same numbers on every machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedder_ros.bags.source import open_frames
from embedder_ros.evaluation.truth import Truth
from embedder_ros.grounding.follow import Follower
from embedder_ros.grounding.ground import ground
from embedder_ros.grounding.scene import Question, Scene
from embedder_ros.models.base import Embedder
from embedder_ros.models.registry import load_model
from embedder_ros.pipeline import Pipeline
from embedder_ros.types import Observation, Outcome, TrackStatus

SAMPLE = Path(__file__).with_name('sample')
TRUTH = Truth(SAMPLE / 'kitchen_truth.json')


@pytest.fixture(scope='module')
def seen() -> tuple[Embedder, list[Observation]]:
    model = load_model('nano')
    pipeline = Pipeline(model.embedder, model.proposer)
    frames = list(open_frames(SAMPLE / 'kitchen'))[::2]
    return model.embedder, [o for frame in frames for o in pipeline.observe([frame])]


@pytest.mark.parametrize(
    ('text', 'share'), [('the red handle', 0.9), ('the yellow mug', 0.9), ('the bowl', 0.95), ('the teddy bear', 0.95)]
)
def test_a_question_is_answered_right(seen: tuple[Embedder, list[Observation]], text: str, share: float) -> None:
    embedder, observations = seen
    query = embedder.embed_text([text])[0]
    right = []
    for o in observations:
        answer = ground(query, [o], embedder.info.calibration)
        right.append(TRUTH.agrees(text, o.stamp, answer.outcome, [c.box for c in answer.candidates]))
    assert sum(map(bool, right)) >= share * len(right)


def test_the_red_handle_is_followed(seen: tuple[Embedder, list[Observation]]) -> None:
    """From frame 1 s on for 5 s, while the camera turns. The handle is 15 pixels wide, which a box easily misses."""
    embedder, observations = seen
    scene, right, shown = Scene(embedder.info), 0, 0
    question = Question(embedder.embed_text(['the red handle'])[0], 'the red handle')
    begin, camera = observations[5].stamp, observations[0].camera
    follower = Follower(
        scene, question, lambda: scene.find(question, now=scene.views[camera].arrival),
        find_timeout=5.0, lost_timeout=0.0, now=begin,
    )  # fmt: skip
    for o in observations[:30]:
        tracks = scene.update(o, o.stamp)
        if o.stamp < begin:
            continue
        target = follower.on_frame(o, tracks, o.stamp)
        if target is not None and target.status is TrackStatus.TRACKED:
            shown += 1
            right += bool(TRUTH.agrees('the red handle', o.stamp, Outcome.FOUND, [target.box]))
    assert shown >= 20 and right >= 0.7 * shown

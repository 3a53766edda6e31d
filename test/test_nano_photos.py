# SPDX-License-Identifier: Apache-2.0
"""nano on real photographs that scikit-image ships: what is there is found where it is, what is not is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from embedder_ros.grounding.ground import ground
from embedder_ros.models.base import TextKind
from embedder_ros.models.registry import Model, load_model
from embedder_ros.pipeline import Pipeline
from embedder_ros.types import Answer, Frame, Observation, Outcome, box_iou

skimage = pytest.importorskip('skimage')
PHOTOS = Path(skimage.__file__).parent / 'data'


@pytest.fixture(scope='module')
def model() -> Model:
    return load_model('nano', device='cpu', threads=2)


@pytest.fixture(scope='module')
def seen(model: Model) -> dict[str, Observation]:
    pipeline = Pipeline(model.embedder, model.proposer)
    out = {}
    for name in ('coffee.png', 'chelsea.png', 'motorcycle_left.png'):
        image = np.ascontiguousarray(cv2.imread(str(PHOTOS / name))[..., ::-1])
        out[name] = pipeline.observe([Frame(image, 0, name)])[0]
    return out


def find(model: Model, observation: Observation, text: str) -> Answer:
    query = model.embedder.embed_text([text])[0]
    return ground(query, [observation], model.embedder.info.calibration)


@pytest.mark.parametrize(
    ('photo', 'text', 'box'),
    [
        ('coffee.png', 'a cup', [173, 16, 410, 312]),
        ('chelsea.png', 'a cat', [10, 0, 440, 300]),
    ],
)
def test_what_is_there_is_found(
    model: Model, seen: dict[str, Observation], photo: str, text: str, box: list[float]
) -> None:
    answer = find(model, seen[photo], text)
    assert answer.outcome is Outcome.FOUND, answer.reason
    best = answer.candidates[0].box
    assert box_iou(best[None], np.array([box], np.float32))[0, 0] > 0.35  # boxes on close-ups are loose


def test_a_thing_is_named_among_its_parts(model: Model, seen: dict[str, Observation]) -> None:
    answer = find(model, seen['motorcycle_left.png'], 'the motorcycle')  # both wheels are answers as good
    assert answer.outcome is not Outcome.NOT_FOUND
    boxes = np.stack([c.box for c in answer.candidates[:3]])
    assert box_iou(boxes, np.array([[97, 78, 685, 458]], np.float32)).max() > 0.5


@pytest.mark.parametrize('text', ['a teddy bear', 'a banana', 'an elephant', 'a guitar'])
@pytest.mark.parametrize('photo', ['coffee.png', 'chelsea.png', 'motorcycle_left.png'])
def test_what_is_not_there_is_refused(model: Model, seen: dict[str, Observation], photo: str, text: str) -> None:
    assert find(model, seen[photo], text).outcome is not Outcome.FOUND


def test_the_frame_as_a_whole_says_what_it_shows(model: Model, seen: dict[str, Observation]) -> None:
    texts = ['a cup of coffee', 'a cat', 'a motorcycle']
    queries = model.embedder.embed_text(texts, TextKind.IMAGE)
    coarse = np.stack([observation.frame_embeddings[0] for observation in seen.values()])
    np.testing.assert_array_equal((coarse @ queries.T).argmax(axis=1), [0, 1, 2])

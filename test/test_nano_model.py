# SPDX-License-Identifier: Apache-2.0
"""nano from image to embedding: any size, any number of boxes, the same answer every time, damaged weights refused."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from embedder_ros.models.nano import MANIFEST, WEIGHTS
from embedder_ros.models.nano.confidence import fitting
from embedder_ros.models.nano.image import CROP, CROP_MARGIN, crops
from embedder_ros.models.nano.proposer import THIN, NanoProposer
from embedder_ros.models.registry import Model, load_model
from embedder_ros.pipeline import Pipeline
from embedder_ros.training.photos import recorded
from embedder_ros.types import Boxes, Frame, Observation, UserError, box_iou

SAMPLE = Path(__file__).parent / 'sample' / 'kitchen'


@pytest.fixture(scope='module')
def model() -> Model:
    return load_model('nano', device='cpu', threads=2)


@pytest.fixture(scope='module')
def pipeline(model: Model) -> Pipeline:
    return Pipeline(model.embedder, model.proposer)


def picture(height: int, width: int, seed: int = 0) -> Frame:
    """Coloured rectangles on noise."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 130, (height, width, 3), dtype=np.uint8)
    for _ in range(6):
        x, y = rng.integers(0, max(1, width - 8)), rng.integers(0, max(1, height - 8))
        image[y : y + height // 4 + 1, x : x + width // 5 + 1] = rng.integers(0, 256, 3)
    image.setflags(write=False)
    return Frame(image, 5, f'camera{seed}')


def same(a: Observation, b: Observation) -> None:
    for name in ('boxes', 'objectness', 'iou', 'embeddings', 'frame_embeddings'):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize('size', [(1, 1), (16, 16), (480, 640), (1080, 1920), (16, 4000), (4000, 300), (227, 341)])
def test_any_image_size(model: Model, pipeline: Pipeline, size: tuple[int, int]) -> None:
    frame = picture(*size)
    seen = pipeline.observe([frame])[0]
    assert (seen.width, seen.height, seen.dim) == (size[1], size[0], model.embedder.info.dim)
    assert seen.model_id == model.embedder.info.model_id
    assert np.all(seen.boxes[:, :2] >= 0) and np.all(seen.boxes[:, 2:] <= [size[1], size[0]])
    assert np.all(seen.boxes[:, 2:] > seen.boxes[:, :2])
    assert np.all((seen.iou >= 0) & (seen.iou <= 1)) and np.all((seen.objectness >= 0) & (seen.objectness <= 1))
    for rows in (seen.embeddings, seen.frame_embeddings):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-4)
    assert seen.frame_embeddings.shape == (2, seen.dim)


def test_a_frame_does_not_depend_on_its_batch(pipeline: Pipeline) -> None:
    frames = [picture(480, 640, 1), picture(240, 320, 2), picture(600, 400, 3)]
    together = pipeline.observe(frames)
    for frame, seen in zip(frames, together, strict=True):
        same(seen, pipeline.observe([frame])[0])
        assert seen.camera == frame.camera
    assert pipeline.observe([]) == []


def test_two_instances_agree(pipeline: Pipeline) -> None:
    other = load_model('nano', device='cpu', threads=2)
    frame = picture(300, 400)
    same(pipeline.observe([frame])[0], Pipeline(other.embedder, other.proposer).observe([frame])[0])


@pytest.mark.parametrize('count', [0, 1, 2, 256])
def test_any_number_of_boxes(model: Model, count: int) -> None:
    frame = picture(480, 640)
    rng = np.random.default_rng(0)
    low = rng.uniform(0, [600, 440], (count, 2))
    xyxy = np.concatenate([low, low + rng.uniform(0.5, 39, (count, 2))], axis=1).astype(np.float32)
    boxes = Boxes(xyxy, np.linspace(1, 0, count, dtype=np.float32))
    seen = model.embedder.embed([frame], model.embedder.encode([frame]), [boxes])[0]
    assert seen.embeddings.shape == (count, model.embedder.info.dim)
    assert seen.iou.shape == (count,) and np.isfinite(seen.embeddings).all()
    np.testing.assert_array_equal(seen.boxes, xyxy)
    assert seen.frame_embeddings.shape[0] == 2


@pytest.mark.parametrize('most', [0, 1, 5, 64, 256])
def test_at_most_as_many_boxes_as_asked_for_best_first(model: Model, most: int) -> None:
    frame = picture(480, 640)
    boxes = model.proposer.propose([frame], model.embedder.encode([frame]), most)[0]
    assert len(boxes) <= most
    assert np.all(np.diff(boxes.objectness) <= 0)


def test_thin_boxes_are_moved_to_where_their_edges_are_and_others_stay(model: Model) -> None:
    """On things of the sample bag, which no stage was trained on, in boxes that are a little off."""
    rng, before, after = np.random.default_rng(0), [], []
    proposer = model.proposer
    assert isinstance(proposer, NanoProposer)
    for sample in islice(recorded(SAMPLE), 0, 60, 20):
        encoded = model.embedder.encode([Frame(sample.image, 0, 'front')])[0]
        truth = np.stack([thing.box for thing in sample.things]) * np.tile(encoded.scale, 2)
        sides = truth[:, 2:] - truth[:, :2]
        boxes = truth + np.tile(sides, 2) * rng.uniform(-0.2, 0.2, truth.shape)
        boxes = np.clip(boxes, 0, np.tile(encoded.whole[0, 2:], 2)).astype(np.float32)
        thin = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) <= THIN
        out = proposer.refined(boxes, encoded)
        np.testing.assert_array_equal(out[~thin], boxes[~thin])
        seen = thin & (sides.min(axis=1) >= 8)
        before.extend(np.diagonal(box_iou(boxes, truth))[seen])
        after.extend(np.diagonal(box_iou(out, truth))[seen])
    assert len(before) > 20 and np.mean(before) < 0.75 < 0.8 < np.mean(after)
    assert proposer.refined(np.zeros((0, 4), np.float32), encoded).shape == (0, 4)


@pytest.mark.parametrize('box', [[0, 0, np.nan, 5], [5, 5, 5, 9], [9, 5, 5, 9], [700, 0, 800, 50], [-9, -9, -1, -1]])
def test_bad_boxes_are_refused(pipeline: Pipeline, box: list[float]) -> None:
    with pytest.raises(UserError, match='box'):
        pipeline.embed_boxes(picture(480, 640), np.array([box], np.float32))


@pytest.mark.parametrize(
    'image',
    [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3)), np.zeros((0, 9, 3), np.uint8)],
)
def test_bad_images_are_refused(pipeline: Pipeline, image: np.ndarray) -> None:
    with pytest.raises(UserError, match='uint8 RGB'):
        pipeline.observe([Frame(image, 0, 'front')])


def test_crops_show_the_box_and_a_margin_even_at_the_border() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    image[20:60, 100:140] = (255, 0, 0)
    boxes = np.array([[100, 20, 140, 60], [0, 0, 4, 100], [196, 96, 200, 100], [0, 0, 200, 100]], np.float32)
    shown = crops(image, boxes)
    assert shown.shape == (4, CROP, CROP, 3) and shown.dtype == np.uint8
    assert (shown[0, CROP // 2, CROP // 2] == (255, 0, 0)).all() and not shown[0, 0].any()
    red = (shown[0, ..., 0] > 127).mean()
    assert abs(red - 1 / (1 + 2 * CROP_MARGIN) ** 2) < 0.05
    assert not shown[1:3].any() and 0.06 < (shown[3, ..., 0] > 127).mean() < 0.1


def test_identity_view_is_unit_and_prefers_the_same_thing(model: Model, pipeline: Pipeline) -> None:
    frame = picture(480, 640)
    boxes = np.array([[20, 20, 200, 200], [24, 22, 204, 198], [300, 250, 500, 400]], np.float32)
    rows = model.embedder.info.identity(pipeline.embed_boxes(frame, boxes).embeddings)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert rows[0] @ rows[1] > rows[0] @ rows[2]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WEIGHTS, tmp_path / 'weights'))


def test_a_folder_is_a_model(copy: Path, model: Model) -> None:
    assert load_model(str(copy), threads=1).embedder.info.model_id == model.embedder.info.model_id


@pytest.mark.parametrize('name', ['backbone.onnx', 'head.onnx', 'text.npz', 'vocab.txt'])
def test_damaged_weights_are_refused(copy: Path, name: str) -> None:
    path = copy / name
    content = path.read_bytes()
    for damaged, says in (
        (content[:-100], 'damaged'),
        (content[:100] + b'x' + content[101:], 'damaged'),
        (b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'),
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=says) as error:
            load_model(str(copy))
        assert name in str(error.value)
    path.unlink()
    with pytest.raises(UserError, match='cannot read'):
        load_model(str(copy))


@pytest.mark.parametrize(
    ('change', 'says'),
    [({'format': 99}, 'format 99'), ({'calibration': {'scale': 1}}, 'lacks or garbles'), ({'files': {}}, 'damaged')],
)
def test_a_wrong_manifest_is_refused(copy: Path, change: dict[str, object], says: str) -> None:
    path = copy / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=says):
        load_model(str(copy))
    path.write_text('[1')
    with pytest.raises(UserError, match='not JSON'):
        load_model(str(copy))


def test_a_name_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=MANIFEST):
        load_model(str(tmp_path))


def test_half_precision_is_refused() -> None:
    with pytest.raises(UserError, match='fp32'):
        load_model('nano', precision='fp16')


def test_an_exemplar_is_the_whole_image_as_one_object(model: Model, pipeline: Pipeline) -> None:
    frames = [picture(480, 640, 1), picture(240, 320, 2)]
    rows = model.embedder.embed_exemplar(frames)
    for row, frame in zip(rows, frames, strict=True):
        whole = pipeline.embed_boxes(frame, np.array([[0, 0, frame.width, frame.height]], np.float32))
        np.testing.assert_allclose(row, whole.embeddings[0], atol=1e-5)
    assert model.embedder.embed_exemplar([]).shape == (0, model.embedder.info.dim)


def test_the_published_iou_rises_with_what_the_head_and_the_proposals_think_and_with_size() -> None:
    small, large = [0, 0, 40, 40], [0, 0, 300, 300]
    boxes = np.array([small, small, small, large], np.float32)
    predicted, objectness = np.array([0.7, 0.9, 0.9, 0.9], np.float32), np.array([0.5, 0.5, 0.9, 0.9], np.float32)
    iou = fitting(predicted, objectness, boxes, np.array([640, 480], np.float32))
    assert (np.diff(iou) > 0.01).all() and iou.dtype == np.float32
    extremes = fitting(
        np.array([0, 1, 1, 1], np.float32), np.array([0, 0, 1, 1], np.float32), boxes, np.ones(2, np.float32)
    )
    assert np.isfinite(extremes).all() and (extremes >= 0).all() and (extremes <= 1).all()

# SPDX-License-Identifier: Apache-2.0
"""WeDetect-Uni's network: equal to the authors' numbers, both sizes, distances, batches; parity that can fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('safetensors')

from safetensors.numpy import load_file, save_file  # noqa: E402
from tinywedetect import TINY, frame, tiny_network, tiny_tensors  # noqa: E402

from embedder_ros.evaluation.parity import check  # noqa: E402
from embedder_ros.evaluation.parity_wedetect import check_wedetect, made  # noqa: E402
from embedder_ros.models.wedetect.checkpoint import from_tensors  # noqa: E402
from embedder_ros.models.wedetect.image import letterbox  # noqa: E402
from embedder_ros.models.wedetect.network import BASE, LARGE, Shape, WeDetectUni, decode  # noqa: E402
from embedder_ros.models.wedetect.select import select  # noqa: E402
from embedder_ros.types import UserError  # noqa: E402

DATA = Path(__file__).with_name('data') / 'wedetect_uni_base'
OUTPUTS = {'raw_boxes_letterboxed', 'raw_best_score', 'raw_best_prompt', 'proposals_xyxy', 'proposal_scores'}


@pytest.fixture(scope='module', autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_the_base_network_gives_the_authors_numbers() -> None:
    """Full size: the only test here that takes seconds."""
    report = check(DATA)
    assert {difference.output for difference in report.differences} == OUTPUTS
    for difference in report.differences:
        assert difference.agrees, difference
        assert difference.tolerance <= (1e-3 if 'xy' in difference.output or 'boxes' in difference.output else 1e-5)


@pytest.fixture(scope='module')
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the fixture: a small network by the same rule, another image, another salt, 30 proposals."""
    folder = tmp_path_factory.mktemp('parity')
    shapes = {key: list(value.shape) for key, value in tiny_tensors().items()}
    (folder / 'checkpoint_shapes.json').write_text(json.dumps(shapes))
    image = frame(200, 320).image
    square, place = letterbox(image, 640)
    network = from_tensors({key: made(key, shape, 'pepper') for key, shape in shapes.items()}, 'made')
    with torch.inference_mode():
        raw = network(torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255)
    boxes, scores = select(raw.boxes[0], raw.logits[0], 30)
    best = raw.logits[0].sigmoid().max(1)
    expected = {
        'image_rgb': image,
        'raw_boxes_letterboxed': raw.boxes[0].numpy(),
        'raw_best_score': best.values.numpy(),
        'raw_best_prompt': best.indices.int().numpy(),
        'proposals_xyxy': place.undo(boxes),
        'proposal_scores': scores,
    }
    save_file(expected, folder / 'expected.safetensors')
    return folder


def test_parity_holds_for_another_size_image_salt_and_number_of_proposals(tiny_folder: Path) -> None:
    assert all(difference.agrees for difference in check_wedetect(tiny_folder, 'pepper'))


def test_another_salt_makes_other_weights(tiny_folder: Path) -> None:
    differences = {difference.output: difference for difference in check_wedetect(tiny_folder)}
    assert not differences['raw_boxes_letterboxed'].agrees and not differences['proposals_xyxy'].agrees


@pytest.mark.parametrize(
    ('name', 'row', 'change', 'seen_in'),
    [
        ('raw_boxes_letterboxed', 8000, 2.0, {'raw_boxes_letterboxed'}),
        ('raw_best_score', 17, 1e-4, {'raw_best_score'}),
        ('proposals_xyxy', 29, 3.0, {'proposals_xyxy'}),
        ('proposal_scores', 3, 0.1, {'proposal_scores'}),
    ],
)
def test_parity_sees_one_changed_number(
    tiny_folder: Path, tmp_path: Path, name: str, row: int, change: float, seen_in: set[str]
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / 'changed')
    expected = {key: value.copy() for key, value in load_file(folder / 'expected.safetensors').items()}
    expected[name][row] += change
    save_file(expected, folder / 'expected.safetensors')
    assert {d.output for d in check_wedetect(folder, 'pepper') if not d.agrees} == seen_in


def test_parity_lets_ties_change_places(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / 'swapped')
    expected = {key: value.copy() for key, value in load_file(folder / 'expected.safetensors').items()}
    scores, boxes = expected['proposal_scores'], expected['proposals_xyxy']
    boxes[[4, 5]] = boxes[[5, 4]]
    assert scores[4] - scores[5] > 2e-6
    save_file(expected, folder / 'expected.safetensors')
    assert not {d.output: d.agrees for d in check_wedetect(folder, 'pepper')}['proposals_xyxy']
    scores[[4, 5]] = scores[[4, 5]].mean()  # to their own eyes a tie
    save_file(expected, folder / 'expected.safetensors')
    found = {d.output: d for d in check_wedetect(folder, 'pepper')}
    assert found['proposals_xyxy'].agrees


@pytest.mark.parametrize('name', ['checkpoint_shapes.json', 'expected.safetensors'])
def test_parity_needs_both_files(tiny_folder: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / 'part')
    (folder / name).write_text('{')
    with pytest.raises(UserError, match='cannot be read'):
        check_wedetect(folder)
    save_file({'image_rgb': np.zeros((2, 2, 3), np.uint8)}, folder / 'expected.safetensors')
    shutil.copy(tiny_folder / 'checkpoint_shapes.json', folder)
    with pytest.raises(UserError, match='lacks raw_boxes_letterboxed'):
        check_wedetect(folder)


@pytest.mark.parametrize(('shape', 'anchors'), [(BASE, 8400), (LARGE, 33600)])
def test_anchors_of_both_sizes(shape: Shape, anchors: int) -> None:
    with torch.device('meta'):
        raw = WeDetectUni(shape)(torch.zeros(2, 3, shape.pixels, shape.pixels))
    assert raw.boxes.shape == (2, anchors, 4) and raw.logits.shape == (2, anchors, 256)


@pytest.mark.parametrize('stride', [8, 16, 32])
def test_a_distance_that_is_certain_is_its_bin_times_the_stride(stride: int) -> None:
    logits = torch.full((1, 4, 16, 2, 3), -1e4)
    for side, bin_ in enumerate((1, 2, 3, 15)):
        logits[:, side, bin_] = 1e4
    boxes = decode(logits.reshape(1, 64, 2, 3), stride)
    centre = np.array([2.5, 1.5]) * stride  # of cell (1, 2)
    np.testing.assert_allclose(boxes[0, 5], [*(centre - [stride, 2 * stride]), *(centre + [3 * stride, 15 * stride])])


def test_a_batch_equals_its_images() -> None:
    network, pixels = tiny_network(), torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        both = network(pixels)
        for i in range(2):
            alone = network(pixels[i : i + 1])
            torch.testing.assert_close(both.boxes[i], alone.boxes[0], atol=1e-4, rtol=1e-5)
            torch.testing.assert_close(both.logits[i], alone.logits[0], atol=1e-4, rtol=1e-5)


def test_prompts_are_used_as_they_are() -> None:
    """The class-wise WeDetect normalises them; the proposal network does not (MODELS.md 2.4)."""
    network, pixels = tiny_network(), torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        once = network(pixels).logits
        network.embeddings.mul_(2)
        twice = network(pixels).logits
    bias = network.bbox_head.cls_contrasts[0].bias
    torch.testing.assert_close(twice - bias, 2 * (once - bias))


def test_boxes_and_scores_are_float32_in_any_precision() -> None:
    exact, network = tiny_network(), tiny_network().lower(torch.bfloat16)
    pixels = torch.rand(1, 3, 64, 64)
    assert network.backbone.stages[0][0].gamma.dtype == torch.bfloat16 and network.embeddings.dtype == torch.float32
    with torch.inference_mode():
        raw, wanted = network(pixels.bfloat16()), exact(pixels)
    assert raw.boxes.dtype == raw.logits.dtype == torch.float32
    torch.testing.assert_close(raw.boxes, wanted.boxes, atol=1.0, rtol=0.02)
    assert (raw.boxes[0] % 0.5 != 0).any()  # not rounded to bfloat16's pixels
    assert TINY.prompts == raw.logits.shape[2]

# SPDX-License-Identifier: Apache-2.0
"""WeDetect-Uni: parity with the authors' numbers, strict loading, letterboxing, selection equal to its definition."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch')

from embedder_ros.evaluation.parity_wedetect import check_wedetect, made  # noqa: E402
from embedder_ros.models.nano.proposer import NanoProposer  # noqa: E402
from embedder_ros.models.wedetect import network as net  # noqa: E402
from embedder_ros.models.wedetect import select as selection  # noqa: E402
from embedder_ros.models.wedetect.checkpoint import from_tensors, load_wedetect, renamed  # noqa: E402
from embedder_ros.models.wedetect.image import letterbox  # noqa: E402
from embedder_ros.proposals import load_proposer  # noqa: E402
from embedder_ros.types import Frame, UserError, box_iou  # noqa: E402

DATA = Path(__file__).with_name('data') / 'wedetect_uni_base'
SHAPES = json.loads((DATA / 'checkpoint_shapes.json').read_text())
TINY = net.Shape((8, 8, 16, 16), (1, 1, 2, 1), (8, 16, 32), reg_width=8, cls_width=8, prompts=4, embedding=8)


def released(network: net.WeDetectUni) -> dict[str, torch.Tensor]:
    """A network's tensors under the names of a released file."""
    back = {renamed(key): key for key in SHAPES}
    numbered = {'0': '0.conv', '1': '0.bn', '3': '1.conv', '4': '1.bn', '6': '2'}
    out = {}
    for key, value in network.state_dict().items():
        parts = key.split('.')
        if parts[0] == 'bbox_head':
            if parts[1].endswith('preds'):
                parts[3] = numbered[parts[3]]
            parts.insert(1, 'head_module')
        elif parts[0] == 'backbone':
            parts[1:1] = ['image_model', 'model']
        out['.'.join(parts)] = value
        assert renamed('.'.join(parts)) == key and back.get(key, '.'.join(parts)) == '.'.join(parts)
    return out


def tiny(seed: int = 0) -> net.WeDetectUni:
    torch.manual_seed(seed)
    network = net.WeDetectUni(TINY).eval()
    torch.nn.init.normal_(network.embeddings)
    return network


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(released(tiny()), tmp_path / 'wedetect_base_uni.pth')
    return tmp_path / 'wedetect_base_uni.pth'


def frame(height: int, width: int, seed: int = 0) -> Frame:
    return Frame(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8), 1, 'front')


def test_the_base_network_gives_the_authors_numbers() -> None:
    for difference in check_wedetect(DATA):
        assert difference.agrees, difference


def test_another_salt_gives_other_weights_and_disagrees() -> None:
    key = 'neck.reduce_layer0.block.conv.weight'
    assert not torch.equal(made(key, SHAPES[key], 'a'), made(key, SHAPES[key], 'b'))


@pytest.mark.parametrize('shape', [net.BASE, net.LARGE])
def test_the_names_of_the_checkpoint_map_one_to_one(shape: net.Shape) -> None:
    with torch.device('meta'):
        network = net.WeDetectUni(shape)
    keys = network.state_dict().keys()
    assert sorted(map(renamed, SHAPES)) == sorted(keys) and len(set(map(renamed, SHAPES))) == len(SHAPES)


def test_anchors_of_both_sizes() -> None:
    for shape, anchors in ((net.BASE, 8400), (net.LARGE, 33600)):
        with torch.device('meta'):
            raw = net.WeDetectUni(shape)(torch.zeros(2, 3, shape.pixels, shape.pixels))
        assert raw.boxes.shape == (2, anchors, 4) and raw.logits.shape == (2, anchors, 256)


def test_a_distance_that_is_certain_is_its_bin_times_the_stride() -> None:
    logits = torch.full((1, 4, 16, 2, 3), -1e4)
    for side, bin_ in enumerate((1, 2, 3, 15)):
        logits[:, side, bin_] = 1e4
    boxes = net.decode(logits.reshape(1, 64, 2, 3), 8)
    centre = np.array([20, 12])  # of cell (1, 2)
    np.testing.assert_allclose(boxes[0, 5], [*(centre - [8, 16]), *(centre + [24, 120])])


def test_a_batch_equals_its_images() -> None:
    network, pixels = tiny(), torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        both = network(pixels)
        for i in range(2):
            alone = network(pixels[i : i + 1])
            torch.testing.assert_close(both.boxes[i], alone.boxes[0], atol=1e-4, rtol=1e-5)
            torch.testing.assert_close(both.logits[i], alone.logits[0], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize('size', [(480, 640), (360, 500), (640, 480), (33, 1000), (1, 1), (720, 1281)])
def test_a_letterbox_is_undone(size: tuple[int, int]) -> None:
    height, width = size
    square, place = letterbox(frame(height, width).image, 640)
    assert square.shape == (640, 640, 3) and (square[0, 0] == 114).all() or height == width
    shown = np.flatnonzero((square != 114).any(axis=(1, 2)))
    assert len(shown) == pytest.approx(max(1, round(height * place.ratio)), abs=1)
    inside = np.array([[0.1 * width, 0.2 * height, 0.8 * width, 0.9 * height]], np.float32)
    drawn = inside * place.ratio + [place.left, place.top] * 2
    np.testing.assert_allclose(place.undo(drawn), inside, atol=0.5 / place.ratio)
    outside = place.undo(np.array([[-50, -50, 700, 700]], np.float32))
    np.testing.assert_allclose(outside, [[0, 0, width, height]])


def test_selection_is_its_definition() -> None:
    """Sorted pairs, non-maximum suppression within a prompt, the first ones."""
    random = np.random.default_rng(3)
    corner = random.uniform(0, 40, (900, 2))
    boxes = np.concatenate([corner, corner + random.uniform(20, 30, (900, 2))], 1).astype(np.float32)
    logits = random.normal(size=(900, 3)).astype(np.float32)
    got_boxes, got_scores = selection.select(torch.from_numpy(boxes), torch.from_numpy(logits), 60)
    kept: list[tuple[int, int]] = []
    for pair in np.argsort(-logits.ravel(), kind='stable'):
        anchor, prompt = divmod(int(pair), 3)
        same = [a for a, p in kept if p == prompt]
        if not same or box_iou(boxes[anchor][None], boxes[same]).max() <= 0.7:
            kept.append((anchor, prompt))
        if len(kept) == 60:
            break
    np.testing.assert_allclose(got_boxes, boxes[[a for a, _ in kept]])
    np.testing.assert_allclose(got_scores, 1 / (1 + np.exp(-logits[tuple(zip(*kept, strict=True))])), rtol=1e-6)


def test_boxes_of_two_prompts_may_be_the_same() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]])
    found, scores = selection.select(boxes, torch.tensor([[2.0, 1.0]]), 10)
    assert len(found) == 2 and scores[0] > scores[1]


def test_proposals_of_a_file(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net.Shape, 'pixels', 64)
    proposer = load_proposer(str(weights), device='cpu')
    frames = [frame(48, 64, 1), frame(100, 30, 2)]
    together = proposer.propose(frames, [None, None], 20)
    for one, boxes in zip(frames, together, strict=True):
        assert 0 < len(boxes) <= 20
        assert (np.diff(boxes.objectness) <= 0).all() and boxes.xyxy.dtype == np.float32
        assert (boxes.xyxy >= 0).all() and (boxes.xyxy <= [one.width, one.height] * 2).all()
        assert (boxes.xyxy[:, 2:] > boxes.xyxy[:, :2]).all()
        alone = proposer.propose([one], [None], 20)[0]
        np.testing.assert_allclose(alone.xyxy, boxes.xyxy, atol=1e-2)


def test_nanos_boxes_for_another_embedder() -> None:
    proposer = load_proposer('nano', device='cpu')
    assert not isinstance(proposer, NanoProposer)
    boxes = proposer.propose([frame(120, 160)], ['what another model encoded'], 5)[0]
    assert len(boxes) <= 5 and (boxes.xyxy <= [160, 120, 160, 120]).all()


def test_bad_files_are_named(weights: Path) -> None:
    good = torch.load(weights, weights_only=True)

    def refused(change: dict[str, torch.Tensor | None], match: str) -> None:
        torch.save({k: v for k, v in {**good, **change}.items() if v is not None}, weights)
        with pytest.raises(UserError, match=match):
            load_wedetect(weights)

    stem = 'backbone.image_model.model.downsample_layers.0.0.bias'
    refused({stem: None}, r'lacks tensor backbone\.downsample_layers\.0\.0\.bias; give wedetect_base_uni')
    refused({'neck.more': torch.zeros(1)}, 'unexpected tensor neck.more')
    refused({stem: torch.zeros(3)}, r'is \(3,\), not \(8,\)')
    refused({'embeddings': None}, 'not a Uni release')
    refused({'embeddings': torch.zeros(3)}, 'not a checkpoint of WeDetect-Uni')
    with pytest.raises(UserError, match='does not exist'):
        load_wedetect(weights.with_name('nowhere.pth'))
    for content, match in (
        (b'version https://git-lfs.github.com/spec/v1\n', 'git-LFS pointer'),
        (b'not a zip', 'is damaged'),
        (weights.read_bytes()[:1000], 'is damaged'),
    ):
        weights.write_bytes(content)
        with pytest.raises(UserError, match=match):
            load_wedetect(weights)


def test_code_in_a_file_is_not_run(weights: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return open, (str(weights.with_name('ran')), 'w')  # type: ignore[return-value]

    torch.save({'embeddings': Trap()}, weights)
    with pytest.raises(UserError, match='more than tensors'):
        load_wedetect(weights)
    assert not weights.with_name('ran').exists()


def test_the_text_tower_and_a_wrapping_are_left_aside(weights: Path) -> None:
    good = torch.load(weights, weights_only=True)
    extra = {'backbone.text_model.word': torch.zeros(1), 'bbox_head.head_module.proj': torch.arange(16)}
    torch.save({'state_dict': {**good, **extra}, 'meta': {}}, weights)
    again = load_wedetect(weights)
    assert torch.equal(again.embeddings, from_tensors(good, 'x').embeddings)

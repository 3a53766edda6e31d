# SPDX-License-Identifier: Apache-2.0
"""From frame to boxes: letterboxing, selection equal to its definition, the proposers for any embedder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('PIL')

from tinywedetect import frame, tiny_network, tiny_tensors  # noqa: E402

from embedder_ros.models.nano.proposer import NanoProposer  # noqa: E402
from embedder_ros.models.wedetect import checkpoint  # noqa: E402
from embedder_ros.models.wedetect.image import letterbox  # noqa: E402
from embedder_ros.models.wedetect.network import Shape  # noqa: E402
from embedder_ros.models.wedetect.select import select  # noqa: E402
from embedder_ros.proposals import load_proposer  # noqa: E402
from embedder_ros.proposals.wedetect import WeDetectProposals  # noqa: E402
from embedder_ros.types import Frame, UserError, box_iou  # noqa: E402


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(Shape, 'pixels', 64)
    torch.save(tiny_tensors(), tmp_path / 'wedetect_base_uni.pth')
    return tmp_path / 'wedetect_base_uni.pth'


@pytest.mark.parametrize('side', [640, 1280])
@pytest.mark.parametrize('size', [(480, 640), (360, 500), (640, 480), (33, 1000), (1, 1), (1, 3000), (720, 1281)])
def test_a_letterbox_is_undone(size: tuple[int, int], side: int) -> None:
    """Where the image really lies in the square, and every box drawn there, comes back."""
    height, width = size
    dark = np.zeros((height, width, 3), np.uint8)
    square, place = letterbox(dark, side)
    assert square.shape == (side, side, 3) and set(np.unique(square)) <= {0, 114}
    rows, columns = (np.flatnonzero((square == 0).all(2).any(axis)) for axis in (1, 0))
    lies = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], np.float32)
    if min(size) > 1:
        drawn = (lies - [place.left, place.top] * 2) / place.ratio
        # half a pixel for the rounded size, half where the grey is an odd number of pixels
        np.testing.assert_allclose(drawn, [[0, 0, width, height]], atol=(0.5 + 0.5) / place.ratio)
    inside = np.array([[0.1 * width, 0.2 * height, 0.8 * width, 0.9 * height]], np.float32)
    back = place.undo((inside * place.ratio + [place.left, place.top] * 2).astype(np.float32))
    np.testing.assert_allclose(back, inside, atol=0.01 / place.ratio)
    np.testing.assert_allclose(place.undo(np.array([[-50, -50, 2000, 2000]], np.float32)), [[0, 0, width, height]])


def test_the_image_is_scaled_by_pillows_bilinear_filter() -> None:
    from PIL import Image

    image = frame(360, 500).image
    square, place = letterbox(image, 640)
    assert place.ratio == 1.28 and (place.left, place.top) == (0, 89.5)
    wanted = np.asarray(Image.fromarray(image).resize((640, 461), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(square[89 : 89 + 461], wanted)
    assert (square[:89] == 114).all() and (square[89 + 461 :] == 114).all()


def naive(boxes: np.ndarray, logits: np.ndarray, most: int) -> list[tuple[int, int]]:
    """The definition: sorted pairs, the best 30 000, suppression within a prompt, the first ones."""
    kept: list[tuple[int, int]] = []
    for pair in np.argsort(-logits.ravel(), kind='stable')[:30_000]:
        anchor, prompt = divmod(int(pair), logits.shape[1])
        same = [a for a, p in kept if p == prompt]
        if not same or box_iou(boxes[anchor][None], boxes[same]).max() <= 0.7:
            kept.append((anchor, prompt))
        if len(kept) == most:
            break
    return kept


@pytest.mark.parametrize(
    ('spread', 'prompts', 'most'), [(40, 3, 60), (40, 3, 1), (4, 3, 100), (4, 1, 50), (200, 64, 300)]
)
def test_selection_is_its_definition(spread: float, prompts: int, most: int) -> None:
    """Also where nearly all boxes repeat each other, and all candidates are looked at."""
    random = np.random.default_rng(3)
    corner = random.uniform(0, spread, (900, 2))
    boxes = np.concatenate([corner, corner + random.uniform(20, 30, (900, 2))], 1).astype(np.float32)
    logits = random.normal(size=(900, prompts)).astype(np.float32)
    found, scores = select(torch.from_numpy(boxes), torch.from_numpy(logits), most)
    kept = naive(boxes, logits, most)
    np.testing.assert_array_equal(found, boxes[[a for a, _ in kept]])
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits[tuple(zip(*kept, strict=True))])), rtol=1e-6)


def test_only_the_best_30000_pairs_are_looked_at() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(40_000, 1)
    boxes[30_000] += 100
    logits = -torch.arange(40_000.0)[:, None] / 1e4
    assert len(select(boxes, logits, 5)[0]) == 1
    boxes[[29_999, 30_000]] = boxes[[30_000, 29_999]]
    assert len(select(boxes, logits, 5)[0]) == 2


def test_boxes_of_two_prompts_may_be_the_same() -> None:
    found, scores = select(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[2.0, 1.0]]), 10)
    assert len(found) == 2 and scores[0] > scores[1]


def test_a_score_of_nothing_is_no_proposal() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [90, 90, 99, 99]])
    found, scores = select(boxes, torch.tensor([[0.0], [-1e4], [float('nan')]]), 10)
    assert found.tolist() == [[0, 0, 10, 10]] and scores.tolist() == [0.5]
    assert select(boxes, torch.zeros(3, 1), 0)[0].shape == (0, 4)


def test_proposals_of_a_file(path: Path) -> None:
    proposer = WeDetectProposals(path, device='cpu', batch=2)
    frames = [frame(48, 64, 1), frame(100, 30, 2)]
    together = proposer.propose(frames, [None, None], 20)
    for one, boxes in zip(frames, together, strict=True):
        assert 0 < len(boxes) <= 20
        assert (np.diff(boxes.objectness) <= 0).all() and boxes.xyxy.dtype == boxes.objectness.dtype == np.float32
        assert (boxes.xyxy >= 0).all() and (boxes.xyxy <= [one.width, one.height] * 2).all()
        assert (boxes.xyxy[:, 2:] > boxes.xyxy[:, :2]).all()
        alone = proposer.propose([one], [None], 20)[0]
        np.testing.assert_allclose(alone.xyxy, boxes.xyxy, atol=1e-3)
        np.testing.assert_allclose(alone.objectness, boxes.objectness, atol=1e-5)


@pytest.mark.parametrize(('free', 'frames'), [(None, 4), (10**9, 4), (30_000_000, 2), (1000, 1)])
def test_a_batch_is_as_large_as_fits(monkeypatch: pytest.MonkeyPatch, free: int | None, frames: int) -> None:
    """A frame takes 13 MB."""
    monkeypatch.setattr(checkpoint, 'free_bytes', lambda _: free)
    assert checkpoint.frames_that_fit(tiny_network(), torch.device('cpu'), 4) == frames


def test_boxes_in_the_padding_are_dropped(path: Path) -> None:
    """A strip in the square's middle: most anchors see grey, and what is clamped to nothing is no box."""
    boxes = WeDetectProposals(path, device='cpu').propose([frame(4, 400)], [None], 100)[0]
    assert len(boxes) and (boxes.xyxy[:, 2:] > boxes.xyxy[:, :2]).all()


def test_more_frames_than_a_batch_keep_their_order(path: Path) -> None:
    proposer = WeDetectProposals(path, device='cpu', batch=2)
    frames = [frame(40 + i, 64, i) for i in range(5)]
    found = proposer.propose(frames, [None] * len(frames), 3)
    assert len(found) == len(frames) and proposer.propose([], [], 3) == []
    alone = load_proposer(str(path), device='cpu').propose(frames, [None] * len(frames), 3)
    for one, other in zip(found, alone, strict=True):
        np.testing.assert_allclose(one.xyxy, other.xyxy, atol=1e-3)


def test_a_view_of_a_picture_is_read_and_left_alone(path: Path) -> None:
    proposer = load_proposer(str(path), device='cpu')
    whole = frame(96, 128).image
    view = whole[::2, ::2, ::-1]  # as a BGR message's view is
    before = whole.copy()
    seen = proposer.propose([Frame(view, 1, 'a')], [None], 5)[0]
    copied = proposer.propose([Frame(np.ascontiguousarray(view), 1, 'a')], [None], 5)[0]
    np.testing.assert_array_equal(seen.xyxy, copied.xyxy)
    np.testing.assert_array_equal(whole, before)
    with pytest.raises(UserError, match="camera 'grey'"):
        proposer.propose([Frame(whole[:, :, 0], 1, 'grey')], [None], 5)


def test_bfloat16_gives_float32_boxes(path: Path) -> None:
    exact = load_proposer(str(path), device='cpu').propose([frame(48, 64)], [None], 5)[0]
    rough = load_proposer(str(path), device='cpu', precision='bf16').propose([frame(48, 64)], [None], 5)[0]
    assert rough.xyxy.dtype == np.float32 and len(rough) == len(exact)
    np.testing.assert_allclose(rough.objectness, exact.objectness, atol=0.02)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'precision': 'int8'}, "precision 'int8' is unknown"),
        ({'precision': 'fp16'}, 'fp16 only on a GPU'),
        ({'device': 'tpu'}, "device 'tpu' is unknown"),
    ],
)
def test_options_that_do_not_exist(path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_proposer(str(path), **{'device': 'cpu', **options})


def test_nanos_boxes_for_another_embedder() -> None:
    proposer = load_proposer('nano', device='cpu')
    assert not isinstance(proposer, NanoProposer)
    found = proposer.propose([frame(120, 160), frame(80, 60)], ['what another model encoded'] * 2, 5)
    for boxes, size in zip(found, ([160, 120] * 2, [60, 80] * 2), strict=True):
        assert len(boxes) <= 5 and (boxes.xyxy <= size).all()

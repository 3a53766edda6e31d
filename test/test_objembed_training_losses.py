# SPDX-License-Identifier: Apache-2.0
"""ObjEmbed's losses: by hand, against the authors' numbers and gradients, and what masks leave out."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')

from safetensors.torch import load_file  # noqa: E402

from embedder_ros.models.objembed.checkpoint import load_objembed  # noqa: E402
from embedder_ros.models.objembed.config import SpecialTokens  # noqa: E402
from embedder_ros.training.losses import focal_terms  # noqa: E402
from embedder_ros.training.objembed import losses  # noqa: E402
from embedder_ros.training.objembed.losses import Block, Calibration  # noqa: E402

FIXTURE = Path(__file__).parent / 'data' / 'objembed_tiny'
TOKENS = SpecialTokens(7, 8, 9, 10)


def calibration(scale: float = 10.0, bias: float = -2.0) -> Calibration:
    return Calibration(torch.tensor([math.log(scale)], requires_grad=True), torch.tensor([bias], requires_grad=True))


def rows(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize(('target', 'expected'), [(1.0, 2 * 0.25 * math.log(2) / 4), (0.0, 2 * 0.75 * math.log(2) / 4)])
def test_focal_loss_of_one_undecided_pair(target: float, expected: float) -> None:
    """Conformance item 8."""
    assert losses.focal_loss(torch.zeros(1, 1), torch.tensor([[target]])).item() == pytest.approx(expected, rel=1e-6)


def test_focal_loss_is_a_mean_over_rows_and_a_sum_over_columns() -> None:
    one = losses.focal_loss(torch.zeros(1, 1), torch.zeros(1, 1))
    torch.testing.assert_close(losses.focal_loss(torch.zeros(5, 3), torch.zeros(5, 3)), 3 * one)
    mask = torch.zeros(5, 3)
    mask[0, 0] = 1
    torch.testing.assert_close(losses.focal_loss(torch.zeros(5, 3), torch.zeros(5, 3), mask), one / 5)


def test_focal_terms_are_nanos_formula() -> None:
    logits, targets = torch.tensor([-2.0, 0.3, 4.0]), torch.tensor([0.0, 0.7, 1.0])
    p = torch.sigmoid(logits)
    error = -(targets * p.log() + (1 - targets) * (1 - p).log())
    expected = torch.tensor([1.0, 2.0, 0.5]) * error * (1 - (p * targets + (1 - p) * (1 - targets))) ** 2
    torch.testing.assert_close(focal_terms(logits, targets, torch.tensor([1.0, 2.0, 0.5])), expected)


def test_losses_and_gradients_are_the_authors() -> None:
    network = load_objembed(FIXTURE, tokens=TOKENS, dtype=torch.float32).train()
    given, wanted = load_file(FIXTURE / 'inputs.safetensors'), load_file(FIXTURE / 'losses.safetensors')
    out = network(
        given['input_ids'], given['attention_mask'], torch.cat([given['pixel_values0'], given['pixel_values1']]),
        given['image_grid_thw'], [given['boxes0'], given['boxes1']], given['image_sizes_wh'],
    )  # fmt: skip
    texts = network.embed_text(wanted['text_ids'], torch.ones_like(wanted['text_ids']))
    labels = torch.cat([wanted['labels0'], wanted['labels1']])
    targets = torch.nn.functional.one_hot(labels.clamp(min=0), 8).float() * (labels >= 0)[:, None]
    mask = torch.cat([wanted['masks0'], wanted['masks1']])[:, None].expand(-1, 8)
    objects = Calibration(network.logit_log_scale, network.logit_bias)
    images = Calibration(network.logit_image_log_scale, network.logit_image_bias)
    short_long = [[texts[8], texts[10]], [texts[9], texts[11]]]
    got = losses.combine(
        losses.region_loss(out.object_embeddings, texts[:8], targets, mask, objects),
        losses.image_loss(losses.image_blocks(out.global_embeddings, short_long), images),
        losses.iou_loss(out.iou_logits, torch.cat([wanted['iou_targets0'], wanted['iou_targets1']])),
        losses.image_weight(2, True),
    )
    for name, value in got._asdict().items():
        assert value.item() == pytest.approx(wanted[f'{name}_loss'].item(), rel=1e-4), name
    got.total.backward()
    norms = [name for name in wanted if name.startswith('grad_norm.')]
    assert len(norms) == 7
    for name in norms:
        gradient = network.get_parameter(name.removeprefix('grad_norm.')).grad
        assert gradient.norm().item() == pytest.approx(wanted[name].item(), rel=1e-4), name


def test_masked_rows_change_nothing_but_the_mean() -> None:
    targets, mask = torch.zeros(3, 2), torch.ones(3, 2)
    targets[0, 1], mask[2] = 1, 0
    objects = rows(3)
    loss = losses.region_loss(objects, rows(2, 1), targets, mask, calibration())
    loss.backward()
    assert objects.grad[2].abs().sum() == 0 and objects.grad[:2].abs().sum(1).gt(0).all()
    kept = losses.region_loss(objects[:2], rows(2, 1), targets[:2], mask[:2], calibration())
    torch.testing.assert_close(loss * 3, kept * 2)


def test_texts_of_other_processes_are_wrong_answers_of_said_rows() -> None:
    bank, targets, mask = rows(5, 1), torch.eye(3), torch.ones(3, 3)
    mask[2] = 0
    loss = losses.region_loss(rows(3), bank, targets, mask, calibration())
    wide = losses.focal_loss(
        calibration().logits(rows(3), bank), torch.eye(3, 5), torch.tensor([[1.0], [1.0], [0.0]]).expand(3, 5)
    )
    torch.testing.assert_close(loss, wide)
    loss.backward()
    assert bank.grad[3:].abs().sum(1).gt(0).all()


@pytest.mark.parametrize('boxes', [0, 3])
def test_without_positives_losses_are_zero_and_the_graph_lives(boxes: int) -> None:
    objects, bank = rows(boxes), rows(4, 1)
    region = losses.region_loss(objects, bank, torch.zeros(boxes, 4), torch.zeros(boxes, 4), calibration())
    iou = losses.iou_loss(objects[:, :1], torch.zeros(boxes))
    image = losses.image_loss(losses.image_blocks(rows(2).view(1, 2, 8), [[None], [None]]), calibration())
    assert region.item() == iou.item() == image.item() == 0
    (region + iou + image).backward()
    assert bank.grad is not None


def test_iou_loss_reads_positives_alone() -> None:
    logits = torch.tensor([[9.0], [0.5], [-9.0], [-1.0]], requires_grad=True)
    loss = losses.iou_loss(logits, torch.tensor([0.0, 0.8, 0.0, 0.6]))
    loss.backward()
    assert logits.grad[[0, 2]].abs().sum() == 0 and logits.grad[[1, 3]].abs().gt(0).all()
    p, y = torch.sigmoid(torch.tensor([0.5, -1.0])), torch.tensor([0.8, 0.6])
    error = -(y * p.log() + (1 - y) * (1 - p).log())
    weight = (0.25 * y + 0.75 * (1 - y)) * (1 - (p * y + (1 - p) * (1 - y))) ** 2
    torch.testing.assert_close(loss, 2 * (weight * error).mean())


def test_a_better_box_is_asked_for_a_higher_quality() -> None:
    grid = torch.linspace(-4, 4, 161)
    best = [
        grid[torch.stack([losses.iou_loss(v, torch.tensor([iou])) for v in grid]).argmin()] for iou in (0.5, 0.7, 0.9)
    ]
    assert best[0] < best[1] < best[2]


@pytest.mark.parametrize(
    ('tokens', 'captions', 'weight'), [(2, True, 0.25), (2, False, 0.5), (1, True, 0.5), (0, False, 0.5)]
)
def test_weight_of_the_image_loss_by_flags(tokens: int, captions: bool, weight: float) -> None:
    assert losses.image_weight(tokens, captions) == weight
    total = losses.combine(torch.tensor(1.0), torch.tensor(1.0), torch.tensor(1.0), weight).total
    assert total.item() == 2 + weight


@pytest.mark.parametrize(('tokens', 'kinds', 'blocks'), [(2, 2, 2), (1, 2, 2), (2, 1, 2), (1, 1, 1)])
def test_image_embeddings_and_captions_are_paired(tokens: int, kinds: int, blocks: int) -> None:
    images, captions = rows(3 * tokens).view(3, tokens, 8), rows(3 * kinds, 1).view(kinds, 3, 8)
    paired = losses.image_blocks(images, [list(kind) for kind in captions])
    assert len(paired) == blocks
    torch.testing.assert_close(paired[-1].images, images[:, tokens - 1])
    torch.testing.assert_close(paired[-1].captions, captions[kinds - 1])


def test_images_without_a_caption_are_left_out() -> None:
    images, captions = rows(6).view(3, 2, 8), rows(6, 1)
    paired = losses.image_blocks(images, [[captions[0], None, captions[2]], [None, captions[4], None]])
    assert [len(b.images) for b in paired] == [2, 1]
    loss = losses.image_loss(paired, calibration())
    first = losses.image_loss(paired[:1], calibration()) * 2 + losses.image_loss(paired[1:], calibration())
    torch.testing.assert_close(loss, first / 3)


def test_captions_of_other_processes_are_cut_to_the_fewest() -> None:
    images, captions = rows(2), rows(6, 1)
    wide, narrow = Block(images, captions[:5]), Block(images, captions[:3])
    torch.testing.assert_close(
        losses.image_loss([wide, narrow], calibration()), losses.image_loss([narrow, narrow], calibration())
    )

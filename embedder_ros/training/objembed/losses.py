# SPDX-License-Identifier: Apache-2.0
"""ObjEmbed's three losses (MODELS.md 1.10), on raw embeddings as the network returns them.

total = region + image_weight * image + iou. The paper's text swaps the weights of the image and the IoU loss; this is
what the released code does. Not measured: a training run on the paper's corpus.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from embedder_ros.training.losses import focal_terms
from embedder_ros.training.objembed.processes import Shared

POSITIVE_SHARE = 0.25  # alpha: raising it makes missed objects costlier and false matches cheaper
GAIN = 2.0  # of every focal loss


class Losses(NamedTuple):
    """The losses of one batch, scalars; `image` before its weight."""

    region: Tensor
    image: Tensor
    iou: Tensor
    total: Tensor


class Calibration(NamedTuple):
    """How a cosine becomes a logit: cos * e^log_scale + bias; parameters (1,) each, so that they learn."""

    log_scale: Tensor
    bias: Tensor

    def logits(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(R, C) from raw embeddings (R, H) and (C, H)."""
        cosine = F.normalize(rows, dim=-1) @ F.normalize(columns, dim=-1).T
        return cosine * self.log_scale.exp() + self.bias


def focal_loss(logits: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over rows, masked ones counted, of the sum over columns; scalar.

    Args:
        logits: (R, C).
        targets: (R, C), 0 to 1.
        mask: (R, C), 0 where nothing is said, or None.
    """
    weight = POSITIVE_SHARE * targets + (1 - POSITIVE_SHARE) * (1 - targets)
    terms = focal_terms(logits, targets, weight if mask is None else weight * mask)
    return GAIN * terms.mean(0).sum()


def text_bank(mine: Shared, others: Sequence[Shared], *, most: int | None = None, apart: bool = False) -> Tensor:
    """(C, H) this process's texts, then other processes', each once.

    Args:
        mine: all are kept.
        others: of other processes.
        most: in all, for objects the checkpoint's num_classes; None for no limit.
        apart: equal texts are not the same, and private ones of others are left out (HumanRef).
    """
    kept, known, start = list(range(len(mine.rows))), set(mine.texts), len(mine.rows)
    for other in others:
        for column, text in enumerate(other.texts):
            if column in other.private if apart else text in known:
                continue
            known.add(text)
            kept.append(start + column)
        start += len(other.rows)
    if most is not None:
        kept = kept[: max(most, len(mine.rows))]
    # Chosen from all rows, so that the bank depends on every process even where it keeps none of another; see exchange.
    return torch.cat([mine.rows, *(other.rows for other in others)])[kept]


def region_loss(objects: Tensor, bank: Tensor, targets: Tensor, mask: Tensor, calibration: Calibration) -> Tensor:
    """Every box against every text.

    Args:
        objects: (R, H) raw object embeddings of all images of this process.
        bank: (C, H) raw text embeddings: its own texts, then other processes'.
        targets: (R, L) 1 where a text is true of a box, L <= C; texts beyond L are other processes' and true of none.
        mask: (R, L), 0 where nothing is said; a row of zeros is compared with no text beyond L either.
        calibration: of objects and texts.
    """
    if not targets.numel():
        return (objects.sum() + bank.sum()) * 0
    extra = len(bank) - targets.shape[1]
    mask = torch.cat([mask, mask.amax(1, keepdim=True).expand(-1, extra)], 1)
    return focal_loss(calibration.logits(objects, bank), F.pad(targets, (0, extra)), mask)


def iou_loss(logits: Tensor, iou: Tensor) -> Tensor:
    """How well each box that shows an object fits it; the true IoU is a soft target.

    Args:
        logits: (R, 1) or (R,).
        iou: (R,) IoU with the nearest labelled box where that is at least 0.5, else 0: nothing is said.
    """
    logits = logits.reshape(-1)
    shown = iou > 0
    if not bool(shown.any()):
        return logits.sum() * 0  # every parameter still gets a gradient, which processes that wait for one need
    return focal_loss(logits[shown, None], iou[shown, None])


class Block(NamedTuple):
    """One kind of image embedding and the captions it is compared with.

    Attributes:
        images: (B, H) raw; rows without a caption of this kind are left out.
        captions: (C, H) raw, row i true of image i; rows from B on are other processes'.
    """

    images: Tensor
    captions: Tensor


def image_loss(blocks: Sequence[Block], calibration: Calibration) -> Tensor:
    """Whole images against captions; scalar, before its weight.

    Blocks are stacked along rows. Others' captions are cut to the block that has fewest.
    """
    others = min(len(b.captions) - len(b.images) for b in blocks)
    rows = sum(len(b.images) for b in blocks)
    # The loss depends on every block, also on one without images; see processes.exchange.
    total = sum((b.images.sum() + b.captions.sum() for b in blocks), calibration.bias.sum()) * 0
    # Blocks may differ in columns where captions are missing, so each is averaged alone and weighed by its rows.
    for images, captions in (b for b in blocks if len(b.images)):
        logits = calibration.logits(images, captions[: len(images) + others])
        targets = torch.eye(*logits.shape, device=logits.device, dtype=logits.dtype)
        total = total + focal_loss(logits, targets) * (len(images) / rows)
    return total


def image_blocks(
    images: Tensor, captions: Sequence[Sequence[Tensor | None]], others: Sequence[Tensor] = ()
) -> list[Block]:
    """Pair image embeddings with captions: coarse with short, detailed with long.

    With one image embedding and two kinds of caption it learns both, and the other way round (MODELS.md 1.10 gives
    only the released pairing; this is our reading of the rest).

    Args:
        images: (B, G, H) raw image embeddings, G of 1 or 2.
        captions: for each kind, shortest first, one raw (H,) embedding or None per image.
        others: for each kind, (C, H) of other processes' images.
    """
    blocks = []
    for index in range(max(images.shape[1], len(captions)) if captions else 0):
        kind = min(index, len(captions) - 1)
        mine = captions[kind]
        captioned = {row: caption for row, caption in enumerate(mine) if caption is not None}
        view = images[:, min(index, images.shape[1] - 1)]
        given = torch.stack(list(captioned.values())) if captioned else images.new_zeros(0, images.shape[2])
        blocks.append(Block(view[list(captioned)], torch.cat([given, others[kind]]) if others else given))
    return blocks


def image_weight(use_two_tokens: int, use_two_captions: bool) -> float:
    """0.25 in the released configuration, 0.5 in every other."""
    return 0.25 if use_two_tokens == 2 and use_two_captions else 0.5


def combine(region: Tensor, image: Tensor, iou: Tensor, weight: float) -> Losses:
    """The three losses and their sum with the image loss weighed."""
    return Losses(region, image, iou, region + weight * image + iou)

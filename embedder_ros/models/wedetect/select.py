# SPDX-License-Identifier: Apache-2.0
"""Which of the network's boxes are proposals (MODELS.md 2.5): non-maximum suppression for each prompt by itself."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedder_ros.types import FloatArray, box_iou

CANDIDATES = 30_000  # best pairs of anchor and prompt that are looked at
SAME = 0.7  # IoU above which two boxes of one prompt are one
CHUNK = 512  # pairs compared with each other at once; more are needed only when the first repeat each other


def select(boxes: Tensor, logits: Tensor, most: int) -> tuple[FloatArray, FloatArray]:
    """The best boxes of one image.

    Args:
        boxes: (A, 4) xyxy.
        logits: (A, P).
        most: how many at most.

    Returns:
        (N, 4) boxes and (N,) scores in 0..1, best first. Boxes of different prompts may be nearly the same.
    """
    prompts = logits.shape[1]
    best = torch.topk(logits.flatten(), min(CANDIDATES, logits.numel()))
    score, pair = best.values.sigmoid().cpu().numpy(), best.indices.cpu().numpy()
    score, pair = score[score > 0], pair[score > 0]
    candidates = boxes.cpu().numpy()[pair // prompts]
    keep = _distinct(candidates, pair % prompts, most)
    return candidates[keep].astype(np.float32), score[keep].astype(np.float32)


def _distinct(boxes: FloatArray, prompts: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Rows that overlap no earlier kept row of their prompt, in order, at most `most`: greedy, chunk by chunk."""
    kept = np.zeros(0, np.int64)
    for start in range(0, len(boxes), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(boxes)))
        rows = rows[~_same(boxes, prompts, rows, kept).any(axis=1)]
        same, free = _same(boxes, prompts, rows, rows), np.ones(len(rows), bool)
        for i in range(len(rows)):
            if free[i]:
                free[i + 1 :] &= ~same[i, i + 1 :]
        kept = np.concatenate([kept, rows[free]])[:most]
        if len(kept) == most:
            break
    return kept


def _same(
    boxes: FloatArray, prompts: NDArray[np.int64], a: NDArray[np.int64], b: NDArray[np.int64]
) -> NDArray[np.bool_]:
    return (box_iou(boxes[a], boxes[b]) > SAME) & (prompts[a][:, None] == prompts[b])

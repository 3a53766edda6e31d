# SPDX-License-Identifier: Apache-2.0
"""Which of the network's boxes are proposals (MODELS.md 2.5): non-maximum suppression for each prompt by itself."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from embedder_ros.suppress import distinct
from embedder_ros.types import FloatArray

CANDIDATES = 30_000  # best pairs of anchor and prompt that are looked at
SAME = 0.7  # IoU above which two boxes of one prompt are one


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
    keep = distinct(candidates, pair % prompts, SAME, most)
    return candidates[keep].astype(np.float32), score[keep].astype(np.float32)

# SPDX-License-Identifier: Apache-2.0
"""What nano's and ObjEmbed's training share: sigmoid focal loss on every pair, before any mean."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def focal_terms(logits: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """Cross entropy, times how wrong the answer is, squared, so that the many easy pairs do not drown the few hard.

    Args:
        logits: any shape.
        targets: same shape, 0 to 1; an IoU in between is a soft target.
        weight: same shape or broadcast to it; what each pair is worth.

    Returns:
        The loss of every pair, not yet summed, in the shape of `logits`.
    """
    probability = torch.sigmoid(logits)
    error = F.binary_cross_entropy_with_logits(logits, targets, reduction='none')
    agreed = probability * targets + (1 - probability) * (1 - targets)
    return weight * error * (1 - agreed) ** 2

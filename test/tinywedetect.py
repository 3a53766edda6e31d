# SPDX-License-Identifier: Apache-2.0
"""A WeDetect-Uni small enough for tests, in the file of a released one, so that the real loader runs."""

from __future__ import annotations

import numpy as np
import torch

from embedder_ros.models.wedetect.checkpoint import released
from embedder_ros.models.wedetect.network import Shape, WeDetectUni
from embedder_ros.types import Frame

TINY = Shape((8, 8, 16, 16), (1, 1, 2, 1), (8, 16, 32), reg_width=8, cls_width=8, prompts=4, embedding=8)


def tiny_network() -> WeDetectUni:
    """Random weights, the same in every call."""
    torch.manual_seed(0)
    network = WeDetectUni(TINY).eval()
    torch.nn.init.normal_(network.embeddings)
    return network


def tiny_tensors() -> dict[str, torch.Tensor]:
    """Its tensors under the names of a released file."""
    return {released(key): value.detach() for key, value in tiny_network().state_dict().items()}


def frame(height: int, width: int, seed: int = 0) -> Frame:
    """A frame of noise."""
    return Frame(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8), 1, 'front')

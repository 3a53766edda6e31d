# SPDX-License-Identifier: Apache-2.0
"""Sine embeddings of places: image cells and boxes (MODELS.md 1.6). Always float32.

The reference evaluates them in bfloat16; the difference is a cosine of 1.000 on random networks, and not measured on
released weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine(values: Tensor, width: int) -> Tensor:
    """Coordinates (..., D) to (..., width) float32: D blocks, each sines at even and cosines at odd places."""
    d = width // values.shape[-1]
    pairs = torch.arange(0, d, 2, device=values.device, dtype=torch.float32)
    angles = values.float()[..., None] * (2 * math.pi) / 10000.0 ** (pairs / d)  # (..., D, d / 2)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-3)


def cells(height: int, width: int, *, device: torch.device | str | None = None) -> Tensor:
    """(height * width, 2) y, x of a grid's cells in raster order, from 0.5 to below 1.5.

    The half is added after dividing by the size, as the reference does.
    """
    y = torch.arange(height, device=device, dtype=torch.float32) / height + 0.5
    x = torch.arange(width, device=device, dtype=torch.float32) / width + 0.5
    return torch.stack(torch.meshgrid(y, x, indexing='ij'), -1).flatten(0, 1)


def centred(boxes: Tensor) -> Tensor:
    """Boxes (N, 4) x0 y0 x1 y1, in shares of the image, to (N, 4) centre y, centre x, width, height."""
    low, high = boxes[:, :2], boxes[:, 2:]
    return torch.cat([((low + high) / 2).flip(-1), high - low], -1)

# SPDX-License-Identifier: Apache-2.0
"""RoIAlign with torchvision's semantics, without torchvision: aligned=False, as many samples as a bin has cells.

Bilinear sampling on a grid is separable, and so are its border rules: a region is two small matrices, one per axis,
times the feature map. That is two matrix products for all regions, which every device does fast, and gradients come by
themselves. Exported to ONNX it is one RoiAlign operator.
"""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 7
# Regions per product. More are faster on a large GPU; the intermediate takes 28 bytes x regions x width x channels.
CHUNK = 128


def roi_align(features: Tensor, boxes: Tensor, scale: float, *, samples: int | None = None) -> Tensor:
    """Average features under 7 x 7 bins of each box.

    Args:
        features: (height, width, channels) float32, channels last.
        boxes: (N, 4) float32 x0 y0 x1 y1. A side of less than one cell counts as one cell; what lies more than a cell
            outside the map counts as zero.
        scale: cells per unit of the boxes, such as 1/16.
        samples: most samples per bin and axis that any box needs (`most_samples`); found here when not given, which
            waits for the device if the boxes lie on one.

    Returns:
        (N, 7, 7, channels) float32, rows first.
    """
    if torch.onnx.is_in_onnx_export():
        return _onnx(features, boxes, scale)
    samples = most_samples(boxes, scale) if samples is None else samples
    height, width, channels = features.shape
    parts = []
    for part in boxes.split(CHUNK):
        rows = _weights(part[:, 1], part[:, 3], scale, height, samples)
        columns = _weights(part[:, 0], part[:, 2], scale, width, samples)
        lines = rows.flatten(0, 1) @ features.reshape(height, width * channels)
        parts.append(columns[:, None] @ lines.view(len(part), BINS, width, channels))
    return torch.cat(parts) if parts else features.new_zeros(0, BINS, BINS, channels)


def most_samples(boxes: Tensor, scale: float) -> int:
    """Most samples per bin and axis that any of the boxes (N, 4) needs."""
    if not len(boxes):
        return 1
    sides = (boxes[:, 2:] * scale - boxes[:, :2] * scale).clamp(min=1.0)
    return int((sides / BINS).ceil().max())


def _weights(low: Tensor, high: Tensor, scale: float, size: int, samples: int) -> Tensor:
    """(N, 7, size): how much every cell of one axis counts in every bin."""
    start = low * scale
    side = (high * scale - start).clamp(min=1.0)
    count = (side / BINS).ceil()[:, None, None]  # samples per bin, (N, 1, 1)
    bins = torch.arange(BINS, device=low.device, dtype=low.dtype)[:, None] * (side / BINS)[:, None, None]
    step = torch.arange(samples, device=low.device, dtype=low.dtype)
    at = start[:, None, None] + bins + (step + 0.5) * (side / BINS)[:, None, None] / count  # (N, 7, samples)
    used = (step < count) & (at >= -1.0) & (at <= size)
    distance = at.clamp(0.0, size - 1.0)[..., None] - torch.arange(size, device=low.device, dtype=low.dtype)
    hat = (1.0 - distance.abs()).clamp(min=0.0) * used[..., None]
    return hat.sum(2) / count


def _onnx(features: Tensor, boxes: Tensor, scale: float) -> Tensor:
    """The same as the ONNX operator, which takes and gives channels first."""
    rows = torch.onnx.ops.symbolic(
        'RoiAlign',
        (features.permute(2, 0, 1)[None], boxes, torch.zeros_like(boxes[:, 0], dtype=torch.int64)),
        attrs={
            'coordinate_transformation_mode': 'output_half_pixel',
            'mode': 'avg',
            'output_height': BINS,
            'output_width': BINS,
            'sampling_ratio': 0,
            'spatial_scale': scale,
        },
        dtype=features.dtype,
        shape=(boxes.shape[0], features.shape[2], BINS, BINS),
        version=16,
    )
    return rows.permute(0, 2, 3, 1)

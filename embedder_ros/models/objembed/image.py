# SPDX-License-Identifier: Apache-2.0
"""Camera image to the patches Qwen3-VL reads (MODELS.md 1.5), on the device the model runs on.

The resize equals Pillow's bicubic bit for bit, since the authors train and evaluate with it; a test holds the two
equal. Pillow 13 resamples some tall images vertically first, which changes single levels; here it is always widths
first, as in the Pillow of the authors' time.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from embedder_ros.types import UserError

CELL = 32  # pixels per side of one image token: patches of 16, merged 2 x 2
MIN_TOKENS, MAX_TOKENS = 900, 1200  # the authors' budget; below it the model is outside what it was trained on
MAX_ASPECT = 200
_BITS = 22  # fixed-point bits of Pillow's 8-bit resize


def resized_size(
    width: int, height: int, min_tokens: int = MIN_TOKENS, max_tokens: int = MAX_TOKENS
) -> tuple[int, int]:
    """Width and height in pixels, multiples of 32, that an image is resized to (Qwen's smart resize).

    Args:
        width: source pixels.
        height: source pixels.
        min_tokens: fewest 32 x 32 cells; small images are enlarged.
        max_tokens: most 32 x 32 cells. Lowering it saves time and loses small things.

    Raises:
        UserError: one side is more than 200 times the other.
    """
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UserError(f'the image is {width}x{height}; crop it, one side may be at most {MAX_ASPECT} times the other')
    sides = [round(side / CELL) * CELL for side in (width, height)]  # round() is banker's, as the authors' is
    area = sides[0] * sides[1]
    if area > max_tokens * CELL**2:
        shrink = math.sqrt(width * height / (max_tokens * CELL**2))
        sides = [max(CELL, math.floor(side / shrink / CELL) * CELL) for side in (width, height)]
    elif area < min_tokens * CELL**2:
        grow = math.sqrt(min_tokens * CELL**2 / (width * height))
        sides = [math.ceil(side * grow / CELL) * CELL for side in (width, height)]
    return sides[0], sides[1]


def resize(image: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Bicubic with antialiasing, as Pillow computes it, widths first.

    Args:
        image: (H, W, 3) uint8.
        width: pixels of the result.
        height: pixels of the result.

    Returns:
        (height, width, 3) uint8 on the same device.
    """
    for dim, side in ((1, width), (0, height)):
        if image.shape[dim] != side:
            image = _resample(image, dim, side)
    return image


def patches(
    image: torch.Tensor,
    *,
    mean: tuple[float, ...] = (0.5, 0.5, 0.5),
    std: tuple[float, ...] = (0.5, 0.5, 0.5),
    patch: int = 16,
    merge: int = 2,
    frames: int = 2,
) -> torch.Tensor:
    """Normalise and cut into patches, in the order in which `merge` x `merge` of them become one token.

    Args:
        image: (H, W, 3) uint8, sides multiples of patch * merge.
        mean: per channel, of values in 0..1.
        std: per channel, likewise.
        patch: pixels per side of a patch.
        merge: patches per side of a token.
        frames: times the image is repeated in each patch; the network reads short videos.

    Returns:
        (H * W / patch**2, 3 * frames * patch**2) float32.
    """
    height, width, channels = image.shape
    colour = torch.tensor([mean, std], dtype=torch.float32, device=image.device)
    values = (image.to(torch.float32) / 255 - colour[0]) / colour[1]
    rows, columns = height // (patch * merge), width // (patch * merge)
    cut = values.reshape(rows, merge, patch, columns, merge, patch, channels).permute(0, 3, 1, 4, 6, 2, 5)
    cut = cut.unsqueeze(5).expand(-1, -1, -1, -1, -1, frames, -1, -1)
    return cut.reshape(rows * columns * merge**2, channels * frames * patch**2)


def _resample(image: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    """One axis at a time, each rounded to uint8, in 32-bit fixed point: any order of adding gives the same bits."""
    sources, weights = _taps(image.shape[dim], size, image.device)
    pixels = image.transpose(0, dim).to(torch.int32).contiguous()  # whole rows are gathered faster than pixels
    out = torch.full((size, *pixels.shape[1:]), 1 << (_BITS - 1), dtype=torch.int32, device=image.device)
    for source, weight in zip(sources, weights, strict=True):
        out += pixels.index_select(0, source).mul_(weight[:, None, None])
    return (out >> _BITS).clamp_(0, 255).to(torch.uint8).transpose(0, dim)


@lru_cache(maxsize=64)
def _taps(before: int, after: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Which source pixels each output pixel is made of, and how much of each.

    Returns:
        (taps, after) int64 source positions and (taps, after) int32 weights that sum to about 2**22.
    """
    scale = before / after
    widen = max(scale, 1.0)
    centre = (np.arange(after) + 0.5) * scale
    first = np.maximum(np.trunc(centre - 2 * widen + 0.5), 0).astype(np.int64)
    last = np.minimum(np.trunc(centre + 2 * widen + 0.5), before).astype(np.int64)
    source = first + np.arange((last - first).max())[:, None]
    weight = np.where(source < last, _cubic((source - centre + 0.5) / widen), 0.0)
    weight /= weight.sum(axis=0)
    fixed = np.trunc(weight * (1 << _BITS) + np.copysign(0.5, weight)).astype(np.int32)
    return torch.from_numpy(np.minimum(source, before - 1)).to(device), torch.from_numpy(fixed).to(device)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution with a = -0.5."""
    x = np.abs(x)
    near, far = ((1.5 * x - 2.5) * x) * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))

# SPDX-License-Identifier: Apache-2.0
"""Images into WeDetect-Uni's square and boxes out of it (MODELS.md 2.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embedder_ros.types import FloatArray

PAD = 114  # grey around the image


@dataclass(frozen=True, slots=True)
class Letterbox:
    """How an image lies in the square.

    Attributes:
        ratio: square pixels per image pixel.
        left, top: where the image begins in the square; half a pixel where the rest is odd, as the authors undo it.
        width, height: of the image.
    """

    ratio: float
    left: float
    top: float
    width: int
    height: int

    def undo(self, boxes: FloatArray) -> FloatArray:
        """(N, 4) xyxy pixels of the square to pixels of the image, inside it; float32."""
        out = (boxes - np.array([self.left, self.top] * 2, np.float32)) / np.float32(self.ratio)
        return np.clip(out, 0, np.array([self.width, self.height] * 2, np.float32)).astype(np.float32)


def letterbox(image: NDArray[np.uint8], side: int) -> tuple[NDArray[np.uint8], Letterbox]:
    """(H, W, 3) uint8 RGB in the middle of a grey (side, side, 3), scaled to fit by PIL's bilinear filter."""
    height, width = image.shape[:2]
    ratio = min(side / width, side / height)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    rest_x, rest_y = side - size[0], side - size[1]
    x, y = rest_x // 2, rest_y // 2
    square = np.full((side, side, 3), PAD, np.uint8)
    scaled = (
        Image.fromarray(image)
        if size == (width, height)
        else Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
    )
    square[y : y + size[1], x : x + size[0]] = np.asarray(scaled)
    return square, Letterbox(ratio, rest_x / 2, rest_y / 2, width, height)

# SPDX-License-Identifier: Apache-2.0
"""What colour a box is, in the words people use, from plain pixels: the part of nano that is right untrained.

Boxes are sampled on a fixed grid, so cost does not depend on their size. Twelve colour names by distance in Lab space;
not measured: coloured light.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from embedder_ros.types import FloatArray

# Typical sRGB of each name. 'wooden' and 'silver' things are read as brown and gray (see text.COLOUR_WORDS).
PALETTE: dict[str, tuple[tuple[int, int, int], ...]] = {
    'red': ((200, 25, 25), (140, 15, 20), (225, 60, 50)),
    'green': ((30, 140, 40), (15, 80, 25), (110, 180, 60)),
    'blue': ((25, 60, 200), (15, 30, 110), (70, 130, 210)),
    'yellow': ((245, 210, 30), (200, 170, 20), (250, 235, 110)),
    'orange': ((240, 120, 15), (200, 90, 10)),
    'purple': ((115, 30, 155), (80, 20, 100), (150, 90, 190)),
    'pink': ((245, 130, 175), (230, 80, 140), (250, 185, 205)),
    'brown': ((105, 60, 25), (70, 40, 20), (150, 100, 60)),
    'black': ((12, 12, 12), (35, 35, 38)),
    'white': ((245, 245, 245), (215, 215, 215)),
    'gray': ((128, 128, 128), (90, 90, 92), (165, 165, 165)),
    'cyan': ((25, 190, 205), (20, 130, 140), (130, 215, 220)),
}
COLOURS = tuple(PALETTE)

SAMPLES = 16  # samples per box side
ZONES = 3  # centre, border and surroundings of a box
HISTOGRAM = 64  # bins of the appearance histogram
LOOK = ZONES * len(COLOURS) + 48 + HISTOGRAM
THUMBNAIL = slice(ZONES * len(COLOURS), ZONES * len(COLOURS) + 48)  # of a look
_BITS = 5  # bits per channel kept when a pixel is looked up
_SOFTNESS = 9.0  # Lab distance over which two names share a pixel; raising it blurs neighbouring colours
_SURROUND = 1.6  # size of the surroundings relative to the box


def describe(image: np.ndarray, boxes: FloatArray) -> FloatArray:
    """What the pixels of each box look like.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) xyxy pixels inside the image.

    Returns:
        (N, LOOK) float32: shares of the 12 colour names in centre, border and surroundings; a 4 x 4 RGB thumbnail in
        0..1; square roots of a Lab histogram, whose length is 1.
    """
    names, bins = _tables()
    inside, codes = _sample(image, boxes)
    around = _sample(image, _grown(boxes, image.shape))[1]
    centre, outside = _zones()
    shares = [
        names[codes[:, centre]].mean(axis=1),
        names[codes[:, ~centre]].mean(axis=1),
        names[around[:, outside]].mean(axis=1),
    ]
    thumbnail = inside.reshape(-1, 4, 4, 4, 4, 3).mean(axis=(2, 4)).reshape(len(boxes), -1) / 255
    cells = HISTOGRAM * np.arange(len(boxes))[:, None] + bins[codes]
    counts = np.bincount(cells.reshape(-1), minlength=len(boxes) * HISTOGRAM).reshape(-1, HISTOGRAM)
    return np.concatenate([*shares, thumbnail, np.sqrt(counts / codes.shape[1])], axis=1).astype(np.float32)


def _sample(image: np.ndarray, boxes: FloatArray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels on a grid in each box: (N, S, S, 3) values and (N, S * S) table rows."""
    steps = (np.arange(SAMPLES) + 0.5) / SAMPLES
    columns = (boxes[:, :1] + (boxes[:, 2:3] - boxes[:, :1]) * steps).astype(int).clip(0, image.shape[1] - 1)
    rows = (boxes[:, 1:2] + (boxes[:, 3:4] - boxes[:, 1:2]) * steps).astype(int).clip(0, image.shape[0] - 1)
    pixels = image[rows[:, :, None], columns[:, None, :]]
    coarse = pixels.astype(np.int32) >> (8 - _BITS)
    codes = (coarse[..., 0] << 2 * _BITS) + (coarse[..., 1] << _BITS) + coarse[..., 2]
    return pixels, codes.reshape(len(boxes), -1)


def _grown(boxes: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * _SURROUND
    limit = np.array([shape[1], shape[0]])
    return np.concatenate([np.clip(centre - half, 0, limit), np.clip(centre + half, 0, limit)], axis=1)


@cache
def _zones() -> tuple[np.ndarray, np.ndarray]:
    """Which samples are the centre of a box, and which samples of the grown box lie outside the box itself."""
    offset = np.abs((np.arange(SAMPLES) + 0.5) / SAMPLES * 2 - 1)
    reach = np.maximum(offset[:, None], offset[None, :]).reshape(-1)
    return reach < 0.6, reach > 1 / _SURROUND


@cache
def _tables() -> tuple[FloatArray, np.ndarray]:
    """For every coarse RGB value: (32768, 12) shares of the colour names and (32768,) histogram bin."""
    levels = (np.arange(2**_BITS) * 2 ** (8 - _BITS) + 2 ** (7 - _BITS)).astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing='ij'), axis=-1).reshape(-1, 3)
    lab = _lab(colours)
    distance = np.stack([_nearest(lab, _lab(np.array(anchors, np.uint8))) for anchors in PALETTE.values()], axis=1)
    shares = np.exp(-(distance - distance.min(axis=1, keepdims=True)) / _SOFTNESS)
    return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32), _bins(lab)


def _nearest(lab: FloatArray, anchors: FloatArray) -> FloatArray:
    # Lightness counts less than hue: shading changes it first.
    return np.linalg.norm((lab[:, None] - anchors[None]) * np.array([0.6, 1.0, 1.0]), axis=2).min(axis=1)


def _bins(lab: FloatArray) -> np.ndarray:
    """Histogram bin: 4 levels of lightness x (12 hues + 4 rings near gray) = 64."""
    light = np.clip(lab[:, 0] // 25, 0, 3).astype(int)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    hue = ((np.arctan2(lab[:, 2], lab[:, 1]) / (2 * np.pi) % 1) * 12).astype(int).clip(0, 11)
    return light * 16 + np.where(chroma < 12, 12 + np.clip(chroma // 3, 0, 3).astype(int), hue)


def _lab(rgb: np.ndarray) -> FloatArray:
    return cv2.cvtColor((rgb[None] / 255).astype(np.float32), cv2.COLOR_RGB2LAB)[0]

# SPDX-License-Identifier: Apache-2.0
"""Which proposals show which labelled object, and which say nothing (MODELS.md 1.10). numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedder_ros.types import FloatArray, box_iou

SHOWS = 0.5  # IoU from which a proposal shows an object; raising it trains on fewer, better boxes
BACKGROUND = 0.2  # IoU below which it shows none; raising it calls boxes that cut into an object wrong answers


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """What the proposals of one image are.

    Attributes:
        row: (K,) int64 the one proposal that counts as each labelled object, -1 where none overlaps it enough.
        said: (N,) bool, whether a proposal is compared with texts at all: it counts as an object, or it is background.
        iou: (N,) float32 IoU with the nearest labelled object where that is at least SHOWS, else 0.
    """

    row: NDArray[np.int64]
    said: NDArray[np.bool_]
    iou: FloatArray


def assign(boxes: FloatArray, truth: FloatArray) -> Labels:
    """Match proposals (N, 4) with labelled boxes (K, 4), xyxy in the same pixels.

    Only the best proposal of each object counts; others that also show it teach the IoU and nothing else. Without any
    labelled object nothing is said.
    """
    if not len(boxes) or not len(truth):
        nothing = np.zeros(len(boxes), np.float32)
        return Labels(np.full(len(truth), -1), nothing > 0, nothing)
    overlap = box_iou(boxes, truth)
    row = np.where(overlap.max(axis=0) >= SHOWS, overlap.argmax(axis=0), -1)
    best = overlap.max(axis=1)
    said = best < BACKGROUND
    said[row[row >= 0]] = True
    return Labels(row, said, np.where(best >= SHOWS, best, np.float32(0)))


def with_truth(
    proposals: FloatArray, truth: FloatArray, *, width: int, height: int, rng: np.random.Generator
) -> FloatArray:
    """(M, 4) float32 the proposals in random order, with every labelled box that none of them shows, in the image.

    Proposals outside the image are left out.
    """
    boxes = _inside(proposals, width, height)
    missed = assign(boxes, truth).row < 0
    boxes = np.concatenate([boxes, _inside(truth[missed], width, height)])
    return boxes[rng.permutation(len(boxes))]


def _inside(boxes: FloatArray, width: int, height: int) -> FloatArray:
    cut = np.clip(boxes, 0, [width, height] * 2).astype(np.float32)
    return cut[(cut[:, 2:] > cut[:, :2]).all(axis=1)]

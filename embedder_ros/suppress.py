# SPDX-License-Identifier: Apache-2.0
"""Non-maximum suppression among the boxes of one label."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embedder_ros.types import FloatArray, box_iou

CHUNK = 128  # boxes compared with each other at once; raising it compares more boxes that earlier ones rule out


def distinct(boxes: FloatArray, labels: NDArray[np.int64], same: float, most: int) -> NDArray[np.int64]:
    """Rows that overlap no earlier kept row of their label by more than `same`, in order, at most `most`.

    Args:
        boxes: (N, 4) xyxy, best first.
        labels: (N,).
        same: IoU above which two boxes of one label are one.
        most: how many rows at most.
    """

    def repeats(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
        return (box_iou(boxes[a], boxes[b]) > same) & (labels[a][:, None] == labels[b])

    kept = np.zeros(0, np.int64)
    for start in range(0, len(boxes), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(boxes)))
        rows = rows[~repeats(rows, kept).any(axis=1)]
        again, free = repeats(rows, rows), np.ones(len(rows), bool)
        for i in range(len(rows)):
            if free[i]:
                free[i + 1 :] &= ~again[i, i + 1 :]
        kept = np.concatenate([kept, rows[free]])[:most]
        if len(kept) == most:
            break
    return kept

# SPDX-License-Identifier: Apache-2.0
"""Non-maximum suppression among the boxes of one label.

`distinct` is for tens of thousands of boxes of which few are kept; `distinct_pairs` for a few hundred boxes with up to
thousands of labels each.
"""

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


def distinct_pairs(
    one_thing: NDArray[np.bool_], rows: NDArray[np.int64], labels: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Pairs of box and label that are on one thing with no earlier kept pair of their label; (K,) indices, in order.

    Args:
        one_thing: (N, N) which boxes are on one thing.
        rows: (P,) box of each pair, best pair first.
        labels: (P,) label of each pair, from 0.
    """
    by_label = np.argsort(labels, kind='stable')
    counts = np.bincount(labels)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)  # of each pair within its label
    steps = np.split(by_label[np.argsort(place, kind='stable')], np.cumsum(np.bincount(place))[:-1])
    taken = np.zeros((len(counts), len(one_thing)), bool)  # (label, box)
    kept = []
    for step in steps:  # the next best pair of every label
        free = step[~taken[labels[step], rows[step]]]
        taken[labels[free]] |= one_thing[rows[free]]
        kept.append(free)
    return np.sort(np.concatenate(kept))

# SPDX-License-Identifier: Apache-2.0
"""The remembered frames nearest to a vector, out of all that are read."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from embedder_ros.memory import codec
from embedder_ros.memory.store import FrameHit
from embedder_ros.types import FloatArray


class FrameScan:
    """Takes frames in any order and keeps the best.

    Args:
        vector: (D,) float32 unit.
        k: frames wanted.
        row: -1 compares a frame's objects, otherwise the row of its frame embeddings.
    """

    def __init__(self, vector: FloatArray, k: int, row: int) -> None:
        self._vector, self._k, self._row = vector, k, row
        self._best: list[tuple[float, int, str, int]] = []

    def take(self, frames: Sequence[tuple[str, int, bytes]]) -> None:
        """Look at frames: camera, stamp, packed vectors."""
        size = 2 * len(self._vector)
        if self._row >= 0:
            low = self._row * size
            frames = [(camera, stamp, data[low : low + size]) for camera, stamp, data in frames]
        frames = [frame for frame in frames if frame[2]]
        if not frames:
            return
        counts = [len(data) // size for _, _, data in frames]
        scores = codec.unpack_vectors(b''.join(data for _, _, data in frames), len(self._vector)) @ self._vector
        for (camera, stamp, _), part in zip(frames, np.split(scores, np.cumsum(counts)[:-1]), strict=True):
            row = int(part.argmax())
            self._best.append((float(part[row]), stamp, camera, row if self._row < 0 else -1))
        self._best = heapq.nlargest(self._k, self._best)

    def hits(self) -> list[FrameHit]:
        """The k best, best first; of equal ones the newer first."""
        return [FrameHit(stamp, camera, cosine, row) for cosine, stamp, camera, row in self._best]

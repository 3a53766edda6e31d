# SPDX-License-Identifier: Apache-2.0
"""Frames to Observations. The only place where proposals meet the embedder; nodes, bags and tests come through here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedder_ros.models.base import Embedder, Proposer
from embedder_ros.positions import located
from embedder_ros.types import Boxes, Frame, Observation


class Pipeline:
    """A proposer and an embedder that see the same frames.

    Args:
        embedder: turns boxes into embeddings.
        proposer: where boxes come from.
        max_objects: most boxes per frame. Raising it finds smaller things and costs time per frame.
        score_threshold: objectness below which a proposal is dropped. Raising it loses faint objects.
    """

    def __init__(
        self, embedder: Embedder, proposer: Proposer, *, max_objects: int = 64, score_threshold: float = 0.0
    ) -> None:
        self.embedder = embedder
        self.proposer = proposer
        self.max_objects = max_objects
        self.score_threshold = score_threshold

    def observe(self, frames: Sequence[Frame]) -> list[Observation]:
        """One Observation per frame, in the frames' order; with positions where a frame has depth and intrinsics."""
        if not frames:
            return []
        encoded = self.embedder.encode(frames)
        boxes = [self._kept(b) for b in self.proposer.propose(frames, encoded, self.max_objects)]
        observations = self.embedder.embed(frames, encoded, boxes)
        return [located(f, o) for f, o in zip(frames, observations, strict=True)]

    def embed_boxes(self, frame: Frame, xyxy: np.ndarray) -> Observation:
        """Embed boxes that somebody else chose; (N, 4) pixels, clipped to the image by the caller."""
        boxes = Boxes(np.asarray(xyxy, np.float32).reshape(-1, 4), np.ones(len(xyxy), np.float32))
        return self.embedder.embed([frame], self.embedder.encode([frame]), [boxes])[0]

    def _kept(self, boxes: Boxes) -> Boxes:
        keep = boxes.objectness >= self.score_threshold
        return boxes if keep.all() else Boxes(boxes.xyxy[keep], boxes.objectness[keep])

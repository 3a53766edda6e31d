# SPDX-License-Identifier: Apache-2.0
"""Where nano's boxes come from: the detector's boxes and a small head that was trained on parts such as handles.

Thin boxes are looked at once more, enlarged, and their edges moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embedder_ros import suppress
from embedder_ros.inference.session import OnnxSession
from embedder_ros.models.nano.image import Encoded
from embedder_ros.types import Boxes, FloatArray, Frame, highest

MAPS = ('s4', 's8', 's16', 's32')  # of the backbone that the head reads
SAME_BOX = 0.65  # IoU above which two boxes are one; raising it keeps near-duplicates and pushes small things out
CANDIDATES = 250  # boxes of each source that enter the selection
REFINED_MAPS = ('s4', 's8', 's16')  # that the edges of thin boxes are found in, beside the pixels
# Backbone pixels; boxes whose shorter side is longer stay as they are. Raising it makes rendered boxes tighter and
# those on photos, where the refiner was shown little, looser.
THIN = 40.0
SPARE = 48  # boxes refined beyond those asked for: some turn out to be the same, and leave room for others
MIN_SIDE = 4.0  # backbone pixels; thinner boxes are noise


class NanoProposer:
    """Class-agnostic boxes from what the embedder already computed.

    Args:
        folder: holds proposals.onnx and refiner.onnx.
        device: 'auto', 'cpu' or 'cuda'.
        threads: CPU threads of one network call.
    """

    def __init__(self, folder: Path, *, device: str = 'auto', threads: int = 0) -> None:
        self._head = OnnxSession(folder / 'proposals.onnx', device=device, threads=threads)
        self._refiner = OnnxSession(folder / 'refiner.onnx', device=device, threads=threads)

    def propose(self, frames: Sequence[Frame], encoded: Sequence[Encoded], max_objects: int) -> list[Boxes]:
        """At most `max_objects` boxes per frame, best first, inside the image, in source pixels."""
        return [self._propose(frame, one, max_objects) for frame, one in zip(frames, encoded, strict=True)]

    def _propose(self, frame: Frame, encoded: Encoded, max_objects: int) -> Boxes:
        boxes, scores = self.choose(encoded, max_objects)
        size = np.array([frame.width, frame.height] * 2, np.float32)
        xyxy = np.clip(boxes / np.tile(encoded.scale, 2), 0, size).astype(np.float32)
        whole = (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)  # rounding may close a box at the border of a tiny image
        return Boxes(xyxy[whole], scores[whole].astype(np.float32))

    def choose(self, encoded: Encoded, most: int) -> tuple[FloatArray, FloatArray]:
        """At most `most` distinct boxes (M, 4), best first, in backbone pixels, and scores (M,)."""
        boxes, scores = self.candidates(encoded)
        keep = distinct(boxes, scores, most + SPARE)
        boxes, scores = self.refined(boxes[keep], encoded), scores[keep]
        keep = distinct(boxes, scores, most)
        return boxes[keep], scores[keep]

    def refined(self, boxes: FloatArray, encoded: Encoded) -> FloatArray:
        """Boxes (M, 4) in backbone pixels, the thin ones where their edges are."""
        thin = _shorter(boxes) <= THIN
        if not thin.any():
            return boxes
        maps = {name: encoded.maps[name] for name in REFINED_MAPS}
        found = self._refiner.run({'image': encoded.image[None], 'boxes': boxes[thin].astype(np.float32)} | maps)
        out = boxes.copy()
        out[thin] = np.clip(found['refined'], 0, np.tile(encoded.whole[0, 2:], 2))
        return np.where(_shorter(out)[:, None] >= MIN_SIDE, out, boxes)

    def candidates(self, encoded: Encoded) -> tuple[FloatArray, FloatArray]:
        """Boxes (M, 4) in backbone pixels and scores (M,) of both sources, overlaps included."""
        found = self._head.run({'image': encoded.image[None]} | {name: encoded.maps[name] for name in MAPS})
        best = highest(found['objectness'], CANDIDATES)
        boxes = np.concatenate([encoded.boxes[:CANDIDATES], found['boxes'][best]])
        scores = np.concatenate([np.sqrt(encoded.scores[:CANDIDATES].max(axis=1)), found['objectness'][best]])
        boxes = np.clip(boxes, 0, np.tile(encoded.whole[0, 2:], 2))
        kept = _shorter(boxes) >= MIN_SIDE
        return boxes[kept], scores[kept]


def distinct(boxes: FloatArray, scores: FloatArray, most: int) -> np.ndarray:
    """Rows of the best boxes that do not repeat a better one, best first."""
    order = np.argsort(-scores, kind='stable')
    return order[suppress.distinct(boxes[order], np.zeros(len(order), int), SAME_BOX, most)]


def _shorter(boxes: FloatArray) -> FloatArray:
    """(M,) the shorter side of boxes (M, 4)."""
    sides: FloatArray = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf)
    return sides

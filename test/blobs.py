# SPDX-License-Identifier: Apache-2.0
"""Our nodes with a model that is known to the pixel: `python test/blobs.py perception --ros-args ...`.

Objects are the bright blobs of an image, embeddings their mean colours, texts the colours they name. A batch takes
BLOBS_SECONDS; one of several frames is told in the output. BLOBS_FAIL names a colour that the model dies of.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from embedder_ros.models.base import TextKind
from embedder_ros.models.registry import Model, load_model
from embedder_ros.nodes import embedder as embedder_node
from embedder_ros.types import Boxes, Calibration, FloatArray, Frame, ModelInfo, Observation, UserError, unit_rows

DIM = 8
COLOURS = ('red', 'green', 'blue')
SECONDS = float(os.environ.get('BLOBS_SECONDS', '0'))


class BlobEmbedder:
    """Mean colours as embeddings."""

    info = ModelInfo('blobs-1', DIM, Calibration(scale=20.0, bias=-10.0, found=0.3, margin=0.1))

    def encode(self, frames: Sequence[Frame]) -> list[None]:
        """Nothing is shared; this is where the time goes."""
        if len(frames) > 1:
            print(f'batch of {len(frames)}', flush=True)
        time.sleep(SECONDS)
        return [None] * len(frames)

    def embed(self, frames: Sequence[Frame], encoded: Sequence[Any], boxes: Sequence[Boxes]) -> list[Observation]:
        """See Embedder."""
        return [self._embed(f, b) for f, b in zip(frames, boxes, strict=True)]

    def embed_text(self, texts: Sequence[str], kind: TextKind = TextKind.OBJECT) -> FloatArray:
        """One number per colour that is named; the last number for none."""
        if not all(0 < len(t.strip()) <= 1000 for t in texts):
            raise UserError('a text has 1 to 1000 characters')
        named = [[float(colour in text) for colour in COLOURS] for text in texts]
        return unit_rows([[*n, 0, 0, 0, 0, float(not any(n))] for n in named])

    def embed_exemplar(self, frames: Sequence[Frame]) -> FloatArray:
        """The colour of the biggest blob of each frame."""
        observations = [self._embed(f, _blobs(f.image, 1)) for f in frames]
        return np.concatenate([o.embeddings[:1] for o in observations])

    def _embed(self, frame: Frame, boxes: Boxes) -> Observation:
        rows = np.zeros((len(boxes), DIM), np.float32)
        for row, (x0, y0, x1, y1) in zip(rows, boxes.xyxy.astype(int), strict=True):
            row[:3] = frame.image[y0:y1, x0:x1].reshape(-1, 3).mean(axis=0) / 255
            if os.environ.get('BLOBS_FAIL') and row[COLOURS.index(os.environ['BLOBS_FAIL'])] > 0.9:
                raise RuntimeError('a colour that this model dies of')
        iou, nothing = np.full(len(boxes), 0.9, np.float32), np.zeros((0, DIM), np.float32)
        return Observation(
            frame.stamp, frame.camera, frame.frame_id, frame.width, frame.height,
            boxes.xyxy, boxes.objectness, iou, unit_rows(rows), nothing, self.info.model_id,
        )  # fmt: skip


class BlobProposer:
    """Connected bright pixels."""

    def propose(self, frames: Sequence[Frame], encoded: Sequence[Any], max_objects: int) -> list[Boxes]:
        """See Proposer."""
        return [_blobs(f.image, max_objects) for f in frames]


def _blobs(image: np.ndarray, most: int) -> Boxes:
    _, _, stats, _ = cv2.connectedComponentsWithStats((image.max(axis=2) > 128).astype(np.uint8))
    x, y, width, height = stats[1 : most + 1, :4].T.astype(np.float32)
    return Boxes(np.stack([x, y, x + width, y + height], axis=1), np.ones(len(x), np.float32))


def load(name: str, **options: Any) -> Model:
    """The blobs for 'nano'; whatever else is asked for takes the real way."""
    return Model(BlobEmbedder(), BlobProposer()) if name == 'nano' else load_model(name, **options)


if __name__ == '__main__':
    embedder_node.load_model = load
    importlib.import_module(f'embedder_ros.nodes.{sys.argv[1]}').main()

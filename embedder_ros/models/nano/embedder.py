# SPDX-License-Identifier: Apache-2.0
"""nano as an `Embedder`: one unit vector per box holds all the model knows about it, each part with a fitted share.

    object   [ learned meaning | class mixture | colours | 1 | frame | individual | rest ]
    query    [ learned meaning | class mixture | colours | c |   1   |     0      | rest ]

The cosine of the two is the fitted sum of the parts; 'rest' only fills a vector up to length 1, in a place of its own
on each side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedder_ros.inference.session import OnnxSession
from embedder_ros.models.base import TextKind
from embedder_ros.models.inputs import LastUsed, checked_frames, checked_texts
from embedder_ros.models.nano.confidence import fitting
from embedder_ros.models.nano.evening import evened_frame
from embedder_ros.models.nano.image import Encoded, ImageEncoder
from embedder_ros.models.nano.layout import DIM, IDENTITY
from embedder_ros.models.nano.manifest import Manifest
from embedder_ros.models.nano.query import QueryEncoder
from embedder_ros.types import Boxes, FloatArray, Frame, ModelInfo, Observation, UserError, unit_rows

# Share of the whole image beside the mean of its objects in the detailed frame embedding. Measured: less of it tells
# less well which frame shows a thing.
WHOLE = 3.0


class NanoEmbedder:
    """The image networks, the trained head and the text tower.

    Args:
        manifest: the checked model folder.
        device: 'auto', 'cpu' or 'cuda'.
        threads: CPU threads of one frame or text; 0 takes as many as there are processors.
    """

    def __init__(self, manifest: Manifest, *, device: str = 'auto', threads: int = 0) -> None:
        self._info = ModelInfo(manifest.model_id, DIM, manifest.calibration, np.eye(DIM, dtype=np.float32)[:, IDENTITY])
        self._images = ImageEncoder(manifest.folder, device=device, threads=threads)
        self._head = OnnxSession(manifest.folder / 'head.onnx', device=device, threads=threads)
        self._queries = QueryEncoder(manifest, threads=threads)
        self._texts = LastUsed()
        self.device = self._images.device

    @property
    def info(self) -> ModelInfo:
        """Model id, dimension, calibration and identity view."""
        return self._info

    def encode(self, frames: Sequence[Frame]) -> list[Encoded]:
        """Feature maps and detector boxes of each frame. Raises UserError for an image that is not (H, W, 3) uint8."""
        return [self._images.encode(frame) for frame in checked_frames(frames)]

    def embed(self, frames: Sequence[Frame], encoded: Sequence[Encoded], boxes: Sequence[Boxes]) -> list[Observation]:
        """One Observation per frame, rows in the boxes' order.

        Raises:
            UserError: a box that is not finite or does not overlap the image.
        """
        return [self._embed(f, e, b) for f, e, b in zip(frames, encoded, boxes, strict=True)]

    def embed_text(self, texts: Sequence[str], kind: TextKind = TextKind.OBJECT) -> FloatArray:
        """(T, D) float32 unit rows; the same vector serves objects and images. Only the first 64 tokens are read.

        Raises:
            UserError: an empty text, or one of more than 1000 characters.
        """
        return (
            np.stack([self._embed_text(text) for text in checked_texts(texts)])
            if texts
            else np.zeros((0, DIM), np.float32)
        )

    def embed_exemplar(self, frames: Sequence[Frame]) -> FloatArray:
        """(F, D) float32 unit rows: each image as one object, in the box of the whole image.

        Measured on photos: nearer to the same object in its scene than the coarse frame embedding is (cosine 0.86 to
        0.97 against 0.80 to 0.94), since the head knows objects and frames apart.
        """
        boxes = [Boxes(np.array([[0, 0, f.width, f.height]], np.float32), np.ones(1, np.float32)) for f in frames]
        rows = [o.embeddings[0] for o in self.embed(frames, self.encode(frames), boxes)]
        return np.array(rows, np.float32).reshape(-1, DIM)

    def _embed_text(self, text: str) -> FloatArray:
        known = self._texts.get(text)
        if known is None:
            known = self._queries.encode(text)
            self._texts.put(text, known)
        return known

    def _embed(self, frame: Frame, encoded: Encoded, boxes: Boxes) -> Observation:
        inside = _inside(boxes.xyxy * np.tile(encoded.scale, 2), encoded.whole[0], frame.camera)
        regions = self._images.read(encoded, inside)
        out = self._head.run({name: getattr(regions, name) for name in regions.__slots__})
        rows = unit_rows(out['embedding'])
        objects, whole, predicted = rows[:-1], rows[-1], out['iou'][:-1]
        shown = np.einsum('i,ij', predicted, objects)  # BLAS would take threads, see query.py
        detailed = unit_rows(WHOLE * whole + unit_rows(shown)) if len(objects) else whole
        # Whole frames are compared with each other, and stay as they are.
        objects = evened_frame(objects, self._queries.maps['usual'], self._queries.maps['typical'])
        iou = fitting(predicted, boxes.objectness, inside, encoded.whole[0, 2:])
        return Observation(
            frame.stamp, frame.camera, frame.frame_id, frame.width, frame.height,
            boxes.xyxy, boxes.objectness, iou, objects, np.stack([whole, detailed]), self._info.model_id,
        )  # fmt: skip


def _inside(boxes: FloatArray, whole: FloatArray, camera: str) -> FloatArray:
    """Boxes clipped to the image and at least one backbone pixel wide."""
    if not np.isfinite(boxes).all():
        raise UserError(f"camera '{camera}': a box has a coordinate that is not a number; give x0 y0 x1 y1 in pixels")
    size = whole[2:]
    low, high = np.clip(boxes[:, :2], 0, size), np.clip(boxes[:, 2:], 0, size)
    if (high <= low).any():
        raise UserError(f"camera '{camera}': a box is empty or outside the image; give x0 < x1 and y0 < y1 inside it")
    low = np.minimum(low, size - 1)
    return np.concatenate([low, np.maximum(high, low + 1)], axis=1).astype(np.float32)

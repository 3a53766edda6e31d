# SPDX-License-Identifier: Apache-2.0
"""What nano computes once per frame: feature maps, the detector's boxes, and the pixels boxes are described from.

Every frame runs alone, so its result cannot depend on which other frames share the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from embedder_ros.inference.beside import Beside
from embedder_ros.inference.session import OnnxSession
from embedder_ros.models.nano.colour import describe
from embedder_ros.types import FloatArray, Frame, box_iou

AREA = 640 * 480  # pixels the backbone sees; raising it finds smaller things and costs time in proportion
STRIDE = 32
MAX_ASPECT = 4.0  # beyond this an image is squeezed: a longer strip would starve its short side
DETECTOR_SIDE = 416
DETECTIONS = 300  # detector cells kept per frame, best first
READ_MAPS = ('s8', 's16', 's32', 'top', 'half_top')  # maps that boxes are described from
READ_SIZE = 190.0  # pixels; boxes larger than this are classified mostly on the half-size image
READ_SLOPE = 3.0
CROP = 40  # pixels a box's side is drawn at to tell individuals apart; raising it costs time with its square
CROP_MARGIN = 0.1  # of a box's side shown around it


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One frame as the networks see it.

    Attributes:
        image: (H, W, 3) uint8 RGB at the backbone's size.
        scale: (2,) backbone pixels per source pixel, x and y.
        half: (4,) half-size image pixels per backbone pixel, for xyxy.
        maps: feature maps by name (1, C, h, w): s4, s8, s16, s32, top, half_top.
        boxes: (M, 4) detector boxes in backbone pixels, best first.
        scores: (M, 80) their COCO class scores.
    """

    image: np.ndarray
    scale: FloatArray
    half: FloatArray
    maps: dict[str, np.ndarray]
    boxes: FloatArray
    scores: FloatArray

    @property
    def whole(self) -> FloatArray:
        """(1, 4) the box of the whole image, backbone pixels."""
        return np.array([[0, 0, self.image.shape[1], self.image.shape[0]]], np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """What is known about each box before the trained head: rows are the boxes, then one for the whole image.

    Attributes:
        features: (N + 1, 2928) region features.
        pooled: (N + 1, 1280) pooled top features.
        classes: (N + 1, 1000) ImageNet log-probabilities.
        coco: (N + 1, 80) detector scores of the boxes that overlap.
        look: (N + 1, colour.LOOK) pixel description.
        geometry: (N + 1, 6) position and size relative to the image.
        crops: (N + 1, CROP, CROP, 3) uint8 RGB, the pixels of each box.
        tokens: (1, 320, 6, 8) the image in 48 cells.
    """

    features: np.ndarray
    pooled: np.ndarray
    classes: np.ndarray
    coco: np.ndarray
    look: np.ndarray
    geometry: np.ndarray
    crops: np.ndarray
    tokens: np.ndarray


class ImageEncoder:
    """The frozen networks: backbone, detector and region reader.

    Two networks that take about as long run beside each other, with half of the threads each: that is quicker than one
    after the other with all, since layers this small keep few threads busy.

    Args:
        folder: holds the .onnx files.
        device: 'auto', 'cpu' or 'cuda'.
        threads: CPU threads of one frame; 0 takes as many as there are processors.
    """

    def __init__(self, folder: Path, *, device: str, threads: int) -> None:
        self._both = Beside(threads)
        self._backbone = OnnxSession(folder / 'backbone.onnx', device=device, threads=self._both.each)
        self._detector = OnnxSession(folder / 'detector.onnx', device=device, threads=self._both.each)
        self._regions = OnnxSession(folder / 'regions.onnx', device=device, threads=threads)
        self.device = self._backbone.device

    def encode(self, frame: Frame) -> Encoded:
        """Run backbone and detector on one frame."""
        width, height = backbone_size(frame.width, frame.height)
        image = resized(frame.image, width, height)
        small = [round(side / 2 / STRIDE) * STRIDE for side in (width, height)]

        def other() -> tuple[np.ndarray, FloatArray, FloatArray]:
            return self._backbone.run({'image': resized(image, *small)[None]})['top'], *self._detect(image)

        maps, (half_top, boxes, scores) = self._both(lambda: self._backbone.run({'image': image[None]}), other)
        maps['half_top'] = half_top
        scale = np.array([width / frame.width, height / frame.height], np.float32)
        half = np.array([small[0] / width, small[1] / height] * 2, np.float32)
        return Encoded(image, scale, half, maps, boxes, scores)

    def read(self, encoded: Encoded, boxes: FloatArray) -> Regions:
        """Describe boxes (N, 4), backbone pixels inside the image; the whole image is appended as the last row."""
        rows = np.concatenate([boxes, encoded.whole]).astype(np.float32)
        inputs = {'boxes': rows, 'half_boxes': rows * encoded.half, 'half_share': _half_share(rows)}

        def pixels() -> dict[str, np.ndarray]:
            return {
                'coco': _overlapping_scores(rows, encoded),
                'look': describe(encoded.image, rows),
                'geometry': geometry(rows, encoded.whole[0, 2:]),
                'crops': crops(encoded.image, rows),
            }

        maps = {name: encoded.maps[name] for name in READ_MAPS}
        read, seen = self._both(lambda: self._regions.run(maps | inputs), pixels)
        return Regions(**read, **seen)

    def _detect(self, image: np.ndarray) -> tuple[FloatArray, FloatArray]:
        found = self._detector.run({'image': resized(image, DETECTOR_SIDE, DETECTOR_SIDE)[None]})
        best = np.argsort(-found['scores'].max(axis=1), kind='stable')[:DETECTIONS]
        size = np.array([image.shape[1], image.shape[0]] * 2, np.float32)
        return found['boxes'][best] * size, found['scores'][best]


def backbone_size(width: int, height: int) -> tuple[int, int]:
    """Width and height the backbone sees: about AREA pixels, the image's shape, divisible by STRIDE."""
    aspect = float(np.clip(width / height, 1 / MAX_ASPECT, MAX_ASPECT))
    sides = np.sqrt(AREA * aspect), np.sqrt(AREA / aspect)
    return round(sides[0] / STRIDE) * STRIDE, round(sides[1] / STRIDE) * STRIDE


def resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """A contiguous copy of the image at another size; area averaging when it shrinks."""
    shrinks = image.shape[1] * image.shape[0] > width * height
    out = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.ascontiguousarray(out)


def geometry(boxes: FloatArray, size: FloatArray) -> FloatArray:
    """(N, 6) float32: centre x, y, width and height in 0..1, log area and log aspect, both about -2..2."""
    low, high = boxes[:, :2] / size, boxes[:, 2:] / size
    sides = high - low
    area = np.log(sides.prod(axis=1) + 1e-4) / 4
    aspect = np.log((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1]))
    return np.column_stack([(low + high) / 2, sides, area, aspect]).astype(np.float32)


def crops(image: np.ndarray, boxes: FloatArray) -> np.ndarray:
    """(N, CROP, CROP, 3) uint8: boxes (N, 4) inside the image (H, W, 3), a margin around them, stretched to squares."""
    margin = CROP_MARGIN * (boxes[:, 2:] - boxes[:, :2])
    size = np.array([image.shape[1], image.shape[0]])
    low = np.floor(boxes[:, :2] - margin).clip(0, size - 1).astype(int)
    high = np.ceil(boxes[:, 2:] + margin).clip(low + 1, size).astype(int)
    return np.stack([resized(image[y0:y1, x0:x1], CROP, CROP) for (x0, y0), (x1, y1) in zip(low, high, strict=True)])


def _half_share(boxes: FloatArray) -> FloatArray:
    """(N, 1) how much of a box's class is read from the half-size image: 0 for small boxes, 1 for large ones."""
    side = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1, keepdims=True))
    return (1 / (1 + np.exp(-READ_SLOPE * np.log(side / READ_SIZE)))).astype(np.float32)


def _overlapping_scores(boxes: FloatArray, encoded: Encoded) -> FloatArray:
    """(N, 80) for each class the best detector score, each counted by the square of its box's IoU."""
    overlap = box_iou(boxes, encoded.boxes) ** 2
    out = np.zeros((len(boxes), encoded.scores.shape[1]), np.float32)
    for row, weight in enumerate(overlap):
        near = np.flatnonzero(weight)
        out[row] = (weight[near, None] * encoded.scores[near]).max(axis=0, initial=0.0)
    return out

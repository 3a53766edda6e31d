# SPDX-License-Identifier: Apache-2.0
"""One frame, encoded once and embedded with as many sets of boxes as the measures need, with the time of each stage."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from embedder_ros.evaluation.grounding import RIGHT_IOU
from embedder_ros.pipeline import Pipeline
from embedder_ros.types import Boxes, FloatArray, Frame, Observation, box_iou

PROPOSED = 100  # boxes asked for; the pipeline keeps its first `max_objects`
STRAYS = 10  # random boxes put beside the given ones
COPIES, SHAKEN = 3, 16  # shaken copies of each labelled box, and of how many boxes of a frame
NOISE = (0.04, 0.4)  # range of their relative noise; IoU .95 to .2


@dataclass(frozen=True, eq=False)
class Look:
    """What the model makes of one frame.

    Attributes:
        pipeline: the model.
        frame: the frame.
        proposed: (M, 4) up to PROPOSED own boxes, best first.
        own: the pipeline's Observation, of its first boxes.
        seconds: wall time of encode, propose and embed.
    """

    pipeline: Pipeline
    frame: Frame
    proposed: FloatArray
    own: Observation
    seconds: dict[str, float]
    _encoded: object = field(repr=False)

    def given(self, boxes: FloatArray) -> Observation:
        """The same frame with boxes (N, 4) of another source."""
        rows = Boxes(np.asarray(boxes, np.float32).reshape(-1, 4), np.ones(len(boxes), np.float32))
        return self.pipeline.embedder.embed([self.frame], [self._encoded], [rows])[0]


def look(pipeline: Pipeline, frame: Frame) -> Look:
    """Encode, propose and embed one frame."""
    begin = time.perf_counter()
    encoded = pipeline.embedder.encode([frame])
    coded = time.perf_counter()
    boxes = pipeline.proposer.propose([frame], encoded, max(PROPOSED, pipeline.max_objects))[0]
    proposed = time.perf_counter()
    kept = Boxes(boxes.xyxy[: pipeline.max_objects], boxes.objectness[: pipeline.max_objects])
    own = pipeline.embedder.embed([frame], encoded, [kept])[0]
    seconds = {'encode': coded - begin, 'propose': proposed - coded, 'embed': time.perf_counter() - proposed}
    return Look(pipeline, frame, boxes.xyxy, own, seconds, encoded[0])


def strays(frame: Frame, truth: FloatArray, random: np.random.Generator) -> FloatArray:
    """(STRAYS, 4) random boxes that cover no labelled thing by half; fewer where there is no room."""
    size = np.array([frame.width, frame.height], np.float32)
    side = random.uniform(0.08, 0.5, (20 * STRAYS, 2)) * size
    low = random.uniform(0, 1, side.shape) * (size - side)
    boxes = np.concatenate([low, low + side], axis=1).astype(np.float32)
    free = box_iou(boxes, truth).max(axis=1, initial=0.0) < RIGHT_IOU
    return boxes[free][:STRAYS]


def shaken(frame: Frame, truth: FloatArray, random: np.random.Generator) -> FloatArray:
    """(N, 4) copies of up to SHAKEN labelled boxes with noise from a little to much, inside the frame."""
    some = np.repeat(random.permutation(truth)[:SHAKEN], COPIES, axis=0)
    size = np.tile(some[:, 2:] - some[:, :2], 2)
    noise = np.exp(random.uniform(np.log(NOISE[0]), np.log(NOISE[1]), (len(some), 1)))
    boxes = some + random.normal(0, 1, some.shape) * noise * size
    boxes = np.clip(boxes, 0, [frame.width, frame.height] * 2).astype(np.float32)
    return boxes[(boxes[:, 2:] - boxes[:, :2] >= 2).all(axis=1)]

# SPDX-License-Identifier: Apache-2.0
"""Open-vocabulary detection: which of a list of names is where (MODELS.md 1.9)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedder_ros.grounding.ground import SAME_IOU, nested
from embedder_ros.suppress import distinct_pairs
from embedder_ros.types import Calibration, FloatArray, Observation, UserError, box_iou

PAIRS, MOST = 1000, 300  # best pairs of box and name that are looked at, and detections that are kept
# Overlap above which two boxes of one name are one detection, as benchmarks have it, where second boxes cost nothing;
# raising it keeps near-duplicates.
SAME = 0.7


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """What was found, best first; M of them.

    Attributes:
        rows: (M,) row of the observation.
        labels: (M,) row of the names.
        boxes: (M, 4) float32 xyxy in source pixels.
        scores: (M,) semantic * iou, float32.
        semantic, iou: (M,) float32: is it that thing, and does the box fit.
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: FloatArray
    scores: FloatArray
    semantic: FloatArray
    iou: FloatArray

    def __len__(self) -> int:
        return len(self.rows)


def detect(
    observation: Observation,
    names: FloatArray,
    calibration: Calibration,
    *,
    floor: float = 0.0,
    single: bool = False,
    same: float = SAME,
    things: bool = False,
    pairs: int = PAIRS,
    most: int = MOST,
) -> Detections:
    """Score every box against every name; suppress repeated boxes of a name.

    Args:
        observation: of one frame.
        names: (C, D) unit embeddings of the names, of the observation's model.
        calibration: how cosines are read.
        floor: score that a detection needs. Raising it loses faint things.
        single: each box bears its best name alone, the natural mode for a list of what is there.
        same: see SAME; 1 suppresses nothing.
        things: one box of a name for each thing, as `ground` tells things apart: at its SAME_IOU, and none in another.
        pairs: see PAIRS.
        most: see MOST.

    Raises:
        UserError: the names are of another model.
    """
    if names.ndim != 2 or names.shape[1] != observation.dim:
        raise UserError(
            f'the names have {names.shape[-1]} numbers each and model {observation.model_id} has {observation.dim}: '
            'embed them with that model'
        )
    semantic = calibration.semantic(observation.embeddings @ names.T)  # (N, C)
    scores = semantic * observation.iou[:, None]
    if single and scores.size:
        scores = np.where(scores == scores.max(axis=1, keepdims=True), scores, -np.inf)
    best = np.argsort(-scores, axis=None, kind='stable')[:pairs]
    best = best[scores.flat[best] >= max(floor, 0.0)]
    rows, labels = np.unravel_index(best, scores.shape)
    kept = distinct_pairs(_one(observation.boxes, same, things), rows, labels)[:most]
    rows, labels = rows[kept], labels[kept]
    return Detections(
        rows, labels, observation.boxes[rows], scores[rows, labels], semantic[rows, labels], observation.iou[rows]
    )


def _one(boxes: FloatArray, same: float, things: bool) -> NDArray[np.bool_]:
    """(N, N) which boxes of a name are one detection."""
    overlap = box_iou(boxes, boxes)
    return (overlap >= SAME_IOU) | nested(boxes, boxes) if things else overlap > same

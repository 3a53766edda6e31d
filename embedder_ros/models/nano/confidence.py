# SPDX-License-Identifier: Apache-2.0
"""The published IoU: what the head predicts, set right by what the proposals think of the box, and by its size."""

from __future__ import annotations

import numpy as np

from embedder_ros.types import FloatArray

# Weights of logit(iou), log(objectness) and log(side), and what is added. Chosen on the validation splits so that the
# result ranks boxes by their real IoU better than the head alone and stays on its level. More of objectness puts things
# that stand out before their parts and neighbours, and small things after them.
HEAD, OBJECTNESS, SIDE, LEVEL = 0.8, 1.5, 0.3, 1.5
LEAST, SMALLEST = 1e-3, 1e-2  # added to objectness and side, so that no box is beyond hope


def fitting(predicted: FloatArray, objectness: FloatArray, boxes: FloatArray, whole: FloatArray) -> FloatArray:
    """How well boxes fit their things, (N,) float32 in 0..1.

    Args:
        predicted: (N,) IoU by the head, 0..1.
        objectness: (N,) by the proposals, 0..1; 1 for a box that somebody gave.
        boxes: (N, 4) xyxy inside the image.
        whole: (2,) width and height of the image.
    """
    sure = np.clip(predicted, 1e-4, 1 - 1e-4)
    side = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) / whole.prod())
    logit = HEAD * np.log(sure / (1 - sure)) + OBJECTNESS * np.log(objectness + LEAST) + SIDE * np.log(side + SMALLEST)
    return np.asarray(1 / (1 + np.exp(-(logit + LEVEL))), np.float32)

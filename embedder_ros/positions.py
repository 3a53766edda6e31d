# SPDX-License-Identifier: Apache-2.0
"""Where boxes are in space, from a depth image: the median depth of the box's middle, through the pinhole model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from embedder_ros.types import FloatArray, Frame, Observation

# Samples per side, and the middle share of the box they are spread over: the rim of a box is mostly background.
SAMPLES = 9
MIDDLE = 0.5


def box_positions(frame: Frame, boxes: FloatArray) -> FloatArray | None:
    """Positions of boxes in the camera's optical frame.

    Args:
        frame: with depth and intrinsics; the depth image may have another size than the image, but the same view.
        boxes: (N, 4) float32 xyxy in image pixels.

    Returns:
        (N, 3) float32 metres x right, y down, z forward (REP-103); NaN where less than a tenth of the samples has
        depth. None when the frame has no depth or no intrinsics.
    """
    if frame.depth is None or frame.intrinsics is None:
        return None
    centre: FloatArray = (boxes[:, :2] + boxes[:, 2:]) / np.float32(2)
    size = boxes[:, 2:] - boxes[:, :2]
    z = _median_depth(frame, centre, size)
    fx, fy, cx, cy = frame.intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]]
    return np.stack([(centre[:, 0] - cx) / fx * z, (centre[:, 1] - cy) / fy * z, z], axis=1).astype(np.float32)


def located(frame: Frame, observation: Observation) -> Observation:
    """The observation of a frame with its boxes' positions; as it is when the frame has no depth."""
    positions = box_positions(frame, observation.boxes)
    return observation if positions is None else replace(observation, positions=positions)


def _median_depth(frame: Frame, centre: FloatArray, size: FloatArray) -> FloatArray:
    assert frame.depth is not None
    height, width = frame.depth.shape
    steps = np.linspace(-MIDDLE / 2, MIDDLE / 2, SAMPLES, dtype=np.float32)
    columns = (centre[:, :1] + size[:, :1] * steps) * (width / frame.width)
    rows = (centre[:, 1:] + size[:, 1:] * steps) * (height / frame.height)
    columns = np.clip(columns.astype(np.intp), 0, width - 1)
    rows = np.clip(rows.astype(np.intp), 0, height - 1)
    samples = frame.depth[rows[:, :, None], columns[:, None, :]].reshape(-1, SAMPLES * SAMPLES)
    known = np.isfinite(samples).sum(axis=1)
    enough = known >= SAMPLES * SAMPLES // 10
    median = np.full(len(centre), np.nan, np.float32)
    if enough.any():
        median[enough] = np.nanmedian(samples[enough], axis=1)
    return median

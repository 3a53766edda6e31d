# SPDX-License-Identifier: Apache-2.0
"""What a msg/Region means: which frame, and which box in it. Runs on the inference thread."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from embedder_ros import images
from embedder_ros.nodes.messages import stamp_to_ns
from embedder_ros.nodes.worker import Worker
from embedder_ros.pipeline import Pipeline
from embedder_ros.types import FloatArray, Frame, Observation, UserError


def embed_region(region: Any, pipeline: Pipeline, worker: Worker) -> tuple[Frame, Observation]:
    """The meant frame and an Observation with exactly one row: the meant box.

    Raises:
        UserError: unknown camera, no such frame, no or several of box, point and mask, or a box outside the image. An
            image of its own needs none: the whole of it is meant, as an example.
    """
    frame = meant_frame(region, worker)
    given = [name for name in ('box', 'point') if len(getattr(region, name))] + ['mask'] * bool(len(region.mask.data))
    if not given and len(region.image.data):
        return frame, _exemplar(frame, pipeline)
    if len(given) != 1:
        raise UserError(f'a region is one of box, point or mask; {", ".join(given) or "none"} given')
    if given == ['point']:
        return frame, _at_point(frame, np.asarray(region.point, np.float32), pipeline)
    box = np.asarray(region.box, np.float32) if given == ['box'] else _mask_box(region.mask)
    return frame, pipeline.embed_boxes(frame, _inside(box, frame)[None])


def meant_frame(region: Any, worker: Worker) -> Frame:
    """The frame of a region. Raises UserError for an unknown camera, or a frame that is not kept any more."""
    if len(region.image.data):
        return Frame(images.compressed_to_rgb(region.image), stamp_to_ns(region.image.header.stamp), region.camera)
    cameras = worker.cameras
    name = region.camera or (cameras[0] if len(cameras) == 1 else '')
    if name not in cameras:
        raise UserError(f"no camera '{name}'; this node has {', '.join(cameras)}")
    frames, stamp = worker.history(name), stamp_to_ns(region.header.stamp)
    if not frames:
        raise UserError(f'no frame of camera {name} yet; see /diagnostics for why')
    if not stamp:
        return frames[-1]
    match = [f for f in frames if f.stamp == stamp]
    if not match:
        raise UserError(
            f'camera {name} has no frame with stamp {stamp} ns among its last {len(frames)}; raise parameter '
            'frame_history, or give the image itself'
        )
    return match[-1]


def _exemplar(frame: Frame, pipeline: Pipeline) -> Observation:
    """The whole image as the example of what is looked for (MODELS.md 1.8, image exemplar)."""
    whole = pipeline.embed_boxes(frame, np.array([[0, 0, frame.width, frame.height]], np.float32))
    return replace(whole, embeddings=pipeline.embedder.embed_exemplar([frame]))


def _inside(box: FloatArray, frame: Frame) -> FloatArray:
    if box.shape != (4,) or not np.isfinite(box).all():
        raise UserError(f'a box is four finite numbers x0 y0 x1 y1 in pixels, not {box.tolist()}')
    limit = np.array([frame.width, frame.height] * 2, np.float32)
    clipped = np.clip(box, 0, limit)
    if (clipped[2:] - clipped[:2] < 1).any():
        raise UserError(f'box {box.tolist()} does not cover a pixel of the {frame.width}x{frame.height} image')
    return clipped


def _mask_box(mask: Any) -> FloatArray:
    rows, columns = np.nonzero(images.image_to_rgb(mask)[..., 0])
    if not len(rows):
        raise UserError('the mask is empty; set the pixels that are meant to nonzero')
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)


def _at_point(frame: Frame, point: FloatArray, pipeline: Pipeline) -> Observation:
    if point.shape != (2,) or not np.isfinite(point).all():
        raise UserError(f'a point is two finite numbers x y in pixels, not {point.tolist()}')
    observation = pipeline.observe([frame])[0]
    low, high = observation.boxes[:, :2], observation.boxes[:, 2:]
    covers = ((low <= point) & (point < high)).all(axis=1)
    if not covers.any():
        raise UserError(f'no proposal covers the point {point.tolist()}; give a box')
    area = np.where(covers, (high - low).prod(axis=1), np.inf)
    return observation.row(int(area.argmin()))

# SPDX-License-Identifier: Apache-2.0
"""Our own messages to the types of embedder_ros/types.py and back.

What leaves is filled through array.array, because numpy in a message field is walked element by element. What arrives
is looked at without a copy, and checked before anything is computed from it: a publisher of another version, or a
recording, may send anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PointStamped
from numpy.typing import ArrayLike
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from embedder_ros.images import to_field
from embedder_ros.models.base import TextKind
from embedder_ros.msg import GroundedObject, ObjectEmbeddings, Query, Tracks
from embedder_ros.msg import ModelInfo as ModelInfoMsg
from embedder_ros.nodes.images import rgb_to_jpeg
from embedder_ros.srv import EmbedRegion, EmbedText, Find
from embedder_ros.types import (
    NANOSECONDS,
    Answer,
    Calibration,
    Candidate,
    FloatArray,
    Frame,
    ModelInfo,
    Observation,
    Track,
    UserError,
)

# By how much the square of a row's length may differ from 1. Raising it lets embeddings with wrong cosines pass.
UNIT_TOLERANCE = 0.02

_REMEDY = 'run the same version of embedder_ros on both sides, or look for what else publishes this topic'

_SENTENCES = {
    'found': 'found in camera {best.camera}, score {best.score:.2f}',
    'small_margin': 'not clear which: {count} likely enough, and the best is too close to the next; say more about it',
    'below_threshold': 'nothing matches: the best score is {best.score:.2f}, {answer.threshold:.2f} is needed',
    'no_objects': 'no object in any of the {answer.frames_searched} frames searched',
    'no_frames': 'nothing to search: no frame has arrived; see /diagnostics for why',
    'stale_frames': 'the newest frame is {answer.age:.1f} s old, which is too old; see /diagnostics, or raise max_age',
}
_STALE_MEMORY = (
    'what is remembered of it is older than max_age, of another camera, or gone: its place has been seen empty since'
)


def stamp_to_ns(stamp: Time) -> int:
    """A message's stamp in nanoseconds."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def ns_to_stamp(nanoseconds: int) -> Time:
    """Nanoseconds as a message's stamp."""
    seconds, rest = divmod(int(nanoseconds), NANOSECONDS)
    return Time(sec=seconds, nanosec=rest)


def header(stamp: int, frame_id: str) -> Header:
    """A header from nanoseconds and a frame name."""
    return Header(stamp=ns_to_stamp(stamp), frame_id=frame_id)


def query_kind(query: Query) -> str:
    """Which of its fields a query gives. Raises UserError unless it is exactly one."""
    region = query.region
    kinds = {
        'text': bool(query.text),
        'object_id': bool(query.object_id),
        'track_id': bool(query.track_id),
        'region': any(map(len, (region.box, region.point, region.mask.data, region.image.data))),
    }
    given = [name for name, there in kinds.items() if there]
    if len(given) != 1:
        raise UserError(f'a query is one of {", ".join(kinds)}; {", ".join(given) or "none"} given')
    return given[0]


def observation_to_msg(observation: Observation) -> ObjectEmbeddings:
    """What one frame showed, as it is published. No positions and positions of no object look the same on the wire."""
    o = observation
    msg = ObjectEmbeddings(header=header(o.stamp, o.frame_id), camera=o.camera, model_id=o.model_id)
    msg.dim, msg.width, msg.height = o.dim, o.width, o.height
    msg.boxes, msg.objectness, msg.iou = to_field(o.boxes, 'f'), to_field(o.objectness, 'f'), to_field(o.iou, 'f')
    msg.embeddings, msg.frame_embeddings = to_field(o.embeddings, 'f'), to_field(o.frame_embeddings, 'f')
    if o.positions is not None:
        msg.positions = to_field(o.positions, 'f')
    return msg


def observation_from_msg(msg: ObjectEmbeddings) -> Observation:
    """The Observation in a message; its arrays are read-only views of the message's data.

    Raises:
        UserError: the arrays do not belong together, a number is not finite, a box is empty or a row is not unit.
    """
    if not (msg.camera and msg.model_id and msg.dim):
        raise UserError(
            f"ObjectEmbeddings of camera '{msg.camera}', model '{msg.model_id}', dim {msg.dim}: none may be empty"
        )
    rows = len(msg.objectness)
    observation = Observation(
        stamp=stamp_to_ns(msg.header.stamp),
        camera=msg.camera,
        frame_id=msg.header.frame_id,
        width=msg.width,
        height=msg.height,
        boxes=_rows(msg, 'boxes', rows, 4),
        objectness=_rows(msg, 'objectness', rows),
        iou=_rows(msg, 'iou', rows),
        embeddings=_rows(msg, 'embeddings', rows, msg.dim),
        frame_embeddings=_rows(msg, 'frame_embeddings', 2 if len(msg.frame_embeddings) else 0, msg.dim),
        model_id=msg.model_id,
        positions=_rows(msg, 'positions', rows, 3) if len(msg.positions) else None,
    )
    _check_values(observation)
    return observation


def tracks_to_msg(tracks: Sequence[Track], observation: Observation) -> Tracks:
    """One camera's tracks after the frame of `observation`, under that frame's header."""
    msg = Tracks(header=header(observation.stamp, observation.frame_id))
    msg.camera, msg.model_id = observation.camera, observation.model_id
    msg.object_ids = [t.object_id for t in tracks]
    msg.track_ids = to_field([t.track_id for t in tracks], 'q')
    msg.status = to_field([t.status for t in tracks], 'B')
    msg.rows = to_field([t.row for t in tracks], 'i')
    msg.age = to_field([t.age for t in tracks], 'f')
    msg.unseen = to_field([t.unseen for t in tracks], 'f')
    msg.boxes = to_field([t.box for t in tracks], 'f')
    return msg


def candidate_to_msg(candidate: Candidate) -> GroundedObject:
    """One candidate, without name and thumbnail."""
    c = candidate
    msg = GroundedObject(header=header(c.stamp, c.frame_id), camera=c.camera, object_id=c.object_id)
    msg.box = np.asarray(c.box, np.float32)
    msg.score, msg.semantic, msg.iou, msg.objectness = map(float, (c.score, c.semantic, c.iou, c.objectness))
    msg.track_id, msg.status = int(c.track_id), int(c.status or 0)
    msg.unseen = float(c.unseen)
    msg.has_position = c.position is not None and bool(np.isfinite(c.position).all())
    if msg.has_position:
        msg.position = PointStamped(header=header(c.stamp, c.position_frame or c.frame_id))
        msg.position.point.x, msg.position.point.y, msg.position.point.z = map(float, c.position)
    return msg


def answer_to_response(answer: Answer, response: Find.Response, *, remembered: bool = False) -> Find.Response:
    """Fill the response of `find`. Whatever the outcome it is a success: the question was answered."""
    best = answer.candidates[0] if answer.candidates else None
    count = sum(c.score >= answer.threshold for c in answer.candidates)
    sentence = _STALE_MEMORY if remembered and answer.reason == 'stale_frames' else _SENTENCES[answer.reason]
    response.success = True
    response.message = sentence.format(answer=answer, best=best, count=count)
    response.outcome, response.reason = answer.outcome.value, answer.reason
    response.candidates = [candidate_to_msg(c) for c in answer.candidates]
    response.margin, response.threshold, response.age = map(float, (answer.margin, answer.threshold, answer.age))
    response.frames_searched, response.objects_searched = answer.frames_searched, answer.objects_searched
    return response


def model_info_to_msg(info: ModelInfo) -> ModelInfoMsg:
    """How to read a model's embeddings, as it is published."""
    c = info.calibration
    msg = ModelInfoMsg(model_id=info.model_id, dim=info.dim)
    msg.scale, msg.bias, msg.image_scale, msg.image_bias = map(float, (c.scale, c.bias, c.image_scale, c.image_bias))
    msg.found, msg.margin = float(c.found), float(c.margin)
    msg.identity_scale, msg.identity_bias = float(c.identity_scale), float(c.identity_bias)
    if info.identity_view is not None:
        msg.identity_dim = info.identity_view.shape[1]
        msg.identity_view = to_field(info.identity_view, 'f')
    return msg


def model_info_from_msg(msg: ModelInfoMsg) -> ModelInfo:
    """How to read a model's embeddings. Raises UserError when the message contradicts itself."""
    numbers = (msg.scale, msg.bias, msg.found, msg.margin, msg.image_scale, msg.image_bias)
    numbers += (msg.identity_scale, msg.identity_bias)
    view = _rows(msg, 'identity_view', msg.dim if msg.identity_dim else 0, msg.identity_dim)
    if not (msg.model_id and msg.dim and np.isfinite(numbers).all() and np.isfinite(view).all()):
        raise UserError(f"ModelInfo of model '{msg.model_id}', dim {msg.dim}: empty, or not finite; {_REMEDY}")
    return ModelInfo(msg.model_id, msg.dim, Calibration(*numbers), view if msg.identity_dim else None)


def fill_embed_text(
    response: EmbedText.Response, rows: FloatArray, info: ModelInfo, kind: TextKind
) -> EmbedText.Response:
    """Answer with (T, D) embeddings and how they are compared."""
    c = info.calibration
    response.success, response.message = True, f'{len(rows)} texts embedded'
    response.model_id, response.dim, response.embeddings = info.model_id, info.dim, to_field(rows, 'f')
    scale, bias = (c.scale, c.bias) if kind is TextKind.OBJECT else (c.image_scale, c.image_bias)
    response.scale, response.bias = float(scale), float(bias)
    return response


def fill_embed_region(
    response: EmbedRegion.Response, frame: Frame, observation: Observation, thumbnail: bool
) -> EmbedRegion.Response:
    """Answer with the one row of `observation`, and with a picture of its box if asked for."""
    o = observation
    response.success, response.message = True, 'region embedded'
    response.model_id, response.dim, response.embedding = o.model_id, o.dim, to_field(o.embeddings[0], 'f')
    response.box, response.iou = np.asarray(o.boxes[0], np.float32), float(o.iou[0])
    response.header, response.camera = header(frame.stamp, frame.frame_id), frame.camera
    if thumbnail:
        response.image = box_jpeg(frame, o.boxes[0])
    return response


def box_jpeg(frame: Frame, box: ArrayLike) -> CompressedImage:
    """The pixels that a box inside the frame touches, as JPEG under the frame's header."""
    x0, y0 = np.floor(box[:2]).astype(int)
    x1, y1 = np.ceil(box[2:]).astype(int)
    return rgb_to_jpeg(frame.image[y0:y1, x0:x1], header(frame.stamp, frame.frame_id))


def _rows(msg: Any, name: str, rows: int, columns: int = 0) -> FloatArray:
    """A field as a read-only (rows, columns) view, or (rows,) without columns."""
    values = np.asarray(getattr(msg, name), np.float32)
    shape = (rows, columns) if columns else (rows,)
    if values.size != math.prod(shape):
        kind = type(msg).__name__
        raise UserError(f'{kind}.{name} has {values.size} numbers, {" x ".join(map(str, shape))} expected; {_REMEDY}')
    view = values.reshape(shape)
    view.flags.writeable = False
    return view


def _check_values(observation: Observation) -> None:
    o = observation
    checks = {
        'boxes': np.isfinite(o.boxes).all() and (o.boxes[:, 2:] > o.boxes[:, :2]).all(),
        'objectness': np.isfinite(o.objectness).all(),
        'iou': np.isfinite(o.iou).all(),
        'embeddings': _unit(o.embeddings),
        'frame_embeddings': _unit(o.frame_embeddings),
        'positions': o.positions is None or not np.isinf(o.positions).any(),
    }
    wrong = [name for name, good in checks.items() if not good]
    if wrong:
        raise UserError(
            f'ObjectEmbeddings of camera {o.camera}: bad values in {", ".join(wrong)}; '
            f'finite numbers, boxes with an area and rows of length 1 are expected; {_REMEDY}'
        )


def _unit(rows: FloatArray) -> bool:
    """Whether every row is of length 1, which NaN and infinity are not."""
    return bool((np.abs(np.einsum('ij,ij->i', rows, rows) - 1) < UNIT_TOLERANCE).all())

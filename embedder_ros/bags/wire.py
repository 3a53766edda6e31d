# SPDX-License-Identifier: Apache-2.0
"""Messages of a bag to types and back without ROS: serialised by rosbags, our own types from their definition files."""

from __future__ import annotations

import functools
import struct
from typing import Any

import cv2
import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from embedder_ros.images import compressed_to_rgb, image_to_rgb
from embedder_ros.share import share_file
from embedder_ros.types import NANOSECONDS, FloatArray, Frame, ModelInfo, Observation, UserError

IMAGE, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
OBJECTS, MODEL = 'embedder_ros/msg/ObjectEmbeddings', 'embedder_ros/msg/ModelInfo'

_DEPTH_ENCODINGS = ('16UC1', '32FC1')


@functools.cache
def typestore() -> Any:
    """The common ROS 2 messages, which are the same since Humble, and ours."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    for name in (OBJECTS, MODEL):
        text = share_file(f'msg/{name.rsplit("/", 1)[1]}.msg').read_text(encoding='utf-8')
        store.register(get_types_from_msg(text, name))
    return store


def deserialize(data: bytes, kind: str) -> Any:
    """A message object with the same fields as rclpy's; arrays are numpy.

    Raises:
        UserError: the bytes are no such message, or embedder_ros is not installed whole.
    """
    types = typestore()  # an installation without our messages is no damaged recording
    try:
        return types.deserialize_cdr(data, kind)
    except Exception as error:  # bytes that are cut short make it raise nearly anything
        raise UserError(f'{len(data)} bytes are no {kind} ({error}); the recording is damaged here') from error


def serialize(message: Any) -> bytes:
    """A message object of `typestore` as CDR."""
    return bytes(typestore().serialize_cdr(message, message.__msgtype__))


def stamp_of(data: bytes) -> int:
    """Nanoseconds of a serialised message that begins with a Header, without deserialising it.

    Raises:
        UserError: the bytes are too few to hold one.
    """
    seconds, rest = struct.unpack_from(_stamp_layout(data), data, 4)
    return int(seconds) * NANOSECONDS + int(rest)


def with_stamp(data: bytes, stamp: int) -> bytes:
    """The same serialised message under another stamp, in nanoseconds. Raises UserError as `stamp_of`."""
    return data[:4] + struct.pack(_stamp_layout(data), *divmod(stamp, NANOSECONDS)) + data[12:]


def _stamp_layout(data: bytes) -> str:
    """CDR: two bytes that name the byte order, two of options, then the message."""
    if len(data) < 12:
        raise UserError(f'a message of {len(data)} bytes has no header; the recording is damaged here')
    return '<iI' if data[1] & 1 else '>iI'


def is_depth(data: bytes, kind: str) -> bool:
    """Whether an image message holds depth, which has no colours to look at."""
    if kind == IMAGE:
        return deserialize(data, kind).encoding in _DEPTH_ENCODINGS
    return 'compressedDepth' in deserialize(data, kind).format


def frame_from(data: bytes, kind: str, camera: str, time: int) -> Frame:
    """An image message as a Frame; a message without a stamp gets `time`, when it was recorded.

    Raises:
        UserError: it cannot be read; ImageError when it is an image that cannot be used.
    """
    message = deserialize(data, kind)
    image = image_to_rgb(message) if kind == IMAGE else compressed_to_rgb(message)
    stamp = message.header.stamp.sec * NANOSECONDS + message.header.stamp.nanosec
    return Frame(image, stamp or time, camera, message.header.frame_id)


def image_message(frame: Frame) -> Any:
    """A Frame as sensor_msgs/Image, rgb8."""
    return _message(
        IMAGE,
        header=header(frame.stamp, frame.frame_id),
        height=frame.height,
        width=frame.width,
        encoding='rgb8',
        is_bigendian=0,
        step=3 * frame.width,
        data=np.ascontiguousarray(frame.image).reshape(-1),
    )


def jpeg_message(frame: Frame, quality: int = 90) -> Any:
    """A Frame as sensor_msgs/CompressedImage; quality 1 to 100."""
    bgr = cv2.cvtColor(np.ascontiguousarray(frame.image), cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode('.jpg', bgr, (cv2.IMWRITE_JPEG_QUALITY, quality))
    return _message(
        COMPRESSED, header=header(frame.stamp, frame.frame_id), format='rgb8; jpeg compressed bgr8', data=data
    )


def objects_message(observation: Observation) -> Any:
    """What one frame showed, as it is published; see msg/ObjectEmbeddings.msg."""
    o = observation
    flat = {name: _flat(getattr(o, name)) for name in ('boxes', 'objectness', 'iou', 'embeddings', 'frame_embeddings')}
    return _message(
        OBJECTS,
        header=header(o.stamp, o.frame_id),
        camera=o.camera,
        model_id=o.model_id,
        dim=o.dim,
        width=o.width,
        height=o.height,
        positions=_flat(np.zeros(0) if o.positions is None else o.positions),
        **flat,
    )


def observation_from(data: bytes) -> Observation:
    """The Observation in a serialised ObjectEmbeddings. Raises UserError when it is none."""
    m = deserialize(data, OBJECTS)
    rows = len(m.objectness)
    try:
        return Observation(
            stamp=m.header.stamp.sec * NANOSECONDS + m.header.stamp.nanosec,
            camera=m.camera,
            frame_id=m.header.frame_id,
            width=m.width,
            height=m.height,
            boxes=m.boxes.reshape(rows, 4),
            objectness=m.objectness,
            iou=m.iou.reshape(rows),
            embeddings=m.embeddings.reshape(rows, m.dim),
            frame_embeddings=m.frame_embeddings.reshape(-1, m.dim),
            model_id=m.model_id,
            positions=m.positions.reshape(rows, 3) if len(m.positions) else None,
        )
    except ValueError as error:
        raise UserError(f'ObjectEmbeddings of camera {m.camera} contradicts itself: {error}') from error


def model_message(info: ModelInfo) -> Any:
    """How to read a model's embeddings; see msg/ModelInfo.msg."""
    c = info.calibration
    view = info.identity_view
    return _message(
        MODEL,
        model_id=info.model_id,
        dim=info.dim,
        scale=c.scale,
        bias=c.bias,
        image_scale=c.image_scale,
        image_bias=c.image_bias,
        found=c.found,
        margin=c.margin,
        identity_scale=c.identity_scale,
        identity_bias=c.identity_bias,
        identity_dim=0 if view is None else view.shape[1],
        identity_view=_flat(np.zeros(0) if view is None else view),
    )


def header(stamp: int, frame_id: str) -> Any:
    """A std_msgs/Header; stamp in nanoseconds."""
    seconds, rest = divmod(int(stamp), NANOSECONDS)
    time = _message('builtin_interfaces/msg/Time', sec=seconds, nanosec=rest)
    return _message('std_msgs/msg/Header', stamp=time, frame_id=frame_id)


def _message(kind: str, **fields: Any) -> Any:
    return typestore().types[kind](**fields)


def _flat(values: Any) -> FloatArray:
    return np.ascontiguousarray(values, np.float32).reshape(-1)

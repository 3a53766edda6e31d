# SPDX-License-Identifier: Apache-2.0
"""The camera side of the embedder: subscriptions in, Frames out, and a count of what went wrong on the way."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from rclpy.exceptions import InvalidTopicNameException
from rclpy.validate_topic_name import validate_topic_name
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from embedder_ros import images
from embedder_ros.nodes import wire
from embedder_ros.nodes.messages import stamp_to_ns
from embedder_ros.nodes.slots import Slots
from embedder_ros.types import NANOSECONDS, Frame, UserError

DEPTH_KEPT = 8  # depth images kept to find the one nearest to an image's stamp
LATEST = 0.1  # seconds that a depth image is waited for at most
FLOWING = NANOSECONDS  # how far the newest depth image may be behind an image for the next one to be waited for


@dataclass
class Camera:
    """One configured camera and what has been counted of it."""

    name: str
    image_topic: str
    depth_topic: str
    counts: Counter[str] = field(default_factory=Counter)
    last_error: str = ''
    last_stamp: int = 0
    age: float = float('nan')
    intrinsics: np.ndarray | None = None
    calibrated: bool = True
    depths: deque[Image] = field(default_factory=lambda: deque(maxlen=DEPTH_KEPT))
    nearest: Image | None = None  # when its newest image was taken; it may be gone from `depths` after the inference
    arrived: threading.Condition = field(default_factory=threading.Condition)

    @property
    def compressed(self) -> bool:
        """Whether the topic carries CompressedImage, by image_transport's naming."""
        return self.image_topic.endswith('/compressed')

    @property
    def info_topic(self) -> str:
        """camera_info beside the image topic, as image_transport publishes it."""
        base = self.image_topic.removesuffix('/compressed')
        return base.rsplit('/', 1)[0] + '/camera_info' if '/' in base else 'camera_info'


def configured_cameras(node: Any, values: Any) -> list[Camera]:
    """The cameras of the parameters, with remapped topic names.

    Raises:
        UserError: the lists do not fit together.
    """
    names, topics = list(values.cameras), list(values.image_topics)
    depths = list(values.depth_topics) if any(values.depth_topics) else [''] * len(names)
    if not names or len(set(names)) != len(names) or not all(names):
        raise UserError(f'parameter cameras is {names}; give each camera a name of its own')
    if len(topics) != len(names) or len(depths) != len(names):
        raise UserError(
            f'{len(names)} cameras, {len(topics)} image_topics, {len(depths)} depth_topics; give one topic per camera'
        )
    resolve = partial(_resolved, node)
    return [Camera(n, resolve(t), resolve(d) if d else '') for n, t, d in zip(names, topics, depths, strict=True)]


def _resolved(node: Any, topic: str) -> str:
    try:
        validate_topic_name(topic)
    except InvalidTopicNameException as error:
        raise UserError(f"'{topic}' among image_topics and depth_topics is no topic name: {error}") from None
    return node.resolve_topic_name(topic)


class CameraInputs:
    """Subscribes to every camera and turns messages into Frames on the inference thread."""

    def __init__(
        self, node: Any, cameras: list[Camera], slots: Slots, *, depth_slop: float, max_frame_age: float
    ) -> None:
        self._node = node
        self._slots = slots
        self._slop = depth_slop * NANOSECONDS
        self._max_age = max_frame_age
        self.cameras = {c.name: c for c in cameras}
        self._subscriptions = [s for c in cameras for s in self._subscribe(c)]

    def _subscribe(self, camera: Camera) -> list[Any]:
        create = self._node.create_subscription
        kind = CompressedImage if camera.compressed else Image
        subscriptions = [create(kind, camera.image_topic, partial(self._on_image, camera), wire.CAMERA_QOS)]
        if camera.depth_topic:
            subscriptions += [
                create(Image, camera.depth_topic, partial(self._on_depth, camera), wire.CAMERA_QOS),
                create(CameraInfo, camera.info_topic, partial(self._on_info, camera), wire.CAMERA_QOS),
            ]
        return subscriptions

    def _on_image(self, camera: Camera, msg: Any) -> None:
        camera.counts['received'] += 1
        self._stamp(camera, msg)
        self._slots.put(camera.name, msg)

    def _on_depth(self, camera: Camera, msg: Image) -> None:
        self._stamp(camera, msg)
        with camera.arrived:
            camera.depths.append(msg)
            camera.arrived.notify_all()

    def _stamp(self, camera: Camera, msg: Any) -> None:
        """What comes without a stamp was taken when it arrives: a stamp that stands still would show nothing new."""
        if _time(msg):
            return
        msg.header.stamp = self._node.get_clock().now().to_msg()
        camera.counts['without a stamp'] += 1
        if camera.counts['without a stamp'] == 1:
            self._node.get_logger().warning(
                f'camera {camera.name}: images come without a stamp and count as taken when they arrive; have the '
                'driver fill header.stamp'
            )

    def _on_info(self, camera: Camera, msg: CameraInfo) -> None:
        k = np.asarray(msg.k, np.float64).reshape(3, 3)
        camera.calibrated = bool(np.isfinite(k).all() and k[0, 0] > 0 and k[1, 1] > 0)  # else K is all zeros
        camera.intrinsics = k if camera.calibrated else None

    def offered_types(self, camera: Camera) -> list[str]:
        """Message types that publishers offer on the camera's image topic."""
        infos = self._node.get_publishers_info_by_topic(camera.image_topic)
        return sorted({info.topic_type for info in infos})

    def frame(self, name: str, msg: Any) -> Frame | None:
        """Decode one message; None when it is skipped, which is counted with the reason."""
        camera = self.cameras[name]
        stamp = _time(msg)
        camera.age = (self._node.get_clock().now().nanoseconds - stamp) / NANOSECONDS
        if self._max_age and camera.age > self._max_age:
            camera.counts['too old'] += 1
            return None
        if stamp < camera.last_stamp:
            camera.counts['stamp went backwards'] += 1  # a bag loop or a clock jump: the tracker starts anew
        camera.last_stamp = stamp
        try:
            image = images.compressed_to_rgb(msg) if camera.compressed else images.image_to_rgb(msg)
        except UserError as error:
            self._invalid(camera, 'image', error)
            return None
        camera.nearest = self._nearest(camera, stamp)
        return Frame(image, stamp, name, msg.header.frame_id)

    def with_depth(self, frame: Frame) -> Frame:
        """The frame with the depth image of its moment, asked for after the inference: it often comes a little later.

        Waits up to `depth_slop` and LATEST for it while depth images flow.
        """
        camera = self.cameras[frame.camera]
        if not camera.depth_topic:
            return frame
        if camera.intrinsics is None:
            camera.counts['no camera_info' if camera.calibrated else 'camera_info without a calibration'] += 1
            return frame
        with camera.arrived:
            newest = max(map(_time, camera.depths), default=0)
            if frame.stamp - FLOWING < newest < frame.stamp:
                seconds = min(self._slop / NANOSECONDS, LATEST)
                camera.arrived.wait_for(lambda: _time(camera.depths[-1]) >= frame.stamp, seconds)
        nearest = self._nearest(camera, frame.stamp)
        if nearest is None or abs(_time(nearest) - frame.stamp) > self._slop:
            camera.counts['no depth in time'] += 1
            return frame
        try:
            return replace(frame, depth=images.depth_to_metres(nearest), intrinsics=camera.intrinsics)
        except UserError as error:
            self._invalid(camera, 'depth', error)
            return frame

    @staticmethod
    def _nearest(camera: Camera, stamp: int) -> Image | None:
        with camera.arrived:
            known = [*camera.depths, *([camera.nearest] if camera.nearest else [])]
        return min(known, key=lambda msg: abs(_time(msg) - stamp), default=None)

    def _invalid(self, camera: Camera, what: str, error: UserError) -> None:
        camera.counts[f'invalid {what}'] += 1
        if str(error) != camera.last_error:  # once per kind of error, not once per frame
            camera.last_error = str(error)
            self._node.get_logger().warning(f'camera {camera.name}: {what} skipped: {error}')

    def close(self) -> None:
        """Stop listening."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []


def _time(msg: Any) -> int:
    return stamp_to_ns(msg.header.stamp)

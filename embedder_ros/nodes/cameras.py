# SPDX-License-Identifier: Apache-2.0
"""The camera side of the embedder: subscriptions in, Frames out, and a count of what went wrong on the way."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass, field
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
    depths: deque[Any] = field(default_factory=lambda: deque(maxlen=DEPTH_KEPT))
    lock: threading.Lock = field(default_factory=threading.Lock)

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
        self._slots.put(camera.name, msg)

    def _on_depth(self, camera: Camera, msg: Image) -> None:
        with camera.lock:
            camera.depths.append(msg)

    def _on_info(self, camera: Camera, msg: CameraInfo) -> None:
        camera.intrinsics = np.asarray(msg.k, np.float64).reshape(3, 3)

    def offered_types(self, camera: Camera) -> list[str]:
        """Message types that publishers offer on the camera's image topic."""
        infos = self._node.get_publishers_info_by_topic(camera.image_topic)
        return sorted({info.topic_type for info in infos})

    def frame(self, name: str, msg: Any) -> Frame | None:
        """Decode one message; None when it is skipped, which is counted with the reason."""
        camera = self.cameras[name]
        stamp = stamp_to_ns(msg.header.stamp)
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
            return self._invalid(camera, 'image', error)
        depth = self._depth(camera, stamp)
        return Frame(image, stamp, name, msg.header.frame_id, depth, camera.intrinsics if depth is not None else None)

    def _depth(self, camera: Camera, stamp: int) -> np.ndarray | None:
        with camera.lock:
            depths = list(camera.depths)
        nearest = min(depths, key=lambda m: abs(stamp_to_ns(m.header.stamp) - stamp), default=None)
        if nearest is None or camera.intrinsics is None:
            return None
        if abs(stamp_to_ns(nearest.header.stamp) - stamp) > self._slop:
            camera.counts['no depth in time'] += 1
            return None
        try:
            return images.depth_to_metres(nearest)
        except UserError as error:
            return self._invalid(camera, 'depth', error)

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

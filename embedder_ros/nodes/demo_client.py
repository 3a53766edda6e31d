# SPDX-License-Identifier: Apache-2.0
"""What a program that uses embedder_ros does: listen to the camera, ask `find`, run `follow`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

from embedder_ros.action import Follow
from embedder_ros.images import Pixels, compressed_to_rgb, image_to_rgb
from embedder_ros.nodes import wire
from embedder_ros.nodes.messages import stamp_to_ns
from embedder_ros.srv import Find
from embedder_ros.types import UserError

KEPT_BYTES = 512 << 20  # of camera images, to draw answers on
# Every image counts here, not only the newest as for the embedder.
_CAMERA_QOS = QoSProfile(depth=30, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.BEST_EFFORT)
_PATIENCE = 20.0  # seconds for an answer


class Late(UserError):
    """What was waited for did not happen in time."""


class Client:
    """A node that is spun while it waits.

    Args:
        camera: wire.IMAGE or wire.COMPRESSED.
        check: called while waiting; raises when there is nothing to wait for any more.
    """

    def __init__(self, camera: wire.Topic, check: Callable[[], None]) -> None:
        self._check = check
        self._node = rclpy.create_node('demo')
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._camera = camera
        self._images: dict[int, Any] = {}
        self._bytes = 0
        self.model_id = ''
        self.stamps: list[int] = []  # of the frames that have been looked at
        subscribe = self._node.create_subscription
        subscribe(camera.type, camera.name, self._on_image, _CAMERA_QOS)
        subscribe(wire.OBJECTS.type, wire.OBJECTS.name, self._on_objects, wire.OBJECTS.qos)
        subscribe(wire.MODEL.type, wire.MODEL.name, self._on_model, wire.MODEL.qos)
        self._find = self._node.create_client(*wire.FIND.args)
        self._follow = ActionClient(self._node, *wire.FOLLOW.args)

    def _on_image(self, message: Any) -> None:
        self._images[stamp_to_ns(message.header.stamp)] = message
        self._bytes += len(message.data)
        while self._bytes > KEPT_BYTES and len(self._images) > 1:
            self._bytes -= len(self._images.pop(next(iter(self._images))).data)

    def _on_objects(self, message: Any) -> None:
        self.stamps.append(stamp_to_ns(message.header.stamp))

    def _on_model(self, message: Any) -> None:
        self.model_id = message.model_id

    @property
    def seen(self) -> int:
        """How many frames have been looked at whose image reached us too."""
        return sum(stamp in self._images for stamp in self.stamps)

    def ready(self) -> bool:
        """Whether the model is loaded, the embedder listens beside us, and questions can be asked."""
        listeners = self._node.count_subscribers(self._camera.name)
        return (
            bool(self.model_id) and listeners > 1 and self._find.service_is_ready() and self._follow.server_is_ready()
        )

    def wait(self, until: Callable[[], bool], what: str, seconds: float = _PATIENCE) -> None:
        """Spin until it is so. Raises Late, naming what did not happen, when the time is up."""
        deadline = time.monotonic() + seconds
        while not until():
            self._executor.spin_once(timeout_sec=0.05)
            self._check()
            if time.monotonic() > deadline:
                raise Late(f'{what}: not within {seconds:g} s')

    def image(self, stamp: int) -> Pixels | None:
        """The camera's image with exactly this stamp, if it reached us."""
        message = self._images.get(stamp)
        if message is None:
            return None
        return compressed_to_rgb(message) if self._camera is wire.COMPRESSED else image_to_rgb(message)

    def next_frame(self) -> None:
        """Wait until one more frame has been looked at."""
        count = len(self.stamps)
        self.wait(lambda: len(self.stamps) > count, 'next frame')

    def find(self, text: str, scope: int = Find.Request.NOW) -> Find.Response:
        """Ask where something is, or was last seen. Raises UserError when the question cannot be answered."""
        request = Find.Request(scope=scope)
        request.query.text = text
        asked = [self._find.call_async(request)]
        again = time.monotonic() + _PATIENCE / 2

        def answered() -> bool:
            # Once more: Fast DDS drops an answer to a client that the server has not discovered within 0.1 s of it.
            if len(asked) == 1 and time.monotonic() > again:
                asked.append(self._find.call_async(request))
            return any(future.done() for future in asked)

        self.wait(answered, f"answer to '{text}'")
        response = next(future for future in asked if future.done()).result()
        if not response.success:
            raise UserError(f"'{text}' was not answered: {response.message}")
        return response

    def follow(self, text: str, seconds: float) -> tuple[list[Follow.Feedback], Follow.Result]:
        """Follow something for a time; the feedback of each frame, and the result after we cancelled."""
        seen: list[Follow.Feedback] = []
        goal = Follow.Goal()
        goal.query.text = text
        sent = self._follow.send_goal_async(goal, feedback_callback=lambda message: seen.append(message.feedback))
        self.wait(sent.done, 'start of the follow action')
        handle = sent.result()
        if not handle.accepted:
            raise UserError('the follow action refused the goal')
        result, end = handle.get_result_async(), time.monotonic() + seconds
        self.wait(lambda: result.done() or time.monotonic() > end, 'following', seconds + _PATIENCE)
        if not result.done():
            handle.cancel_goal_async()
            self.wait(result.done, 'result of the follow action')
        return seen, result.result().result

    def close(self) -> None:
        """Destroy the node."""
        self._executor.shutdown()
        self._node.destroy_node()

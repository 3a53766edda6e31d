# SPDX-License-Identifier: Apache-2.0
"""/diagnostics: named states with the fix in the text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType

from embedder_ros.nodes import wire
from embedder_ros.nodes.cameras import Camera, CameraInputs

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

# Seconds by which stamps may differ from the node's clock before it is worth telling.
STALE = 5.0
# What keeps a camera with depth from giving positions, and what to do.
NO_POSITIONS = {
    'no camera_info': 'Have the driver publish it beside the image topic, or remap it',
    'camera_info without a calibration': 'Its K is zero: calibrate the camera (camera_calibration)',
    'no depth in time': 'See that depth_topics is published with the stamps of the images, or raise depth_slop',
}


def status(node: Any, what: str, level: bytes, message: str, values: dict[str, Any]) -> DiagnosticStatus:
    """One status, named by the node with its namespace; values are shown as text."""
    pairs = [KeyValue(key=str(k), value=f'{v:.3f}' if isinstance(v, float) else str(v)) for k, v in values.items()]
    name = f'{node.get_fully_qualified_name().lstrip("/")}: {what}'
    return DiagnosticStatus(level=level, name=name, message=message, hardware_id='', values=pairs)


class Reporter:
    """Publishes a node's statuses once a second of real time, so that a simulated clock that stands still is told.

    Args:
        node: whose statuses.
        statuses: asked once a second.
    """

    def __init__(self, node: Any, statuses: Callable[[], Iterable[DiagnosticStatus]]) -> None:
        self._node, self._statuses = node, statuses
        self._publisher = node.create_publisher(*wire.DIAGNOSTICS.args)
        node.create_timer(1.0, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _report(self) -> None:
        now = self._node.get_clock().now()
        message = DiagnosticArray(status=list(self._statuses()))
        if not now.nanoseconds:
            text = 'use_sim_time is set and no /clock arrives: play the bag with --clock, or unset use_sim_time'
            message.status.append(status(self._node, 'clock', WARN, text, {}))
        message.header.stamp = now.to_msg()
        self._publisher.publish(message)


class CameraMonitor:
    """Compares a camera's counts with those of the last look, one look a second."""

    def __init__(self) -> None:
        self._last: dict[str, Counter[str]] = {}

    def look(self, node: Any, inputs: CameraInputs, camera: Camera, replaced: int) -> DiagnosticStatus:
        """The camera's state since the last look."""
        counts = Counter(camera.counts, replaced=replaced)
        new = counts - self._last.get(camera.name, Counter())
        self._last[camera.name] = counts
        level, message = self._judge(inputs, camera, new)
        values = {'topic': camera.image_topic, 'received': counts['received'], 'dropped for a newer frame': replaced}
        values |= {k: v for k, v in counts.items() if k not in ('received', 'replaced')}
        values |= {'stamp age (s)': camera.age, 'last error': camera.last_error or 'none'}
        return status(node, f'camera {camera.name}', level, message, values)

    @staticmethod
    def _judge(inputs: CameraInputs, camera: Camera, new: Counter[str]) -> tuple[bytes, str]:
        if not new['received']:
            return WARN, waiting(inputs, camera)
        if new['invalid image']:
            return WARN, f'{new["invalid image"]} of {new["received"]} images cannot be used: {camera.last_error}'
        if new['too old']:
            return WARN, (
                f'{new["too old"]} of {new["received"]} images were dropped as older than max_frame_age, the last was '
                f'{camera.age:.1f} s old. Synchronise the clocks, or raise max_frame_age'
            )
        if abs(camera.age) > STALE:
            return WARN, (
                f'stale stamps: images are stamped {camera.age:.0f} s before now. Synchronise the clocks; when '
                'replaying a bag, play it with --clock and set use_sim_time'
            )
        for lack, remedy in NO_POSITIONS.items():
            if new[lack] > new['received'] / 2:
                return WARN, f'no positions: {lack} for {new[lack]} of {new["received"]} images. {remedy}'
        return OK, f'{new["received"]} images a second'


def waiting(inputs: CameraInputs, camera: Camera) -> str:
    """Why no image arrives, and what to do."""
    expected = 'sensor_msgs/msg/CompressedImage' if camera.compressed else 'sensor_msgs/msg/Image'
    types = inputs.offered_types(camera)
    if not types:
        return f'waiting for image: nobody publishes {camera.image_topic}. Remap it, or set image_topics'
    if expected not in types:
        return (
            f'{camera.image_topic} carries {", ".join(types)}, not {expected}. Compressed topics are recognised by a '
            "name that ends in '/compressed'"
        )
    if camera.counts['received']:
        return f'{camera.image_topic}: no image in the last second, {camera.counts["received"]} before'
    return (
        f'{camera.image_topic} is published but no image arrives. Images larger than the shared-memory segment are '
        'lost: set FASTDDS_DEFAULT_PROFILES_FILE (up to Jazzy FASTRTPS_DEFAULT_PROFILES_FILE) to '
        'share/embedder_ros/config/fastdds.xml for this node and the camera'
    )

# SPDX-License-Identifier: Apache-2.0
"""Where the cameras were, from tf2: without poses the memory knows no places, only appearances.

tf2_ros is part of every robot's ROS but not of the ROS wheels, so it is imported when a map frame is named.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.time import Time
from scipy.spatial.transform import Rotation

from embedder_ros.types import UserError


class Poses:
    """Transforms from optical frames to the map.

    Args:
        node: listens to tf.
        map_frame: name of the map's frame; '' means that there is none.

    Attributes:
        missing: frames for which tf had no transform.
        last_error: what tf said last.

    Raises:
        UserError: a map frame is named and tf2_ros is not installed.
    """

    def __init__(self, node: Any, map_frame: str) -> None:
        self.map_frame = map_frame
        self.missing = 0
        self.last_error = ''
        self._buffer: Any = None
        if not map_frame:
            return
        try:
            import tf2_ros
        except ImportError as error:
            raise UserError(
                f"parameter map_frame is '{map_frame}' and tf2_ros is not installed ({error}): install your ROS "
                "distribution's tf2-ros-py, or set map_frame to ''"
            ) from error
        self._failures = (tf2_ros.TransformException,)
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)

    def camera_to_map(self, frame_id: str, stamp: int) -> NDArray[np.float64] | None:
        """(4, 4) transform of points in `frame_id` to the map at `stamp` nanoseconds; None when it is not known."""
        if self._buffer is None:
            return None
        try:
            transform = self._buffer.lookup_transform(self.map_frame, frame_id, Time(nanoseconds=stamp)).transform
        except self._failures as error:
            self.missing += 1
            self.last_error = str(error)
            return None
        q, t = transform.rotation, transform.translation
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
        matrix[:3, 3] = t.x, t.y, t.z
        return matrix

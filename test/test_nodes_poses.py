# SPDX-License-Identifier: Apache-2.0
"""Camera poses from tf2, which is not among the ROS wheels: a module of the same interface stands in for it."""

from __future__ import annotations

import math
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from rclpy.time import Time

from embedder_ros.nodes.poses import Poses
from embedder_ros.types import UserError


class TransformException(Exception):
    pass


class Buffer:
    """Knows one transform: 1 m ahead, 2 m to the left, a quarter turn to the left, at every time from 5 s on."""

    def lookup_transform(self, target: str, source: str, time: Time) -> TransformStamped:
        if (target, source) != ('map', 'optical') or time.nanoseconds < 5_000_000_000:
            raise TransformException(f'no transform from {source} to {target}')
        found = TransformStamped()
        found.transform.translation.x, found.transform.translation.y = 1.0, 2.0
        found.transform.rotation.z = found.transform.rotation.w = math.sqrt(0.5)
        return found


@pytest.fixture
def tf2(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType('tf2_ros')
    module.Buffer, module.TransformException = Buffer, TransformException
    module.TransformListener = lambda buffer, node: None
    monkeypatch.setitem(sys.modules, 'tf2_ros', module)


def test_a_point_before_the_camera_is_placed_in_the_map(tf2: None) -> None:
    pose = Poses(None, 'map').camera_to_map('optical', 6_000_000_000)
    assert pose is not None
    np.testing.assert_allclose(pose @ [3, 0, 0.5, 1], [1, 5, 0.5, 1], atol=1e-12)


@pytest.mark.parametrize(('frame_id', 'stamp'), [('optical', 4_000_000_000), ('elsewhere', 6_000_000_000)])
def test_an_unknown_pose_is_none_and_counted(tf2: None, frame_id: str, stamp: int) -> None:
    poses = Poses(None, 'map')
    assert poses.camera_to_map(frame_id, stamp) is None
    assert poses.missing == 1 and frame_id in poses.last_error


def test_without_a_map_frame_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'tf2_ros', None)
    poses = Poses(None, '')
    assert poses.camera_to_map('optical', 1) is None and not poses.missing


def test_a_map_frame_without_tf2_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'tf2_ros', None)
    with pytest.raises(UserError, match='tf2-ros-py, or set map_frame'):
        Poses(None, 'map')

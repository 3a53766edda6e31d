# SPDX-License-Identifier: Apache-2.0
"""The live tracks as visualization_msgs/MarkerArray: a ball and a name where depth says that a thing is, for RViz."""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from embedder_ros.nodes.messages import header
from embedder_ros.types import Observation, Track

SIZE = 0.05  # metres, of the ball and of its name's letters
LIFETIME = Duration(sec=1)  # without a new frame that shows it, a thing goes from the view
IDS = 2**31  # a marker's id is an int32


def markers(tracks: Sequence[Track], observation: Observation, names: Mapping[str, str]) -> MarkerArray:
    """What `observation` shows of one camera's tracks, in its optical frame; empty where there is no depth.

    `names` says what remembered objects are called, by their ids; what nobody named is called by its id. One individual
    keeps its colour: it is made from the object id, or from the track's while nothing is remembered.
    """
    positions = observation.positions
    out = MarkerArray()
    if positions is None:
        return out
    of_frame = header(observation.stamp, observation.frame_id)
    for track in tracks:
        if track.row < 0 or not np.isfinite(positions[track.row]).all():
            continue
        identity = track.object_id or f'track {track.track_id}'
        name = names.get(track.object_id) or identity
        at = Point(**dict(zip('xyz', map(float, positions[track.row]), strict=True)))
        above = Point(x=at.x, y=at.y - 1.2 * SIZE, z=at.z)  # y points down in an optical frame
        shared = {'header': of_frame, 'id': track.track_id % IDS, 'color': _colour(identity), 'text': name}
        out.markers += [
            _marker(f'{observation.camera}/objects', Marker.SPHERE, at, shared),
            _marker(f'{observation.camera}/names', Marker.TEXT_VIEW_FACING, above, shared),
        ]
    return out


def _marker(group: str, kind: int, at: Point, shared: dict[str, Any]) -> Marker:
    pose, size = Pose(position=at, orientation=Quaternion(w=1.0)), Vector3(x=SIZE, y=SIZE, z=SIZE)
    return Marker(ns=group, type=kind, action=Marker.ADD, pose=pose, scale=size, lifetime=LIFETIME, **shared)


def _colour(identity: str) -> ColorRGBA:
    red, green, blue = colorsys.hsv_to_rgb(zlib.crc32(identity.encode()) / 2**32, 0.8, 1.0)
    return ColorRGBA(r=red, g=green, b=blue, a=0.9)

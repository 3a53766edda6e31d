# SPDX-License-Identifier: Apache-2.0
"""The live tracks as visualization_msgs/MarkerArray: a ball and a name where depth says that a thing is, for RViz."""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Duration
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from embedder_ros.nodes.messages import header
from embedder_ros.types import Observation, Track

SIZE = 0.05  # metres, of the ball and of its name's letters
LIFETIME = Duration(sec=1)  # without a new frame that shows it, a thing goes from the view
IDS = 2**31  # a marker's id is an int32


def markers(tracks: Sequence[Track], observation: Observation) -> MarkerArray:
    """What `observation` shows of one camera's tracks, in its optical frame; empty where there is no depth.

    One individual keeps its colour: it is made from the object id, or from the track's while nothing is remembered.
    """
    positions = observation.positions
    out = MarkerArray()
    if positions is None:
        return out
    for track in tracks:
        if track.row < 0 or not np.isfinite(positions[track.row]).all():
            continue
        name = track.object_id or f'track {track.track_id}'
        point = positions[track.row]
        out.markers.append(_marker(observation, 'objects', track, Marker.SPHERE, point, name))
        above = point - np.array([0, 1.2 * SIZE, 0], np.float32)  # y points down in an optical frame
        out.markers.append(_marker(observation, 'names', track, Marker.TEXT_VIEW_FACING, above, name))
    return out


def _marker(observation: Observation, group: str, track: Track, kind: int, point: np.ndarray, name: str) -> Marker:
    marker = Marker(header=header(observation.stamp, observation.frame_id), ns=f'{observation.camera}/{group}')
    marker.id, marker.type, marker.action, marker.lifetime = track.track_id % IDS, kind, Marker.ADD, LIFETIME
    marker.pose.position.x, marker.pose.position.y, marker.pose.position.z = map(float, point)
    marker.pose.orientation.w = 1.0
    marker.scale.x = marker.scale.y = marker.scale.z = SIZE
    marker.color, marker.text = _colour(name), name
    return marker


def _colour(name: str) -> ColorRGBA:
    red, green, blue = colorsys.hsv_to_rgb(zlib.crc32(name.encode()) / 2**32, 0.8, 1.0)
    return ColorRGBA(r=red, g=green, b=blue, a=0.9)

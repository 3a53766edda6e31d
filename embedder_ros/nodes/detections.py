# SPDX-License-Identifier: Apache-2.0
"""The live tracks as vision_msgs/Detection2DArray. Imported only where that package is installed (wire.DETECTIONS)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from embedder_ros.nodes.messages import header
from embedder_ros.types import FloatArray, Observation, Track

UNNAMED = 'object'  # class_id of what nobody named: nothing is classified here


def detections(tracks: Sequence[Track], observation: Observation, names: Mapping[str, str]) -> Detection2DArray:
    """What `observation` shows of one camera's tracks, under that frame's header.

    A detection's `id` is the track id. Its one hypothesis has as class_id what `names` calls the remembered object, by
    its id, as score the predicted IoU, and as position the object's in the header's frame; all zero where depth does
    not say it.
    """
    of_frame, positions = header(observation.stamp, observation.frame_id), observation.positions
    out = Detection2DArray(header=of_frame)
    for track in tracks:
        if track.row >= 0:
            name = names.get(track.object_id) or UNNAMED
            out.detections.append(
                _detection(track, of_frame, name, None if positions is None else positions[track.row])
            )
    return out


def _detection(track: Track, of_frame: Header, name: str, position: FloatArray | None) -> Detection2D:
    found = ObjectHypothesisWithPose()
    found.hypothesis.class_id, found.hypothesis.score = name, float(track.iou)
    if position is not None and np.isfinite(position).all():
        at = found.pose.pose.position
        at.x, at.y, at.z = map(float, position)
    out = Detection2D(header=of_frame, results=[found], id=str(track.track_id))
    x0, y0, x1, y1 = map(float, track.box)
    out.bbox.center.position.x, out.bbox.center.position.y = (x0 + x1) / 2, (y0 + y1) / 2
    out.bbox.size_x, out.bbox.size_y = x1 - x0, y1 - y0
    return out

# SPDX-License-Identifier: Apache-2.0
"""What the memory answers, as messages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from geometry_msgs.msg import PointStamped
from sensor_msgs.msg import CompressedImage

from embedder_ros.images import to_field
from embedder_ros.memory.questions import FoundFrame
from embedder_ros.memory.reid import Decision, Same
from embedder_ros.msg import RememberedFrame, RememberedObject
from embedder_ros.nodes.messages import candidate_to_msg, header, ns_to_stamp
from embedder_ros.types import NANOSECONDS, Answer, Candidate, Object, Outcome, UserError

_OUTCOMES = {
    Same.SAME: 'it is object {best}: {why}',
    Same.REFUSED: 'it cannot be told safely: {why}',
    Same.UNKNOWN: 'it is none of what is remembered: {why}',
}


def one(known: Object, gone: float, cameras: tuple[str, ...], max_age: float, now: int) -> Answer:
    """Where a remembered object was last seen.

    NOT_FOUND with reason stale_frames when that is longer ago than `max_age` seconds, by another camera than the asked
    ones, or when its place has been seen empty since, so that its presence is below `gone`.
    """
    unseen = max(0, now - known.last_seen) / NANOSECONDS
    candidate = replace(_last_seen(known), unseen=unseen)
    current = (not max_age or unseen <= max_age) and (not cameras or known.camera in cameras)
    there = known.presence >= gone
    outcome = Outcome.FOUND if current and there else Outcome.NOT_FOUND
    reason = 'found' if outcome is Outcome.FOUND else 'stale_frames'
    return Answer(
        outcome, reason, (candidate,), candidate.score, 0.0, frames_searched=1, objects_searched=1, age=unseen
    )


def one_object(decision: Decision) -> str:
    """The id of the object that a region is. Raises UserError when it is none."""
    if decision.outcome is Same.SAME:
        return decision.candidates[0].object_id
    raise UserError(f'{_sentence(decision)}; wait until it is tracked, or give a track_id of topic tracks')


def fill_decision(response: Any, decision: Decision) -> None:
    """The response of `reidentify`."""
    response.success, response.message = True, _sentence(decision)
    response.outcome, response.margin = decision.outcome.value, float(decision.margin)
    response.candidates = [candidate_to_msg(c) for c in decision.candidates]
    response.reasons, response.counts = list(decision.reasons), list(decision.reasons.values())


def object_to_msg(known: Object, with_thumbnail: bool = False) -> RememberedObject:
    """A remembered object."""
    msg = RememberedObject(object_id=known.object_id, name=known.name, labels=list(known.labels))
    msg.map_id, msg.model_id, msg.camera = known.map_id, known.model_id, known.camera
    msg.first_seen, msg.last_seen = ns_to_stamp(known.first_seen), ns_to_stamp(known.last_seen)
    msg.box = np.asarray(known.box, np.float32)
    msg.views, msg.sightings = len(known.views), known.sighting_count
    msg.presence, msg.pinned = float(known.presence), known.pinned
    msg.has_position = known.position is not None
    if known.position is not None:
        msg.position = PointStamped(header=header(known.last_seen, known.position_frame))
        msg.position.point.x, msg.position.point.y, msg.position.point.z = map(float, known.position)
    if with_thumbnail:
        msg.thumbnail = thumbnail(known)
    return msg


def frame_to_msg(found: FoundFrame, map_id: str, with_thumbnail: bool) -> RememberedFrame:
    """A remembered frame with its best objects."""
    f = found.frame
    msg = RememberedFrame(header=header(f.stamp, f.frame_id), camera=f.camera, map_id=map_id, score=float(found.score))
    msg.objects = [candidate_to_msg(c) for c in found.objects]
    if with_thumbnail:
        msg.thumbnail = _jpeg(f.thumbnail, f.stamp, f.frame_id)
    return msg


def thumbnail(known: Object) -> CompressedImage:
    """The picture of an object's best view that has one; empty when none has."""
    view = next((v for v in known.views if v.thumbnail), None)
    return CompressedImage() if view is None else _jpeg(view.thumbnail, view.stamp, known.frame_id)


def _jpeg(data: bytes, stamp: int, frame_id: str) -> CompressedImage:
    msg = CompressedImage(header=header(stamp, frame_id), format='jpeg' if data else '')
    msg.data = to_field(np.frombuffer(data, np.uint8), 'B')
    return msg


def _last_seen(known: Object) -> Candidate:
    """An object asked for by its id: there is nothing to match, so what counts is its best view's box."""
    best = known.views[0]
    return Candidate(
        known.camera,
        known.frame_id,
        known.last_seen,
        known.box,
        score=best.iou,
        semantic=1.0,
        iou=best.iou,
        objectness=best.objectness,
        object_id=known.object_id,
        position=known.position,
        position_frame=known.position_frame,
    )


def _sentence(decision: Decision) -> str:
    first = decision.candidates[0] if decision.candidates else None
    likely = f'the best is the same with probability {first.semantic:.2f}' if first else 'nothing is left'
    why = ', '.join([likely, *(f'{count} {reason}' for reason, count in decision.reasons.items())])
    return _OUTCOMES[decision.outcome].format(best=first.object_id if first else '', why=why)

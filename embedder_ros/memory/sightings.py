# SPDX-License-Identifier: Apache-2.0
"""What a sighting makes of an object. Nothing else refreshes one: being remembered or asked for does not."""

from __future__ import annotations

import uuid
from dataclasses import replace

from embedder_ros.memory.live import Live
from embedder_ros.memory.seen import Seen
from embedder_ros.types import NANOSECONDS, Object, Observation, Sighting

# Nanoseconds that the stamps of two cameras may differ by without being of two times.
SKEW = 10 * NANOSECONDS


def new_object(seen: Seen, live: Live, map_id: str, map_frame: str) -> Object:
    """A new object, as its track has been seen so far; `refreshed` says where it is now."""
    o, best = seen.observation, live.gallery.best_first
    return Object(
        object_id=uuid.uuid4().hex[:16],
        map_id=map_id,
        model_id=o.model_id,
        views=best,
        sightings=(Sighting(live.run, live.camera, live.track_id, live.first, live.last),),
        sighting_count=1,
        first_seen=live.first,
        last_seen=live.last,
        camera=o.camera,
        box=best[0].box,
        width=o.width,
        height=o.height,
        frame_id=o.frame_id,
        position=None if live.late is None else live.late[1],
        position_frame='' if live.late is None else map_frame,
    )


def bound(old: Object, live: Live, most: int) -> Object:
    """The object, seen as one more track; at most so many sightings are kept.

    A second box stands for the object from when the first one's track had ended, so that sightings do not overlap.
    """
    here = (live.run, live.camera)
    ends = [s.last + 1 for s in old.sightings if (s.run, s.camera) == here and s.track_id in live.second_box_of]
    since = min(max([live.first, *ends]), live.last)
    sightings = (*old.sightings, Sighting(*here, live.track_id, since, live.last))
    return replace(
        old,
        sightings=sightings[-most:],
        sighting_count=old.sighting_count + 1,
        first_seen=min(old.first_seen, since),
    )


def refreshed(old: Object, seen: Seen, row: int, live: Live, map_frame: str) -> Object:
    """The object, seen again as a row of this frame."""
    o, place = seen.observation, seen.place(row)
    if seen.frame != map_frame and old.position_frame == map_frame:
        place = None  # a place in the map is worth more than one before a camera that was somewhere
    return replace(
        old,
        sightings=_prolonged(old.sightings, live),
        first_seen=min(old.first_seen, o.stamp),
        last_seen=_last_seen(old, o),
        camera=o.camera,
        box=o.boxes[row].copy(),
        width=o.width,
        height=o.height,
        frame_id=o.frame_id,
        position=old.position if place is None else place.copy(),
        position_frame=old.position_frame if place is None else seen.frame,
        presence=1.0,
    )


def _last_seen(old: Object, observation: Observation) -> int:
    """Cameras' clocks differ a little: the newest counts. After a clock jumped back the last counts."""
    stamp = observation.stamp
    jumped = old.last_seen - stamp > SKEW
    return stamp if jumped or old.camera == observation.camera else max(old.last_seen, stamp)


def _prolonged(sightings: tuple[Sighting, ...], live: Live) -> tuple[Sighting, ...]:
    """The sightings with the live track's up to its last frame."""
    mine = (live.run, live.camera, live.track_id)
    for i in range(len(sightings) - 1, -1, -1):
        s = sightings[i]
        if (s.run, s.camera, s.track_id) == mine:
            return (*sightings[:i], replace(s, last=live.last), *sightings[i + 1 :])
    return sightings

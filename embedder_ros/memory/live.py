# SPDX-License-Identifier: Apache-2.0
"""What is known about one live track before and after it is recognised."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embedder_ros.memory.policy import Settings
from embedder_ros.memory.reid import Span
from embedder_ros.memory.views import Gallery
from embedder_ros.types import NANOSECONDS

Place = tuple[int, NDArray[np.float64]]

# How far trying again slows down while nothing better is seen.
SLOWEST = 16


@dataclass(slots=True)
class Live:
    """A live track.

    Attributes:
        camera, track_id, run: which track.
        first, last: stamps of its sightings, nanoseconds.
        gallery: its own views, until it is bound to an object.
        object_id: the object it is; '' when none.
        fresh: it was bound in this frame.
        seen_with: tracks seen in the same frame, apart from it, while it had no object.
        second_box_of: tracks that it was seen on top of.
        on_top: its box and that of a track with an object are on top of each other, and both fit.
        fit: predicted iou of its last box.
        person: looks like a person, which is not remembered.
        forgotten: its object was forgotten by request; it is not remembered again.
        outcome: the last verdict's reason, to count it once.
        vetoed: pairs already counted.
        compared: stamp of the last comparison, -1 before the first.
        better: a better view came since then.
        waits: retry intervals until the next comparison.
        gap: nanoseconds between its last two sightings.
        doubts: sightings in a row that did not look like its object.
        early, late: (stamp, (3,) metres in the map) of the first and last sighting with a position.
    """

    camera: str
    track_id: int
    run: str
    first: int
    last: int
    gallery: Gallery
    object_id: str = ''
    fresh: bool = False
    seen_with: set[int] = field(default_factory=set)
    second_box_of: set[int] = field(default_factory=set)
    on_top: bool = False
    fit: float = 0.0
    person: bool = False
    forgotten: bool = False
    outcome: str = ''
    vetoed: set[str] = field(default_factory=set)
    compared: int = -1
    better: bool = False
    waits: int = 1
    gap: int = 0
    doubts: int = 0
    early: Place | None = None
    late: Place | None = None

    @property
    def seconds(self) -> float:
        """From the first to the last sighting."""
        return (self.last - self.first) / NANOSECONDS

    def begin_anew(self, gallery: Gallery) -> None:
        """From its last sighting on it is another thing, of which nothing is known yet but where it is."""
        self.first, self.gallery, self.object_id, self.doubts, self.early = self.last, gallery, '', 0, self.late
        self.seen_with, self.second_box_of, self.vetoed = set(), set(), set()
        self.outcome, self.compared, self.better, self.waits = '', -1, False, 1

    def put_on(self, on_top: bool) -> None:
        """Whether it is on top of another; once it is no more, it is compared anew."""
        if self.on_top and not on_top:
            self.waits = 1
        self.on_top = on_top

    def span(self) -> Span:
        """What vetoes are made of."""
        places = tuple(p for p in (self.early, self.late) if p is not None)
        return Span(self.run, self.camera, self.first, self.last, places, self.second_box_of, self.seen_with)

    def due(self, stamp: int, settings: Settings) -> bool:
        """Whether it is time to compare it with the memory (again), at the latest when it may become a new object."""
        if self.compared < 0:
            return True
        before = (self.compared - self.first) / NANOSECONDS
        if any(before < limit <= self.seconds for limit in (settings.settle, settings.patience, 2 * settings.patience)):
            return True
        since = (stamp - self.compared) / NANOSECONDS
        return since >= settings.retry * (1 if self.better else self.waits)

    def tried(self, stamp: int) -> None:
        """Note a comparison that bound it to nothing; one that waits for another track's end is tried at full pace."""
        self.waits = 1 if self.better or self.compared < 0 or self.outcome == 'held' else min(2 * self.waits, SLOWEST)
        self.compared, self.better = stamp, False

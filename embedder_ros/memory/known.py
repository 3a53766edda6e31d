# SPDX-License-Identifier: Apache-2.0
"""The objects in use: those that are in view, and those that were lately compared; all others are in the store.

A new object is written before its id is told to anybody. An object that is merely seen again is written a few seconds
later, so that a hundred objects in view do not cost a hundred writes a frame; a crash loses those seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from embedder_ros.memory.policy import Settings
from embedder_ros.memory.report import Report
from embedder_ros.memory.store import Store
from embedder_ros.memory.views import Gallery, view_weights
from embedder_ros.types import NANOSECONDS, ModelInfo, Object

# Objects kept in memory beside those in view. Raising it costs memory, some 20 kB each with thumbnails.
CACHED = 512
# So many are dropped at once, since each time all are looked through.
SPARE = 128

TrackKey = tuple[str, int]


@dataclass(slots=True)
class Known:
    """An object in use.

    Attributes:
        object: as it is now; its `views` are those of the gallery after `refreshed`.
        gallery: its views.
        tracks: live tracks that it is seen as, as (camera, track id).
        dirty: node's clock when it first differed from the store, -1 when it does not.
    """

    object: Object
    gallery: Gallery
    tracks: set[TrackKey] = field(default_factory=set)
    dirty: int = -1

    def refreshed(self) -> Object:
        """The object with the gallery's views, best first."""
        self.object = replace(self.object, views=self.gallery.best_first)
        return self.object


class Working:
    """Objects in use, over a store.

    Args:
        store: where all objects are.
        model: reads the identity views.
        settings, report: of the memory.

    Attributes:
        touched: objects that changed since somebody emptied it; None for those that are gone.
    """

    def __init__(self, store: Store, model: ModelInfo, settings: Settings, report: Report) -> None:
        self._store, self._model, self._settings, self._report = store, model, settings, report
        self.touched: dict[str, Known | None] = {}
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._dirty: dict[str, Known] = {}  # in the order in which they are to be written

    def get(self, object_id: str) -> Known | None:
        """The object, from the store when it is not in use yet. Raises UserError when the store refuses."""
        known = self._known.get(object_id)
        return known if known is not None else next(iter(self.load([object_id])), None)

    def __contains__(self, object_id: str) -> bool:
        """Whether the object is in use."""
        return object_id in self._known

    def used(self) -> Iterable[Known]:
        """All objects in use."""
        return self._known.values()

    def dirty(self) -> Iterable[Known]:
        """Objects that differ from the store."""
        return self._dirty.values()

    def load(self, object_ids: Iterable[str]) -> list[Known]:
        """The objects with these ids, those that there are, in the order of the ids. Raises UserError."""
        wanted = sorted(set(object_ids))
        stored = [i for i in wanted if i not in self._known]
        for known in self._opened(self._store.read(stored) if stored else ()):
            self._known[known.object.object_id] = known
        found = [self._known[i] for i in wanted if i in self._known]
        for known in found:
            self._known.move_to_end(known.object.object_id)
        self._evict()
        return found

    def _opened(self, stored: Sequence[Object]) -> Iterator[Known]:
        """Stored objects with their galleries; all at once, because a few numpy calls per object add up."""
        views = [v for o in stored for v in o.views]
        looks = self._model.identity(np.stack([v.embedding for v in views])) if views else np.zeros((0, 0), np.float32)
        weights, start = view_weights(views), 0
        for o in stored:
            gallery, part = (
                Gallery(self._settings.max_views, self._settings.diverse),
                slice(start, start + len(o.views)),
            )
            if o.views:
                gallery.views, gallery.looks, gallery.weights = list(o.views), looks[part], weights[part]
            start = part.stop
            yield Known(o, gallery)

    def add(self, new: Sequence[Known]) -> None:
        """Write new objects. Raises UserError when the store refuses; then nothing was added."""
        self._store.put([k.refreshed() for k in new])
        self._report.failure = ''
        ids = {k.object.object_id: k for k in new}
        self._known.update(ids)
        self.touched.update(ids)
        self._evict()

    def changed(self, known: Known, now: int) -> None:
        """Note that an object differs from the store."""
        self.touched[known.object.object_id] = known
        if known.dirty < 0:
            known.dirty = now
            self._known[known.object.object_id] = self._dirty[known.object.object_id] = known

    def write(self, known: Known) -> None:
        """Write one object now. Raises UserError."""
        self._write([known])

    def flush(self) -> None:
        """Write everything that differs. Raises UserError; what was not written is still to be written."""
        self._write(list(self._dirty.values()))

    def flush_old(self, now: int) -> None:
        """Write the few that have differed for longest, if that is long. Raises UserError."""
        wait = self._settings.write_interval * NANOSECONDS
        due: list[Known] = []
        for known in self._dirty.values():
            if len(due) == self._settings.writes or 0 <= now - known.dirty < wait:
                break
            due.append(known)
        self._write(due)

    def drop(self, object_ids: Iterable[str]) -> list[Known]:
        """Take out of use, without writing; those that were in use."""
        dropped = []
        for object_id in object_ids:
            self._dirty.pop(object_id, None)
            self.touched[object_id] = None
            known = self._known.pop(object_id, None)
            if known is not None:
                dropped.append(known)
        return dropped

    def _write(self, known: Sequence[Known]) -> None:
        if not known:
            return
        self._store.put([k.refreshed() for k in known])
        self._report.failure = ''
        for k in known:
            k.dirty = -1
            self._dirty.pop(k.object.object_id, None)

    def _evict(self) -> None:
        spare = len(self._known) - CACHED
        if spare < SPARE:
            return
        idle = [i for i, k in self._known.items() if not k.tracks and k.dirty < 0]
        for object_id in idle[:spare]:
            del self._known[object_id]

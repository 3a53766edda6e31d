# SPDX-License-Identifier: Apache-2.0
"""Searches for objects that tracks may be, at once or in a thread of its own.

A search through a hundred thousand objects takes longer than a frame may. In a thread it delays nothing but itself: the
tracks are recognised a frame or two later. Then results depend on timing, so recordings are searched at once.

A frame decides about fewer tracks than one search looks for, so the others ask again in the next frames. They are
answered with what was found for them, and the store is searched when none of those who ask has an answer. That nothing
was found is no answer: such a track may become a new object, and the thing may have been remembered a moment ago.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from embedder_ros.memory.store import Filter, Store
from embedder_ros.types import FloatArray

# Frames after which a result that its camera does not fetch is dropped, so that another camera can ask.
UNFETCHED = 50

# Times that tracks ask until what was found for one of them is not given again. Raising it spares searches, and
# overlooks objects that another camera added meanwhile: on the rendered validation rooms 2 % of what 3 finds at 8.
RECENT = 3
# Cosine of a track's mean view to the one searched with, from which the answer is the same.
UNCHANGED = 0.98

Found = list[tuple[int, list[str]]]


class Finder:
    """One search at a time. Not thread-safe; all methods are called with the memory's lock.

    Args:
        store: is searched.
        neighbours: objects per track.
        least: identity cosine that an object needs.
        background: search in a thread.
    """

    def __init__(self, store: Store, neighbours: int, least: float, *, background: bool) -> None:
        self._store, self._neighbours, self._least = store, neighbours, least
        self._thread = ThreadPoolExecutor(1, 'memory-search') if background else None
        self._asked: tuple[str, Sequence[int], FloatArray] | None = None
        self._running: Future[Found] | None = None
        self._unfetched = 0
        self._asks = 0
        self._answers: dict[tuple[str, int], tuple[int, FloatArray, list[str]]] = {}
        self._again: Found = []

    @property
    def idle(self) -> bool:
        """Whether something can be asked."""
        return self._asked is None

    @property
    def searching(self) -> bool:
        """Whether the store is busy with a search."""
        return self._running is not None and not self._running.done()

    def ask(self, camera: str, tracks: Sequence[int], vectors: FloatArray) -> None:
        """Look for the objects of a camera's tracks, (T, D) unit."""
        self._asks += 1
        self._answers = {key: a for key, a in self._answers.items() if self._asks - a[0] < RECENT}
        self._again = self._answered(camera, tracks, vectors)
        if not self._again:
            self._asked, self._unfetched = (camera, tracks, vectors), 0

    def start(self) -> None:
        """Begin the search that was asked for, if there is a thread; last in a frame, since it takes the store."""
        if self._thread is not None and self._asked is not None and self._running is None:
            self._running = self._thread.submit(self._search, *self._asked[1:])

    def take(self, camera: str) -> Found:
        """Track ids and the objects that come into question for each, once they are found. Raises UserError."""
        if self._asked is None:
            again, self._again = self._again, []
            return again
        asked_by, tracks, vectors = self._asked
        if asked_by != camera:
            self._give_up()
            return []
        if self._thread is None:
            self._asked = None
            return self._kept(camera, vectors, self._search(tracks, vectors))
        if self._running is None or not self._running.done():
            return []
        running, self._asked, self._running = self._running, None, None
        return self._kept(camera, vectors, running.result())

    def _answered(self, camera: str, tracks: Sequence[int], vectors: FloatArray) -> Found:
        """Those of the tracks for which something was found a moment ago."""
        asked = ((n, vector, self._answers.get((camera, n))) for n, vector in zip(tracks, vectors, strict=True))
        known = ((n, vector, answer) for n, vector, answer in asked if answer and answer[2])
        return [(n, answer[2]) for n, vector, answer in known if float(vector @ answer[1]) >= UNCHANGED]

    def _kept(self, camera: str, vectors: FloatArray, found: Found) -> Found:
        for (track, ids), vector in zip(found, vectors, strict=True):
            self._answers[camera, track] = (self._asks, vector, ids)
        return found

    def close(self) -> None:
        """Wait for the search that runs."""
        if self._thread is not None:
            self._thread.shutdown()

    def _give_up(self) -> None:
        """On a result that is not fetched because its camera sends nothing any more."""
        self._unfetched += 1
        if self._unfetched > UNFETCHED and not self.searching:
            self._asked = self._running = None

    def _search(self, tracks: Sequence[int], vectors: FloatArray) -> Found:
        hits = self._store.search(vectors, self._neighbours, Filter(), identity=True)
        near = ([h.object_id for h in row if h.cosine >= self._least] for row in hits)
        return list(zip(tracks, near, strict=True))

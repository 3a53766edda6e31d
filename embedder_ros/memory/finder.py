# SPDX-License-Identifier: Apache-2.0
"""Searches for objects that tracks may be, at once or in a thread of its own.

A search through a hundred thousand objects takes longer than a frame may. In a thread it delays nothing but itself: the
tracks are recognised a frame or two later. Then results depend on timing, so recordings are searched at once.

A frame decides about fewer tracks than one search looks for, so the others ask again in the next frames, and those for
which nothing was decided do so later. They are answered with what was found for them as long as they look as they did,
and the store is searched when enough of those who ask have no answer. What is remembered meanwhile, by another camera
for example, is added to the answers that it is near enough to, so that they miss nothing new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from embedder_ros.memory.store import Filter, Store
from embedder_ros.types import FloatArray

# Frames after which a result that its camera does not fetch is dropped, so that another camera can ask.
UNFETCHED = 50

# Times that tracks ask until what was found for one of them is not given again. Raising it spares searches, and
# overlooks new views of known objects for longer.
RECENT = 8
# Share of those who ask that have no answer, beyond which the store is searched. Raising it searches for more at once,
# which is cheaper for each, and recognises later.
WORTH = 1 / 3
# Cosine of a track's mean view to the one searched with, from which the answer is the same.
UNCHANGED = 0.98

# Tracks and the ids of the objects that come into question.
Found = list[tuple[int, list[str]]]
# By track: ids of objects and their identity cosines.
Hits = list[dict[str, float]]
# Ids of new objects, each with its (n, K) identity views.
New = list[tuple[str, FloatArray]]


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    """What was found for a track: when, with which vector, its identity view, and the objects with their cosines."""

    asked: int
    vector: FloatArray
    look: FloatArray
    found: dict[str, float]

    def near(self, vector: FloatArray, least: float) -> list[str]:
        """Those that reach this cosine; all when it was searched with another vector than the one that asks now."""
        exact = bool(np.array_equal(vector, self.vector))
        return [i for i, cosine in self.found.items() if cosine >= least or not exact]


class Finder:
    """One search at a time. Not thread-safe; all methods are called with the memory's lock.

    Args:
        store: is searched.
        neighbours: objects per track.
        least: identity cosine that an object needs.
        identity: (N, D) embeddings to the (N, K) unit rows that the store compares.
        background: search in a thread.
    """

    def __init__(
        self, store: Store, neighbours: int, least: float, identity: Callable[[FloatArray], FloatArray], *,
        background: bool,
    ) -> None:  # fmt: skip
        self._store, self._neighbours, self._least, self._identity = store, neighbours, least, identity
        self._thread = ThreadPoolExecutor(1, 'memory-search') if background else None
        self._asked: tuple[str, Sequence[int], FloatArray, FloatArray] | None = None
        self._running: Future[Hits] | None = None
        self._unfetched = 0
        self._asks = 0
        self._answers: dict[tuple[str, int], _Answer] = {}
        self._again: Found = []
        self._missed: New = []  # remembered while the store was being searched

    @property
    def idle(self) -> bool:
        """Whether something can be asked."""
        return self._asked is None

    @property
    def searching(self) -> bool:
        """Whether the store is busy with a search."""
        return self._running is not None and not self._running.done()

    def ask(self, camera: str, tracks: Sequence[int], vectors: FloatArray, least: FloatArray | None = None) -> None:
        """Look for the objects of a camera's tracks.

        Args:
            camera: whose tracks.
            tracks: T ids.
            vectors: (T, D) unit.
            least: (T,) identity cosine that an object needs, not below the finder's; None means that one.
        """
        least = np.full(len(tracks), self._least, np.float32) if least is None else least
        self._asks += 1
        self._answers = {key: a for key, a in self._answers.items() if self._asks - a.asked < RECENT}
        self._again = self._answered(camera, tracks, vectors, least)
        answered = {n for n, _ in self._again}
        left = [i for i, n in enumerate(tracks) if n not in answered]
        if len(left) > WORTH * len(tracks):
            self._asked, self._unfetched = (camera, [tracks[i] for i in left], vectors[left], least[left]), 0

    def start(self) -> None:
        """Begin the search that was asked for, if there is a thread; last in a frame, since it takes the store."""
        if self._thread is not None and self._asked is not None and self._running is None:
            self._running = self._thread.submit(self._search, self._asked[2])

    def take(self, camera: str) -> Found:
        """Track ids and the objects that come into question for each, once they are found. Raises UserError."""
        again, self._again = self._again, []
        return again + self._fetched(camera)

    def _fetched(self, camera: str) -> Found:
        """What the search found, once it has ended."""
        if self._asked is None:
            return []
        asked_by, tracks, vectors, least = self._asked
        if asked_by != camera:
            self._give_up()
            return []
        if self._thread is None:
            self._asked = None
            return self._kept(camera, tracks, vectors, least, self._search(vectors))
        if self._running is None or not self._running.done():
            return []
        running, self._asked, self._running = self._running, None, None
        return self._kept(camera, tracks, vectors, least, running.result())

    def added(self, new: Iterable[tuple[str, FloatArray]]) -> None:
        """Take note of objects that were just stored: their ids, each with its (n, K) identity views."""
        new = list(new)
        self._add(new)
        if self._running is not None:
            self._missed += new

    def _add(self, new: New) -> None:
        """Give them to those whose answers lack them; an answer stays as long as a search's."""
        answers = list(self._answers.values())
        if not answers or not new:
            return
        looks = np.stack([a.look for a in answers])
        for object_id, views in new:
            cosines = (looks @ views.T).max(axis=1)
            for i in np.flatnonzero(cosines >= self._least).tolist():
                found = answers[i].found
                found[object_id] = float(cosines[i])
                if len(found) > self._neighbours:
                    del found[min(found, key=found.__getitem__)]

    def _answered(self, camera: str, tracks: Sequence[int], vectors: FloatArray, least: FloatArray) -> Found:
        """Those of the tracks that were searched for a moment ago and look as they did."""
        asked = ((n, i, self._answers.get((camera, n))) for i, n in enumerate(tracks))
        return [(n, a.near(vectors[i], least[i])) for n, i, a in asked if a and vectors[i] @ a.vector >= UNCHANGED]

    def _kept(self, camera: str, tracks: Sequence[int], vectors: FloatArray, least: FloatArray, hits: Hits) -> Found:
        answers = [
            _Answer(self._asks, vector, look, found)
            for vector, look, found in zip(vectors, self._identity(vectors), hits, strict=True)
        ]
        self._answers |= {(camera, n): a for n, a in zip(tracks, answers, strict=True)}
        missed, self._missed = self._missed, []
        self._add(missed)
        return [(n, a.near(vectors[i], least[i])) for i, (n, a) in enumerate(zip(tracks, answers, strict=True))]

    def close(self) -> None:
        """Wait for the search that runs."""
        if self._thread is not None:
            self._thread.shutdown()

    def _give_up(self) -> None:
        """On a result that is not fetched because its camera sends nothing any more."""
        self._unfetched += 1
        if self._unfetched > UNFETCHED and not self.searching:
            self._asked = self._running = None
            self._missed = []

    def _search(self, vectors: FloatArray) -> Hits:
        rows = self._store.search(vectors, self._neighbours, Filter(), identity=True)
        return [{h.object_id: h.cosine for h in row if h.cosine >= self._least} for row in rows]

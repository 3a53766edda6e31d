# SPDX-License-Identifier: Apache-2.0
"""Which objects there are, in RAM: what filters ask for, by slot. A slot is an object's place in the indexes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedder_ros.memory.store import Filter


class Catalogue:
    """Slots of objects: id, database row, last seen, camera, words. Not thread-safe."""

    def __init__(self, expected: int = 0) -> None:
        size = max(expected, 1024)
        self._slots: dict[str, int] = {}
        self._ids: list[str] = []
        self._free: list[int] = []
        self._cameras: dict[str, int] = {}
        self._words: dict[int, str] = {}
        self._row = np.zeros(size, np.int64)
        self._seen = np.zeros(size, np.int64)
        self._camera = np.full(size, -1, np.int32)  # -1: nothing is in this slot

    def __len__(self) -> int:
        return len(self._slots)

    def slot(self, object_id: str) -> int:
        """Where the object is; -1 when there is none."""
        return self._slots.get(object_id, -1)

    def row(self, slot: int) -> int:
        """The object's row in the database."""
        return int(self._row[slot])

    def rows(self) -> NDArray[np.int64]:
        """Database rows by slot."""
        return self._row[: len(self._ids)]

    def object_id(self, slot: int) -> str:
        """The id of the object in a slot."""
        return self._ids[slot]

    def put(self, object_id: str, row: int, last_seen: int, camera: str, words: str) -> int:
        """Insert or replace; the slot."""
        slot = self._slots.get(object_id, -1)
        if slot < 0:
            slot = self._free.pop() if self._free else self._added()
            self._slots[object_id], self._ids[slot] = slot, object_id
        self._row[slot], self._seen[slot] = row, last_seen
        self._camera[slot] = self._cameras.setdefault(camera, len(self._cameras))
        if words:
            self._words[slot] = words
        else:
            self._words.pop(slot, None)
        return slot

    def load(
        self, ids: Sequence[str], rows: Sequence[int], seen: Sequence[int], cameras: Sequence[str], words: Sequence[str]
    ) -> None:
        """Insert many that are not there yet, into the slots after all others; a part of the time of `put`."""
        start, stop = len(self._ids), len(self._ids) + len(ids)
        self._reserve(stop)
        self._ids += ids
        self._slots.update(zip(ids, range(start, stop), strict=True))
        self._row[start:stop], self._seen[start:stop] = rows, seen
        self._camera[start:stop] = [self._cameras.setdefault(c, len(self._cameras)) for c in cameras]
        self._words.update((start + n, text) for n, text in enumerate(words) if text)

    def remove(self, object_id: str) -> int:
        """Empty the object's slot; the slot."""
        slot = self._slots.pop(object_id)
        self._ids[slot] = ''
        self._camera[slot] = -1
        self._words.pop(slot, None)
        self._free.append(slot)
        return slot

    def clear(self) -> None:
        """Empty all slots."""
        for slots in (self._slots, self._ids, self._free, self._cameras, self._words):
            slots.clear()
        self._camera[:] = -1

    def allowed(self, which: Filter) -> NDArray[np.bool_] | None:
        """By slot, whether its object counts; None when all do."""
        if which == Filter():
            return None
        used = slice(0, len(self._ids))
        allowed = self._camera[used] >= 0
        if which.since:
            allowed &= self._seen[used] >= which.since
        if which.until:
            allowed &= self._seen[used] < which.until
        if which.cameras:
            allowed &= np.isin(self._camera[used], [self._cameras.get(c, -2) for c in which.cameras])
        if which.text:
            wanted = which.text.casefold()
            named = np.zeros(len(self._ids), bool)
            named[[slot for slot, words in self._words.items() if wanted in words]] = True
            allowed &= named
        return allowed

    def _added(self) -> int:
        slot = len(self._ids)
        self._ids.append('')
        self._reserve(slot + 1)
        return slot

    def _reserve(self, size: int) -> None:
        have = len(self._row)
        if size > have:
            more = max(size, 2 * have)
            self._row, self._seen = np.resize(self._row, more), np.resize(self._seen, more)
            self._camera = np.concatenate([self._camera, np.full(more - have, -1, np.int32)])

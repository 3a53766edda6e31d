# SPDX-License-Identifier: Apache-2.0
"""What the memory is kept in: one interface, onboard in SQLite or for a fleet in PostgreSQL, chosen by a URL.

A store holds the objects and frames of one map and one model: other maps and models may be in the same file or
database, but their vectors are never compared with these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedder_ros.types import FloatArray, Object

# Objects up to which search is exact, after filtering. Raising it makes searches of larger memories slower.
EXACT = 100_000


@dataclass(frozen=True, slots=True)
class Filter:
    """Which objects or frames count. Empty fields match everything.

    Attributes:
        since, until: stamps in nanoseconds; last seen (a frame: taken) at or after `since` and before `until`. 0 means
            no bound.
        cameras: last seen by (a frame: taken by) one of these.
        text: part of the name or of a label, ignoring case. Frames have neither.
    """

    since: int = 0
    until: int = 0
    cameras: tuple[str, ...] = ()
    text: str = ''


@dataclass(frozen=True, slots=True)
class Hit:
    """A remembered object that a vector is near to: the cosine of its nearest view, and that view's place."""

    object_id: str
    cosine: float
    view: int


@dataclass(frozen=True, slots=True, eq=False)
class StoredFrame:
    """A remembered frame.

    Attributes:
        stamp, camera, frame_id, width, height: the source image's.
        frame_embeddings: (2, D) float32 unit rows, coarse then detailed; (0, D) when the model has none.
        embeddings: (N, D) float32 unit rows, what it showed.
        boxes: (N, 4) float32 xyxy pixels.
        iou: (N,) float32 in 0..1.
        object_ids: N ids of remembered objects, '' where a row belongs to none.
        thumbnail: JPEG, b'' when there is none.
    """

    stamp: int
    camera: str
    frame_id: str
    width: int
    height: int
    frame_embeddings: FloatArray
    embeddings: FloatArray
    boxes: FloatArray
    iou: FloatArray
    object_ids: tuple[str, ...]
    thumbnail: bytes = b''


@dataclass(frozen=True, slots=True)
class FrameHit:
    """A remembered frame that a vector is near to; `row` is its best object, -1 when whole frames were compared."""

    stamp: int
    camera: str
    cosine: float
    row: int = -1


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where objects are, of those that have a position; row i of everything is one object.

    Attributes:
        object_ids, frames: N ids, and the frames their positions are in.
        positions: (N, 3) float64 metres.
        last_seen: (N,) int64 nanoseconds.
        presence: (N,) float32 in 0..1.
    """

    object_ids: list[str]
    frames: list[str]
    positions: NDArray[np.float64]
    last_seen: NDArray[np.int64]
    presence: FloatArray


@dataclass(frozen=True, slots=True)
class Other:
    """What else the medium holds: objects of another map or model, kept and never compared with ours."""

    map_id: str
    model_id: str
    objects: int


class Store(Protocol):
    """Objects and frames of one map and one model. Thread-safe.

    What a method wrote is kept when it returns, however the process ends, or, when it raises, nothing of it was
    written. Every method raises UserError with the remedy when the medium refuses (locked, full, truncated, of a newer
    version, unreachable). Vectors come back as float16 rounds them.

    Attributes:
        others: what else was there when the store was opened.
    """

    map_id: str
    model_id: str
    dim: int
    others: tuple[Other, ...]

    def put(self, objects: Iterable[Object]) -> None:
        """Insert or replace. Raises UserError for another map or model, a vector of wrong length, not unit, or NaN."""

    def get(self, object_id: str) -> Object | None:
        """The object, with views and thumbnails; None when there is none."""

    def read(self, object_ids: Sequence[str]) -> list[Object]:
        """Those of the objects that there are, in this order; several times quicker than one by one."""

    def forget(self, object_ids: Sequence[str]) -> list[str]:
        """Really delete: rows, views, thumbnails, index, its rows in frames and those frames' thumbnails.

        Returns the ids that were not there.
        """

    def clear(self) -> int:
        """Forget every object and frame of this map and model; how many objects."""

    def objects(self, which: Filter, limit: int, offset: int = 0) -> tuple[list[Object], int]:
        """Objects, last seen first, and how many match in all."""

    def places(self) -> Places:
        """Every object with a position, without reading views; quick, since it is asked at the start."""

    def search(self, vectors: FloatArray, k: int, which: Filter, *, identity: bool = False) -> list[list[Hit]]:
        """For each of (Q, D) unit vectors the k objects with the nearest views, best first.

        With `identity` the vectors and the views are compared by the model's identity view. Exact among up to EXACT
        objects that the filter leaves, approximate among more.
        """

    def put_frame(self, frame: StoredFrame) -> None:
        """Insert or replace the camera's frame of that stamp."""

    def get_frame(self, camera: str, stamp: int) -> StoredFrame | None:
        """The frame; None when there is none."""

    def search_frames(self, vector: FloatArray, k: int, which: Filter, *, row: int = -1) -> list[FrameHit]:
        """The k frames nearest to (D,): by their best object, or by frame embedding `row` (0 coarse, 1 detailed)."""

    def drop_frames(self, before: int) -> int:
        """Delete frames with an older stamp; how many."""

    def count(self) -> tuple[int, int]:
        """Number of objects and of frames."""

    def close(self) -> None:
        """Release the medium; harmless when repeated."""

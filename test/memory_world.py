# SPDX-License-Identifier: Apache-2.0
"""What the tests of the memory share: a plain store, a model that is known exactly, things to look at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embedder_ros.memory.memory import Memory
from embedder_ros.memory.policy import Settings
from embedder_ros.memory.store import Filter, FrameHit, Hit, Places, StoredFrame
from embedder_ros.tracking.tracker import Tracker
from embedder_ros.types import (
    NANOSECONDS,
    Calibration,
    FloatArray,
    ModelInfo,
    Object,
    Observation,
    Track,
    UserError,
    unit_rows,
)

KINDS, INDIVIDUAL = 8, 32
DIM = KINDS + INDIVIDUAL
VIEW = np.eye(DIM, dtype=np.float32)[:, KINDS:]
# As fitted for nano: an even chance at cosine 0.72, 0.8 at 0.81.
MODEL = ModelInfo('m-1', DIM, Calibration(20.0, -8.0, 0.3, 0.1, identity_scale=15.0, identity_bias=-10.7), VIEW)
PERSON_KIND = KINDS - 1
START = 1_760_000_000 * NANOSECONDS


class PlainStore:
    """A store in a dictionary, as slow as it is simple. `refuses` makes it fail as a full disk does."""

    def __init__(self, map_id: str = 'home', model: ModelInfo = MODEL) -> None:
        self.map_id, self.model_id, self.dim = map_id, model.model_id, model.dim
        self._model = model
        self.things: dict[str, Object] = {}
        self.frames: dict[tuple[str, int], StoredFrame] = {}
        self.refuses = False
        self.puts = 0

    def _check(self) -> None:
        if self.refuses:
            raise UserError('the disk is full: delete something')

    def put(self, objects: Iterable[Object]) -> None:
        objects = list(objects)
        self._check()
        for o in objects:
            assert (o.map_id, o.model_id) == (self.map_id, self.model_id)
            assert all(abs(np.linalg.norm(v.embedding) - 1) < 1e-3 for v in o.views)
        self.puts += len(objects)
        self.things.update({o.object_id: o for o in objects})

    def get(self, object_id: str) -> Object | None:
        return self.things.get(object_id)

    def read(self, object_ids: Sequence[str]) -> list[Object]:
        return [self.things[i] for i in object_ids if i in self.things]

    def forget(self, object_ids: Sequence[str]) -> list[str]:
        self._check()
        return [i for i in object_ids if self.things.pop(i, None) is None]

    def clear(self) -> int:
        count = len(self.things)
        self.things, self.frames = {}, {}
        return count

    def _matching(self, which: Filter) -> list[Object]:
        found = [
            o
            for o in self.things.values()
            if o.last_seen >= which.since
            and (not which.until or o.last_seen < which.until)
            and (not which.cameras or o.camera in which.cameras)
            and (not which.text or any(which.text.lower() in t.lower() for t in (o.name, *o.labels)))
        ]
        return sorted(found, key=lambda o: -o.last_seen)

    def objects(self, which: Filter, limit: int, offset: int = 0) -> tuple[list[Object], int]:
        found = self._matching(which)
        return found[offset : offset + limit], len(found)

    def places(self) -> Places:
        found = [o for o in self.things.values() if o.position is not None]
        return Places(
            [o.object_id for o in found], [o.position_frame for o in found],
            np.array([o.position for o in found], np.float64).reshape(-1, 3),
            np.array([o.last_seen for o in found], np.int64), np.array([o.presence for o in found], np.float32),
        )  # fmt: skip

    def search(self, vectors: FloatArray, k: int, which: Filter, *, identity: bool = False) -> list[list[Hit]]:
        read = self._model.identity if identity else np.asarray
        out = []
        for query in read(vectors):
            hits = []
            for o in self._matching(which):
                cosines = read(np.stack([v.embedding for v in o.views])) @ query
                hits.append(Hit(o.object_id, float(cosines.max()), int(cosines.argmax())))
            out.append(sorted(hits, key=lambda h: -h.cosine)[:k])
        return out

    def put_frame(self, frame: StoredFrame) -> None:
        self._check()
        self.frames[frame.camera, frame.stamp] = frame

    def get_frame(self, camera: str, stamp: int) -> StoredFrame | None:
        return self.frames.get((camera, stamp))

    def search_frames(self, vector: FloatArray, k: int, which: Filter, *, row: int = -1) -> list[FrameHit]:
        hits = []
        for f in self.frames.values():
            if f.stamp < which.since or (which.until and f.stamp >= which.until):
                continue
            if which.cameras and f.camera not in which.cameras:
                continue
            rows = f.embeddings if row < 0 else f.frame_embeddings[row : row + 1]
            if len(rows):
                cosines = rows @ vector
                best = int(cosines.argmax())
                hits.append(FrameHit(f.stamp, f.camera, float(cosines[best]), best if row < 0 else -1))
        return sorted(hits, key=lambda h: -h.cosine)[:k]

    def drop_frames(self, before: int) -> int:
        old = [key for key in self.frames if key[1] < before]
        for key in old:
            del self.frames[key]
        return len(old)

    def count(self) -> tuple[int, int]:
        return len(self.things), len(self.frames)

    def close(self) -> None:
        pass


def look(individual: int, kind: int = 0, turned: float = 0.0, side: int = 0) -> FloatArray:
    """(D,) how an individual looks.

    Args:
        individual: two different ones have an identity cosine near 0 (random directions).
        kind: what sort of thing it is, 0 to 7; PERSON_KIND is a person.
        turned: angle in radians from its first view towards another side; the cosine of two views is its cosine.
        side: which other side.
    """
    rng = np.random.default_rng(individual)
    own = unit_rows(rng.normal(size=(1, INDIVIDUAL)))[0]
    other = np.random.default_rng((individual, side + 1)).normal(size=INDIVIDUAL)
    other = unit_rows((other - other @ own * own)[None])[0]
    vector = np.zeros(DIM, np.float32)
    vector[kind] = 1
    vector[KINDS:] = np.cos(turned) * own + np.sin(turned) * other
    return unit_rows(vector[None])[0]


def twin(individual: int, cosine: float, number: int = 1, kind: int = 0) -> FloatArray:
    """(D,) another individual whose identity view has this cosine with the first's."""
    return look(individual, kind, float(np.arccos(cosine)), 1000 + number)


def word(kind: int = 0) -> FloatArray:
    """(D,) the text for a kind: its cosine with every look of that kind is 0.71, semantic 0.998."""
    return np.eye(DIM, dtype=np.float32)[kind]


@dataclass
class Robot:
    """A memory with a tracker for each camera; what is shown goes the way it goes in the node."""

    store: PlainStore = field(default_factory=PlainStore)
    settings: Settings = field(default_factory=Settings)
    run: str = 'run-1'
    options: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.memory = Memory(
            self.store, MODEL, map_id=self.store.map_id, settings=self.settings, run=self.run, **self.options
        )
        self.trackers: dict[str, Tracker] = {}
        self.tracks: dict[str, list[Track]] = {}
        self.frames = 0

    def restarted(self, run: str) -> Robot:
        """The next run over the same store."""
        self.memory.flush()
        return Robot(self.store, self.settings, run, self.options, self.seconds)

    @property
    def now(self) -> int:
        return START + round(self.seconds * NANOSECONDS)

    def show(
        self, things: Mapping[str, tuple[Sequence[float], FloatArray]], camera: str = 'front', *,
        positions: Mapping[str, Sequence[float]] | None = None, pose: np.ndarray | None = None,
        stamp: float | None = None, iou: float = 0.9,
    ) -> dict[str, str]:  # fmt: skip
        """One frame: name -> (box, look). The object id of each thing, '' where it has none."""
        n = len(things)
        shown_at = self.now if stamp is None else START + round(stamp * NANOSECONDS)
        if camera not in self.trackers:
            first = next(iter(self.trackers.values()), None)
            ids = first._ids if first else None
            self.trackers[camera] = Tracker(camera, ids=ids, identity=MODEL.identity)
        observation = Observation(
            shown_at, camera, f'{camera}_optical', 640, 480,
            np.array([box for box, _ in things.values()], np.float32).reshape(n, 4), np.ones(n, np.float32),
            np.full(n, iou, np.float32), np.array([v for _, v in things.values()], np.float32).reshape(n, DIM),
            np.zeros((0, DIM), np.float32), 'm-1',
            None if positions is None
            else np.array([positions[name] for name in things], np.float32).reshape(n, 3),
        )  # fmt: skip
        tracks = self.trackers[camera].update(observation)
        self.tracks[camera] = self.memory.update(observation, tracks, pose=pose, now=self.now)
        self.observation = observation
        rows = {t.row: t.object_id for t in self.tracks[camera] if t.row >= 0}
        return {name: rows.get(i, '') for i, name in enumerate(things)}

    def watch(
        self, things: Mapping[str, Any], seconds: float = 2.0, camera: str = 'front', fps: int = 10, **more: Any
    ) -> dict[str, str]:
        """Frames for so long; the ids at the end."""
        out: dict[str, str] = {}
        for _ in range(round(seconds * fps)):
            self.seconds = round(self.seconds + 1 / fps, 6)
            out = self.show(things, camera, **more)
        return out

    def wait(self, seconds: float) -> None:
        """Nothing is seen by any camera for so long: frames without objects, then silence."""
        for camera in self.trackers or ('front',):
            self.seconds = round(self.seconds + 0.1, 6)
            self.show({}, camera)
        self.seconds = round(self.seconds + seconds, 6)
        for camera in self.trackers:
            self.show({}, camera)

    @property
    def counts(self) -> Mapping[str, int]:
        return self.memory.report.counts


LEFT, MIDDLE, RIGHT = (50, 100, 130, 200), (280, 100, 360, 200), (500, 100, 580, 200)

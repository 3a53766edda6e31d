# SPDX-License-Identifier: Apache-2.0
"""Who says which one it is: the package's tracker and memory, and the two things it has to be better than.

All get the same tracks from the same observations. `Nearest` is appearance alone: the most similar known thing above a
threshold, with no veto, no one-to-one and no refusal. `TrackerOnly` forgets whatever leaves its track.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from embedder_ros.evaluation.reid_clips import Clip
from embedder_ros.memory.memory import Memory
from embedder_ros.memory.open import open_store
from embedder_ros.memory.policy import Settings
from embedder_ros.tracking.tracker import Tracker
from embedder_ros.types import FloatArray, ModelInfo, Observation, Track, TrackStatus

Tracked = Sequence[Sequence[Track]]  # per frame of a clip


class Method(Protocol):
    """Names the tracks of one frame after another."""

    def name(self, observation: Observation, tracks: Sequence[Track]) -> dict[int, str]:
        """Row -> id, for the rows that have one."""

    def restart(self) -> None:
        """As if the process ended here and another began."""

    def counts(self) -> dict[str, int]:
        """What was done and refused, by reason."""


class TrackerOnly:
    """A track is a thing, and there is nothing else."""

    def __init__(self) -> None:
        self._run = 0

    def name(self, observation: Observation, tracks: Sequence[Track]) -> dict[int, str]:
        """Row -> run and track id."""
        return {t.row: f'{self._run}:{t.track_id}' for t in _named(tracks)}

    def restart(self) -> None:
        """Ids of another run are other ids."""
        self._run += 1

    def counts(self) -> dict[str, int]:
        """Nothing is refused."""
        return {}


class Nearest:
    """Every new track is the most similar known thing, or a new one.

    Args:
        model: how embeddings are compared.
        same: probability of being the same from which it is. Raising it splits things, lowering it merges them.
    """

    def __init__(self, model: ModelInfo, *, same: float = 0.5) -> None:
        self._model, self._same = model, same
        self._looks: FloatArray = np.zeros((0, 0), np.float32)
        self._of: dict[int, int] = {}

    def name(self, observation: Observation, tracks: Sequence[Track]) -> dict[int, str]:
        """Row -> id, decided once in a track's life."""
        live = _named(tracks)
        if not live:
            return {}
        looks = self._model.identity(np.stack([t.embedding for t in live]))
        for track, look in zip(live, looks, strict=True):
            if track.track_id not in self._of:
                self._of[track.track_id] = self._nearest(look)
            self._looks[self._of[track.track_id]] = look
        return {t.row: str(self._of[t.track_id]) for t in live}

    def _nearest(self, look: FloatArray) -> int:
        """Number of the most similar known thing, or of a new one."""
        if len(self._looks):
            cosines = self._looks @ look
            best = int(cosines.argmax())
            if self._model.calibration.same(cosines[best]) >= self._same:
                return best
        self._looks = np.concatenate([self._looks.reshape(-1, len(look)), look[None]])
        return len(self._looks) - 1

    def restart(self) -> None:
        """Track ids begin anew; what is known is kept, as a file would keep it."""
        self._of.clear()

    def counts(self) -> dict[str, int]:
        """Nothing is refused."""
        return {}


class Remembering:
    """The package's memory on a store of its own.

    Args:
        model: how embeddings are compared.
        path: of the store's file, which must not exist.
        settings: of the memory.
        person: (D,) what text vector tells people; None identifies people like things.
    """

    def __init__(
        self, model: ModelInfo, path: Path, *, settings: Settings | None = None, person: FloatArray | None = None
    ) -> None:
        self._model, self._path = model, path
        self._settings, self._person = settings or Settings(), person
        self._counts: dict[str, int] = {}
        self.memory = self._open()

    def _open(self) -> Memory:
        store = open_store(str(self._path), '', self._model)
        return Memory(
            store,
            self._model,
            map_id=store.map_id,
            settings=self._settings,
            person=self._person,
            allow_person_identity=self._person is None,
        )

    def name(self, observation: Observation, tracks: Sequence[Track]) -> dict[int, str]:
        """Row -> object id."""
        named = self.memory.update(observation, tracks, now=observation.stamp)
        return {t.row: t.object_id for t in named if t.row >= 0 and t.object_id}

    def restart(self) -> None:
        """Close the store and open it again with a new memory."""
        self._counts = self.counts()
        self.close()
        self.memory = self._open()

    def close(self) -> None:
        """Write what is left."""
        self.memory.close()

    def counts(self) -> dict[str, int]:
        """The memory's report, over all restarts."""
        names = {*self._counts, *self.memory.report.counts}
        return {n: self._counts.get(n, 0) + self.memory.report.counts[n] for n in sorted(names)}


def track(clip: Clip, model: ModelInfo, restarts: Sequence[int] = ()) -> Tracked:
    """Each frame's tracks; `restarts` are the numbers of the frames before which the trackers begin anew."""
    ids, trackers = itertools.count(1), dict[str, Tracker]()
    out = []
    for number, shown in enumerate(clip.shown):
        if number in restarts:
            ids, trackers = itertools.count(1), {}
        o = shown.observation
        out.append(trackers.setdefault(o.camera, Tracker(o.camera, ids=ids, identity=model.identity)).update(o))
    return out


def identify(clip: Clip, tracked: Tracked, method: Method, restarts: Sequence[int] = ()) -> list[list[str]]:
    """Let a method name what was tracked.

    Args:
        clip: the observations.
        tracked: their tracks, made with the same restarts.
        method: who names tracks.
        restarts: numbers of the frames before which the method is restarted.

    Returns:
        Per frame and row the id, '' where there is none.
    """
    out = []
    for number, (shown, tracks) in enumerate(zip(clip.shown, tracked, strict=True)):
        if number in restarts:
            method.restart()
        given = method.name(shown.observation, tracks)
        out.append([given.get(row, '') for row in range(len(shown.labels))])
    return out


def track_ids(clip: Clip, tracked: Tracked, restarts: Sequence[int] = ()) -> list[list[str]]:
    """Per frame and row the restarts before it and the track, '' where there is none."""
    out = []
    for number, (shown, tracks) in enumerate(zip(clip.shown, tracked, strict=True)):
        run = sum(number >= r for r in restarts)
        given = {t.row: f'{run}:{t.track_id}' for t in tracks if t.row >= 0}
        out.append([given.get(row, '') for row in range(len(shown.labels))])
    return out


def _named(tracks: Sequence[Track]) -> list[Track]:
    return [t for t in tracks if t.status is TrackStatus.TRACKED]

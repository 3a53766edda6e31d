# SPDX-License-Identifier: Apache-2.0
"""The object memory: tracks in, lasting object ids out, and answers about what was seen, when and where.

Everything a caller needs is here; how it is decided is in the modules beside. Time is stamps, never frame counts: a
clock that jumps back starts a new run, whose stamps are not compared with those before. The state is in the store: a
new Memory on it knows the objects of the last one. Not measured here: see `embedder-ros evaluate reid`.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embedder_ros.memory.known import Known, Working
from embedder_ros.memory.live import Live
from embedder_ros.memory.policy import Flood, Settings
from embedder_ros.memory.presence import Absence
from embedder_ros.memory.questions import FoundFrames, Questions
from embedder_ros.memory.recognise import PERSON, Recogniser
from embedder_ros.memory.reid import Decision, Span
from embedder_ros.memory.report import Report
from embedder_ros.memory.seen import Seen, observed, sound
from embedder_ros.memory.store import Filter, Store, StoredFrame
from embedder_ros.memory.views import Gallery, apart, within
from embedder_ros.types import (
    NANOSECONDS,
    Answer,
    FloatArray,
    ModelInfo,
    Object,
    Observation,
    Track,
    TrackStatus,
    UserError,
    View,
    box_iou,
)

Pose = NDArray[np.float64]

# Objects dropped at once when the memory is full, so that not every new one costs a search for the oldest.
ROOM = 16
# Seconds between two deletions of old frames.
TIDY = 60.0
# Deviation of a pose's rotation from orthonormal.
RIGID = 1e-3
# Nanoseconds within which a box that was pointed at is the one that was seen.
STILL = NANOSECONDS // 2
# Labels kept per object: what it was found by, newest last.
MAX_LABELS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where in which frame something is: camera, stamp in nanoseconds, (4,) float32 xyxy box in pixels."""

    camera: str
    stamp: int
    box: FloatArray


class Memory:
    """Remembers objects over a store. Thread-safe.

    Args:
        store: of the same map and model; closed by `close`.
        model: reads the embeddings.
        map_id: map that positions belong to, '' when no map was named.
        settings: thresholds and bounds.
        map_frame: frame of the positions that a pose gives.
        person: (D,) unit text vector of a person. Without it people cannot be told from things.
        allow_person_identity: remember people as well.
        run: names this run of the package; track ids repeat in other runs. None makes a new name.
        background: search in a thread, so that `update` never waits for a search: for live cameras. Tracks are
            recognised a frame later, and results depend on timing.

    Attributes:
        report: what happened, by reason; its `failure` is what the store refused last while frames came in. Nothing
            that was stored is lost by that, and what was refused is tried again.

    Raises:
        UserError: the store is of another map or model, or the person vector is of another model.
    """

    def __init__(
        self,
        store: Store,
        model: ModelInfo,
        *,
        map_id: str,
        settings: Settings | None = None,
        map_frame: str = 'map',
        person: FloatArray | None = None,
        allow_person_identity: bool = False,
        run: str | None = None,
        background: bool = False,
    ) -> None:
        _check_store(store, model, map_id)
        self.model, self.map_id, self.settings = model, map_id, settings or Settings()
        self.report = Report()
        self._store, self._map_frame, self._lock = store, map_frame, threading.RLock()
        self._working = Working(store, model, self.settings, self.report)
        self._questions = Questions(store, self._working, model, self.settings, map_frame)
        self._person = None if allow_person_identity or person is None else self._questions.checked(person)
        self._recogniser = Recogniser(
            store, self._working, model, self.settings, self.report,
            map_id=map_id, map_frame=map_frame, person=self._person, run=run or uuid.uuid4().hex,
            make_room=self._make_room, forget=lambda object_id: self.forget([object_id]), background=background,
        )  # fmt: skip
        self._absence = Absence(store, self._working, self.settings, self.report, map_frame)
        self._flood = Flood(self.settings.flood_burst, self.settings.flood_rate)
        self._newest: dict[str, Observation] = {}
        self._clock: tuple[int, int] | None = None  # newest stamp, and when it came
        self._kept: dict[str, int] = {}
        self._tidied: int | None = None

    # Frames in.

    def update(
        self, observation: Observation, tracks: Sequence[Track], *, pose: Pose | None = None, now: int
    ) -> list[Track]:
        """Take one camera's newest frame and its tracks.

        Args:
            observation: of this model.
            tracks: what the camera's tracker made of it, REMOVED ones included.
            pose: (4, 4) float64 camera to map at the observation's stamp; None when unknown.
            now: the node's clock, nanoseconds.

        Returns:
            The tracks with their object ids. A live track keeps its object; two that are seen together never share
            one.

        Raises:
            UserError: the observation is of another model. A store that refuses is no error: see `report.failure`.
        """
        if (observation.model_id, observation.dim) != (self.model.model_id, self.model.dim):
            raise UserError(
                f'observation of model {observation.model_id} with {observation.dim} numbers; this memory holds '
                f'{self.model.model_id} with {self.model.dim}: restart with that model, or give it a memory of its own'
            )
        with self._lock:
            if self._repeated(observation):
                return self._recogniser.named(tracks)
            pose = self._checked(pose)
            seen = observed(observation, self.model, pose, self._map_frame, now, min_iou=self.settings.min_iou)
            out = self._recogniser.update(seen, tracks)
            if not self._recogniser.finder.searching:  # else writing would wait for it
                self._write(seen, pose)
            self._recogniser.finder.start()
            self._clock = (observation.stamp, now)
            return out

    def _write(self, seen: Seen, pose: Pose | None) -> None:
        try:
            self._absence.look(seen, pose)
            self._working.flush_old(seen.now)
        except UserError as error:
            self.report.refused(error)

    def _repeated(self, observation: Observation) -> bool:
        """Note the stamp; whether it was taken before."""
        old = self._newest.get(observation.camera)
        if old is not None and old.stamp == observation.stamp:
            self.report.counts['repeated stamps'] += 1
            return True
        if old is None or observation.stamp < old.stamp:
            self._recogniser.begin_run(observation.camera)
        self._newest[observation.camera] = observation
        return False

    def _checked(self, pose: Pose | None) -> Pose | None:
        if pose is None:
            return None
        pose = np.asarray(pose, np.float64)
        rigid = pose.shape == (4, 4) and np.isfinite(pose).all()
        if rigid and np.abs(pose[:3, :3] @ pose[:3, :3].T - np.eye(3)).max() <= RIGID:
            return pose
        self.report.counts['bad pose'] += 1
        return None

    def _make_room(self, wanted: int, now: int) -> int:
        accepted = sum(self._flood.take(now) for _ in range(wanted))
        self._count('flood', wanted - accepted)
        missing = self._store.count()[0] + accepted - self.settings.max_objects
        if missing > 0:
            refused = min(accepted, max(0, missing - self._drop_oldest(missing)))
            self._count('full', refused)
            accepted -= refused
        return accepted

    def _count(self, reason: str, number: int) -> None:
        if number:
            self.report.counts[reason] += number

    def _drop_oldest(self, missing: int) -> int:
        """Drop at least so many objects that are not in view and not pinned, if there are so many; how many."""
        total, wanted = self._store.count()[0], missing + ROOM
        in_view = {live.object_id for live in self._recogniser.live.values()}
        drop: list[str] = []
        for end in range(total, 0, -wanted):  # from the oldest on, until there are enough
            part, _ = self._store.objects(Filter(), min(wanted, end), max(0, end - wanted))
            drop += [o.object_id for o in reversed(part) if not o.pinned and o.object_id not in in_view]
            if len(drop) >= missing:
                break
        self._forget(drop[:wanted])
        self._count('dropped', len(drop[:wanted]))
        return len(drop[:wanted])

    # Thumbnails and frames.

    def wants_thumbnails(self, observation: Observation) -> dict[int, str]:
        """Rows of the newest observation whose view was just stored without a picture, and their objects."""
        with self._lock:
            wanted = {}
            for key, row in self._recogniser.rows(observation).items():
                known = self._working.get(self._recogniser.live[key].object_id)
                views = known.gallery.views if known is not None else []
                if any((v.stamp, v.camera, v.thumbnail) == (observation.stamp, observation.camera, b'') for v in views):
                    wanted[row] = self._recogniser.live[key].object_id
            return wanted

    def add_thumbnail(self, object_id: str, stamp: int, camera: str, jpeg: bytes) -> bool:
        """Give the object's view of that frame its picture; whether there still is such a view."""
        with self._lock:
            known = self._working.get(object_id)
            if known is None:
                return False
            for i, view in enumerate(known.gallery.views):
                if (view.stamp, view.camera) == (stamp, camera):
                    known.gallery.views[i] = replace(view, thumbnail=jpeg)
                    self._working.changed(known, self._now)
                    return True
            return False

    def wants_frame(self, observation: Observation) -> bool:
        """Whether enough time has passed to remember this camera's frame as a whole."""
        with self._lock:
            last = self._kept.get(observation.camera)
            return last is None or not 0 <= observation.stamp - last < self.settings.frame_interval * NANOSECONDS

    def keep_frame(self, observation: Observation, tracks: Sequence[Track], thumbnail: bytes = b'') -> None:
        """Remember a frame for SearchFrames, without the people in it unless they may be identified.

        A frame that shows people is kept without its picture.

        Args:
            observation: the frame's.
            tracks: of the same frame, as `update` returned them.
            thumbnail: JPEG of the frame, b'' for none.

        Raises:
            UserError: the store refuses.
        """
        with self._lock:
            self._kept[observation.camera] = observation.stamp
            frame = self._frame(observation, tracks, thumbnail)
        self._store.put_frame(frame)  # without the lock: frames go on while the store writes
        self._tidy(observation.stamp)

    def _frame(self, observation: Observation, tracks: Sequence[Track], thumbnail: bytes) -> StoredFrame:
        o, ids = observation, [''] * len(observation)
        for track in tracks:
            if 0 <= track.row < len(ids) and track.status is not TrackStatus.REMOVED:
                ids[track.row] = track.object_id
        people = self._people(o.embeddings)
        if people.any():
            thumbnail = b''  # it would show them
        rows = np.flatnonzero(sound(o) & ~people & ~within(o.boxes, o.boxes[people]))
        return StoredFrame(
            o.stamp, o.camera, o.frame_id, o.width, o.height, o.frame_embeddings,
            o.embeddings[rows], o.boxes[rows], o.iou[rows], tuple(ids[i] for i in rows), thumbnail,
        )  # fmt: skip

    def _tidy(self, stamp: int) -> None:
        if self._tidied is None or not 0 <= stamp - self._tidied < TIDY * NANOSECONDS:
            self._tidied = stamp
            self._store.drop_frames(stamp - round(self.settings.keep_frames * NANOSECONDS))

    # Questions.

    def find(
        self,
        vector: FloatArray,
        *,
        by_identity: bool = False,
        max_age: float = 0.0,
        cameras: Sequence[str] = (),
        limit: int = 5,
        now: int,
    ) -> Answer:
        """Which remembered object a query means, and where and when it was last seen.

        score = semantic * iou of the object's best view. Objects whose presence is below `gone` come last, are never
        FOUND and no rivals; when nothing but them matches, the reason is stale_frames. No rivals either are a part and
        its whole, last seen at one time, and objects that may be one thing remembered twice: similar, never seen
        together, and not in two places of the map. Of those the one seen last is first; all others are best first.

        Args:
            vector: (D,) unit: a text's embedding, or with `by_identity` an object's.
            by_identity: compare individuals, not kinds.
            max_age: seconds since the last sighting; 0 means no limit. Older objects do not count.
            cameras: last seen by one of these; empty means all.
            limit: most candidates.
            now: the node's clock, nanoseconds.

        Raises:
            UserError: the vector is of another model, not of length 1, or a person's; the store refuses.
        """
        with self._lock:
            vector = self._asked(vector, by_identity)
            stamp = self._stamp(now)
            which = self._filter(max_age, cameras, stamp)
            return self._questions.find(vector, which, limit, stamp, by_identity=by_identity)

    def reidentify(
        self,
        *,
        embedding: FloatArray | None = None,
        place: Place | None = None,
        object_id: str = '',
        track_id: int = 0,
        cameras: Sequence[str] = (),
        max_age: float = 0.0,
        limit: int = 5,
        now: int,
    ) -> Decision:
        """Whether something is a remembered individual.

        Args:
            embedding: (D,) unit; give this, an object_id or a track_id.
            place: where the embedding was seen; what was elsewhere in that frame is ruled out.
            object_id: compared with all other objects.
            track_id: a live track. When it was recognised as an object known before, that is the answer; else it is
                compared with all objects but the one it has become.
            cameras: last seen by one of these; empty means all.
            max_age: seconds since the last sighting; 0 means no limit.
            limit: most candidates.
            now: the node's clock, nanoseconds.

        Raises:
            UserError: none or several were given, an unknown id, a person, or a vector that is not of this model.
        """
        if sum((embedding is not None, bool(object_id), bool(track_id))) != 1:
            raise UserError('re-identify one of an embedding, an object_id or a track_id')
        with self._lock:
            stamp = self._stamp(now)
            live = self._recogniser.live_track(track_id) if track_id else None
            own = live.object_id if live is not None else object_id
            known = self._existing(own) if own else None
            if live is not None and known is not None and known.object.sighting_count > 1:
                return self._questions.certain(known, stamp)
            gallery, spans = self._subject(known, live, embedding, place)
            return self._questions.reidentify(
                gallery, spans, own, self._filter(max_age, cameras, stamp), limit, stamp,
                self._recogniser.world,
            )  # fmt: skip

    def _subject(
        self, known: Known | None, live: Live | None, embedding: FloatArray | None, place: Place | None
    ) -> tuple[Gallery, list[Span]]:
        """How what is asked about looks, and when and where it was seen."""
        if known is not None:
            gallery, spans = known.gallery, _spans(known.object, self._map_frame)
        elif live is not None:
            if live.person:
                raise UserError(PERSON)
            gallery, spans = live.gallery, [live.span()]
        else:
            assert embedding is not None
            gallery = self._gallery(self._asked(embedding, True))
            spans = [] if place is None else [self._span(place)]
        if not gallery.views:
            raise UserError('there is no view of it that is good enough to compare; ask when it is seen better')
        return gallery, spans

    def search_frames(
        self,
        vector: FloatArray,
        *,
        by: str = 'objects',
        by_identity: bool = False,
        cameras: Sequence[str] = (),
        since: int = 0,
        until: int = 0,
        limit: int = 10,
    ) -> FoundFrames:
        """Which remembered frames show something.

        Args:
            vector: (D,) unit: a text's embedding, or with `by_identity` an object's.
            by: 'objects' ranks by the best object in the frame, without iou; 'short' and 'long' by the whole frame.
            by_identity: the vector is an object's.
            cameras: taken by one of these; empty means all.
            since: taken at or after this stamp, nanoseconds; 0 means no bound.
            until: taken before; 0 means no bound.
            limit: most frames.

        Raises:
            UserError: as `find`, or an unknown `by`.
        """
        with self._lock:
            vector = self._asked(vector, by_identity)
            which = Filter(since, until, tuple(cameras))
            return self._questions.search_frames(vector, by, which, limit, by_identity=by_identity)

    def objects(self, which: Filter, limit: int = 100, offset: int = 0) -> tuple[list[Object], int]:
        """Objects, last seen first, and how many match in all. Raises UserError when the store refuses."""
        with self._lock:
            self._working.flush()
            return self._store.objects(which, limit, offset)

    def get(self, object_id: str) -> Object | None:
        """The object as it is now; None when there is none."""
        with self._lock:
            known = self._working.get(object_id)
            return None if known is None else known.refreshed()

    # Orders.

    def remember(self, *, object_id: str = '', track_id: int = 0, name: str = '') -> Object:
        """Keep an object for good, and name it; '' keeps the name it has. Durable when this returns.

        Raises:
            UserError: unknown id; the track is no object, and why; the store refuses.
        """
        with self._lock:
            if bool(object_id) == bool(track_id):
                raise UserError('remember one of an object_id or a track_id')
            known = self._existing(object_id or self._object_of(track_id))
            known.object = replace(known.object, name=name or known.object.name, pinned=True)
            self._working.changed(known, self._now)
            self._working.write(known)
            return known.object

    def label(self, object_id: str, text: str) -> None:
        """Note a text that it was found by. Raises UserError for an unknown id."""
        with self._lock:
            known = self._existing(object_id)
            others = [t for t in known.object.labels if t != text]
            known.object = replace(known.object, labels=tuple([*others, text][-MAX_LABELS:]))
            self._working.changed(known, self._now)

    def forget(self, object_ids: Sequence[str]) -> tuple[int, list[str]]:
        """Really delete objects; how many, and the ids that were not there.

        What is in view now is not remembered again as long as its track lives. Raises UserError when the store
        refuses; then nothing was deleted.
        """
        with self._lock:
            return self._forget(list(dict.fromkeys(object_ids)))

    def forget_all(self) -> int:
        """Really delete every object and frame of this map and model; how many objects."""
        with self._lock:
            count = self._store.clear()
            self._let_go([k.object.object_id for k in list(self._working.used())])
            return count

    def flush(self) -> None:
        """Write everything now. Raises UserError when the store refuses."""
        with self._lock:
            self._working.flush()

    def count(self) -> tuple[int, int]:
        """How many objects and frames the store holds."""
        return self._store.count()

    def close(self) -> None:
        """Write everything and close the store, which is closed even when it refuses to write."""
        with self._lock:
            self._recogniser.finder.close()
            try:
                self._working.flush()
            finally:
                self._store.close()

    def _forget(self, object_ids: list[str]) -> tuple[int, list[str]]:
        unknown = self._store.forget(object_ids)
        self._let_go(object_ids)
        return len(object_ids) - len(unknown), unknown

    def _let_go(self, object_ids: Sequence[str]) -> None:
        self._recogniser.forget(self._working.drop(object_ids))

    def _existing(self, object_id: str) -> Known:
        known = self._working.get(object_id)
        if known is None:
            raise UserError(f"no remembered object '{object_id}' in map '{self.map_id}'; see list_objects")
        return known

    def _object_of(self, track_id: int) -> str:
        live = self._recogniser.live_track(track_id)
        object_id = live.object_id or self._recogniser.object_under(live)
        if not object_id:
            raise UserError(f'track {track_id} is no remembered object: {self._recogniser.why_not(live)}')
        return object_id

    # Times, and what a question may ask for.

    @property
    def _now(self) -> int:
        return self._clock[1] if self._clock else 0

    def _stamp(self, now: int) -> int:
        """The node's clock as a stamp: a bag's stamps go on from its last frame, whatever the clock says."""
        return self._clock[0] + max(0, now - self._clock[1]) if self._clock else now

    def _filter(self, max_age: float, cameras: Sequence[str], stamp: int) -> Filter:
        since = stamp - round(max_age * NANOSECONDS) if 0 < max_age * NANOSECONDS < stamp else 0
        return Filter(since=since, cameras=tuple(cameras))

    def _asked(self, vector: FloatArray, by_identity: bool) -> FloatArray:
        vector = self._questions.checked(vector)
        if by_identity and self._people(vector[None])[0]:
            self.report.counts['person'] += 1
            raise UserError(PERSON)
        return vector

    def _people(self, embeddings: FloatArray) -> NDArray[np.bool_]:
        """(N,) which of (N, D) are people that may not be identified."""
        return self._recogniser.people(embeddings)

    def _gallery(self, embedding: FloatArray) -> Gallery:
        gallery = Gallery(1, self.settings.diverse)
        whole = np.array([0, 0, 1, 1], np.float32)
        gallery.put(0, View(embedding, 0, '', whole, 1, 1, 1.0, 1.0), self.model.identity(embedding[None])[0], 1.0)
        return gallery

    def _span(self, place: Place) -> Span:
        """A place in a frame: what was seen in that frame elsewhere is another thing."""
        own = set()
        for known in self._working.used():
            thing = known.object
            same_time = thing.camera == place.camera and abs(thing.last_seen - place.stamp) <= STILL
            if same_time and self._overlap(thing.box, place.box):
                own |= {s.track_id for s in thing.sightings if s.camera == place.camera}
        run = self._recogniser.runs.get(place.camera, '')
        return Span(run, place.camera, place.stamp, place.stamp, second_box_of=own)

    def _overlap(self, box: FloatArray, other: FloatArray) -> bool:
        """Whether two boxes of a frame may be of one thing."""
        second = box_iou(box[None], other[None])[0, 0] >= self.settings.duplicate_iou
        return bool(second or not apart(np.stack([box, other]))[0, 1])


def _spans(thing: Object, map_frame: str) -> list[Span]:
    """An object's sightings, for vetoes against other objects."""
    spans = [Span(s.run, s.camera, s.first, s.last) for s in thing.sightings]
    if spans and thing.position is not None and thing.position_frame == map_frame:
        spans[-1] = replace(spans[-1], places=((thing.last_seen, thing.position),))
    return spans


def _check_store(store: Store, model: ModelInfo, map_id: str) -> None:
    if (store.map_id, store.model_id, store.dim) != (map_id, model.model_id, model.dim):
        raise UserError(
            f"the store is opened for map '{store.map_id}' and model {store.model_id}, the memory for map '{map_id}' "
            f'and model {model.model_id}: views of different models cannot be compared; open the store with this one'
        )

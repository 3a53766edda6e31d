# SPDX-License-Identifier: Apache-2.0
"""Tracks to objects, frame by frame: which track is which remembered thing, and which is a new one.

A confirmed track is compared with the memory as soon as it has a view worth comparing. It is then bound to an object
for as long as it lives, or, when nothing remembered is similar, becomes a new object. Refused tracks are tried again as
better views come. One that is *somewhat* like an object becomes a new one after `patience`. One that could be either of
several look-alikes never does, because each visit of one of two twins would add a third: it stays without an object
until its rivals are seen beside it, or its place decides. A track that goes on to another thing loses its object, which
stays where and when it was last seen. A second box on a bound thing is never a new one, and takes the object over
only after the first box's track has ended; so does half a box that looks the same, since only boxes apart show that
there are two. A second box may be known again as something that it looks more like than what it is on: a whole whose
part was recognised first, or the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from embedder_ros.memory.finder import Finder, Found
from embedder_ros.memory.known import Known, TrackKey, Working
from embedder_ros.memory.live import Live
from embedder_ros.memory.policy import Settings, limits_of
from embedder_ros.memory.products import scores_of
from embedder_ros.memory.reid import Bools, Same, Verdict, World, decide, veto
from embedder_ros.memory.report import Report
from embedder_ros.memory.rivals import rivals
from embedder_ros.memory.seen import Seen, offer
from embedder_ros.memory.sightings import bound, new_object, refreshed
from embedder_ros.memory.store import Store
from embedder_ros.memory.views import Gallery, apart, similarities, within
from embedder_ros.types import (
    NANOSECONDS,
    FloatArray,
    ModelInfo,
    Object,
    Observation,
    Track,
    TrackStatus,
    UserError,
    box_iou,
)

# Cosine by which a search with the mean of a track's views may fall short of the comparison of all of them. Raising it
# reads more objects in vain.
SLACK = 0.05
# The same for a track of one view: stored vectors are rounded.
ROUNDING = 0.005
# Objects read from the store per frame; tracks that need more wait. Raising it costs time per frame.
READS = 24
PERSON = 'this looks like a person, and people are not identified; parameter allow_person_identity allows it'
# Nanoseconds without a sighting after which a track may have gone on to another thing.
PAUSE = NANOSECONDS
# Sightings in a row that do not look like the object until the track is no longer it.
DOUBTS = 2
# Predicted iou from which two boxes on top of each other may be a whole and its part. Raising it leaves one of the two
# without an object, lowering it takes loose boxes for neighbours that look alike.
FITS = 0.7


Shown = list[tuple[Track, Live]]


class Recogniser:
    """Binds tracks to objects.

    Args:
        store: where objects are searched.
        working: objects in use.
        model: reads embeddings.
        settings: thresholds.
        report: is told what happens.
        map_id, map_frame: of the memory.
        person: (D,) text vector of a person; tracks that match it are not remembered. None remembers everything.
        run: names this run of the package.
        make_room: makes room for so many new objects at that time, or less; how many fit.
        forget: really deletes an object.
        background: search in a thread, see Finder.
    """

    def __init__(
        self,
        store: Store,
        working: Working,
        model: ModelInfo,
        settings: Settings,
        report: Report,
        *,
        map_id: str,
        map_frame: str,
        person: FloatArray | None,
        run: str,
        make_room: Callable[[int, int], int],
        forget: Callable[[str], object],
        background: bool,
    ) -> None:
        self.live: dict[TrackKey, Live] = {}
        self.runs: dict[str, str] = {}
        self._listed: dict[str, dict[int, int]] = {}  # by camera: the last frame's track ids and their first stamps
        self._highest: dict[str, int] = {}
        self._rows: dict[str, tuple[int, dict[TrackKey, int]]] = {}
        self._working, self._model = working, model
        self._settings, self._report, self._counts = settings, report, report.counts
        self._map_id, self._map_frame, self._person, self._run = map_id, map_frame, person, run
        self._make_room, self._forget_object = make_room, forget
        calibration = model.calibration
        self.limits = limits_of(settings, calibration)
        self._person_from = calibration.found if settings.person < 0 else settings.person
        self._restarts = 0
        self._read = 0  # objects that this frame's tracks needed from the store
        least = self.limits.similar - SLACK
        self.finder = Finder(store, settings.neighbours, least, model.identity, background=background)

    @property
    def world(self) -> World:
        """What vetoes need to know."""
        s = self._settings
        runs = self.runs.values()
        return World(self._model.model_id, self._map_id, self._map_frame, runs, s.max_speed, s.position_slack)

    def begin_run(self, camera: str) -> None:
        """The camera's clock jumped back or its tracks have new ids: those before are over, and compared no more."""
        self._listed.pop(camera, None)
        self._highest.pop(camera, None)
        if camera in self.runs:
            self._restarts += 1
            self._counts['restarts'] += 1
        self.runs[camera] = f'{self._run}~{self._restarts}' if self._restarts else self._run
        for key in [k for k in self.live if k[0] == camera]:
            self._end(key)

    def update(self, seen: Seen, tracks: Sequence[Track]) -> list[Track]:
        """Recognise the tracks of one frame; the same tracks with their object ids."""
        ids = {key: live.object_id for key, live in self.live.items()}  # tracks that end now are named once more
        shown = self._follow(seen, tracks)
        o = seen.observation
        self._rows[o.camera] = (o.stamp, {(t.camera, t.track_id): t.row for t, _ in shown})
        if self._person is not None and shown:
            shown = self._without_people(shown)
        if shown:
            for track, live in shown:
                self._look(seen, track, live)
            on_top = self._on_top(shown)
            self._mark_overlaps(shown, on_top)
            self._recognise(seen, shown, on_top)
            for track, live in shown:
                if live.object_id and not live.doubts:
                    self._refresh(seen, track, live)
        return self.named(tracks, ended=ids)

    def named(self, tracks: Sequence[Track], ended: Mapping[TrackKey, str] | None = None) -> list[Track]:
        """The tracks with the object ids they have; those that are REMOVED with the ids they had."""
        ids = {key: live.object_id for key, live in self.live.items()}
        had = ended or {}
        known = ((t, had if t.status is TrackStatus.REMOVED else ids) for t in tracks)
        return [_named(t, names.get((t.camera, t.track_id), '')) for t, names in known]

    def rows(self, observation: Observation) -> dict[TrackKey, int]:
        """Rows of the camera's newest frame that are remembered objects; nothing for any other frame."""
        stamp, rows = self._rows.get(observation.camera, (-1, {}))
        if stamp != observation.stamp:
            return {}
        return {key: row for key, row in rows.items() if key in self.live and self.live[key].object_id}

    def live_track(self, track_id: int) -> Live:
        """A live track. Raises UserError when there is none."""
        for live in self.live.values():
            if live.track_id == track_id:
                return live
        raise UserError(f'no live track {track_id}; see topic tracks')

    def object_under(self, live: Live) -> str:
        """The one object that a live track is a second box of, '' when it is of none or of several."""
        on = [self.live.get((live.camera, track_id)) for track_id in live.second_box_of]
        known = {other.object_id for other in on if other is not None and other.object_id}
        return known.pop() if len(known) == 1 else ''

    def why_not(self, live: Live) -> str:
        """Why a live track has no object, and what helps."""
        if live.person:
            return PERSON
        if live.forgotten:
            return 'its object was forgotten; it can be remembered again when it comes back into view'
        if live.second_box_of:
            return 'it is a second box on other tracks; give the object_id of what is meant, see list_objects'
        if live.outcome == 'small_margin':
            return 'several remembered objects look like it; show it from another side, or beside them'
        return 'it was seen too briefly or too badly; ask again while it is in view'

    def people(self, embeddings: FloatArray) -> NDArray[np.bool_]:
        """(N,) which of (N, D) embeddings are people that may not be identified."""
        if self._person is None:
            return np.zeros(len(embeddings), bool)
        return self._model.calibration.semantic(scores_of(embeddings, self._person)) >= self._person_from

    def forget(self, known: Sequence[Known]) -> None:
        """Let go of the live tracks of forgotten objects, for good."""
        for key in {key for k in known for key in k.tracks}:
            self.live[key].object_id, self.live[key].forgotten = '', True

    # Following live tracks.

    def _follow(self, seen: Seen, tracks: Sequence[Track]) -> Shown:
        o, shown = seen.observation, []
        listed = {t.track_id: t.first_stamp for t in tracks if t.status is not TrackStatus.REMOVED}
        if self._started_anew(o.camera, listed):
            self.begin_run(o.camera)
        self._listed[o.camera] = listed
        self._highest[o.camera] = max([self._highest.get(o.camera, 0), *listed])
        for key in [k for k in self.live if k[0] == o.camera and k[1] not in listed]:
            self._end(key)
        for track in tracks:
            if track.status is not TrackStatus.REMOVED and 0 <= track.row < len(o):
                shown.append((track, self._sight(seen, track)))
        return shown

    def _started_anew(self, camera: str, listed: dict[int, int]) -> bool:
        """Whether another tracker gives the ids now, so that they mean other tracks.

        Ids of one tracker grow, and a track is listed with its first stamp from its first frame to its end.
        """
        before, highest = self._listed.get(camera, {}), self._highest.get(camera, 0)
        return any(before.get(n, first) != first or (n not in before and n <= highest) for n, first in listed.items())

    def _sight(self, seen: Seen, track: Track) -> Live:
        stamp, row, key = seen.observation.stamp, track.row, (track.camera, track.track_id)
        live = self.live.get(key)
        if live is None:
            gallery = Gallery(self._settings.max_views, self._settings.diverse)
            first = min(track.first_stamp, stamp)
            live = self.live[key] = Live(*key, self.runs[track.camera], first, stamp, gallery)
        live.gap, live.last, live.fit = stamp - live.last, stamp, float(seen.observation.iou[row])
        place = seen.place(row) if seen.frame == self._map_frame else None
        if place is not None:
            live.late = (stamp, place)
            live.early = live.early or live.late
        return live

    def _end(self, key: TrackKey) -> None:
        live = self.live.pop(key)
        known = self._working.get(live.object_id) if live.object_id else None
        if known is not None:
            known.tracks.discard(key)
        elif live.compared >= 0 and not live.on_top:
            self._counts['undecided'] += 1

    def _look(self, seen: Seen, track: Track, live: Live) -> None:
        """Keep the view of a track without an object; make sure that a bound one still shows its object."""
        if live.object_id and self._slipped(seen, track.row, live):
            self._unbind(live)
            self._counts['slipped'] += 1
        if not live.object_id:
            live.better |= offer(live.gallery, seen, track.row)

    def _slipped(self, seen: Seen, row: int, live: Live) -> bool:
        """Whether the tracker went on to another thing: after a pause at once, else when it looks so twice."""
        known = self._working.get(live.object_id)
        if known is None or seen.weights[row] < self._settings.min_weight:
            return False
        paused = live.gap > PAUSE
        like = float((known.gallery.looks @ seen.looks[row]).max())
        if like >= (self.limits.same if paused else self.limits.similar):
            live.doubts = 0
        else:
            live.doubts += DOUBTS if paused else 1
        return live.doubts >= DOUBTS

    def _unbind(self, live: Live) -> None:
        """From here on the track is another one, of which nothing is known yet."""
        known = self._working.get(live.object_id)
        if known is not None:
            known.tracks.discard((live.camera, live.track_id))
        live.begin_anew(Gallery(self._settings.max_views, self._settings.diverse))

    def _without_people(self, shown: Shown) -> Shown:
        """Without people, and without what is not yet known and within a person's box: faces and clothes."""
        self._mark_people(shown)
        people = np.array([t.box for t, live in shown if live.person], np.float32).reshape(-1, 4)
        part = within(np.stack([t.box for t, _ in shown]), people)
        return [(t, live) for (t, live), p in zip(shown, part, strict=True) if live.object_id or not (live.person or p)]

    def _mark_people(self, shown: Shown) -> None:
        people = self.people(np.stack([t.embedding for t, _ in shown]))
        for (_, live), person in zip(shown, people, strict=True):
            if person and not live.person:
                self._found_person(live)

    def _found_person(self, live: Live) -> None:
        """Unbind it; what was remembered of it alone is forgotten, what was pinned by somebody stays."""
        known = self._working.get(live.object_id) if live.object_id else None
        if known is not None and known.object.pinned:
            return
        live.person = True
        self._counts['person'] += 1
        if known is None:
            return
        live.object_id = ''
        known.tracks.discard((live.camera, live.track_id))
        if known.object.sighting_count == 1:
            try:
                self._forget_object(known.object.object_id)
            except UserError as error:
                self._report.refused(error)

    def _on_top(self, shown: Shown) -> Bools:
        """(T, T) which boxes are on top of each other; worked out only while there are tracks without an object."""
        if all(live.object_id for _, live in shown):
            return np.zeros((len(shown), len(shown)), bool)
        boxes = np.stack([t.box for t, _ in shown])
        return np.asarray(box_iou(boxes, boxes) >= self._settings.duplicate_iou)

    def _mark_overlaps(self, shown: Shown, on_top: Bools) -> None:
        """Tell every track without an object which tracks it is seen apart from, and which it is a second box of.

        A box that is half inside another is neither: a loose box, or half of a thing, and no proof that there are two.
        """
        free = [i for i, (_, live) in enumerate(shown) if not live.object_id]
        if not free:
            return
        two = apart(np.stack([t.box for t, _ in shown]))
        bound = np.array([bool(live.object_id) for _, live in shown])
        numbers = np.array([t.track_id for t, _ in shown])
        for i in free:
            live, over = shown[i][1], on_top[i] & bound
            if over.any() and not live.second_box_of:
                self._counts['duplicate'] += 1
            live.second_box_of.update(numbers[over].tolist())
            live.seen_with.update(numbers[two[i]].tolist())

    # Recognising tracks that have no object yet.

    def _recognise(self, seen: Seen, shown: Shown, on_top: Bools) -> None:
        """Decide about the tracks that were searched for, and ask for the next ones."""
        camera, self._read = seen.observation.camera, 0
        try:
            self._settle(seen, shown, on_top, self.finder.take(camera))
            if self.finder.idle:
                self._ask(seen, shown, on_top)
            self._settle(seen, shown, on_top, self.finder.take(camera))
        except UserError as error:
            self._report.refused(error)

    def _ask(self, seen: Seen, shown: Shown, on_top: Bools) -> None:
        due = [live for t, live in self._comparable(shown, on_top) if self._asks(t, live, seen.observation.stamp)]
        due.sort(key=lambda live: (live.compared, -live.gallery.best))
        due = due[: self._settings.searches]
        if due:
            vectors = np.stack([live.gallery.mean for live in due])
            similar = self.limits.similar
            least = [similar - (SLACK if len(live.gallery.views) > 1 else ROUNDING) for live in due]
            tracks = [live.track_id for live in due]
            self.finder.ask(seen.observation.camera, tracks, vectors, np.array(least, np.float32))

    def _settle(self, seen: Seen, shown: Shown, on_top: Bools, found: Found) -> None:
        """Decide about the tracks that are still in view and have no object yet."""
        if not found:
            return
        free = self._comparable(shown, on_top)
        number = {live.track_id: i for i, (_, live) in enumerate(free)}
        found = self._affordable([(number[n], ids) for n, ids in found if n in number])
        if not found:
            return
        columns = [k for k in self._working.load({i for _, ids in found for i in ids}) if k.gallery.views]
        asked = [i for i, _ in found]
        verdicts = self._verdicts(free, asked, columns)
        self._apply(seen, [(free[i], verdicts[i]) for i in asked], columns)

    def _affordable(self, found: Found) -> Found:
        """As many as can be decided in this frame, at least one; the others are asked for again."""
        reads: set[str] = set()
        for n, (_, ids) in enumerate(found):
            more = reads.union(i for i in ids if i not in self._working)
            if self._read + len(more) > READS and (n or self._read):
                found = found[:n]
                break
            reads = more
        self._read += len(reads)
        return found

    def _comparable(self, shown: Shown, on_top: Bools) -> Shown:
        """Tracks that may be things: the better of two boxes that overlap much, on a bound one only if both fit."""
        bound = np.array([bool(live.object_id) for _, live in shown])
        under = on_top & bound
        on_bound, taken = under.any(axis=1), np.zeros(len(shown), bool)
        free: list[int] = []
        for i in sorted(np.flatnonzero(~bound).tolist(), key=lambda i: -shown[i][1].gallery.best):
            live = shown[i][1]
            second = on_bound[i] and any(min(live.fit, shown[j][1].fit) < FITS for j in np.flatnonzero(under[i]))
            if live.person or live.forgotten or not live.gallery.views or second or taken[i]:
                continue
            live.put_on(bool(on_bound[i]))
            free.append(i)
            taken |= on_top[i]
        return [shown[i] for i in free]

    def _asks(self, track: Track, live: Live, stamp: int) -> bool:
        enough = live.gallery.best >= self._settings.min_weight
        return track.status is TrackStatus.TRACKED and enough and live.due(stamp, self._settings)

    def _verdicts(self, free: Shown, asked: Sequence[int], columns: Sequence[Known]) -> list[Verdict]:
        lives = [live for _, live in free]
        cosines = similarities([live.gallery for live in lives], [k.gallery for k in columns])
        possible, held, near = (np.zeros(cosines.shape, bool) for _ in range(3))
        world = self.world
        is_asked = np.isin(np.arange(len(free)), asked)
        for i, j in np.argwhere(cosines >= self.limits.similar):
            why = veto(lives[i].span(), columns[j].object, world)
            possible[i, j] = not why
            held[i, j] = any(camera == lives[i].camera for camera, _ in columns[j].tracks)
            near[i, j] = self._at_place(lives[i], columns[j].object)
            if why and is_asked[i] and not lives[i].on_top and columns[j].object.object_id not in lives[i].vetoed:
                lives[i].vetoed.add(columns[j].object.object_id)
                self._counts[why] += 1
        some = np.flatnonzero(possible.any(axis=1))  # the others are nothing known, and nobody's rivals
        decided = decide(
            cosines[some],
            possible[some],
            self.limits,
            held=held[some],
            near=near[some],
            asked=is_asked[some],
            distinct=rivals(columns, self.limits.same, possible),
            apart=apart(np.stack([t.box for t, _ in free])[some]),
        )
        verdicts = [Verdict(Same.UNKNOWN)] * len(free)
        for i, verdict in zip(some.tolist(), decided, strict=True):
            verdicts[i] = verdict
        return verdicts

    def _at_place(self, live: Live, known: Object) -> bool:
        if live.late is None or known.position is None or known.position_frame != self._map_frame:
            return False
        return float(np.linalg.norm(live.late[1] - known.position)) <= self._settings.place_radius

    def _apply(self, seen: Seen, decided: Sequence[tuple[tuple[Track, Live], Verdict]], columns: list[Known]) -> None:
        new = []
        for (_, live), verdict in decided:
            if verdict.outcome is Same.SAME:
                self._counts['same'] += 1
                self._bind(seen, live, columns[verdict.column])
                continue
            reason = '' if live.on_top else verdict.reason  # nothing is expected of a second box
            if reason and reason != live.outcome:
                self._counts[reason] += 1
            live.outcome = reason
            if self._is_new(live, verdict, columns):
                new.append(live)
            else:
                live.tried(seen.observation.stamp)
        if new:
            self._remember(seen, new)

    def _is_new(self, live: Live, verdict: Verdict, columns: Sequence[Known]) -> bool:
        patience = self._settings.patience
        if live.on_top:
            return False
        if verdict.outcome is Same.UNKNOWN:
            return live.seconds >= self._settings.settle
        if verdict.reason == 'below_threshold':
            return live.seconds >= patience
        if verdict.reason != 'small_margin' or not verdict.rivals or live.seconds < 2 * patience:
            return False
        rivals = [columns[j].gallery for j in verdict.rivals]
        return bool((similarities([columns[verdict.column].gallery], rivals) < self.limits.same).all())

    # From here on a track has an object.

    def _bind(self, seen: Seen, live: Live, known: Known) -> None:
        live.object_id = known.object.object_id
        known.tracks.add((live.camera, live.track_id))
        place, old = live.late, known.object.position
        if place is not None and old is not None and known.object.position_frame == self._map_frame:
            self._counts['moved'] += bool(np.linalg.norm(place[1] - old) > self._settings.moved)
        known.gallery.take(live.gallery)
        known.object = bound(known.object, live, self._settings.max_sightings)
        self._working.changed(known, seen.now)
        self._let_go(live)

    def _let_go(self, live: Live) -> None:
        """What is only needed until a track has an object."""
        live.gallery = Gallery(self._settings.max_views, self._settings.diverse)
        live.seen_with, live.vetoed, live.fresh = set(), set(), True

    def _remember(self, seen: Seen, new: Sequence[Live]) -> None:
        """New objects, as many as the policy and the store accept; the others are tried again."""
        try:
            room = self._make_room(len(new), seen.now)
            made = [(live, self._made(seen, live)) for live in new[:room]]
            if made:
                self._working.add([known for _, known in made])
                self.finder.added((known.object.object_id, known.gallery.looks) for _, known in made)
        except UserError as error:
            self._report.refused(error)
            made = []
        for live, known in made:
            live.object_id = known.object.object_id
            self._let_go(live)
        self._counts['new'] += len(made)
        for live in new[len(made) :]:
            live.tried(seen.observation.stamp)

    def _made(self, seen: Seen, live: Live) -> Known:
        thing = new_object(seen, live, self._map_id, self._map_frame)
        return Known(thing, live.gallery, {(live.camera, live.track_id)})

    def _refresh(self, seen: Seen, track: Track, live: Live) -> None:
        known = self._working.get(live.object_id)
        assert known is not None
        known.object = refreshed(known.object, seen, track.row, live, self._map_frame)
        cosines = known.gallery.looks @ seen.looks[track.row]
        if cosines.max() >= self.limits.similar:  # else the tracker may have slipped to another thing
            offer(known.gallery, seen, track.row, retake=live.fresh)
        live.fresh = False
        self._working.changed(known, seen.now)


def _named(track: Track, object_id: str) -> Track:
    return track if track.object_id == object_id else replace(track, object_id=object_id)

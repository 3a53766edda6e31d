# SPDX-License-Identifier: Apache-2.0
"""The tracker's rules, exact: status and age in seconds at any frame rate, ends, restarts, unclean input."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from embedder_ros.tracking.tracker import Tracker
from embedder_ros.types import NANOSECONDS, Observation, Track, TrackStatus

NEW, TRACKED, LOST, REMOVED = TrackStatus
START = 1_700_000_000 * NANOSECONDS
LEFT, RIGHT = (100, 100, 160, 180), (400, 100, 460, 180)


def seen(
    seconds: float, *boxes: Sequence[float], looks: Sequence[int] = (), model: str = 'm-1', dim: int = 8
) -> Observation:
    """Boxes seen `seconds` after the start; each thing looks like the unit vector of its number."""
    n = len(boxes)
    embeddings = np.eye(dim, dtype=np.float32)[list(looks) or list(range(n))]
    return Observation(
        START + round(seconds * NANOSECONDS), 'camera', 'optical', 640, 480,
        np.array(boxes, np.float32).reshape(n, 4), np.full(n, 0.7, np.float32), np.full(n, 0.9, np.float32),
        embeddings, np.zeros((0, dim), np.float32), model,
    )  # fmt: skip


def only(tracks: list[Track]) -> Track:
    assert len(tracks) == 1
    return tracks[0]


@pytest.mark.parametrize('fps', [2, 5, 10, 30, 60])
def test_status_and_age_are_seconds_at_any_frame_rate(fps: int) -> None:
    """NEW below 0.15 s, then TRACKED; LOST to 3 s unseen; REMOVED by the first frame after that."""
    tracker = Tracker('camera')
    frames = [(n / fps, only(tracker.update(seen(n / fps, LEFT)))) for n in range(2 * fps + 1)]
    for seconds, track in frames:
        assert track.status is (TRACKED if seconds >= 0.15 else NEW)
        assert (track.age, track.unseen, track.row) == (pytest.approx(seconds), 0.0, 0)
    for n in range(1, 3 * fps + 1):
        track = only(tracker.update(seen(2 + n / fps)))
        assert (track.status, track.row) == (LOST, -1)
        assert (track.age, track.unseen) == (pytest.approx(2 + n / fps), pytest.approx(n / fps))
    track = only(tracker.update(seen(5 + 1 / fps)))
    assert track.status is REMOVED and track.unseen == pytest.approx(3 + 1 / fps)
    assert tracker.update(seen(5 + 2 / fps)) == []


@pytest.mark.parametrize(('max_lost', 'gone'), [(0.0, 0.1), (0.5, 0.6), (1.0, 1.1)])
def test_max_lost_is_what_a_confirmed_track_waits(max_lost: float, gone: float) -> None:
    tracker = Tracker('camera', max_lost=max_lost)
    for n in range(5):
        tracker.update(seen(n / 10, LEFT))
    ends = [n / 10 for n in range(1, 20) for t in tracker.update(seen(0.4 + n / 10)) if t.status is REMOVED]
    assert ends == [gone]


def test_a_track_that_was_never_confirmed_ends_after_half_a_second() -> None:
    tracker = Tracker('camera')
    assert only(tracker.update(seen(0, LEFT))).status is NEW
    assert only(tracker.update(seen(0.5))).status is LOST
    assert only(tracker.update(seen(0.6))).status is REMOVED


def test_a_thing_that_comes_back_in_time_keeps_its_id_and_later_gets_another() -> None:
    tracker = Tracker('camera')
    first = [only(tracker.update(seen(n / 10, LEFT))).track_id for n in range(5)][-1]
    tracker.update(seen(1.0))
    back = only(tracker.update(seen(3.4, LEFT)))
    assert (back.track_id, back.status, back.age) == (first, TRACKED, pytest.approx(3.4))
    tracker.update(seen(3.5))
    tracks = tracker.update(seen(6.5, LEFT))
    assert [(t.track_id == first, t.status) for t in tracks] == [(True, REMOVED), (False, NEW)]


def test_no_frame_at_all_is_not_a_sighting() -> None:
    """After a longer pause than any chain has, what is there is a new track even in the same place."""
    tracker = Tracker('camera')
    first = [only(tracker.update(seen(n / 10, LEFT))).track_id for n in range(5)][-1]
    assert only(tracker.update(seen(8, LEFT))).track_id == first, 'a model of one frame in 8 s still tracks'
    tracks = tracker.update(seen(3608, LEFT))
    assert [(t.track_id == first, t.status, t.row) for t in tracks] == [(True, REMOVED, -1), (False, NEW, 0)]


def test_empty_frames_from_the_beginning() -> None:
    tracker = Tracker('camera')
    assert tracker.update(seen(0)) == []
    assert only(tracker.update(seen(0.1, LEFT))).age == 0


@pytest.mark.parametrize('back', [0.05, 0.25, 3600.0])
def test_a_backward_stamp_ends_every_track_once_and_starts_anew(back: float) -> None:
    tracker = Tracker('camera')
    for n in range(5):
        old = {t.track_id for t in tracker.update(seen(n / 10, LEFT, RIGHT))}
    tracks = tracker.update(seen(0.4 - back, LEFT, RIGHT))
    assert {t.track_id for t in tracks if t.status is REMOVED} == old
    assert all(t.row == -1 and t.stamp == START + 400_000_000 for t in tracks if t.status is REMOVED)
    fresh = [t for t in tracks if t.status is NEW]
    assert len(fresh) == 2 and not old & {t.track_id for t in fresh} and all(t.age == 0 for t in fresh)
    assert tracker.counts['restarts'] == 1
    assert {t.track_id for t in tracker.update(seen(0.5 - back, LEFT, RIGHT))} == {t.track_id for t in fresh}


@pytest.mark.parametrize('change', [{'model': 'm-2'}, {'dim': 16}])
def test_another_model_starts_anew(change: dict[str, object]) -> None:
    tracker = Tracker('camera')
    first = only(tracker.update(seen(0, LEFT)))
    tracks = tracker.update(seen(0.1, LEFT, **change))
    assert [(t.track_id == first.track_id, t.status) for t in tracks] == [(True, REMOVED), (False, NEW)]
    assert tracker.counts['restarts'] == 1


def test_a_repeated_stamp_changes_nothing_and_repeats_no_end() -> None:
    tracker = Tracker('camera')
    tracker.update(seen(0, LEFT))
    before = only(tracker.update(seen(0.1, LEFT)))
    again = only(tracker.update(seen(0.1, RIGHT)))
    assert again is before and tracker.counts['repeated stamps'] == 1
    assert only(tracker.update(seen(4))).status is REMOVED
    assert tracker.update(seen(4)) == []
    assert tracker.counts['repeated stamps'] == 2 and tracker.counts['restarts'] == 0


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('where', ['boxes', 'embeddings'])
def test_rows_that_are_not_finite_are_left_out_and_counted(where: str, bad: float) -> None:
    tracker = Tracker('camera')
    clean = seen(0, LEFT, RIGHT)
    broken = getattr(clean, where).copy()
    broken[0, 1] = bad
    track = only(tracker.update(replace(clean, **{where: broken})))
    assert (track.row, track.box.tolist()) == (1, list(RIGHT))
    assert tracker.counts['bad rows'] == 1
    assert [t.row for t in tracker.update(seen(0.1, LEFT, RIGHT))] == [1, 0]


def test_ids_are_unique_over_cameras_that_share_an_iterator() -> None:
    ids = itertools.count(1)
    trackers = [Tracker(name, ids=ids) for name in ('a', 'b', 'c')]
    tracks = [t for n in range(3) for tracker in trackers for t in tracker.update(seen(n, LEFT, RIGHT))]
    assert {t.track_id for t in tracks} == set(range(1, 7))
    assert {t.track_id: t.camera for t in tracks} == {1: 'a', 2: 'a', 3: 'b', 4: 'b', 5: 'c', 6: 'c'}


def test_an_observation_is_never_changed_and_a_track_does_not_alias_it() -> None:
    tracker = Tracker('camera')
    for n in range(4):
        observation = seen(n / 10, LEFT, RIGHT)
        for name in ('boxes', 'objectness', 'iou', 'embeddings'):
            getattr(observation, name).setflags(write=False)
        tracks = tracker.update(observation)
        assert not any(np.shares_memory(t.box, observation.boxes) for t in tracks)
        assert not any(np.shares_memory(t.embedding, observation.embeddings) for t in tracks)
    before = [t.box.copy() for t in tracks]
    tracker.update(seen(0.4, (110, 100, 170, 180), (410, 100, 470, 180)))
    assert all((t.box == b).all() for t, b in zip(tracks, before, strict=True)), 'an old state changed'


def test_a_track_carries_the_last_sighting_and_a_running_appearance() -> None:
    tracker = Tracker('camera')
    tracker.update(seen(0, LEFT, looks=[0]))
    turned = seen(0.1, (104, 100, 164, 180), looks=[0])
    turned.embeddings[0, :2] = np.sqrt(0.5)
    track = only(tracker.update(turned))
    assert (track.box.tolist(), track.last_stamp) == ([104, 100, 164, 180], turned.stamp)
    assert np.linalg.norm(track.embedding) == pytest.approx(1)
    assert track.embedding @ np.eye(8)[0] > turned.embeddings[0, 0], 'the first view was forgotten at once'


@pytest.mark.parametrize(
    ('box', 'look', 'seconds', 'kept'),
    [
        ((104, 104, 164, 184), 0, 0.1, True),  # a little aside
        ((104, 104, 164, 184), 1, 0.1, False),  # the place of the old thing, but nothing like it
        ((240, 100, 300, 180), 0, 0.45, True),  # no overlap is needed where the looks agree
        ((240, 100, 300, 180), 0, 0.4, False),  # but not further than 320 px a second
        ((100, 100, 300, 380), 0, 0.1, False),  # more than four times as large
    ],
)
def test_what_continues_a_track(box: Sequence[float], look: int, seconds: float, kept: bool) -> None:
    tracker = Tracker('camera')
    first = only(tracker.update(seen(0, LEFT, looks=[0])))
    row = next(t for t in tracker.update(seen(seconds, box, looks=[look])) if t.row == 0)
    assert (row.track_id == first.track_id) is kept


def test_only_the_identity_part_is_compared() -> None:
    """A map that leaves out where two embeddings differ makes them the same individual."""
    for identity, kept in ((lambda e: e, False), (lambda e: np.ones((len(e), 1), np.float32), True)):
        tracker = Tracker('camera', identity=identity)
        first = only(tracker.update(seen(0, LEFT, looks=[0])))
        row = next(t for t in tracker.update(seen(0.1, LEFT, looks=[1])) if t.row == 0)
        assert (row.track_id == first.track_id) is kept


def test_a_row_of_twins_does_not_hand_its_tracks_on() -> None:
    """A new twin to the right and one just hidden to the left: the middle one stays itself."""
    tracker = Tracker('camera')
    left, middle, right = (140, 100, 200, 180), (200, 100, 260, 180), (260, 100, 320, 180)
    for n in range(5):
        ids = [t.track_id for t in tracker.update(seen(n / 10, left, middle, looks=[0, 0]))]
    tracks = {t.row: t for t in tracker.update(seen(0.6, middle, right, looks=[0, 0]))}
    assert tracks[0].track_id == ids[1]
    assert tracks[1].track_id not in ids
    assert tracks[-1].track_id == ids[0] and tracks[-1].status is LOST


def test_a_hidden_thing_is_found_where_the_turned_camera_now_sees_it() -> None:
    """The view moves 90 px, in steps, while one of three things is hidden."""
    tracker = Tracker('camera')
    places = np.array([LEFT, RIGHT, (250, 300, 310, 360)], np.float32)
    for n in range(5):
        ids = [t.track_id for t in tracker.update(seen(n / 10, *places))]
    for n in range(5, 8):
        tracker.update(seen(n / 10, *(places[:2] + [30 * (n - 4), 0, 30 * (n - 4), 0]), looks=[0, 1]))
    tracks = tracker.update(seen(0.8, *(places + [90, 0, 90, 0])))
    assert [t.track_id for t in tracks] == ids and all(t.status is TRACKED for t in tracks)

# SPDX-License-Identifier: Apache-2.0
"""Time is stamps: bags that loop, clocks that jump, cameras whose clocks differ, repeated frames, restarts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from memory_world import LEFT, MIDDLE, RIGHT, START, Robot, look, twin, word

from embedder_ros.types import NANOSECONDS, Outcome, Track, TrackStatus, UserError

A, B = {'a': (LEFT, look(1))}, {'b': (RIGHT, look(2))}


def intervals_are_sound(robot: Robot) -> None:
    robot.memory.flush()
    for known in robot.store.things.values():
        assert known.first_seen <= known.last_seen
        for s in known.sightings:
            assert s.first <= s.last


def test_a_bag_that_loops_shows_the_same_things_again() -> None:
    robot = Robot()
    first = robot.watch(A | B, 3)
    for loop in range(1, 4):
        robot.seconds = 0.0
        assert robot.watch(A | B, 3) == first
        assert robot.counts['restarts'] == loop
    assert robot.counts['new'] == 2
    known = robot.memory.get(first['a'])
    assert known is not None and [s.run for s in known.sightings] == ['run-1', 'run-1~1', 'run-1~2', 'run-1~3']
    assert len({(s.first, s.last) for s in known.sightings}) == 1
    intervals_are_sound(robot)


def test_what_was_seen_in_another_loop_was_not_seen_together() -> None:
    """In each loop a thing and its twin take the same seconds; only in one frame they would rule each other out."""
    robot = Robot()
    first = robot.watch(A, 3)['a']
    robot.seconds = 0.0
    assert robot.watch({'a': (MIDDLE, look(1, turned=0.3))}, 3)['a'] == first
    assert robot.counts['seen_together'] == 0


def test_a_jump_back_moves_last_seen_back_and_not_into_the_future() -> None:
    robot = Robot()
    robot.seconds = 1000.0
    first = robot.watch(A)['a']
    robot.seconds = 0.0
    robot.watch(A)
    known = robot.memory.get(first)
    assert known is not None and known.last_seen == robot.now
    assert known.first_seen == START + NANOSECONDS // 10
    answer = robot.memory.find(word(), now=robot.now)
    assert answer.candidates[0].unseen == 0.0
    intervals_are_sound(robot)


def test_one_camera_may_jump_alone() -> None:
    robot = Robot()
    front = robot.watch(A)['a']
    rear = robot.watch(B, camera='rear')['b']
    robot.watch(A, 0.1)
    robot.show(A, 'front', stamp=0.5)
    robot.show(B, 'rear', stamp=robot.seconds + 0.1)
    assert robot.counts['restarts'] == 1
    ids = {t.object_id for t in robot.tracks['rear']}
    assert ids == {rear}, 'the other camera goes on'
    for n in range(1, 15):
        front_id = robot.show(A, 'front', stamp=0.5 + n / 10)['a']
    assert front_id == front
    intervals_are_sound(robot)


def test_cameras_whose_clocks_differ_a_little_keep_the_newest_sighting() -> None:
    robot = Robot()
    first = robot.watch(A)['a']
    for _ in range(20):
        robot.seconds = round(robot.seconds + 0.1, 6)
        robot.show(A, 'front')
        late = robot.show({'a': (RIGHT, look(1))}, 'rear', stamp=robot.seconds - 0.4)['a']
    known = robot.memory.get(first)
    assert late == first and known is not None and known.last_seen == robot.now


def test_a_repeated_stamp_changes_nothing() -> None:
    robot = Robot()
    ids = robot.watch(A)
    before = robot.memory.get(ids['a'])
    for _ in range(3):
        assert robot.show({'a': (LEFT, look(5))}) == ids
    after = robot.memory.get(ids['a'])
    assert before is not None and after is not None
    assert after.last_seen == before.last_seen and len(after.views) == len(before.views)
    assert robot.counts['repeated stamps'] == 3


def test_a_jump_ahead_is_a_long_gap() -> None:
    robot = Robot()
    first = robot.watch(A | B)
    robot.seconds += 86_400
    assert robot.watch(A | B) == first and robot.counts['restarts'] == 0
    intervals_are_sound(robot)


def test_a_simulation_that_starts_anew_keeps_its_objects() -> None:
    """Its stamps begin at 0 each time; positions of the last run say nothing about speed in this one."""
    robot = Robot(seconds=-START / NANOSECONDS)
    at, far = {'a': (0.0, 0.0, 2.0)}, np.eye(4)
    far[0, 3] = 40.0
    first = robot.watch(A, positions=at, pose=np.eye(4))['a']
    again = robot.restarted('run-2')
    again.seconds = -START / NANOSECONDS
    assert again.watch(A, positions=at, pose=far)['a'] == first
    assert again.counts['moved'] == 1 and again.counts['too_fast'] == 0


def test_a_restart_knows_the_objects_and_reuses_track_ids_safely() -> None:
    robot = Robot()
    first = robot.watch(A | B)
    again = robot.restarted('run-2')
    assert again.memory.find(word(), now=again.now).objects_searched == 2
    assert again.watch({'a': (RIGHT, look(1)), 'b': (LEFT, look(2))}) == first
    known = again.memory.get(first['a'])
    assert known is not None and [(s.run, s.track_id) for s in known.sightings] == [('run-1', 1), ('run-2', 1)]
    assert again.counts['new'] == 0


def test_after_a_crash_only_the_last_seconds_are_missing() -> None:
    robot = Robot()
    first = robot.watch(A, 30)
    survived = dict(robot.store.things)
    robot.watch(A | B, 3)
    crashed = Robot(type(robot.store)(), run='run-2', seconds=robot.seconds)
    crashed.store.things.update(survived)
    assert robot.now - survived[first['a']].last_seen <= 9 * NANOSECONDS
    assert crashed.watch(A, 2) == first


def test_twins_are_ruled_out_by_the_last_run_of_this_camera_only() -> None:
    """Sightings of an earlier run with the same stamps are no proof."""
    robot = Robot()
    ids = robot.watch(A | {'t': (RIGHT, twin(1, 0.99))}, 2)
    again = robot.restarted('run-2')
    again.seconds = 0.0
    assert again.watch(A, 3)['a'] == '', 'either of the two'
    assert again.counts['seen_together'] == 0 and again.counts['small_margin'] == 1
    assert len(set(ids.values())) == 2


def test_another_model_is_refused_and_harms_nothing() -> None:
    robot = Robot()
    ids = robot.watch(A)
    for other in (replace(robot.observation, model_id='m-2'), replace(robot.observation, embeddings=np.eye(3)[:1])):
        with pytest.raises(UserError, match='m-1'):
            robot.memory.update(other, robot.tracks['front'], now=robot.now)
    assert robot.watch(A) == ids


def test_a_tracker_that_forgets_its_tracks_is_survived() -> None:
    """The node makes a new tracker when it is activated again: its tracks start anew, without REMOVED ones."""
    robot = Robot()
    ids = robot.watch(A | B)
    robot.trackers.clear()
    robot.seconds += 5
    robot.watch({'c': (MIDDLE, look(3))}, 1)
    assert {t.object_id for t in robot.tracks['front']}.isdisjoint(ids.values())
    assert robot.counts['restarts'] == 1
    robot.wait(10)
    assert robot.watch(A | B) == ids


def test_removed_tracks_are_named_once_more() -> None:
    robot = Robot()
    first = robot.watch(A)['a']
    robot.watch({}, 2.0)
    assert [(t.status, t.object_id) for t in robot.tracks['front']] == [(TrackStatus.LOST, first)]
    robot.watch({}, 1.1)
    named: list[Track] = [t for t in robot.tracks['front'] if t.status is TrackStatus.REMOVED]
    assert [t.object_id for t in named] == [first]
    assert robot.memory.find(word(), now=robot.now).outcome is Outcome.FOUND

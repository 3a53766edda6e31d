# SPDX-License-Identifier: Apache-2.0
"""Searching in a thread: frames do not wait for a search, and what is recognised late is recognised rightly."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from memory_world import LEFT, MODEL, RIGHT, PlainStore, Robot, look, twin

from embedder_ros.memory.finder import UNFETCHED, Finder
from embedder_ros.memory.store import Filter, Hit
from embedder_ros.types import FloatArray, UserError

A, B = {'a': (LEFT, look(1))}, {'b': (RIGHT, look(2))}


class SlowStore(PlainStore):
    """A store whose searches end when they are let; like the real ones it does one thing at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.begun = threading.Event()
        self.fails = False

    def search(self, vectors: FloatArray, k: int, which: Filter, *, identity: bool = False) -> list[list[Hit]]:
        self.begun.set()
        assert self.go.wait(20)
        if self.fails:
            raise UserError('the server is away')
        return super().search(vectors, k, which, identity=identity)


@pytest.fixture
def robot() -> Iterator[Robot]:
    robot = Robot(SlowStore(), options={'background': True})
    yield robot
    robot.store.go.set()
    robot.memory.close()


def finish(robot: Robot) -> None:
    """Let the running search end."""
    robot.store.go.set()
    running = robot.memory._recogniser.finder._running
    if running is not None:
        running.exception()


def test_frames_go_on_while_a_search_runs_and_its_result_is_used_later(robot: Robot) -> None:
    assert robot.watch(A, 2.0) == {'a': ''}
    assert robot.store.begun.is_set() and not robot.store.puts, 'nothing waits for the store'
    finish(robot)
    first = robot.watch(A, 0.1)['a']
    assert first in robot.store.things


def test_a_result_for_a_track_that_has_ended_is_not_used(robot: Robot) -> None:
    robot.watch(A, 1.0)
    robot.watch({}, 5.0)
    finish(robot)
    robot.watch({}, 0.1)
    assert not robot.store.things
    robot.watch(B, 1.0)
    finish(robot)
    assert robot.watch(B, 0.1)['b']


def test_what_was_seen_while_it_searched_is_a_veto(robot: Robot) -> None:
    """The twin comes into view after the search began and before it ended."""
    robot.watch(A, 1.0)
    finish(robot)
    first = robot.watch(A, 0.1)['a']
    robot.wait(20)
    robot.store.go.clear()
    twins = {'t': (LEFT, twin(1, 0.97)), 'a': (RIGHT, look(1))}
    robot.watch({'t': twins['t']}, 1.0)
    robot.watch(twins, 0.5)
    finish(robot)
    assert robot.watch(twins, 0.1) == {'t': '', 'a': ''}, 'either may be the first one'
    assert robot.counts['small_margin'] >= 1 and len(robot.store.things) == 1 and first


def test_a_search_that_fails_is_tried_again(robot: Robot) -> None:
    robot.store.fails = True
    robot.watch(A, 1.0)
    finish(robot)
    robot.watch(A, 0.1)
    assert 'server is away' in robot.memory.report.failure
    finish(robot)
    robot.store.fails = False
    robot.watch(A, 0.1)
    finish(robot)
    robot.watch(A, 0.2)
    finish(robot)
    assert robot.watch(A, 0.2)['a'] and robot.memory.report.failure == ''


def test_a_camera_that_falls_silent_does_not_keep_the_others_waiting() -> None:
    finder = Finder(PlainStore(), 8, 0.5, MODEL.identity, background=True)
    finder.ask('silent', [1], look(1)[None])
    finder.start()
    finder._running.result()  # type: ignore[union-attr]
    for _ in range(UNFETCHED + 1):
        assert not finder.idle and finder.take('other') == []
    assert finder.idle
    finder.ask('other', [2], look(1)[None])
    finder.start()
    finder._running.result()  # type: ignore[union-attr]
    assert finder.take('other') == [(2, [])] and finder.idle
    finder.close()


def test_without_a_thread_the_result_is_there_at_once() -> None:
    robot = Robot()
    ids = robot.watch(A)
    finder = Finder(robot.store, 8, 0.5, MODEL.identity, background=False)
    finder.ask('front', [7, 8], np.stack([look(1), look(5)]))
    assert not finder.searching
    assert finder.take('front') == [(7, [ids['a']]), (8, [])] and finder.take('front') == []

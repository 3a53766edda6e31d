# SPDX-License-Identifier: Apache-2.0
"""The memory on its real store: what one process remembered, the next one knows; what is forgotten is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from memory_world import LEFT, MIDDLE, MODEL, RIGHT, Robot, look, twin, word

from embedder_ros.memory.open import open_store
from embedder_ros.memory.store import Filter
from embedder_ros.types import Outcome

SCENE = {'mug': (LEFT, look(1, 0)), 'bowl': (RIGHT, look(2, 1))}
PLACES = {'mug': (-0.8, 0.1, 2.0), 'bowl': (0.8, 0.2, 2.2)}
POSE = np.eye(4)


@pytest.fixture
def robot(tmp_path: Path) -> Iterator[Robot]:
    robot = Robot(open_store(str(tmp_path / 'memory.db'), 'home', MODEL))
    yield robot
    robot.memory.close()


def next_process(robot: Robot, tmp_path: Path, run: str) -> Robot:
    robot.memory.close()
    store = open_store(str(tmp_path / 'memory.db'), 'home', MODEL)
    return Robot(store, robot.settings, run, robot.options, robot.seconds + 60)


def test_the_next_process_knows_the_objects(robot: Robot, tmp_path: Path) -> None:
    ids = robot.watch(SCENE, positions=PLACES, pose=POSE)
    robot.memory.remember(object_id=ids['mug'], name='my mug')
    for object_id in robot.memory.wants_thumbnails(robot.observation).values():
        robot.memory.add_thumbnail(object_id, robot.observation.stamp, 'front', b'jpeg')
    last = robot.now
    again = next_process(robot, tmp_path, 'run-2')
    answer = again.memory.find(word(0), now=again.now)
    best = answer.candidates[0]
    assert answer.outcome is Outcome.FOUND and best.object_id == ids['mug']
    assert best.stamp == last and best.position == pytest.approx(PLACES['mug']) and best.position_frame == 'map'
    known = again.memory.get(ids['mug'])
    assert known is not None and (known.name, known.pinned, known.sightings[0].run) == ('my mug', True, 'run-1')
    assert again.watch({'mug': (RIGHT, look(1, 0, 0.3)), 'bowl': (LEFT, look(2, 1, 0.3))}) == ids
    assert again.counts['new'] == 0
    again.memory.close()


def test_pictures_are_kept(robot: Robot, tmp_path: Path) -> None:
    ids: dict[str, str] = {'mug': ''}
    while not all(ids.values()):
        ids = robot.watch(SCENE, 0.1)
    for object_id in robot.memory.wants_thumbnails(robot.observation).values():
        assert robot.memory.add_thumbnail(object_id, robot.observation.stamp, 'front', object_id.encode())
    robot.watch(SCENE, 8.0)
    again = next_process(robot, tmp_path, 'run-2')
    found, total = again.memory.objects(Filter())
    assert total == 2
    assert all(any(v.thumbnail == o.object_id.encode() for v in o.views) for o in found)
    again.memory.close()


def test_forgotten_is_gone_everywhere(robot: Robot, tmp_path: Path) -> None:
    ids = robot.watch(SCENE)
    robot.memory.keep_frame(robot.observation, robot.tracks['front'], b'picture')
    assert robot.memory.forget([ids['mug']]) == (1, [])
    again = next_process(robot, tmp_path, 'run-2')
    assert again.memory.get(ids['mug']) is None
    assert again.memory.find(word(0), now=again.now).outcome is Outcome.NOT_FOUND
    (frame,) = again.memory.search_frames(word(1)).frames
    assert frame.frame.object_ids == (ids['bowl'],) and frame.frame.thumbnail == b''
    again.memory.close()


def test_twins_stay_two_over_processes(robot: Robot, tmp_path: Path) -> None:
    twins = {'a': (LEFT, look(1)), 'b': (RIGHT, twin(1, 0.99))}
    ids = robot.watch(twins)
    again = next_process(robot, tmp_path, 'run-2')
    assert set(again.watch({'x': (MIDDLE, look(1))}).values()) == {''}
    assert again.counts['small_margin'] == 1 and again.memory.objects(Filter())[1] == 2 == len(set(ids.values()))
    again.memory.close()


def test_a_place_that_is_empty_after_a_restart_costs_belief(robot: Robot, tmp_path: Path) -> None:
    mug, wall = ((295, 215, 345, 265), look(1, 0)), ((220, 140, 420, 340), look(2, 1))
    door = ((20, 60, 120, 200), look(3, 2))
    places = {'mug': (0.0, 0.0, 2.0), 'wall': (0.0, 0.0, 4.0), 'door': (-2.0, -0.88, 4.0)}
    ids = robot.watch({'mug': mug, 'wall': wall, 'door': door}, positions=places, pose=POSE)
    again = next_process(robot, tmp_path, 'run-2')
    again.watch({'wall': wall, 'door': door}, 5.0, positions=places, pose=POSE)
    known = again.memory.get(ids['mug'])
    assert known is not None and known.presence < 0.3 and again.counts['gone'] == 1
    answer = again.memory.find(word(0), now=again.now)
    assert (answer.outcome, answer.reason) == (Outcome.NOT_FOUND, 'stale_frames')
    again.memory.close()

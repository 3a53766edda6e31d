# SPDX-License-Identifier: Apache-2.0
"""Belief is lost only by evidence: a place that was looked through. With poses, moved is told from new."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from memory_world import Robot, look, twin, word

from embedder_ros.memory.policy import Settings
from embedder_ros.memory.presence import Intrinsics
from embedder_ros.types import Observation, Outcome

FOCAL, CENTRE = 500.0, (320.0, 240.0)
MUG, WALL, DOOR = (0.0, 0.0, 2.0), (0.2, 0.1, 4.0), (-1.5, -0.5, 4.0)


def pose(x: float = 0.0, yaw: float = 0.0) -> np.ndarray:
    """A camera that looks along z of the map, moved by x metres and turned to the right."""
    at, c, s = np.eye(4), np.cos(yaw), np.sin(yaw)
    at[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    at[0, 3] = x
    return at


class House:
    """Things at places in the map, seen through a pinhole; each has a size in metres."""

    def __init__(self, **settings: Any) -> None:
        self.robot = Robot(settings=Settings(**settings))

    def watch(
        self, things: Mapping[str, tuple[tuple[float, ...], float, np.ndarray]], seconds: float, camera: str = 'front',
        at: np.ndarray | None = None, *, known_pose: bool = True, depth: bool = True,
    ) -> dict[str, str]:  # fmt: skip
        at = pose() if at is None else at
        shown, positions = {}, {}
        for name, (place, size, vector) in things.items():
            x, y, z = (np.array(place) - at[:3, 3]) @ at[:3, :3]
            u, v, half = FOCAL * x / z + CENTRE[0], FOCAL * y / z + CENTRE[1], FOCAL * size / z / 2
            shown[name] = ((u - half, v - half, u + half, v + half), vector)
            positions[name] = (x, y, z)
        return self.robot.watch(
            shown, seconds, camera, positions=positions if depth else None, pose=at if known_pose else None
        )

    def presence(self, object_id: str) -> float:
        known = self.robot.memory.get(object_id)
        assert known is not None
        return known.presence


def mug(place: tuple[float, ...] = MUG) -> dict[str, Any]:
    return {'mug': (place, 0.3, look(1, 0))}


# A picture on the wall behind the mug, about as large as the mug's view of it, and a door to the left.
ROOM = {'wall': (WALL, 1.6, look(2, 1)), 'door': (DOOR, 0.8, look(3, 2))}


def hide(place: tuple[float, ...], size: float = 0.8) -> dict[str, Any]:
    return {'box': (place, size, look(4, 3))}


def test_a_place_that_is_looked_through_costs_belief() -> None:
    house = House()
    ids = house.watch(mug() | ROOM, 2)
    assert house.presence(ids['mug']) == 1.0
    house.watch(ROOM, 1.6)
    assert 0.3 < house.presence(ids['mug']) < 1.0
    house.watch(ROOM, 3)
    assert house.presence(ids['mug']) < 0.3
    assert house.presence(ids['wall']) == house.presence(ids['door']) == 1.0
    assert house.robot.counts['gone'] == 1 and house.robot.counts['looks'] >= 3


def test_the_answer_tells_that_it_is_gone() -> None:
    """Listed, with where it was, but not FOUND; another mug that is there is, and has no rival in it."""
    house = House()
    ids = house.watch(mug() | ROOM, 2)
    find, now = house.robot.memory.find, lambda: house.robot.now
    assert find(word(0), now=now()).outcome is Outcome.FOUND
    house.watch(ROOM, 6)
    answer = find(word(0), now=now())
    assert (answer.outcome, answer.reason) == (Outcome.NOT_FOUND, 'stale_frames')
    gone = next(c for c in answer.candidates if c.object_id == ids['mug'])
    assert gone.position == pytest.approx(MUG, abs=1e-5) and gone.position_frame == 'map' and gone.unseen > 5
    other = house.watch(ROOM | {'other': ((1.0, 0.5, 2.0), 0.3, look(9, 0))}, 2)['other']
    answer = find(word(0), now=now())
    assert answer.outcome is Outcome.FOUND and answer.candidates[0].object_id == other
    assert answer.candidates[-1].object_id == ids['mug']


def test_seeing_it_again_restores_belief() -> None:
    house = House()
    ids = house.watch(mug() | ROOM, 2)
    house.watch(ROOM, 6)
    again = house.watch(mug() | ROOM, 2)
    assert again['mug'] == ids['mug'] and house.presence(ids['mug']) == 1.0
    assert house.robot.counts['moved'] == 0


@pytest.mark.parametrize(
    ('what', 'options'),
    [
        ('something stands before it', {'more': hide((0.0, 0.0, 1.0))}),
        ('something stands where it stood', {'more': hide((0.02, 0.0, 2.05), 0.3)}),
        ('the camera looks away', {'at': pose(yaw=1.2)}),
        ('nothing behind it has a box', {'room': {'door': ROOM['door']}}),
        ('no pose is known', {'known_pose': False}),
        ('there is no depth', {'depth': False}),
        ('the depth behind it is unknown', {'room': {'wall': ((*WALL[:2], 4.0), 1.6, look(2, 1))}, 'blind': True}),
    ],
)
def test_without_evidence_belief_stays(what: str, options: dict[str, Any]) -> None:
    house = House()
    ids = house.watch(mug() | ROOM, 2)
    room = options.pop('room', ROOM) | options.pop('more', {})
    if options.pop('blind', False):
        options['depth'] = False
    if 'at' in options:
        room = {'far': (tuple((options['at'] @ (0.1, 0.1, 4.0, 1))[:3]), 1.5, look(5, 4))}
    house.watch(room, 8, **options)
    assert house.presence(ids['mug']) == 1.0, what


def test_what_is_on_the_far_side_of_the_room_is_not_looked_through() -> None:
    house = House()
    far = {'picture': ((0.3, 0.1, 5.0), 0.3, look(6, 5))}
    ids = house.watch(far, 2)
    house.watch(ROOM, 6)
    assert house.presence(ids['picture']) == 1.0


def test_another_camera_elsewhere_sees_that_it_is_gone() -> None:
    house = House()
    ids = house.watch(mug() | ROOM, 2)
    there = pose(x=-1.0, yaw=0.46)  # looks at the mug's place from the left
    behind = tuple(there[:3, 3] + there[:3, :3] @ np.array([0.05, 0.02, 4.5]))
    left = tuple(there[:3, 3] + there[:3, :3] @ np.array([-1.0, -0.8, 3.0]))
    house.watch({'wall': (behind, 1.5, look(7, 1)), 'x': (left, 0.4, look(8, 2))}, 6, 'rear', there)
    assert house.presence(ids['mug']) < 0.3


def test_evidence_lasts_over_a_restart_and_is_found_after_one() -> None:
    house = House()
    ids = house.watch(mug() | ROOM, 2)
    house.robot = house.robot.restarted('run-2')
    house.watch(ROOM, 6)
    assert house.presence(ids['mug']) < 0.3
    house.robot = house.robot.restarted('run-3')
    assert house.presence(ids['mug']) < 0.3


def test_moved_is_told_from_new() -> None:
    house = House()
    ids = house.watch(mug() | ROOM, 2)
    house.watch(ROOM, 20)
    moved = house.watch(mug((1.0, 0.3, 2.5)) | ROOM, 2)
    assert moved['mug'] == ids['mug'] and house.robot.counts['moved'] == 1
    known = house.robot.memory.get(ids['mug'])
    assert known is not None and known.position == pytest.approx((1.0, 0.3, 2.5)) and known.presence == 1.0
    new = house.watch({'other': ((-0.8, 0.3, 2.5), 0.3, look(11, 0))} | ROOM, 2)
    assert new['other'] not in ('', ids['mug']) and house.robot.counts['moved'] == 1


def test_a_look_alike_too_far_away_for_the_time_is_new() -> None:
    house = House()
    ids = house.watch(mug() | ROOM, 2)
    far = pose(x=30.0)
    there = {'mug': ((30.0, 0.0, 2.0), 0.3, twin(1, 0.97))}
    assert house.watch(there, 2, 'rear', far)['mug'] not in ('', ids['mug'])
    assert house.robot.counts['too_fast'] == 1


def test_without_poses_the_report_says_what_cannot_be_decided() -> None:
    house = House()
    ids = house.watch(mug() | ROOM, 2, known_pose=False)
    house.watch(ROOM, 6, known_pose=False)
    assert house.presence(ids['mug']) == 1.0
    assert any('presence, and moved or new, cannot be decided' in s for s in house.robot.memory.report.sentences())
    known = house.robot.memory.get(ids['mug'])
    assert known is not None and known.position_frame == 'front_optical'
    assert known.position == pytest.approx(MUG, abs=1e-5)


def test_a_pose_that_is_none_is_counted_and_not_used() -> None:
    house = House()
    bad = pose()
    bad[0, 0] = np.nan
    robot = house.robot
    places = {'a': MUG}
    robot.watch({'a': ((280, 200, 360, 280), look(1))}, 1, positions=places, pose=bad)
    robot.watch({'a': ((280, 200, 360, 280), look(1))}, 1, positions=places, pose=2 * pose())
    assert robot.counts['bad pose'] == 20
    robot.memory.flush()
    (known,) = robot.store.things.values()
    assert known.position_frame == 'front_optical'


def observation(boxes: np.ndarray, positions: np.ndarray, size: tuple[int, int] = (640, 480)) -> Observation:
    n, none = len(boxes), np.zeros((0, 0), np.float32)
    one = np.ones(n, np.float32)
    return Observation(0, 'c', 'c', *size, boxes, one, one, none, none, 'm', positions)


def seen(rng: np.random.Generator, n: int, focal: float = FOCAL) -> tuple[np.ndarray, np.ndarray]:
    places = rng.uniform((-1, -1, 1), (1, 1, 5), (n, 3))
    centres = focal * places[:, :2] / places[:, 2:] + CENTRE
    return np.concatenate([centres - 20, centres + 20], axis=1).astype(np.float32), places.astype(np.float32)


def test_intrinsics_follow_from_boxes_with_positions() -> None:
    rng, camera = np.random.default_rng(0), Intrinsics()
    assert camera.update(observation(*seen(rng, 1))) is None
    assert camera.update(observation(np.zeros((0, 4), np.float32), np.zeros((0, 3), np.float32))) is None
    found = camera.update(observation(*seen(rng, 1)))
    assert found is not None and (found.fx, found.fy, found.cx, found.cy) == pytest.approx(
        (500, 500, *CENTRE), rel=1e-3
    )
    boxes, positions = seen(rng, 5)
    positions[:2] = np.nan
    assert camera.update(observation(boxes, positions)) == found
    zoomed = camera.update(observation(*seen(rng, 5, 800.0)))
    assert zoomed is not None and zoomed.fx == pytest.approx(800, rel=1e-3)
    assert camera.update(observation(*seen(rng, 1), size=(320, 240))) is None

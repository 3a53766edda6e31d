# SPDX-License-Identifier: Apache-2.0
"""People are not identified unless it is allowed: no object, no re-identification, nothing in remembered frames."""

from __future__ import annotations

import numpy as np
import pytest
from memory_world import DIM, LEFT, PERSON_KIND, RIGHT, Robot, look, word

from embedder_ros.memory.policy import Settings
from embedder_ros.types import UserError

PERSON = word(PERSON_KIND)
SOMEBODY = look(7, PERSON_KIND)
SCENE = {'anna': (LEFT, SOMEBODY), 'mug': (RIGHT, look(1))}


def test_a_person_becomes_no_object() -> None:
    robot = Robot(options={'person': PERSON})
    ids = robot.watch(SCENE, 3)
    assert ids['anna'] == '' and ids['mug']
    robot.wait(20)
    assert robot.watch(SCENE, 3) == ids
    assert len(robot.store.things) == 1 and robot.counts['person'] == 2
    assert not any(np.allclose(v.embedding, SOMEBODY) for o in robot.store.things.values() for v in o.views)
    with pytest.raises(UserError, match='allow_person_identity'):
        robot.memory.remember(track_id=next(t.track_id for t in robot.tracks['front'] if not t.object_id))


def test_questions_about_a_person_are_refused() -> None:
    robot = Robot(options={'person': PERSON})
    robot.watch(SCENE)
    ask, now = robot.memory, robot.now
    for question in (
        lambda: ask.reidentify(embedding=SOMEBODY, now=now),
        lambda: ask.reidentify(track_id=1, now=now),
        lambda: ask.find(SOMEBODY, by_identity=True, now=now),
        lambda: ask.search_frames(SOMEBODY, by_identity=True),
    ):
        with pytest.raises(UserError, match='people are not identified'):
            question()
    assert ask.find(PERSON, now=now).outcome.name == 'NOT_FOUND', 'asking for a person is no offence'


def test_remembered_frames_hold_no_people() -> None:
    robot = Robot(options={'person': PERSON})
    ids = robot.watch(SCENE)
    robot.memory.keep_frame(robot.observation, robot.tracks['front'], thumbnail=b'with anna')
    (frame,) = robot.store.frames.values()
    assert frame.object_ids == (ids['mug'],) and frame.embeddings.shape == (1, DIM) and not frame.thumbnail
    assert tuple(frame.boxes[0]) == RIGHT and len(frame.iou) == 1


def test_faces_and_clothes_are_no_objects() -> None:
    """What is within a person's box is the person's, unless it was known before."""
    robot = Robot(options={'person': PERSON})
    body, face, hat = (200, 50, 320, 400), (240, 100, 280, 150), (230, 10, 290, 110)
    hat_id = robot.watch({'hat': (hat, look(3))})['hat']
    ids = robot.watch({'hat': (hat, look(3)), 'body': (body, SOMEBODY), 'face': (face, look(8, 2))}, 3.0)
    assert ids == {'hat': hat_id, 'body': '', 'face': ''} and hat_id
    robot.memory.keep_frame(robot.observation, robot.tracks['front'])
    (frame,) = robot.store.frames.values()
    assert frame.object_ids == (hat_id,), 'the hat is not mostly within'
    ids = robot.watch({'hat': (hat, look(3)), 'face': (face, look(8, 2))}, 3.0)
    assert ids['hat'] == hat_id and ids['face'], 'without the person in view nothing tells what it is a part of'


def test_a_track_that_turns_out_to_be_a_person_is_forgotten() -> None:
    """Seen from behind it was taken for a thing."""
    robot = Robot(options={'person': PERSON})
    behind = look(7, 3)
    first = robot.watch({'anna': (LEFT, behind)}, 1.0)['anna']
    assert first in robot.store.things
    assert robot.watch({'anna': (LEFT, SOMEBODY)}, 2.0)['anna'] == ''
    assert not robot.store.things
    assert robot.watch({'anna': (LEFT, behind)}, 2.0)['anna'] == '', 'a person stays one'


def test_a_thing_that_a_track_slipped_off_is_not_forgotten() -> None:
    """It was seen before by another track; the track that slipped to a person loses it."""
    robot = Robot(options={'person': PERSON})
    first = robot.watch({'x': (LEFT, look(7, 3))}, 1.0)['x']
    robot.wait(20)
    assert robot.watch({'x': (RIGHT, look(7, 3))}, 1.0)['x'] == first
    assert robot.watch({'x': (RIGHT, SOMEBODY)}, 2.0)['x'] == ''
    assert first in robot.store.things


def test_what_somebody_pinned_stays() -> None:
    robot = Robot(options={'person': PERSON})
    doll = robot.watch({'doll': (LEFT, look(7, 3))}, 1.0)['doll']
    robot.memory.remember(object_id=doll, name='the doll')
    assert robot.watch({'doll': (LEFT, SOMEBODY)}, 2.0)['doll'] == doll


def test_allowed_people_are_like_things() -> None:
    robot = Robot(options={'person': PERSON, 'allow_person_identity': True})
    ids = robot.watch(SCENE)
    robot.wait(20)
    assert ids['anna'] and robot.watch(SCENE) == ids and robot.counts['person'] == 0
    answer = robot.memory.reidentify(embedding=SOMEBODY, now=robot.now)
    assert answer.candidates[0].object_id == ids['anna']


def test_how_sure_a_person_has_to_be_can_be_set() -> None:
    half = look(7, PERSON_KIND) + look(7, 3)
    half /= np.linalg.norm(half)
    semantic = 1 / (1 + np.exp(-(20 * float(half @ PERSON) - 8)))
    assert 0.3 < semantic < 0.95
    for threshold, is_object in ((-1.0, False), (0.95, True)):
        robot = Robot(options={'person': PERSON}, settings=Settings(person=threshold))
        assert bool(robot.watch({'x': (LEFT, half)})['x']) is is_object

# SPDX-License-Identifier: Apache-2.0
"""Rivals: objects that may be one thing remembered twice do not stand in each other's way, proven two do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from memory_world import LEFT, MODEL, RIGHT, START, look, twin

from embedder_ros.memory.known import Known
from embedder_ros.memory.rivals import rivals, seen_at_once
from embedder_ros.memory.views import Gallery
from embedder_ros.types import NANOSECONDS, FloatArray, Object, Sighting, View

SAME = 0.8


def known(
    name: str, *looks: FloatArray, camera: str = 'front', run: str = 'now', first: float = 0, last: float = 5,
    box: tuple[int, ...] = LEFT,
) -> Known:  # fmt: skip
    """An object with these views, seen once for so many seconds."""
    times = (START + round(first * NANOSECONDS), START + round(last * NANOSECONDS))
    gallery, where = Gallery(5, 0.99), np.array(box, np.float32)
    for place, vector in enumerate(looks):
        view = View(vector, times[1], camera, where, 640, 480, 0.9, 0.9)
        gallery.put(place, view, MODEL.identity(vector[None])[0], 1.0)
    seen = (Sighting(run, camera, 1, *times),)
    thing = Object(name, 'home', 'm-1', tuple(gallery.views), seen, 1, *times, camera, where, 640, 480)
    return Known(thing, gallery)


def are_rivals(a: Known, b: Known) -> bool:
    matrix = rivals([a, b], SAME)
    assert matrix[0, 1] == matrix[1, 0]
    return bool(matrix[0, 1])


A = known('a', look(1))
LATER = {'first': 10, 'last': 15, 'box': RIGHT}


@pytest.mark.parametrize(
    ('other', 'expected'),
    [
        (known('b', twin(1, 0.9), **LATER), False),
        (known('b', twin(1, 0.7), **LATER), True),
        (known('b', look(2), twin(1, 0.9), **LATER), False),
        (known('b', twin(1, 0.9), first=5, last=10, box=RIGHT), True),
        (known('b', twin(1, 0.9), camera='rear', box=RIGHT), False),
        (known('b', twin(1, 0.9), run='before', box=RIGHT), False),
        (known('b', twin(1, 0.7), box=(60, 100, 140, 200)), False),
    ],
    ids=['alike', 'not alike', 'alike from one side', 'seen at once', 'another camera', 'another run', 'two boxes'],
)
def test_two_objects(other: Known, expected: bool) -> None:
    assert are_rivals(A, other) is expected


def test_any_sighting_proves_them_two() -> None:
    b = known('b', twin(1, 0.9), **LATER)
    assert not seen_at_once([A.object, b.object])[0, 1]
    before = replace(b.object.sightings[0], first=START, last=START + NANOSECONDS)
    twice = replace(b.object, sightings=(before, *b.object.sightings))
    assert seen_at_once([A.object, b.object, twice]).tolist() == [[1, 0, 1], [0, 1, 1], [1, 1, 1]]
    never = replace(b.object, sightings=())
    assert seen_at_once([A.object, never, twice]).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_only_those_in_question_are_compared() -> None:
    halves = [A, known('b', twin(1, 0.9), **LATER), known('c', twin(1, 0.9), first=20, last=25, box=RIGHT)]
    assert not rivals(halves, SAME).any()
    some = rivals(halves, SAME, np.array([[True, False, True], [False, True, False]]))
    assert not some[0, 2] and not some[2, 0] and some[1].all() and some[:, 1].all()


def test_nothing_known_has_no_rivals() -> None:
    assert rivals([], SAME).shape == (0, 0)
    assert not rivals([A], SAME).any()

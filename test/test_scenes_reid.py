# SPDX-License-Identifier: Apache-2.0
"""Rooms for re-identification: look-alikes share the mesh, pauses are in the stamps, things leave and return."""

from __future__ import annotations

import os

import numpy as np
import pytest

os.environ.setdefault('MUJOCO_GL', 'egl')  # mujoco reads it when it is first imported
pytest.importorskip('mujoco')

from embedder_ros.training.scenes import compose, reid_bags  # noqa: E402
from embedder_ros.types import NANOSECONDS  # noqa: E402


def room(seed: int) -> tuple[compose.Scene, list[reid_bags.Twin], list[reid_bags.Session]]:
    rng = np.random.default_rng(seed)
    scene = compose.table_top(rng, 'x', held_out=True)
    twins = reid_bags.twins(scene.things, rng)
    return scene, twins, list(reid_bags.sessions(scene, twins, rng, reid_bags.START))


def test_twins_differ_from_their_originals_in_paint_alone() -> None:
    scene, twins, _ = room(1)
    assert {t.how for t in twins} == {'recoloured', 'retextured'}
    for twin in twins:
        original = scene.things[twin.of]
        np.testing.assert_array_equal(twin.thing.vertices(), original.vertices())
        body, before = twin.thing.pieces[0].paint, original.pieces[0].paint
        assert (body.colours == before.colours) == (twin.how == 'retextured')
        assert body is not before


def test_pauses_are_in_the_stamps_and_never_shorter_than_told() -> None:
    starts = [s.start for s in room(2)[2]]
    looked = reid_bags.FRAMES * reid_bags.PERIOD
    pauses = sorted(round((b - a - looked) / NANOSECONDS) for a, b in zip(starts, starts[1:], strict=False))
    assert pauses == sorted(reid_bags.GAPS)


def test_things_leave_and_return_and_a_twin_never_stands_beside_its_original() -> None:
    scene, twins, sessions = room(3)
    small = [i for i, t in enumerate(scene.things) if t.kind.where == 'top']
    there = np.array([[s.poses[i] is not None for i in small] for s in sessions])
    assert (there[:-1] & ~there[1:]).any() and (~there[:-1] & there[1:]).any()
    for session in sessions:
        for n, twin in enumerate(twins):
            assert session.poses[twin.of] is None or session.poses[len(scene.things) + n] is None
    assert {s.light for s in sessions} == {'day', 'evening'}

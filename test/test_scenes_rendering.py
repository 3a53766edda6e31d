# SPDX-License-Identifier: Apache-2.0
"""Rendered scenes: the same every time, with boxes that fit what is in the picture."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault('MUJOCO_GL', 'egl')  # mujoco reads it when it is first imported
pytest.importorskip('mujoco')

from embedder_ros.training.scenes import dataset, kinds, surfaces, tableware  # noqa: E402
from embedder_ros.training.scenes.meshes import block  # noqa: E402
from embedder_ros.training.scenes.stage import Camera, Light, Pose, Slab, Stage, Thing  # noqa: E402
from embedder_ros.training.scenes.truth import Labeller  # noqa: E402

assert tableware  # importing it fills KINDS
EYE = Camera(np.array([0.0, -1.0, 0.3]), np.array([0.0, 0.0, 0.05]), 40.0)


def cube(name: str, colour: str) -> Thing:
    paint = surfaces.Paint((colour,), np.array(surfaces.COLOURS[colour]), shine=0.0)
    return Thing(name, kinds.KINDS['mug'], (kinds.Piece(block(0.1, 0.1, 0.1, 0.002), paint),))


@pytest.fixture
def stage() -> Stage:
    """A red cube at the origin and a blue one, on a gray floor."""
    gray = surfaces.Paint((), np.full(3, 0.5), shine=0.0)
    made = Stage([cube('red', 'red'), cube('blue', 'blue')], [Slab((4, 4, 0.1), (0, 0, -0.05), gray)])
    made.light([Light(np.array([0.0, -1.0, 2.0]), np.full(3, 0.5))], np.full(3, 0.5))
    return made


def test_a_box_is_where_the_colour_is(stage: Stage) -> None:
    poses = [Pose(np.zeros(3)), None]
    stage.arrange(poses)
    shot = stage.shoot(EYE)
    stage_labels = Labeller(stage).label(shot, EYE, poses)
    stage.close()
    [entry] = stage_labels
    r, g, b = np.moveaxis(shot.image.astype(int), 2, 0)
    rows, columns = np.nonzero((r > 2 * g) & (r > 2 * b))
    measured = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(np.subtract(measured, entry['box'])).max() <= 2
    assert entry['colours'] == ['red'] and entry['visible'] > 0.97
    corners = EYE.project(stage.things[0].vertices())
    assert np.abs(np.concatenate([corners.min(axis=0), corners.max(axis=0)]) - entry['box']).max() <= 1.5


def test_visible_tells_what_is_hidden_and_cut_off(stage: Stage) -> None:
    """A cube half behind another, and a cube half out of the picture."""
    labeller = Labeller(stage)
    hidden = [Pose(np.array([0.05, 0.12, 0.0])), Pose(np.array([0.0, 0.0, 0.0]))]
    stage.arrange(hidden)
    level = Camera(np.array([0.0, -2.0, 0.05]), np.array([0.0, 0.0, 0.05]), 20.0)
    seen = {o['instance']: o['visible'] for o in labeller.label(stage.shoot(level), level, hidden)}
    assert seen['blue'] > 0.97 and 0.35 < seen['red'] < 0.6
    aside = Camera(np.array([0.47, -2.0, 0.05]), np.array([0.47, 0.0, 0.05]), 20.0)
    alone = [Pose(np.zeros(3)), None]
    stage.arrange(alone)
    [cut] = labeller.label(stage.shoot(aside), aside, alone)
    stage.close()
    assert cut['box'][0] == 0 and 0.2 < cut['visible'] < 0.8


def test_a_scene_is_the_same_every_time() -> None:
    first, again = (list(itertools.islice(dataset.render_scene(7, 4), 2)) for _ in range(2))
    for (image, entry), (same, same_entry) in zip(first, again, strict=True):
        assert np.array_equal(image, same) and entry == same_entry and entry['objects']


def test_a_dataset_is_continued_and_held_out_differs(tmp_path: Path) -> None:
    assert dataset.write(tmp_path, 1, 3, arrangements=1) == dataset.VIEWS
    kept = (tmp_path / 'scenes' / '00000.json').stat().st_mtime_ns
    assert dataset.write(tmp_path, 2, 3, arrangements=1) == 2 * dataset.VIEWS
    assert (tmp_path / 'scenes' / '00000.json').stat().st_mtime_ns == kept
    frames = json.loads((tmp_path / 'annotations.json').read_text())['frames']
    objects = [o for frame in frames for o in frame['objects']]
    assert len({o['instance'] for o in objects}) < len(objects)  # individuals return in other views
    assert any(o['part_of'] for o in objects) and all(c in surfaces.COLOURS for o in objects for c in o['colours'])
    for entry in objects:
        x0, y0, x1, y1 = entry['box']
        assert 0 <= x0 < x1 <= 640 and 0 <= y0 < y1 <= 480
    held = next(iter(dataset.render_scene(3, 0, held_out=True)))[1]
    assert held['scene'] != frames[0]['scene']

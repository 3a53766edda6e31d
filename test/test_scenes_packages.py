# SPDX-License-Identifier: Apache-2.0
"""Meshes of other packages as things of a scene: a small package of our own stands for them."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

os.environ.setdefault('MUJOCO_GL', 'egl')  # mujoco reads it when it is first imported
pytest.importorskip('mujoco')

from embedder_ros.training.scenes import compose, packages  # noqa: E402
from embedder_ros.training.scenes.kinds import Draw  # noqa: E402
from embedder_ros.training.scenes.packages import MODELS, Model, Offer, load  # noqa: E402
from embedder_ros.training.scenes.surfaces import plain  # noqa: E402
from embedder_ros.types import UserError  # noqa: E402

# A box of 2 x 4 x 6 cm about its middle, each face with the whole picture on it, and a bar in front.
OBJ = """v -1 -2 -3\nv 1 -2 -3\nv 1 2 -3\nv -1 2 -3\nv -1 -2 3\nv 1 -2 3\nv 1 2 3\nv -1 2 3
vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1
f 1/1 4/2 3/3\nf 1/1 3/3 2/4\nf 5/1 6/2 7/3\nf 5/1 7/3 8/4\nf 1/1 2/2 6/3\nf 1/1 6/3 5/4
f 2/1 3/2 7/3\nf 2/1 7/3 6/4\nf 3/1 4/2 8/3\nf 3/1 8/3 7/4\nf 4/1 1/2 5/3\nf 4/1 5/3 8/4\n"""
MJCF = """<mujoco><asset><mesh name="side" file="box.obj" scale=".01 .01 .01"/>
<mesh name="side_handle" file="box.obj" scale=".002 .002 .002"/><texture name="print" type="2d" file="print.png"/>
<material name="printed" texture="print"/><material name="steel" rgba=".3 .4 .5 1"/></asset>
<worldbody><body name="object"><geom type="mesh" mesh="side" material="printed" group="1"/>
<geom type="mesh" mesh="side_handle" material="steel" group="1" pos="0 -.03 0"/>
<geom type="box" size="1 1 1" group="0"/></body></worldbody></mujoco>"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with one textured MJCF thing and one plain mesh."""
    folder = tmp_path / 'corner_shop'
    folder.mkdir()
    (folder / '__init__.py').touch()
    (folder / 'box.obj').write_text(OBJ)
    (folder / 'box.xml').write_text(MJCF)
    print_ = np.zeros((600, 1200, 3), np.uint8)
    print_[:300] = (0, 0, 255)  # OpenCV writes BGR: the upper half is red
    cv2.imwrite(str(folder / 'print.png'), print_)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return folder.name


def test_visible_meshes_become_pieces_that_stand_on_the_ground(shop: str) -> None:
    body, handle = load(Model(f'{shop}/box.xml', ('red',)))
    assert (body.part, handle.part) == ('', 'handle0')
    low, high = body.mesh.vertices.min(axis=0), body.mesh.vertices.max(axis=0)
    assert np.allclose(high - low, (0.02, 0.04, 0.06), atol=1e-6)
    assert low[2] == pytest.approx(0, abs=1e-6)
    assert handle.mesh.vertices[:, 1].max() < low[1]  # it stays in front
    assert body.paint.texture is not None and body.paint.texture.shape == (256, 512, 3)
    upper, lower = body.paint.texture[:100].mean(axis=(0, 1)), body.paint.texture[-100:].mean(axis=(0, 1))
    assert {tuple(np.round(upper)), tuple(np.round(lower))} == {(255, 0, 0), (0, 0, 0)}
    assert np.ptp(body.mesh.uv, axis=0).tolist() == [1, 1]
    assert handle.paint.texture is None and np.allclose(handle.paint.rgb, (0.3, 0.4, 0.5), atol=1e-6)
    assert body.paint.look == 'box'
    assert (body.paint.colours, handle.paint.colours) == (('red',), ())  # nobody said what colour the handle is


def test_a_mesh_alone_takes_the_size_it_is_given(shop: str) -> None:
    (piece,) = load(Model(f'{shop}/box.obj', size=0.12))
    assert np.allclose(np.ptp(piece.mesh.vertices, axis=0), (0.04, 0.08, 0.12), atol=1e-6)


def test_only_a_thing_that_may_be_painted_is(shop: str) -> None:
    rng = np.random.default_rng(0)
    green = plain('green', rng)
    for painted in (False, True):
        models = (Model(f'{shop}/box.xml', ('red',), painted=painted),)
        drawn = [packages._instance(models, Draw(rng), green) for _ in range(40)]
        looks = {pieces[0].paint.look for pieces in drawn}
        assert looks == ({'', 'box'} if painted else {'box'})
        assert all((pieces[0].paint is green) == (pieces[0].paint.look == '') for pieces in drawn)


def test_a_look_that_comes_back_is_part_of_the_name(shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    models = (Model(f'{shop}/box.xml', ('red',)),)
    monkeypatch.setattr(packages, 'MODELS', {'parcel': Offer(('package',), models)})
    (kind,) = packages.kinds(held_out=False)
    cast = compose._Cast(np.random.default_rng(0), 's1_00000', held_out=False)
    assert [cast.add(kind, 'blue').instance for _ in range(2)] == ['s1_00000/parcel_0@box', 's1_00000/parcel_1@box']
    assert not list(packages.kinds(held_out=True))


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, 'MODELS', {'parcel': Offer((), (Model('no_such_shop/box.xml'),))})
    with pytest.raises(UserError, match='no_such_shop/box.xml is not installed; pip install'):
        list(packages.kinds(held_out=False))


def test_no_mesh_is_on_both_sides_of_the_split() -> None:
    models = [m for offer in MODELS.values() for m in offer.models]
    assert len({m.path for m in models}) == len(models)
    held = {m.path for m in models if m.held_out}
    assert 10 < len(held) < len(models) / 2

# SPDX-License-Identifier: Apache-2.0
"""Every kind is a set of closed surfaces that face outwards and stand on the ground; no renderer needed."""

from __future__ import annotations

import numpy as np
import pytest

from embedder_ros.training.scenes import furniture, goods, kinds, meshes, rooms, surfaces, tableware

assert furniture and goods and rooms and tableware  # importing them fills KINDS


def volume(mesh: meshes.Mesh) -> float:
    """Cubic metres, positive when the faces look outwards."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return float(np.einsum('ij,ij->i', a, np.cross(b, c)).sum() / 6)


@pytest.mark.parametrize(
    ('mesh', 'expected'),
    [
        (meshes.slab((0.1, 0.2, 0.3)), 0.006),
        (meshes.block(0.1, 0.2, 0.3, 0.001), 0.006),
        (meshes.ball(0.05, points=64), 4 / 3 * np.pi * 0.05**3),
        (meshes.lathe([(1e-5, 0), (0.1, 0), (0.1, 0.2), (1e-5, 0.2)], 64), np.pi * 0.1**2 * 0.2),
        (meshes.tube([(0, 0, 0), (0.1, 0, 0), (0.2, 0, 0)], 0.01, points=32), np.pi * 0.01**2 * 0.2),
    ],
)
def test_volumes(mesh: meshes.Mesh, expected: float) -> None:
    assert volume(mesh) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize('held_out', [False, True])
@pytest.mark.parametrize('name', sorted(kinds.KINDS))
def test_every_kind_is_solid(name: str, held_out: bool) -> None:
    for seed in range(4):
        draw = kinds.Draw(np.random.default_rng(seed), held_out=held_out)
        pieces = kinds.KINDS[name].recipe(draw, surfaces.plain('red', draw.rng))
        assert all(volume(piece.mesh) > 0 and np.isfinite(piece.mesh.vertices).all() for piece in pieces)
        points = np.concatenate([piece.mesh.vertices for piece in pieces])
        assert abs(points[:, 2].min()) < 0.006 and 0.015 < np.ptp(points, axis=0).max() < 2


def test_held_out_shapes_are_never_trained_on() -> None:
    trained, held = (
        np.array([kinds.Draw(np.random.default_rng(s), held_out=h).size(2.0, 3.0) for s in range(400)])
        for h in (False, True)
    )
    inside = (held > trained.min()) & (held < trained.max())
    assert not inside.any() and held.min() >= 2 and held.max() <= 3 and (held < 2.5).any() and (held > 2.5).any()


def test_parts_have_synonyms_and_parents() -> None:
    for kind in kinds.KINDS.values():
        draw = kinds.Draw(np.random.default_rng(0))
        parts = {piece.part for piece in kind.recipe(draw, surfaces.plain('blue', draw.rng))}
        for part in filter(None, parts):
            assert part.split('/')[-1].rstrip('0123456789') in kinds.PART_SYNONYMS
            assert '/' not in part or part.rsplit('/', 1)[0] in parts

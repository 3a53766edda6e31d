# SPDX-License-Identifier: Apache-2.0
"""Products in pieces are the products, whatever is left over."""

from __future__ import annotations

import numpy as np
import pytest

from embedder_ros.memory import products
from embedder_ros.memory.index import _orthonormal


@pytest.mark.parametrize('shape', [(0, 5, 3), (1, 1, 7), (33, 1, 160), (5, 40, 300), (1000, 7, 33), (257, 300, 96)])
@pytest.mark.parametrize('parallel', [1, 10**9])
def test_pieces_make_the_product(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], parallel: int) -> None:
    monkeypatch.setattr(products, 'PIECE', 2**13)
    monkeypatch.setattr(products, 'PARALLEL', parallel)
    monkeypatch.setattr(products, 'PICKED', 500)
    n, m, dim = shape
    rng = np.random.default_rng(0)
    rows, others = rng.standard_normal((n, dim), np.float32), rng.standard_normal((m, dim), np.float32)
    right = rows.astype(float) @ others.astype(float).T
    np.testing.assert_allclose(products.products(rows, others), right, atol=1e-4)
    np.testing.assert_allclose(products.scores_of(rows, others[0]), right[:, 0], atol=1e-4)
    some = np.flatnonzero(rng.random(n) < 0.5)
    np.testing.assert_allclose(products.picked(rows, some, others[0]), right[some, 0], atol=1e-4)


@pytest.mark.parametrize('kind', ['any', 'few directions', 'fading', 'nothing'])
def test_orthonormal_rows_span_what_was_given(kind: str) -> None:
    rng = np.random.default_rng(1)
    given = rng.standard_normal((40, 96))
    if kind == 'few directions':
        given = given[:, :6] @ rng.standard_normal((6, 96))
    elif kind == 'fading':
        given *= np.logspace(0, -6, 96)
    elif kind == 'nothing':
        given *= 0
    rows = _orthonormal(given.astype(np.float32))
    found = rows @ rows.T
    np.testing.assert_allclose(found, np.diag(np.round(np.diag(found))), atol=1e-5)
    assert np.linalg.norm(given - given @ rows.T @ rows) <= 1e-4 * np.linalg.norm(given)


def test_halves_within_halves_are_done_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, 'PARALLEL', 1)
    parts = products.in_halves(
        10, 1, lambda start, stop: products.in_halves(stop - start, 1, lambda a, b: (start, a, b))
    )
    assert parts == [[(0, 0, 5)], [(5, 0, 5)]]
    with pytest.raises(ZeroDivisionError):
        products.in_halves(10, 1, lambda start, stop: 1 // start)
    assert products.in_halves(3, 1, lambda start, stop: stop - start) == [1, 2]

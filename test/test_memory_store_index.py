# SPDX-License-Identifier: Apache-2.0
"""Search over many long vectors: exact whatever they are like, approximate with good recall, filters included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from embedder_ros.memory import index as module
from embedder_ros.memory import products, sqlite
from embedder_ros.memory.index import VectorIndex
from embedder_ros.types import unit_rows

DIM, PARTS = 96, (8, 8, 16)
OWNERS, VIEWS = 800, 3


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything in small, so that brute force is quick."""
    for name, value in {
        'PARTS': PARTS,
        'LONG': DIM,
        'FIT_FROM': 500,
        'APPROXIMATE': 8000,
        'BLOCK': 2048,
    }.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(products, 'PIECE', 2**13)
    monkeypatch.setattr(products, 'PARALLEL', 2**12)


def rows_of(kind: str, count: int) -> np.ndarray:
    """(count, DIM) unit rows: of a few directions, in clusters, spread evenly, or hard to bound.

    Hard are rows of a small subspace, which the heads hold to the last bit, with many copies, among others of which
    the basis knows nothing, and numbers that are 0 in every row.
    """
    rng = np.random.default_rng(1)
    if kind == 'hard':
        rows = np.zeros((count, DIM))
        rows[:, :16] = rng.standard_normal((count, 16))
        rows[::7] = rows[0]
        rows[-5:, 16:60] = 40 * rng.standard_normal((5, 44))
        return unit_rows(rows)
    if kind == 'even':
        return unit_rows(rng.standard_normal((count, DIM)))
    if kind == 'clusters':
        centres = rng.standard_normal((count // 50, DIM))
        return unit_rows(centres[rng.integers(0, len(centres), count)] + 0.5 * rng.standard_normal((count, DIM)))
    scale = 1 / np.arange(1, DIM + 1)
    return unit_rows((rng.standard_normal((count, DIM)) * scale) @ np.linalg.qr(rng.standard_normal((DIM, DIM)))[0])


def filled(rows: np.ndarray, aside: slice | np.ndarray | None = None) -> tuple[VectorIndex, np.ndarray]:
    """An index of OWNERS owners, filled in parts, and the owner of each row."""
    index = VectorIndex(DIM, 10, aside)
    owners = np.repeat(np.arange(OWNERS, dtype=np.int32), VIEWS)
    views = np.tile(np.arange(VIEWS, dtype=np.int32), OWNERS)
    for part in np.array_split(np.arange(len(rows)), 7):
        index.add(owners[part], views[part], rows[part])
    return index, owners


def best_of(rows: np.ndarray, owners: np.ndarray, query: np.ndarray, allowed: np.ndarray | None, k: int) -> list[float]:
    best = np.full(OWNERS, -np.inf)
    np.maximum.at(best, owners, rows @ query)
    if allowed is not None:
        best[~allowed] = -np.inf
    return sorted(best[np.isfinite(best)].tolist(), reverse=True)[:k]


def queries_of(rows: np.ndarray) -> np.ndarray:
    """Near to some rows, the same as some, far from all, 0 in parts as texts are, and mostly where no row has any."""
    rng = np.random.default_rng(2)
    near = rows[:3] + 0.02 * rng.standard_normal((3, DIM))
    partial = rng.standard_normal((3, DIM))
    partial[:, :10] = partial[:, 50:] = 0
    beside = rng.standard_normal((3, DIM))
    beside[:, 60:] *= 10
    same = [rows[0], rows[-1], -rows[0]]
    return unit_rows(np.concatenate([near, same, rng.standard_normal((3, DIM)), partial, beside]))


def masks() -> dict[str, np.ndarray | None]:
    rng = np.random.default_rng(3)
    return {
        'all': None,
        'most': rng.random(OWNERS) < 0.7,
        'few': rng.random(OWNERS) < 0.03,
        'one': np.arange(OWNERS) == 9,
    }


# What is left aside is found as well: partly what texts have nothing in, or what all rows have.
@pytest.mark.parametrize('aside', [None, slice(50, 80), np.arange(0, DIM, 7)])
@pytest.mark.parametrize('together', [True, False])
@pytest.mark.parametrize('kind', ['directions', 'clusters', 'even', 'hard'])
def test_exact_search_is_brute_force(kind: str, together: bool, aside: slice | np.ndarray | None) -> None:
    rows = rows_of(kind, OWNERS * VIEWS)
    index, owners = filled(rows, aside)
    assert index._basis is not None, 'the rows have no heads'
    queries = queries_of(rows)
    for name, allowed in masks().items():
        groups = [queries] if together else [q[None] for q in queries]
        found = [hits for group in groups for hits in index.search(group, 10, allowed)]
        for query, hits in zip(queries, found, strict=True):
            expected = best_of(rows, owners, query, allowed, 10)
            np.testing.assert_allclose([c for _, c, _ in hits], expected, atol=2e-6, err_msg=name)
            for owner, cosine, view in hits:
                assert allowed is None or allowed[owner]
                assert abs(float(rows[VIEWS * owner + view] @ query) - cosine) < 2e-6
            assert len({owner for owner, _, _ in hits}) == len(hits)


def test_short_vectors_together_are_brute_force() -> None:
    rng = np.random.default_rng(4)
    rows = unit_rows(rng.standard_normal((30_000, 16)))
    index = VectorIndex(16)
    index.add(np.arange(30_000, dtype=np.int32), np.zeros(30_000, np.int32), rows)
    queries = unit_rows(rng.standard_normal((50, 16)))
    for allowed in (None, rng.random(30_000) < 0.5):
        scores = queries @ rows.T if allowed is None else np.where(allowed, queries @ rows.T, -np.inf)
        for row, hits in zip(scores, index.search(queries, 8, allowed), strict=True):
            assert [owner for owner, _, _ in hits] == np.argsort(-row)[:8].tolist()


@pytest.mark.parametrize('kind', ['directions', 'clusters'])
def test_approximate_search_finds_most(kind: str) -> None:
    rows = rows_of(kind, OWNERS * VIEWS)
    index, owners = filled(rows)
    right = wanted = 0
    for name, allowed in masks().items():
        for query in unit_rows(rows[:12] + 0.02 * np.random.default_rng(5).standard_normal((12, DIM))):
            hits = index.search(query[None], 10, allowed, exact=False)[0]
            expected = best_of(rows, owners, query, allowed, 10)
            right += sum(c >= expected[-1] - 1e-5 for _, c, _ in hits)
            wanted += len(expected)
            assert len(hits) == len(expected), name
    assert right / wanted > 0.97


def test_removed_rows_are_neither_found_nor_kept() -> None:
    rows = rows_of('clusters', OWNERS * VIEWS)
    index, owners = filled(rows, slice(40, 60))
    gone = np.random.default_rng(6).permutation(OWNERS)[:200]
    index.remove(gone.tolist())
    assert index.count == VIEWS * 600
    stay = np.ones(OWNERS, bool)
    stay[gone] = False
    for query in queries_of(rows):
        hits = index.search(query[None], 10)[0]
        np.testing.assert_allclose([c for _, c, _ in hits], best_of(rows, owners, query, stay, 10), atol=2e-6)
    assert not index._rows[index.count : len(rows)].any()
    assert not any(column[index.count : len(rows)].any() for column in index._columns())
    new = rows_of('even', 3)
    index.add(np.full(3, 77, np.int32), np.arange(3, dtype=np.int32), new)
    assert index.search(new[1][None], 1)[0][0][0] == 77
    index.clear()
    assert index.search(rows[:2], 3) == [[], []]


def test_searches_and_changes_between_the_steps_of_fitting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, 'STEP', 300)
    rows = rows_of('clusters', OWNERS * VIEWS)
    owners = np.repeat(np.arange(OWNERS, dtype=np.int32), VIEWS)
    views = np.tile(np.arange(VIEWS, dtype=np.int32), OWNERS)
    index, begin, there = VectorIndex(DIM, 10), 700 * VIEWS, np.arange(OWNERS) < 700
    index.add(owners[:begin], views[:begin], rows[:begin], fit=False)
    assert index._basis is None
    for number, _ in enumerate(index.fit()):
        gone, new = [3 * number, 650 - number], 700 + number
        index.remove(gone)
        part = slice(VIEWS * new, VIEWS * (new + 1))
        index.add(owners[part], views[part], rows[part], fit=False)
        there[gone], there[new] = False, True
        for query in queries_of(rows)[::3]:
            hits = index.search(query[None], 10)[0]
            np.testing.assert_allclose([c for _, c, _ in hits], best_of(rows, owners, query, there, 10), atol=2e-6)
    assert 5 < number < 20 and index._headed == index.count
    for query in queries_of(rows):
        hits = index.search(query[None], 10)[0]
        np.testing.assert_allclose([c for _, c, _ in hits], best_of(rows, owners, query, there, 10), atol=2e-6)


def test_fewer_owners_than_wanted() -> None:
    index = VectorIndex(8)
    rows = unit_rows(np.random.default_rng(7).standard_normal((6, 8)))
    index.add(np.array([0, 0, 0, 1, 1, 2], np.int32), np.array([0, 1, 2, 0, 1, 0], np.int32), rows)
    for queries in (rows[:1], rows):
        assert [sorted(o for o, _, _ in hits) for hits in index.search(queries, 10)] == [[0, 1, 2]] * len(queries)


def test_vectors_left_aside_bound_texts_better() -> None:
    rng, texts = np.random.default_rng(8), np.zeros((6, DIM))
    rows = unit_rows(rows_of('directions', OWNERS * VIEWS) * np.where(np.arange(DIM) < 40, 2, 1))
    texts[:, :40] = rng.standard_normal((6, 40))
    left = []
    for aside in (None, slice(40, DIM)):
        index, counts = filled(rows, aside)[0], []
        reach = index._reach

        def counted(*arguments: Any, reach: Any = reach, counts: list[int] = counts) -> Any:
            counts.append(len(found := reach(*arguments)))
            return found

        index._reach = counted  # type: ignore[method-assign]
        index.search(unit_rows(texts), 10)
        left.append(sum(counts))
    assert left[1] < left[0]


def test_the_store_searches_approximately_only_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from memorytest import MAP, MODEL, thing, vectors

    from embedder_ros.memory.open import open_store
    from embedder_ros.memory.store import Filter

    asked: list[bool] = []
    search = VectorIndex.search
    monkeypatch.setattr(sqlite, 'EXACT', 10)
    monkeypatch.setattr(VectorIndex, 'search', lambda *a, exact: asked.append(exact) or search(*a, exact=exact))
    store = open_store('', MAP, MODEL)
    store.put([thing(f'{i}', row, last_seen=i + 1) for i, row in enumerate(vectors(20))])
    store.search(vectors(1), 3, Filter())
    store.search(vectors(1), 3, Filter(since=12))
    store.close()
    assert asked == [False, True]

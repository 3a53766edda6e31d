# SPDX-License-Identifier: Apache-2.0
"""Searches for tracks: what was found is given again to those who ask again, and searched anew when it must be."""

from __future__ import annotations

import numpy as np
import pytest
from memorytest import MAP, MODEL, thing, vectors

from embedder_ros.memory.finder import RECENT, Finder
from embedder_ros.memory.open import open_store
from embedder_ros.memory.sqlite import SqliteStore
from embedder_ros.types import unit_rows


def asked(finder: Finder, camera: str, tracks: list[int], rows: np.ndarray) -> list[tuple[int, list[str]]]:
    finder.ask(camera, tracks, rows)
    return finder.take(camera)


def test_tracks_that_ask_again_are_answered_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    search = SqliteStore.search
    monkeypatch.setattr(SqliteStore, 'search', lambda *a, **k: searched.append(len(a[1])) or search(*a, **k))
    store, rows = open_store('', MAP, MODEL), vectors(4)
    store.put([thing(f'{i}', row) for i, row in enumerate(rows)])
    finder = Finder(store, 1, -1.0, background=False)
    first = asked(finder, 'left', [10, 11, 12], rows[:3])
    assert first == [(10, ['0']), (11, ['1']), (12, ['2'])] and searched == [3]
    assert asked(finder, 'left', [11, 12, 13], rows[1:4]) == first[1:] and searched == [3]
    assert asked(finder, 'left', [13], rows[3:]) == [(13, ['3'])] and searched == [3, 1]
    assert finder.take('left') == []
    assert asked(finder, 'right', [10], rows[:1]) == [(10, ['0'])] and searched == [3, 1, 1], 'of another camera'
    assert asked(finder, 'left', [10], rows[1:2]) == [(10, ['1'])] and searched[3:] == [1], 'it looks different now'
    for _ in range(RECENT):
        asked(finder, 'left', [10], unit_rows(rows[1:2] + 1e-3))
    assert searched[4:] == [1], 'the answer is too old in the end'
    store.close()


def test_that_nothing_was_found_is_found_out_anew() -> None:
    store, rows = open_store('', MAP, MODEL), vectors(2)
    finder = Finder(store, 1, 0.9, background=False)
    store.put([thing('other', rows[1])])
    assert asked(finder, 'left', [10], rows[:1]) == [(10, [])]
    store.put([thing('mine', rows[0])])
    assert asked(finder, 'left', [10], rows[:1]) == [(10, ['mine'])], 'remembered by another camera meanwhile'
    store.close()

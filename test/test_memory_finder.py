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


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many vectors each search from here on looks for."""
    searched: list[int] = []
    search = SqliteStore.search
    monkeypatch.setattr(SqliteStore, 'search', lambda *a, **k: searched.append(len(a[1])) or search(*a, **k))
    return searched


def test_tracks_that_ask_again_are_answered_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = counted(monkeypatch)
    store, rows = open_store('', MAP, MODEL), vectors(4)
    store.put([thing(f'{i}', row) for i, row in enumerate(rows)])
    finder = Finder(store, 1, -1.0, MODEL.identity, background=False)
    first = asked(finder, 'left', [10, 11, 12], rows[:3])
    assert first == [(10, ['0']), (11, ['1']), (12, ['2'])] and searched == [3]
    assert asked(finder, 'left', [11, 12, 13], rows[1:4]) == first[1:] and searched == [3], 'not worth a search'
    assert asked(finder, 'left', [13], rows[3:]) == [(13, ['3'])] and searched == [3, 1]
    assert finder.take('left') == []
    assert asked(finder, 'right', [10], rows[:1]) == [(10, ['0'])] and searched == [3, 1, 1], 'of another camera'
    assert asked(finder, 'left', [10], rows[1:2]) == [(10, ['1'])] and searched[3:] == [1], 'it looks different now'
    for _ in range(RECENT):
        asked(finder, 'left', [10], unit_rows(rows[1:2] + 1e-3))
    assert searched[4:] == [1], 'the answer is too old in the end'
    store.close()


def test_those_who_are_new_are_searched_for_beside_those_who_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    store, rows = open_store('', MAP, MODEL), vectors(4)
    store.put([thing(f'{i}', row) for i, row in enumerate(rows)])
    finder = Finder(store, 1, -1.0, MODEL.identity, background=False)
    asked(finder, 'left', [10], rows[:1])
    searched = counted(monkeypatch)
    assert asked(finder, 'left', [10, 11, 12], rows[:3]) == [(10, ['0']), (11, ['1']), (12, ['2'])]
    assert searched == [2]
    store.close()


def test_what_is_remembered_meanwhile_is_added_to_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    store, rows = open_store('', MAP, MODEL), vectors(3)
    finder = Finder(store, 2, 0.9, MODEL.identity, background=False)
    store.put([thing('other', rows[1])])
    assert asked(finder, 'left', [10], rows[:1]) == [(10, [])]
    searched = counted(monkeypatch)
    turned = [unit_rows(rows[:1] + part * rows[1:2]) for part in (0.3, 0.2, 0.1)]
    for name, row in zip('abc', turned, strict=True):
        store.put([thing(name, row[0])])
        finder.added([(name, MODEL.identity(row)), ('far', MODEL.identity(rows[2:]))])
    assert [sorted(ids) for _, ids in asked(finder, 'left', [10], rows[:1])] == [['b', 'c']], 'the nearest two'
    assert searched == []
    store.close()


def test_a_track_may_ask_for_nearer_objects_only() -> None:
    store, rows = open_store('', MAP, MODEL), vectors(2)
    finder = Finder(store, 2, 0.9, MODEL.identity, background=False)
    store.put([thing('mine', rows[0]), thing('alike', unit_rows(rows[:1] + 0.3 * rows[1:])[0])])
    finder.ask('left', [10, 11], rows[[0, 0]], np.array([0.9, 0.99], np.float32))
    assert finder.take('left') == [(10, ['mine', 'alike']), (11, ['mine'])]
    finder.ask('left', [10, 11], rows[[0, 0]], np.array([0.99, 0.9], np.float32))
    assert finder.take('left') == [(10, ['mine']), (11, ['mine', 'alike'])], 'of the same search'
    turned = unit_rows(rows[[0]] + 0.05 * rows[1:])
    finder.ask('left', [11], turned, np.array([0.99], np.float32))
    assert finder.take('left') == [(11, ['mine', 'alike'])], 'another view: its cosines are not known'
    store.close()


def test_what_is_remembered_during_a_search_is_not_missed() -> None:
    store, rows = open_store('', MAP, MODEL), vectors(2)
    store.put([thing('other', rows[1])])
    finder = Finder(store, 2, 0.9, MODEL.identity, background=True)
    finder.ask('left', [10], rows[:1])
    finder.start()
    finder._running.result()  # type: ignore[union-attr]
    finder.added([('mine', MODEL.identity(rows[:1]))])
    assert finder.take('left') == [(10, ['mine'])]
    finder.close()
    store.close()

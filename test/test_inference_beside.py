# SPDX-License-Identifier: Apache-2.0
"""Two calls at the same time."""

from __future__ import annotations

import threading

import pytest

from embedder_ros.inference.beside import Beside


def test_both_run_at_the_same_time_and_return_in_order() -> None:
    meet = threading.Barrier(2)

    def call(name: str) -> str:
        meet.wait(timeout=20)  # passes only when the other runs as well
        return name

    assert Beside(2)(lambda: call('one'), lambda: call('other')) == ('one', 'other')


def test_with_one_thread_they_run_in_turn_here() -> None:
    done: list[tuple[str, int]] = []
    both = Beside(1)
    both(lambda: done.append(('one', threading.get_ident())), lambda: done.append(('other', threading.get_ident())))
    assert done == [('one', threading.get_ident()), ('other', threading.get_ident())]


@pytest.mark.parametrize('failing', [0, 1])
def test_what_either_raises_is_raised_and_the_next_calls_work(failing: int) -> None:
    calls = [lambda: 1, lambda: 2]
    calls[failing] = lambda: 1 // 0
    both = Beside(2)
    with pytest.raises(ZeroDivisionError):
        both(*calls)
    assert both(lambda: 1, lambda: 2) == (1, 2)

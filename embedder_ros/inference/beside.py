# SPDX-License-Identifier: Apache-2.0
"""Two calls at the same time. Small networks keep few threads busy; two of them beside each other keep more."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

One = TypeVar('One')
Other = TypeVar('Other')


class Beside:
    """Runs one call in the caller's thread and another in a thread of its own. Safe to call from several threads.

    Args:
        threads: CPU threads there are for both; with 1 they run one after the other.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(1, 'beside') if threads != 1 else None

    def __call__(self, one: Callable[[], One], other: Callable[[], Other]) -> tuple[One, Other]:
        """What both return. Raises what either raises."""
        if self._pool is None:
            return one(), other()
        begun = self._pool.submit(other)
        return one(), begun.result()

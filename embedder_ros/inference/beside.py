# SPDX-License-Identifier: Apache-2.0
"""Two calls at the same time. Small networks keep few threads busy; two of them beside each other keep more."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

One = TypeVar('One')
Other = TypeVar('Other')


class Beside:
    """Runs one call in the caller's thread and another in a thread of its own. Safe to call from several threads.

    Args:
        threads: CPU threads there are for both, 0 for as many as there are processors; with 1 they run one after the
            other.

    Attributes:
        each: CPU threads for either.
    """

    def __init__(self, threads: int) -> None:
        threads = threads or processors()
        self.each = max(1, threads // 2)
        self._pool = ThreadPoolExecutor(1, 'beside') if threads > 1 else None

    def __call__(self, one: Callable[[], One], other: Callable[[], Other]) -> tuple[One, Other]:
        """What both return. Raises what either raises."""
        if self._pool is None:
            return one(), other()
        begun = self._pool.submit(other)
        return one(), begun.result()


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1

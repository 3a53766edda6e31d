# SPDX-License-Identifier: Apache-2.0
"""One newest-frame slot per camera between the executor and the inference thread.

A newer frame replaces an unread one, so that latency stays within one inference however fast the cameras are;
replaced frames are counted, never queued. Jobs (a region to embed) wait in the same place, so that one thread owns
the model.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from embedder_ros.types import UserError


class Slots:
    """Thread-safe slots by camera name, and a queue of jobs."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting: dict[str, Any] = {}
        self._jobs: deque[Callable[[], None]] = deque()
        self._closed = False
        self.replaced: Counter[str] = Counter()

    def put(self, camera: str, item: Any) -> None:
        """Leave the newest item of a camera; an unread older one is replaced and counted."""
        with self._condition:
            if camera in self._waiting:
                self.replaced[camera] += 1
            self._waiting[camera] = item
            self._condition.notify()

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` on the taking thread before the next frames.

        Raises:
            UserError: the slots are closed.
        """
        with self._condition:
            if self._closed:
                raise UserError('the embedder is not active; activate it first')
            self._jobs.append(job)
            self._condition.notify()

    def take(self) -> tuple[list[Callable[[], None]], dict[str, Any]]:
        """Block until there is work; return all jobs and the newest item of every waiting camera.

        After `close` it returns at once with the jobs that are left, so that nobody waits for an answer for ever.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._closed or self._waiting or self._jobs)
            jobs, waiting = list(self._jobs), {} if self._closed else self._waiting
            self._jobs.clear()
            self._waiting = {}
            return jobs, waiting

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Wake the taking thread for the last time."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

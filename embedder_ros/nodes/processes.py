# SPDX-License-Identifier: Apache-2.0
"""Nodes as child processes that never outlive their parent's `with` block, and whose log explains their end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from embedder_ros.share import profile_variable, share_file
from embedder_ros.types import UserError

STOP_SECONDS = 5.0  # between SIGINT and SIGKILL
TAIL = 12  # lines of a log that are shown


def environment(domain: int) -> dict[str, str]:
    """What the nodes need so that they hear each other, their images arrive, and nobody else is disturbed."""
    return {
        'ROS_DOMAIN_ID': str(domain),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        profile_variable(): str(share_file('config/fastdds.xml')),
        'PYTHONUNBUFFERED': '1',
    }


class Child:
    """`python -m module args` in a session of its own, since a background child of a script ignores SIGINT.

    Args:
        module: its name is also the log's.
        args: command line.
        logs: folder for the log, which exists.
    """

    def __init__(self, module: str, args: list[str], *, logs: Path) -> None:
        self.name = module.rsplit('.', 1)[-1]
        self.log = logs / f'{self.name}.log'
        with self.log.open('wb') as output:
            self._process = subprocess.Popen(
                [sys.executable, '-m', module, *args],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def check(self) -> None:
        """Raise UserError with the end of its log when it died; ending in order is no death."""
        if self._process.poll():
            raise UserError(f'{self.name} died with status {self._process.returncode}; its log ends:\n{self.tail()}')

    def tail(self) -> str:
        """The end of its log."""
        return '\n'.join(self.log.read_text(errors='replace').splitlines()[-TAIL:]) or '(nothing)'

    def stop(self) -> None:
        """SIGINT, and SIGKILL for the whole session when that does not help."""
        if self.running:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

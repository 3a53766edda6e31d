# SPDX-License-Identifier: Apache-2.0
"""Every test process talks to itself alone: its own DDS domain, on this machine only, logs in a temporary folder."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import pytest

from embedder_ros.nodes.processes import Child, environment

DOMAINS = range(1, 102)  # above 101, DDS' ports run into those that Linux hands out


def claim_domain() -> tuple[int, IO[str]]:
    """A domain and the lock that keeps other test runs of this machine off it for as long as we live."""
    folder = Path(tempfile.gettempdir()) / f'embedder_ros-domains-{os.getuid()}'
    folder.mkdir(exist_ok=True)
    for domain in DOMAINS:
        lock = (folder / str(domain)).open('w')
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return domain, lock
        except BlockingIOError:
            lock.close()
    raise RuntimeError(f'all DDS domains are taken by test runs; see the locks in {folder}')


# When this file is loaded, which is before any test imports rclpy.
DOMAIN, LOCK = claim_domain()
LOGS = tempfile.TemporaryDirectory(prefix='embedder_ros-logs-')
os.environ.update(environment(DOMAIN), ROS_LOG_DIR=LOGS.name, ORT_DISABLE_TELEMETRY='1')
os.environ.pop('RMW_IMPLEMENTATION', None)
sys.path.insert(0, str(Path(__file__).parent))  # livetest.py, for tests of live nodes


@pytest.fixture
def node_process(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Start `python -m embedder_ros.nodes.NAME --ros-args ARGS` with `node_process(NAME, *ARGS)`.

    Its output is in the child's `log`; it ends with the test at the latest, by SIGINT and then SIGKILL.
    """
    with ExitStack() as stack:

        def start(name: str, *args: str) -> Child:
            return stack.enter_context(Child(f'embedder_ros.nodes.{name}', ['--ros-args', *args], logs=tmp_path))

        yield start

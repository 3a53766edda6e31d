# SPDX-License-Identifier: Apache-2.0
"""The file of an object memory: opened by one process at a time, never half written, never overwritten when damaged.

Write-ahead log (WAL) with synchronous=NORMAL: a commit costs no flush to the disk, and nothing committed is lost when
the process ends in whatever way. A power cut loses at most what was put since the last checkpoint, never the file's
consistency: waiting for the disk at every put would cost a camera frame on robots' flash. What a person asked to be
forgotten is flushed at once, with the log emptied and the freed pages overwritten.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from embedder_ros.types import UserError

APPLICATION = int.from_bytes(b'emRo', 'big')
VERSION = 1
WAIT = 2.0  # seconds for another program's lock on the file
PAGE = 8192  # five float16 vectors of 688 numbers; larger pages cost more per small change

_SCHEMA = """
CREATE TABLE memories (
    id INTEGER PRIMARY KEY, map_id TEXT NOT NULL, model_id TEXT NOT NULL, dim INTEGER NOT NULL,
    UNIQUE (map_id, model_id));
CREATE TABLE objects (
    id INTEGER PRIMARY KEY, memory INTEGER NOT NULL, object_id TEXT NOT NULL, last_seen INTEGER NOT NULL,
    camera TEXT NOT NULL, words TEXT NOT NULL, position_frame TEXT NOT NULL, x REAL, y REAL, z REAL,
    presence REAL NOT NULL, marks BLOB NOT NULL, body TEXT NOT NULL, UNIQUE (memory, object_id));
CREATE INDEX objects_seen ON objects (memory, last_seen DESC, object_id);
CREATE TABLE views (
    id INTEGER PRIMARY KEY, memory INTEGER NOT NULL, object INTEGER NOT NULL, mark INTEGER NOT NULL,
    vector BLOB NOT NULL, body TEXT NOT NULL);
CREATE UNIQUE INDEX views_object ON views (object, mark);
CREATE TABLE thumbnails (view INTEGER PRIMARY KEY, jpeg BLOB NOT NULL);
CREATE TABLE frames (
    id INTEGER PRIMARY KEY, memory INTEGER NOT NULL, camera TEXT NOT NULL, stamp INTEGER NOT NULL,
    whole BLOB NOT NULL, body TEXT NOT NULL, UNIQUE (memory, camera, stamp));
CREATE INDEX frames_stamp ON frames (memory, stamp);
CREATE TABLE frame_rows (frame INTEGER PRIMARY KEY, boxes BLOB NOT NULL, vectors BLOB NOT NULL);
CREATE TABLE frame_thumbnails (frame INTEGER PRIMARY KEY, jpeg BLOB NOT NULL);
CREATE TABLE shown (
    frame INTEGER NOT NULL, row INTEGER NOT NULL, object_id TEXT NOT NULL, PRIMARY KEY (frame, row)) WITHOUT ROWID;
CREATE INDEX shown_object ON shown (object_id);
"""

_log = logging.getLogger(__name__)


class MemoryFile:
    """An open file, or RAM for the path ''. Not thread-safe by itself.

    Args:
        path: the file; made when it is not there, as is its folder.

    Raises:
        UserError: another process has it, it is no memory, of a newer version, damaged, or cannot be written.
    """

    def __init__(self, path: str) -> None:
        self.path = _expanded(path) if path else None
        self.name = str(self.path) if self.path else 'the memory in RAM'
        self._lock: IO[str] | None = None
        self._open = False
        try:
            if self.path:
                self._lock = _locked(self.path)
                _check_header(self.path)
            with self.refusals():
                self.db = self._connect()
        except BaseException:
            self._unlock()
            raise
        self._open = True

    def _connect(self) -> sqlite3.Connection:
        target = str(self.path) if self.path else ':memory:'
        db = sqlite3.connect(target, timeout=WAIT, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        version = db.execute('PRAGMA user_version').fetchone()[0]
        if version > VERSION:
            raise UserError(
                f'{self.name} was written by a newer version of embedder_ros (format {version}, this one reads '
                f'{VERSION}): update embedder_ros, or name another file'
            )
        if not version:
            db.execute(f'PRAGMA page_size={PAGE}')
            db.execute(f'PRAGMA application_id={APPLICATION}')
        for pragma in ('journal_mode=WAL', 'synchronous=NORMAL', 'secure_delete=ON', 'temp_store=MEMORY'):
            db.execute(f'PRAGMA {pragma}').fetchall()
        if not version:
            db.executescript(f'BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version={VERSION};COMMIT;')

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Tell what the file refuses as UserError."""
        try:
            yield
        except sqlite3.Error as error:
            raise self.refused(error) from error

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Around what reads columns that we wrote: what does not fit is damage."""
        try:
            yield
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise self.refused(error) from error

    def refused(self, error: Exception) -> UserError:
        """The error to raise for this one; anything but sqlite3's means damage, and a damaged file is set aside."""
        if isinstance(error, sqlite3.Error) and 'decode to UTF-8' not in str(error):
            return UserError(self._refusal(str(error)))
        return UserError(self._refusal(f'malformed: {type(error).__name__}: {error}'))

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for reading."""
        self._check_open()
        with self.refusals():
            yield self.db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The connection in a transaction that is committed at the end, or undone by an error."""
        self._check_open()
        with self.refusals():
            self.db.execute('BEGIN IMMEDIATE')
            try:
                yield self.db
                self.db.execute('COMMIT')
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute('ROLLBACK')
                raise

    @property
    def in_ram(self) -> bool:
        """Whether there is no file."""
        return self.path is None

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own, for reading what is committed; in RAM the same one. Raises sqlite3's errors."""
        self._check_open()
        if self.path is None:
            yield self.db
            return
        db = sqlite3.connect(self.path, timeout=WAIT)
        try:
            yield db
        finally:
            db.close()

    def flush(self) -> None:
        """Bring everything to the disk and empty the log, so that no deleted byte stays in it."""
        with self.refusals():
            busy = self.path and self.db.execute('PRAGMA wal_checkpoint(TRUNCATE)').fetchone()[0]
        if busy:
            raise UserError(
                f'what was to be forgotten is deleted, but its bytes are still in {self.name}-wal while another '
                'program reads the file: close that program; they go with the next thing that is forgotten'
            )

    def close(self) -> None:
        """Close; harmless when repeated."""
        if self._open:
            self._open = False
            self.db.close()
            self._unlock()

    def _check_open(self) -> None:
        if not self._open:
            raise UserError(f'{self.name} is closed; open the memory again')

    def _unlock(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None

    def _refusal(self, error: str) -> str:
        for sign, meaning in (
            ('locked', 'is locked by another program for longer than it may: close what else reads or writes it'),
            ('is full', 'cannot grow, the disk is full: free some space; what was remembered before is kept'),
            ('readonly', 'cannot be written: give this user the right to write the file and its folder'),
            ('unable to open', 'cannot be opened: check that its folder exists and that this user may write there'),
            ('disk I/O', f'cannot be read or written ({error}): check the disk; what was remembered before is kept'),
        ):
            if sign in error:
                return f'{self.name} {meaning}'
        if 'malformed' in error or 'not a database' in error or 'truncated' in error:
            return f'{self.name} is damaged ({error}){self._set_aside()}'
        return f'{self.name} failed: {error}'

    def _set_aside(self) -> str:
        """Rename the file and its log, so that the next start begins a new one; what to tell about it."""
        if self._open:
            self._open = False
            self.db.close()
        if not self.path:
            return ''
        aside = next(p for n in range(1, 10_000) if not (p := Path(f'{self.path}.damaged-{n}')).exists())
        for suffix in ('', '-wal', '-shm'):
            if Path(f'{self.path}{suffix}').exists():
                os.rename(f'{self.path}{suffix}', f'{aside}{suffix}')
        self._unlock()
        return (
            f' and was kept as {aside}: start again to begin an empty memory, or get back what can be read with '
            f'`sqlite3 {aside} .recover | sqlite3 {self.path}`'
        )


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # ~name of a user that this machine does not know
        raise UserError(f"'{path}' cannot be opened ({error}): name a file by its full path") from error


def _locked(path: Path) -> IO[str]:
    """The lock file beside the memory, ours until it is closed. Raises UserError naming the process that has it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(f'{path}.lock', 'a+')
    except OSError as error:
        raise UserError(
            f'{path} cannot be opened ({error.strerror}): name a file in a folder that this user may write'
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        holder = lock.read().strip() or 'unknown'
        lock.close()
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise UserError(f'{path} cannot be locked ({error.strerror}): name a file on a local disk') from error
        raise UserError(
            f'{path} is in use by the process with pid {holder}: stop it, or give this one a file of its own; '
            'several robots share a memory through a PostgreSQL url'
        ) from None
    try:
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
    except OSError as error:
        with suppress(OSError):  # closing writes once more what could not be written
            lock.close()
        raise UserError(f'{path}.lock cannot be written ({error.strerror}): free some space') from error
    return lock


def _check_header(path: Path) -> None:
    """Raise UserError for a file that was never a memory; it is left as it is."""
    if path.is_dir():
        raise UserError(f'{path} is a folder; name a file in it')
    try:
        with path.open('rb') as file:
            head = file.read(100)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror}): give this user the right to') from error
    known = not head or (head.startswith(b'SQLite format 3\0') and int.from_bytes(head[68:72], 'big') == APPLICATION)
    if not known:
        raise UserError(f'{path} is no object memory; it is left as it is: name another file')

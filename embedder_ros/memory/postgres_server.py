# SPDX-License-Identifier: Apache-2.0
"""The connection to a fleet's PostgreSQL server: made again when it breaks, its errors told with their remedy.

Every map and model has tables of its own, named by its number, because pgvector's indexes are for vectors of one
length. Vectors are `halfvec` (float16), which pgvector indexes up to 4000 numbers; `vector` ends at 2000.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from embedder_ros.types import UserError

try:
    import psycopg
    from psycopg.adapt import Dumper, Loader
    from psycopg.conninfo import conninfo_to_dict
    from psycopg.pq import Format
    from psycopg.types import TypeInfo
except ImportError as missing:
    raise UserError("a memory on a server needs psycopg: pip install 'embedder_ros[fleet]'") from missing

VERSION = 1
RETRIES = 3  # of a transaction that other writers or a lost connection broke
# A link that is lost is noticed within seconds, also while an answer is waited for.
_CONNECT: dict[str, Any] = {
    'connect_timeout': 3, 'tcp_user_timeout': 10_000, 'keepalives_idle': 5, 'keepalives_interval': 2,
    'keepalives_count': 3, 'application_name': 'embedder_ros',
}  # fmt: skip
# Seconds without an answer from which a server is left alone, since each asking costs as much, and for how long.
SILENT, PAUSE = 1.0, 10.0

_SCHEMA = """
CREATE SCHEMA IF NOT EXISTS embedder_ros;
CREATE TABLE IF NOT EXISTS embedder_ros.format (version integer NOT NULL);
CREATE TABLE IF NOT EXISTS embedder_ros.memories (
    id serial PRIMARY KEY, map_id text NOT NULL, model_id text NOT NULL, dim integer NOT NULL,
    UNIQUE (map_id, model_id));
"""
_TABLES = """
CREATE TABLE IF NOT EXISTS objects_{m} (
    id bigserial PRIMARY KEY, object_id text COLLATE "C" NOT NULL UNIQUE, last_seen bigint NOT NULL,
    camera text NOT NULL, words text NOT NULL, position_frame text NOT NULL, x float8, y float8, z float8,
    presence float8 NOT NULL, body text NOT NULL);
CREATE INDEX IF NOT EXISTS objects_{m}_seen ON objects_{m} (last_seen DESC, object_id);
CREATE TABLE IF NOT EXISTS views_{m} (
    object bigint NOT NULL REFERENCES objects_{m} ON DELETE CASCADE, mark bigint NOT NULL, place integer NOT NULL,
    body text NOT NULL, vector halfvec({dim}) NOT NULL, individual halfvec({identity}), thumbnail bytea NOT NULL,
    PRIMARY KEY (object, mark));
CREATE TABLE IF NOT EXISTS frames_{m} (
    id bigserial PRIMARY KEY, camera text NOT NULL, stamp bigint NOT NULL, body text NOT NULL,
    coarse halfvec({dim}), detailed halfvec({dim}), thumbnail bytea NOT NULL, UNIQUE (camera, stamp));
CREATE INDEX IF NOT EXISTS frames_{m}_stamp ON frames_{m} (stamp);
CREATE TABLE IF NOT EXISTS shown_{m} (
    frame bigint NOT NULL REFERENCES frames_{m} ON DELETE CASCADE, row integer NOT NULL, object_id text NOT NULL,
    box bytea NOT NULL, vector halfvec({dim}) NOT NULL);
CREATE INDEX IF NOT EXISTS shown_{m}_frame ON shown_{m} (frame, row);
CREATE INDEX IF NOT EXISTS shown_{m}_object ON shown_{m} (object_id);
"""

Cursor = Any  # psycopg.Cursor, whose SQL must be literal strings for type checkers
T = TypeVar('T')


class Half:
    """A packed float16 vector, little endian, on its way to the server."""

    __slots__ = ('data',)

    def __init__(self, data: bytes) -> None:
        self.data = data


class _HalfDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Half) -> bytes:
        return struct.pack('>HH', len(obj.data) // 2, 0) + np.frombuffer(obj.data, '<u2').byteswap().tobytes()


class _HalfLoader(Loader):
    format = Format.BINARY

    def load(self, data: Any) -> bytes:
        return np.frombuffer(bytes(data)[4:], '<u2').byteswap().tobytes()


class Server:
    """A connection to one database. Not thread-safe.

    Args:
        url: postgresql://user:password@host:port/database.

    Raises:
        UserError: unreachable, refused, without pgvector, or written by a newer version.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = conninfo_to_dict(url)
        except psycopg.ProgrammingError as error:
            raise UserError(
                f"the memory's url is not understood ({_line(error)}): postgresql://user@host/name"
            ) from None
        self.name = f'the memory on {parts.get("host", "localhost")}, database {parts.get("dbname", "")}'
        self._url = url
        self._connection: Any = None
        self._closed = False
        self._again = 0.0  # by time.monotonic
        self._alone(self._prepare)

    def run(self, work: Callable[[Cursor], T]) -> T:
        """What `work` returns, in a transaction; repeated when the connection broke or other writers interfered."""
        if self._closed:
            raise UserError(f'{self.name} is closed; open it again')
        for attempt in range(RETRIES):
            try:
                connection = self._connected()
                with connection.transaction(), connection.cursor(binary=True) as cursor:
                    return work(cursor)
            except (psycopg.OperationalError, psycopg.errors.SerializationFailure) as error:
                lost = self._connection is not None and self._connection.closed
                again = lost or isinstance(
                    error, (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
                )
                if not again or attempt == RETRIES - 1:
                    raise UserError(self._refusal(error)) from error
            except psycopg.Error as error:
                raise UserError(self._refusal(error)) from error
        raise AssertionError

    def tables(self, memory: int, dim: int, identity: int) -> None:
        """Make a map and model's tables, once."""
        self._alone(lambda cursor: _each(cursor, _TABLES.format(m=memory, dim=dim, identity=identity)))

    def index(self, memory: int, column: str) -> None:
        """Make a map and model's approximate index, once; slow, and harmless to those who write meanwhile.

        Raises UserError while another robot makes it.
        """
        name, table = f'views_{memory}_{column}', f'views_{memory}'
        method = f'USING hnsw ({column} halfvec_cosine_ops)'
        with _connect(self._url) as connection:
            connection.execute('SET search_path = embedder_ros, public')
            # Never waited for: who makes an index waits for every open statement, and that would be one.
            if not connection.execute('SELECT pg_try_advisory_lock(hashtext(%s))', (name,)).fetchone()[0]:
                raise UserError(f'another robot is making {name}')
            # Making it was cut short: it would stand there unused for ever.
            broken = 'SELECT FROM pg_index WHERE indexrelid=to_regclass(%s) AND NOT indisvalid'
            if connection.execute(broken, (name,)).fetchone() is not None:
                connection.execute(f'DROP INDEX CONCURRENTLY {name}')
            connection.execute(f'CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {table} {method}')

    def close(self) -> None:
        """Disconnect; harmless when repeated."""
        self._closed = True
        if self._connection is not None:
            self._connection.close()

    def _alone(self, work: Callable[[Cursor], None]) -> None:
        """Run while no other robot makes tables; the lock comes before the transaction, which sees what they made."""
        self.run(lambda cursor: None)
        with _locked(self._connection):
            self.run(work)

    def _connected(self) -> Any:
        if self._connection is None or self._connection.closed:
            self._connection = None
            connection = self._new_connection()
            info = TypeInfo.fetch(connection, 'halfvec')
            if info is None:
                info = self._extended(connection)
            connection.adapters.register_dumper(Half, type('HalfDumper', (_HalfDumper,), {'oid': info.oid}))
            connection.adapters.register_loader(info.oid, _HalfLoader)
            connection.execute('SET search_path = embedder_ros, public')
            self._connection = connection
        return self._connection

    def _new_connection(self) -> Any:
        begin = time.monotonic()
        if begin < self._again:
            raise UserError(f'{self.name} does not answer: check the network; it is asked again in some seconds')
        try:
            return _connect(self._url)
        except psycopg.OperationalError:
            end = time.monotonic()
            self._again = end + PAUSE if end - begin > SILENT else 0.0
            raise

    def _extended(self, connection: Any) -> TypeInfo:
        try:
            with _locked(connection):
                connection.execute('CREATE EXTENSION IF NOT EXISTS vector')
            info = TypeInfo.fetch(connection, 'halfvec')
        except psycopg.Error as error:
            info, why = None, _line(error)
        else:
            why = 'it is older than 0.7'
        if info is None:
            connection.close()
            raise UserError(
                f'{self.name} has no pgvector ({why}): install pgvector 0.7 or newer on the server and let its '
                'administrator run CREATE EXTENSION vector in this database'
            )
        return info

    def _prepare(self, cursor: Cursor) -> None:
        _each(cursor, _SCHEMA)
        found = cursor.execute('SELECT version FROM format').fetchone()
        if found is None:
            cursor.execute('INSERT INTO format VALUES (%s)', (VERSION,))
        elif found[0] > VERSION:
            raise UserError(
                f'{self.name} was written by a newer version of embedder_ros (format {found[0]}, this one reads '
                f'{VERSION}): update embedder_ros'
            )

    def _refusal(self, error: psycopg.Error) -> str:
        e = psycopg.errors
        if isinstance(error, e.DiskFull):
            meaning = "cannot grow, the server's disk is full: free some space; what was remembered before is kept"
        elif isinstance(error, (e.InsufficientPrivilege, e.ReadOnlySqlTransaction)):
            meaning = f'refuses ({_line(error)}): grant this user CREATE on the database and write access'
        elif isinstance(error, e.LockNotAvailable | e.QueryCanceled | e.DeadlockDetected | e.SerializationFailure):
            meaning = f'is busy ({_line(error)}): try again'
        elif isinstance(error, psycopg.OperationalError):
            meaning = f'cannot be reached ({_line(error)}): start the server, and check host, port, user and password'
        else:
            meaning = f'failed: {_line(error)}'
        return f'{self.name} {meaning}'


def _connect(url: str) -> Any:
    try:
        return psycopg.connect(url, autocommit=True, **_CONNECT)
    except psycopg.OperationalError as error:
        # psycopg's frame holds the socket, and the error the frame, in a cycle: the server would see this call open
        # until Python next collects garbage.
        raise error.with_traceback(None) from None


@contextmanager
def _locked(connection: Any) -> Iterator[None]:
    connection.execute("SELECT pg_advisory_lock(hashtext('embedder_ros'))")
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(hashtext('embedder_ros'))")


def _each(cursor: Cursor, statements: str) -> None:
    for statement in filter(str.strip, statements.split(';')):
        cursor.execute(statement)


def _line(error: BaseException) -> str:
    """The first line of a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

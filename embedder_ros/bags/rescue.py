# SPDX-License-Identifier: Apache-2.0
"""Read a bag file that was cut short: a full disk, a killed recorder, an interrupted copy.

Such a file lacks its index (mcap) or its last pages (sqlite3), and bag libraries refuse it whole. Here it is read from
the start until the damage, in the order it was written.
"""

from __future__ import annotations

import io
import sqlite3
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote

import lz4.frame

try:
    from compression import zstd  # Python 3.14
except ImportError:
    from backports import zstd

MAGIC = b'\x89MCAP0\r\n'
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _FOOTER = 0x03, 0x04, 0x05, 0x06, 0x02


class Recorded(NamedTuple):
    """One message as it lies in a bag."""

    topic: str
    type: str  # 'sensor_msgs/msg/Image'
    time: int  # when it was recorded, nanoseconds
    data: bytes  # CDR


class Damaged(Exception):
    """The file ends or stops making sense here; the text says how."""


Topics = dict[str, str]


def mcap_topics(path: Path) -> Topics:
    """Topic names and types of a damaged mcap file, as far as it can be read."""
    topics: Topics = {}
    try:
        for channels, _ in _mcap(path):
            topics.update(channels.values())
    except Damaged:
        pass
    return topics


def mcap_messages(path: Path, topics: Collection[str]) -> Iterator[Recorded]:
    """The messages of these topics in file order. Raises Damaged at the cut, after everything before it."""
    for channels, (channel, time, data) in _mcap(path):
        topic, kind = channels.get(channel, ('', ''))
        if topic in topics:
            yield Recorded(topic, kind, time, data)


def sqlite_topics(path: Path) -> Topics:
    """Topic names and types of a damaged sqlite3 file, as far as it can be read."""
    try:
        with closing(_sqlite(path)) as database:
            return dict(database.execute('SELECT name, type FROM topics'))
    except sqlite3.Error:
        return {}


def sqlite_messages(path: Path, topics: Collection[str]) -> Iterator[Recorded]:
    """The messages of these topics in the order of recording. Raises Damaged at the cut."""
    try:
        with closing(_sqlite(path)) as database:
            known = {key: (name, kind) for key, name, kind in database.execute('SELECT id, name, type FROM topics')}
            # NOT INDEXED: the index over time is at the end of the file, where the damage is.
            for key, time, data in database.execute('SELECT topic_id, timestamp, data FROM messages NOT INDEXED'):
                topic, kind = known.get(key, ('', ''))
                if topic in topics:
                    yield Recorded(topic, kind, time, data)
    except sqlite3.Error as error:
        raise Damaged(str(error)) from error


def _sqlite(path: Path) -> sqlite3.Connection:
    """A read-only connection that sees a killed recorder's write-ahead log and accepts missing pages."""
    address = f'file:{quote(str(path.resolve()))}'
    for mode in ('?mode=ro', '?immutable=1'):  # the first needs a writable folder when there is a write-ahead log
        database = sqlite3.connect(address + mode, uri=True)
        try:
            database.execute('PRAGMA writable_schema=ON')  # else a file shorter than its header says is refused
            database.execute('SELECT name FROM sqlite_master LIMIT 1')
            return database
        except sqlite3.Error as error:
            database.close()
            problem = error
    raise problem


def _mcap(path: Path) -> Iterator[tuple[dict[int, tuple[str, str]], tuple[int, int, bytes]]]:
    """Every message as (channel, time, data), with the channels known so far as id -> (topic, type)."""
    schemas: dict[int, str] = {}
    channels: dict[int, tuple[str, str]] = {}
    try:
        for kind, content in _file_records(path):
            if kind == _SCHEMA:
                schemas[struct.unpack_from('<H', content)[0]] = _text(content, 2)
            elif kind == _CHANNEL:
                key, schema = struct.unpack_from('<HH', content)
                channels[key] = _text(content, 4), schemas.get(schema, '')
            elif kind == _MESSAGE:
                channel, _, time, _ = struct.unpack_from('<HIQQ', content)
                yield channels, (channel, time, content[22:])
            elif kind == _FOOTER:
                return
    except struct.error as error:
        raise Damaged(f'a record makes no sense ({error})') from error
    raise Damaged('the file ends before its index')


def _file_records(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open('rb') as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise Damaged('it does not begin as an mcap file')
        yield from _records(file)


def _records(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Whole records as (kind, content), chunks opened; stops before the first that is cut."""
    while len(head := file.read(9)) == 9:
        kind, size = struct.unpack('<BQ', head)
        if not kind:  # zeros: the space was reserved, but never written
            raise Damaged('the rest of the file is empty')
        content = file.read(min(size, 1 << 40))
        if kind == _CHUNK:
            yield from _records(io.BytesIO(_opened(content)))
        elif len(content) == size:
            yield kind, content


def _opened(chunk: bytes) -> bytes:
    """A chunk's records, as many as its bytes give: times, size and checksum (28), compression, length (8), records."""
    if len(chunk) < 40:
        return b''
    compression = _text(chunk, 28)
    packed = chunk[32 + len(compression) + 8 :]
    try:
        return _DECOMPRESS[compression](packed)
    except Exception as error:  # every compressor raises its own
        raise Damaged(f'a chunk cannot be unpacked ({error})') from error


_DECOMPRESS: dict[str, Callable[[bytes], Any]] = {
    '': bytes,
    'zstd': lambda packed: zstd.ZstdDecompressor().decompress(packed),  # the streaming forms take what is cut
    'lz4': lambda packed: lz4.frame.LZ4FrameDecompressor().decompress(packed),
}


def _text(content: bytes, offset: int) -> str:
    (size,) = struct.unpack_from('<I', content, offset)
    return content[offset + 4 : offset + 4 + size].decode(errors='replace')

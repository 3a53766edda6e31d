# SPDX-License-Identifier: Apache-2.0
"""A rosbag2 recording, folder or bare file, mcap or sqlite3, as topics and serialised messages in order of time.

A recording that was cut short, or lost its metadata.yaml, is read until the damage, which is told in `Bag.damage`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

from rosbags.rosbag2 import Reader

from embedder_ros.bags import rescue
from embedder_ros.bags.rescue import Damaged, Recorded, Topics
from embedder_ros.types import UserError

SUFFIXES = ('.mcap', '.db3')
METADATA = 'metadata.yaml'

_log = logging.getLogger(__name__)


class _Part(Protocol):
    topics: Topics

    def messages(self, topics: Collection[str]) -> Iterator[Recorded]:
        """In order; raises Damaged at the cut."""


class Bag:
    """A recording.

    Attributes:
        topics: topic name -> message type.
        damage: '' while nothing is known to be missing, else where and why reading stopped.

    Raises:
        UserError: the path holds no recording, or nothing in it can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage = ''
        self._parts = _open(path)
        self.topics: Topics = {}
        for part in self._parts:
            self.topics.update(part.topics)
        if not self.topics:
            raise UserError(f'{path}: no topic can be read; the recording is empty, or damaged from its beginning')

    def messages(self, topics: Collection[str]) -> Iterator[Recorded]:
        """The messages of these topics, in order of time; ends at the damage, if there is any."""
        for part in self._parts:
            try:
                yield from part.messages(topics)
            except Damaged as error:
                self.damage = f'{self.path} is cut short: {error}'
                _log.warning('%s; everything before it was read', self.damage)


def is_bag(path: Path) -> bool:
    """Whether the path is a rosbag2 file, or a folder with one."""
    return path.suffix in SUFFIXES or (path.is_dir() and ((path / METADATA).is_file() or bool(_files(path))))


def natural(path: Path) -> list[tuple[int, str]]:
    """Sort key by which bag_2 comes before bag_10."""
    return [(int(part), '') if part.isdecimal() else (-1, part) for part in re.split(r'(\d+)', path.name)]


def _files(folder: Path) -> list[Path]:
    return sorted((p for p in folder.iterdir() if p.suffix in SUFFIXES), key=natural)


def _open(path: Path) -> list[_Part]:
    """The whole recording by its index, or else file by file."""
    try:
        return [_Indexed(path)]
    except Damaged as error:
        if path.is_file():
            return [_Rescued(path)]
        files = _files(path)
        if not files:
            raise UserError(f'{path}: {error}; a recording has {METADATA} and .mcap or .db3 files') from error
        if (path / METADATA).is_file():
            _log.warning('%s: %s; its files are read one by one', path, error)
        return [part for file in files for part in _open(file)]


class _Indexed:
    """A sound recording."""

    def __init__(self, path: Path) -> None:
        self._path = path
        beside = path.glob('*-wal') if path.is_dir() else [path.with_name(path.name + '-wal')]
        if any(p.is_file() and p.stat().st_size for p in beside):
            raise Damaged('the recorder left a write-ahead log')  # which the library does not read
        try:
            with Reader(path) as reader:
                self.topics = {c.topic: c.msgtype for c in reader.connections}
        except Exception as error:  # a damaged file makes it raise nearly anything
            raise Damaged(str(error)) from error

    def messages(self, topics: Collection[str]) -> Iterator[Recorded]:
        """See _Part."""
        with Reader(self._path) as reader:
            wanted = [c for c in reader.connections if c.topic in topics]
            messages = reader.messages(wanted) if wanted else iter(())  # to the library, none means all
            while True:
                try:
                    connection, time, data = next(messages)
                except StopIteration:
                    return
                except Exception as error:  # see above
                    raise Damaged(str(error)) from error
                yield Recorded(connection.topic, connection.msgtype, time, data)


class _Rescued:
    """A file that the library refuses."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mcap = path.suffix == '.mcap'
        self.topics = rescue.mcap_topics(path) if self._mcap else rescue.sqlite_topics(path)

    def messages(self, topics: Collection[str]) -> Iterator[Recorded]:
        """See _Part."""
        return (rescue.mcap_messages if self._mcap else rescue.sqlite_messages)(self._path, topics)

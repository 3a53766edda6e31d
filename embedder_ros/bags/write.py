# SPDX-License-Identifier: Apache-2.0
"""Write rosbag2 recordings without ROS: images, and what our pipeline saw in them; and read the latter back.

`annotate` is the offline way of the embedder node: every frame goes through the pipeline, none is dropped, and
`objects` comes out under the source's own stamps.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer

from embedder_ros.bags import wire
from embedder_ros.bags.rescue import Recorded
from embedder_ros.bags.source import Source
from embedder_ros.bags.storage import Bag
from embedder_ros.pipeline import Pipeline
from embedder_ros.types import Frame, Observation, UserError

STORAGES = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
OBJECTS_TOPIC, MODEL_TOPIC = '/objects', '/model'


class BagWriter:
    """A new rosbag2 folder, complete when the `with` block ends.

    A block that fails half-way, or is interrupted, leaves a whole bag of what was written before, or none if that was
    nothing.

    Args:
        path: the folder to make; it must not exist.
        storage: 'mcap' or 'sqlite3'.

    Raises:
        UserError: the path is taken, or cannot be written to.
    """

    def __init__(self, path: str | Path, *, storage: str = 'mcap') -> None:
        self.path = Path(path).expanduser()
        if self.path.exists():
            raise UserError(f'{self.path} exists already; give a new folder, or remove it first')
        if storage not in STORAGES:
            raise UserError(f"storage '{storage}' is not known; use {' or '.join(STORAGES)}")
        self._writer = Writer(self.path, version=9, storage_plugin=STORAGES[storage])
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> BagWriter:
        with self._failures_told():
            self._writer.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._failures_told():
            self._writer.close()
        if kind is not None and not self._connections:
            shutil.rmtree(self.path, ignore_errors=True)

    @contextlib.contextmanager
    def _failures_told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise UserError(f'{self.path} cannot be written: {error}; make room, or give another folder') from error

    def raw(self, message: Recorded, *, latched: bool = False) -> None:
        """Write a serialised message. `latched` topics are replayed to late subscribers."""
        with self._failures_told():
            if message.topic not in self._connections:
                qos = [_LATCHED] if latched else []
                self._connections[message.topic] = self._writer.add_connection(
                    message.topic, message.type, typestore=wire.typestore(), offered_qos_profiles=qos
                )
            self._writer.write(self._connections[message.topic], message.time, message.data)

    def message(self, topic: str, time: int, message: Any, *, latched: bool = False) -> None:
        """Write a message object made by bags/wire.py, recorded at `time` nanoseconds."""
        self.raw(Recorded(topic, message.__msgtype__, time, wire.serialize(message)), latched=latched)

    def image(self, frame: Frame, *, compressed: bool = False) -> None:
        """Write a frame on '/<camera>/image_raw', or as JPEG on '/<camera>/image_raw/compressed'."""
        topic = f'/{frame.camera}/image_raw'
        if compressed:
            self.message(f'{topic}/compressed', frame.stamp, wire.jpeg_message(frame))
        else:
            self.message(topic, frame.stamp, wire.image_message(frame))


_FOREVER = QosTime(sec=9223372036, nsec=854775807)  # rmw's infinity
_LATCHED = Qos(
    history=QosHistory.KEEP_LAST,
    depth=1,
    reliability=QosReliability.RELIABLE,
    durability=QosDurability.TRANSIENT_LOCAL,
    deadline=_FOREVER,
    lifespan=_FOREVER,
    liveliness=QosLiveliness.AUTOMATIC,
    liveliness_lease_duration=_FOREVER,
    avoid_ros_namespace_conventions=False,
)


def to_bag(source: Source, path: str | Path, *, storage: str = 'mcap', compressed: bool = True) -> int:
    """Write a photo, a folder, a video or the images of a bag as a bag; return the number of images."""
    with BagWriter(path, storage=storage) as bag:
        for frame in source.frames():
            bag.image(frame, compressed=compressed)
    return source.counts['frames']


def annotate(
    source: Source,
    pipeline: Pipeline,
    path: str | Path,
    *,
    storage: str = 'mcap',
    images: bool = False,
    on_frame: Callable[[Observation], None] | None = None,
) -> int:
    """Every frame through the pipeline, into a bag with `/objects` and `/model`; return the number of frames.

    Args:
        source: the frames.
        pipeline: what looks at them.
        path: the folder to make.
        storage: 'mcap' or 'sqlite3'.
        images: also copy the images: a bag's as they were recorded, others as JPEG.
        on_frame: called after each frame.

    Raises:
        UserError: the source holds nothing that can be read, or the path cannot be written.
    """
    with BagWriter(path, storage=storage) as bag:
        for frame, recorded in source.read():
            time = recorded.time if recorded else frame.stamp
            observation = pipeline.observe([frame])[0]
            if source.counts['frames'] == 1:
                bag.message(MODEL_TOPIC, time, wire.model_message(pipeline.embedder.info), latched=True)
            bag.message(OBJECTS_TOPIC, time, wire.objects_message(observation))
            if images:
                bag.raw(recorded) if recorded else bag.image(frame, compressed=True)
            if on_frame is not None:
                on_frame(observation)
    return source.counts['frames']


def read_observations(path: str | Path) -> Iterator[Observation]:
    """What was recorded on `/objects`, live or by `annotate`. Raises UserError when there is none."""
    bag = Bag(Path(path))
    topics = [topic for topic, kind in bag.topics.items() if kind == wire.OBJECTS]
    if not topics:
        raise UserError(f'{path} has no topic of {wire.OBJECTS}; make one: embedder-ros annotate IN OUT')
    return (wire.observation_from(recorded.data) for recorded in bag.messages(topics))

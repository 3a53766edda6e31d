# SPDX-License-Identifier: Apache-2.0
"""Bags that we write: what comes back out of them, and what becomes of one that fails half-way."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from embedder_ros.bags import wire
from embedder_ros.bags.source import open_frames, open_source
from embedder_ros.bags.write import BagWriter, annotate, read_observations, to_bag
from embedder_ros.pipeline import Pipeline
from embedder_ros.types import Boxes, Calibration, Frame, ModelInfo, Observation, UserError, unit_rows

DIM = 5
HEIGHT, WIDTH = 40, 60


class Colours:
    """An embedder and proposer whose embeddings are the mean colours of the two halves of a frame."""

    info = ModelInfo('colours-1', DIM, Calibration(10.0, -5.0, 0.5, 0.1), np.eye(DIM, 3, dtype=np.float32))

    def encode(self, frames: Sequence[Frame]) -> list[Any]:
        """Nothing is shared."""
        return [None] * len(frames)

    def propose(self, frames: Sequence[Frame], encoded: Sequence[Any], max_objects: int) -> list[Boxes]:
        """Left and right half; none in a black frame."""
        halves = np.array([[0, 0, WIDTH / 2, HEIGHT], [WIDTH / 2, 0, WIDTH, HEIGHT]], np.float32)
        return [Boxes(halves[: 2 * f.image.any()], np.ones(2 * int(f.image.any()), np.float32)) for f in frames]

    def embed(self, frames: Sequence[Frame], encoded: Sequence[Any], boxes: Sequence[Boxes]) -> list[Observation]:
        """One row per box."""
        return [self._observe(f, b) for f, b in zip(frames, boxes, strict=True)]

    def _observe(self, frame: Frame, boxes: Boxes) -> Observation:
        means = [frame.image[:, int(x0) : int(x1)].mean(axis=(0, 1)) for x0, _, x1, _ in boxes.xyxy]
        rows = unit_rows(np.pad(np.reshape(means, (-1, 3)), ((0, 0), (0, 2)), constant_values=1.0))
        return Observation(
            stamp=frame.stamp, camera=frame.camera, frame_id=frame.frame_id, width=frame.width, height=frame.height,
            boxes=boxes.xyxy, objectness=boxes.objectness, iou=np.full(len(boxes), 0.7, np.float32), embeddings=rows,
            frame_embeddings=unit_rows(np.ones((2, DIM))), model_id=self.info.model_id,
        )  # fmt: skip


def pipeline() -> Pipeline:
    """A pipeline of Colours."""
    return Pipeline(Colours(), Colours())


def frames(count: int, camera: str = 'front') -> list[Frame]:
    """Frames whose colour tells their number; number 0 is black."""
    return [
        Frame(
            np.full((HEIGHT, WIDTH, 3), (12 * n, 6 * n, 3 * n), np.uint8),
            1_000_000_000 + n * 50_000_000,
            camera,
            'optical',
        )
        for n in range(count)
    ]


def camera_bag(path: Path, *, storage: str = 'mcap', compressed: bool = False, count: int = 6) -> Path:
    """A bag of two cameras."""
    with BagWriter(path, storage=storage) as bag:
        for pair in zip(frames(count), frames(count, 'wrist'), strict=True):
            for frame in pair:
                bag.image(frame, compressed=compressed)
    return path


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('compressed', [False, True])
def test_images_come_back_as_they_were_written(tmp_path: Path, storage: str, compressed: bool) -> None:
    """Pixels, stamps, names and frames, of both cameras."""
    source = open_source(camera_bag(tmp_path / 'bag', storage=storage, compressed=compressed))
    read = list(source.frames())
    assert source.cameras == ['front', 'wrist'] and [f.camera for f in read] == ['front', 'wrist'] * 6
    for got, wrote in zip(read[::2], frames(6), strict=True):
        assert (got.stamp, got.frame_id) == (wrote.stamp, 'optical')
        assert np.abs(got.image.astype(int) - wrote.image).max() <= 3 * compressed


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('images', [False, True])
def test_annotate_drops_no_frame(tmp_path: Path, storage: str, images: bool) -> None:
    """One observation per frame with the source's stamp and camera, equal to what the pipeline says, and the model."""
    source = open_source(camera_bag(tmp_path / 'in'))
    assert annotate(source, pipeline(), tmp_path / 'out', storage=storage, images=images) == 12
    got = list(read_observations(tmp_path / 'out'))
    expected = pipeline().observe(list(open_frames(tmp_path / 'in')))
    assert [len(o) for o in got] == [0, 0] + [2] * 10
    for a, b in zip(got, expected, strict=True):
        for name in ('stamp', 'camera', 'frame_id', 'width', 'height', 'model_id'):
            assert getattr(a, name) == getattr(b, name)
        for name in ('boxes', 'objectness', 'iou', 'embeddings', 'frame_embeddings'):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    topics = {'/objects', '/model'} | ({'/front/image_raw', '/wrist/image_raw'} if images else set())
    with AnyReader([tmp_path / 'out']) as reader:
        assert set(reader.topics) == topics


def test_the_bag_describes_its_own_types(tmp_path: Path) -> None:
    """A reader that has never heard of us reads our messages, and the latched model comes first."""
    annotate(open_source(camera_bag(tmp_path / 'in')), pipeline(), tmp_path / 'out')
    with AnyReader([tmp_path / 'out']) as reader:
        messages = [(c, reader.deserialize(data, c.msgtype)) for c, _, data in reader.messages()]
    connection, model = messages[0]
    assert connection.topic == '/model' and connection.ext.offered_qos_profiles[0].durability.name == 'TRANSIENT_LOCAL'
    assert (model.model_id, model.dim, model.identity_dim, model.scale) == ('colours-1', DIM, 3, 10.0)
    np.testing.assert_array_equal(model.identity_view.reshape(DIM, 3), Colours.info.identity_view)
    assert messages[1][1].camera == 'front'


def test_ros_reads_what_we_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our bytes are rclpy's message, under the type hash that rclpy announces: else no node would take them."""
    import rclpy
    from rclpy.serialization import deserialize_message

    from embedder_ros.msg import ModelInfo as ModelInfoMsg
    from embedder_ros.msg import ObjectEmbeddings

    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    observation = pipeline().observe(frames(2))[1]
    message = deserialize_message(wire.serialize(wire.objects_message(observation)), ObjectEmbeddings)
    assert (message.camera, message.header.stamp.nanosec, message.dim) == ('front', 50_000_000, DIM)
    np.testing.assert_array_equal(np.reshape(message.embeddings, (2, DIM)), observation.embeddings)
    with rclpy.init(domain_id=1 + os.getpid() % 100):
        node = rclpy.create_node('hashes')
        for kind, type_ in ((wire.OBJECTS, ObjectEmbeddings), (wire.MODEL, ModelInfoMsg)):
            publisher = node.create_publisher(type_, 'topic', 1)
            (info,) = node.get_publishers_info_by_topic('topic')
            assert str(info.topic_type_hash) == wire.typestore().hash_rihs01(kind)
            node.destroy_publisher(publisher)
        node.destroy_node()


def test_positions_survive(tmp_path: Path) -> None:
    """With depth there are positions, NaN where it was unknown; without there are none."""
    observation = pipeline().observe(frames(2))[1]
    positions = np.array([[1, 2, 3], [np.nan] * 3], np.float32)
    for given in (positions, None):
        made = wire.objects_message(
            Observation(**{k: getattr(observation, k) for k in observation.__slots__} | {'positions': given})
        )
        back = wire.observation_from(wire.serialize(made)).positions
        assert back is None if given is None else np.array_equal(back, given, equal_nan=True)


def test_photos_and_videos_become_bags(tmp_path: Path) -> None:
    """For replay: the same frames under the same stamps."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    for n, frame in enumerate(frames(3)):
        cv2.imencode('.png', frame.image[..., ::-1])[1].tofile(folder / f'{n}.png')
    assert to_bag(open_source(folder), tmp_path / 'bag', compressed=False) == 3
    for a, b in zip(open_frames(folder), open_frames(tmp_path / 'bag'), strict=True):
        assert (a.stamp, a.camera) == (b.stamp, b.camera) and (a.image == b.image).all()


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_what_was_written_before_a_failure_is_kept(tmp_path: Path, storage: str) -> None:
    """An interrupted run leaves a bag that reads like any other."""
    with pytest.raises(KeyboardInterrupt), BagWriter(tmp_path / 'bag', storage=storage) as bag:
        for n, frame in enumerate(frames(5)):
            if n == 3:
                raise KeyboardInterrupt
            bag.image(frame)
    source = open_source(tmp_path / 'bag')
    assert len(list(source.frames())) == 3 and not source.damage


def test_a_failure_before_the_first_message_leaves_nothing(tmp_path: Path) -> None:
    """No empty folder that bars the second try."""
    (tmp_path / 'photo.jpg').write_bytes(b'no photo')
    with pytest.raises(UserError, match='photo.jpg cannot be read'):
        annotate(open_source(tmp_path / 'photo.jpg'), pipeline(), tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A taken path and an unknown storage are refused before anything is done."""
    path = camera_bag(tmp_path / 'bag')
    with pytest.raises(UserError, match='exists already'):
        BagWriter(path)
    with pytest.raises(UserError, match='use mcap or sqlite3'):
        BagWriter(tmp_path / 'new', storage='hdf5')
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='cannot be written'), BagWriter(tmp_path / 'file' / 'bag'):
        pass


def test_a_bag_without_objects_says_how_to_make_them(tmp_path: Path) -> None:
    """The remedy is our own command."""
    with pytest.raises(UserError, match='embedder-ros annotate'):
        read_observations(camera_bag(tmp_path / 'bag'))


@pytest.mark.parametrize('size', [0, 8, 60, 100])
def test_torn_objects_are_refused(size: int) -> None:
    """Bytes that end anywhere are a UserError."""
    data = wire.serialize(wire.objects_message(pipeline().observe(frames(2))[1]))
    with pytest.raises(UserError, match='damaged'):
        wire.observation_from(data[:size])

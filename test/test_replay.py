# SPDX-License-Identifier: Apache-2.0
"""The replay node in a process of its own, heard by a subscription as a camera is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image

from embedder_ros.bags.write import BagWriter
from embedder_ros.images import compressed_to_rgb, image_to_rgb
from embedder_ros.nodes.messages import stamp_to_ns
from embedder_ros.nodes.replay import Shot, is_compressed, one_camera, pauses, repeated
from embedder_ros.types import Frame

LIMIT = 60.0
START = 1_700_000_000_000_000_000
STEP = 50_000_000
FRAMES = 12


def pixels(number: int) -> np.ndarray:
    """A picture that carries its number."""
    return np.full((48, 64, 3), (10 * number, 120, 60), np.uint8)


def bag(path: Path, *, compressed: bool) -> Path:
    """A bag of one camera."""
    with BagWriter(path) as writer:
        for number in range(FRAMES):
            writer.image(Frame(pixels(number), START + number * STEP, 'front', 'optical'), compressed=compressed)
    return path


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A domain that no other test uses."""
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    monkeypatch.setenv('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))
    return dict(os.environ)


@contextmanager
def replaying(environment: dict[str, str], *args: object) -> Iterator[subprocess.Popen[str]]:
    """A replay process, killed at the end if it has not ended."""
    command = [sys.executable, '-m', 'embedder_ros.nodes.replay', *map(str, args)]
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def listen(kind: Any, topic: str, enough: Callable[[list[Any]], bool]) -> list[Any]:
    """Messages of a topic until there are enough, or the time is up."""
    received: list[Any] = []
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('embedder', context=context)
    node.create_subscription(kind, topic, received.append, qos_profile_sensor_data)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    deadline = time.monotonic() + LIMIT
    while not enough(received) and time.monotonic() < deadline:
        executor.spin_once(timeout_sec=0.2)
    executor.shutdown()
    node.destroy_node()
    context.shutdown()
    return received


@pytest.mark.parametrize(
    ('compressed', 'kind', 'topic', 'decode'),
    [(True, CompressedImage, 'image/compressed', compressed_to_rgb), (False, Image, 'image', image_to_rgb)],
)
def test_a_bag_is_published_as_it_was_recorded(
    tmp_path: Path, environment: dict[str, str], compressed: bool, kind: Any, topic: str, decode: Any
) -> None:
    """Recorded stamps, frame names and pixels; the process waits for us and ends by itself."""
    path = bag(tmp_path / 'bag', compressed=compressed)
    with replaying(environment, path, '--stamps', 'recorded') as process:
        received = listen(kind, topic, lambda r: process.poll() is not None)
        assert process.wait(LIMIT) == 0, process.stderr.read()
    numbers = [(stamp_to_ns(m.header.stamp) - START) // STEP for m in received]
    assert numbers == sorted(set(numbers)) and len(numbers) >= FRAMES - 2
    for number, message in zip(numbers, received, strict=True):
        assert message.header.frame_id == 'optical'
        assert np.abs(decode(message).astype(int) - pixels(number)).max() <= (3 if compressed else 0)


def test_stamps_of_now_can_be_traced_to_the_recording(tmp_path: Path, environment: dict[str, str]) -> None:
    """The log names the recorded stamp of each published one."""
    path, log = bag(tmp_path / 'bag', compressed=False), tmp_path / 'stamps'
    before = time.time_ns()
    with replaying(environment, path, '--rate', 4, '--stamp-log', log) as process:
        received = listen(Image, 'image', lambda r: process.poll() is not None)
        assert process.wait(LIMIT) == 0, process.stderr.read()
    recorded = dict(map(int, line.split()) for line in log.read_text().splitlines())
    assert list(recorded.values()) == [START + n * STEP for n in range(FRAMES)]
    assert len(received) >= FRAMES - 2
    for message in received:
        stamp = stamp_to_ns(message.header.stamp)
        assert before < stamp < time.time_ns()
        assert (image_to_rgb(message) == pixels((recorded[stamp] - START) // STEP)).all()


def test_a_photo_becomes_a_still_camera(tmp_path: Path, environment: dict[str, str]) -> None:
    """The same pixels under growing stamps until it is told to stop."""
    photo = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / 'photo.png'), photo[..., ::-1])
    with replaying(environment, tmp_path / 'photo.png', '--loop') as process:
        received = listen(Image, 'image', lambda r: len(r) >= 5)
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 0, process.stderr.read()
    stamps = [stamp_to_ns(m.header.stamp) for m in received]
    assert len(stamps) >= 5 and stamps == sorted(set(stamps))
    assert all((image_to_rgb(m) == photo).all() for m in received)


def test_a_large_photo_arrives_as_jpeg(tmp_path: Path, environment: dict[str, str]) -> None:
    """36 MB of raw pixels would not get through."""
    cv2.imwrite(str(tmp_path / 'photo.jpg'), cv2.resize(pixels(3)[..., ::-1], (4000, 3000)))
    with replaying(environment, tmp_path / 'photo.jpg', '--loop'):
        received = listen(CompressedImage, 'image/compressed', lambda r: len(r) >= 3)
    assert len(received) >= 3
    assert np.abs(compressed_to_rgb(received[0])[::100, ::100].astype(int) - pixels(3)[0, 0]).max() <= 6


@pytest.mark.parametrize('args', [['nowhere'], ['photo.png', '--topic', 'image'], ['noise.mcap']])
def test_what_cannot_be_played_is_one_line(tmp_path: Path, environment: dict[str, str], args: list[str]) -> None:
    """Exit status 2 and no traceback."""
    cv2.imwrite(str(tmp_path / 'photo.png'), pixels(0))
    (tmp_path / 'noise.mcap').write_bytes(b'noise' * 100)
    with replaying(environment, tmp_path / args[0], *args[1:]) as process:
        errors = process.stderr.read()
        assert process.wait(LIMIT) == 2
    assert errors.startswith('replay: ') and len(errors.splitlines()) == 1


def test_of_several_cameras_one_is_played(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first, which is said, or the named one."""
    with BagWriter(tmp_path / 'bag') as writer:
        for camera in ('left', 'right'):
            writer.image(Frame(pixels(1), START, camera), compressed=camera == 'right')
    source = one_camera(tmp_path / 'bag')
    assert source.cameras == ['left'] and not is_compressed(source)
    assert '/left/image_raw is used; --topic picks another: /right/image_raw/compressed' in caplog.text
    source = one_camera(tmp_path / 'bag', 'right/image_raw/compressed')
    assert source.cameras == ['right'] and is_compressed(source)


def test_the_pace_is_that_of_the_stamps() -> None:
    """Their differences divided by the rate; a photo's period where time jumps back."""
    made = [Shot(stamp * 1_000_000, None) for stamp in (0, 40, 100, 20)]
    assert [pause for pause, _ in pauses(iter(made), 2.0)] == pytest.approx([0.05, 0.02, 0.03, 0.05])


def test_a_single_photo_is_decoded_once() -> None:
    """A still camera repeats what it has."""
    calls = []

    def play() -> Iterator[Shot]:
        calls.append(1)
        yield Shot(1, 'photo')

    endless = repeated(play, loop=True)
    assert [next(endless).message for _ in range(10)] == ['photo'] * 10 and len(calls) == 1
    assert len(list(repeated(play, loop=False))) == 1
    assert list(repeated(lambda: iter(()), loop=True)) == []

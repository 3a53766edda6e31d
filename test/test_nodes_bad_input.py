# SPDX-License-Identifier: Apache-2.0
"""Whatever a live node is sent, the next good frame and the next good question are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from livetest import RELIABLE, WIDTH, Camera, Robot, picture, robot
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

from embedder_ros.msg import ModelInfo, ObjectEmbeddings, Query, Region, Tracks
from embedder_ros.nodes import wire
from embedder_ros.nodes.images import rgb_to_image, rgb_to_jpeg
from embedder_ros.nodes.messages import header, stamp_to_ns
from embedder_ros.srv import EmbedText, Find, Forget
from embedder_ros.types import NANOSECONDS, UserError

RED = (40, 60, 100, 120)
HOUR = 3600 * NANOSECONDS
GOOD = picture(red=RED)


@pytest.fixture(scope='module')
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    """Two cameras, one compressed; the model dies of blue."""
    with robot('/victim', tmp_path_factory.mktemp('victim'), calm=False) as it:
        it.start(
            'perception',
            env={'BLOBS_FAIL': 'blue'},
            cameras=['raw', 'jpeg'],
            image_topics=['raw/image', 'jpeg/image/compressed'],
        )
        yield it
    assert it.processes[0].stop() == 0
    output = it.processes[0].output
    assert output.count('Traceback') == output.count('RuntimeError: a colour that this model dies of'), output


def answers(it: Robot, topic: str = 'raw/image') -> None:
    """A good frame is answered after all."""
    tracks = it.listen(Tracks, 'tracks')
    with it.camera(topic, GOOD):
        camera = topic.split('/')[0]
        it.until(lambda: any(t.camera == camera for t in tracks), f'tracks of camera {camera}')

        def right() -> bool:
            candidates = it.find('red', cameras=[camera]).candidates
            return bool(candidates) and bool(np.abs(np.array(candidates[0].box) - RED).max() <= 1)

        it.until(right, 'the red box of the good frame')  # an earlier frame may still be on its way
    assert it.processes[0].popen.poll() is None


def image(**changes: Any) -> Image:
    message = rgb_to_image(GOOD, header(1, ''))
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def jpeg(data: bytes, kind: str = 'jpeg') -> CompressedImage:
    return CompressedImage(format=kind, data=data)


def encoded(pixels: np.ndarray, *, quality: int = 90) -> bytes:
    return cv2.imencode('.jpg', pixels[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))[1].tobytes()


FRAME = encoded(GOOD)
BAD_IMAGES: dict[str, Image | CompressedImage] = {
    'unknown encoding': image(encoding='plaid8'),
    'empty encoding': image(encoding=''),
    'step too small': image(step=1),
    'step too large': image(step=10**6),
    'data too short': image(data=bytes(100)),
    'no data': image(data=b''),
    'height zero': image(height=0),
    'width zero': image(width=0),
    'width and height zero': image(width=0, height=0, step=0, data=b''),
    'height of four billion': image(height=2**32 - 1),
    'depth as image': image(encoding='32FC1', step=4 * WIDTH, data=np.full((240, WIDTH), np.nan, np.float32).tobytes()),
    'truncated JPEG': jpeg(FRAME[: len(FRAME) // 2]),
    'JPEG cut in its header': jpeg(FRAME[:20]),
    'empty JPEG': jpeg(b''),
    'noise for JPEG': jpeg(np.random.default_rng(0).bytes(5000)),
    'text for JPEG': jpeg(b'no image at all', 'png'),
}


@pytest.mark.parametrize('name', BAD_IMAGES)
def test_a_bad_image_is_counted_and_named(victim: Robot, name: str) -> None:
    message = BAD_IMAGES[name]
    topic = 'jpeg/image/compressed' if isinstance(message, CompressedImage) else 'raw/image'
    status = f'embedder: camera {topic.split("/")[0]}'
    publisher = victim.node.create_publisher(type(message), topic, RELIABLE)
    objects = victim.listen(ObjectEmbeddings, 'objects')

    def refused() -> int:
        publisher.publish(message)
        return int(value(victim, status, 'invalid image') or 0)

    before = refused()
    victim.until(lambda: refused() > before, 'the image to be refused')
    assert victim.status(status).message.endswith(value(victim, status, 'last error'))
    made = [o for o in objects if o.header.stamp == message.header.stamp]  # not of a good frame sent earlier
    assert not made, 'something was made of a bad image'
    victim.node.destroy_publisher(publisher)
    answers(victim, topic)


def value(it: Robot, status: str, key: str) -> str:
    """A value of a diagnostic status, '' when it is not told."""
    return next((v.value for v in it.status(status).values if v.key == key), '')


def test_an_image_of_the_poorest_quality_is_an_image(victim: Robot) -> None:
    objects = victim.listen(ObjectEmbeddings, 'objects')
    publisher = victim.node.create_publisher(CompressedImage, 'jpeg/image/compressed', RELIABLE)
    message = jpeg(encoded(GOOD, quality=1))
    victim.until(lambda: publisher.publish(message) or objects, 'objects')
    victim.node.destroy_publisher(publisher)
    assert objects[0].width == WIDTH


@pytest.mark.parametrize('size', [(1, 1), (1, 2000), (2000, 1)])
def test_any_size_is_an_image(victim: Robot, size: tuple[int, int]) -> None:
    objects = victim.listen(ObjectEmbeddings, 'objects')
    with victim.camera('raw/image', np.full((*size, 3), (255, 0, 0), np.uint8)):
        victim.until(lambda: any((o.height, o.width) == size for o in objects), 'objects of this size')
    answers(victim)


def test_a_frame_that_the_model_dies_of_costs_this_frame(victim: Robot) -> None:
    with victim.camera('raw/image', picture(blue=RED)):
        victim.status('embedder: model', 'RuntimeError: a colour that this model dies of')
        region = Region(image=rgb_to_jpeg(picture(blue=RED), header(0, '')), box=RED)
        answer = victim.find(query=Query(region=region))
        assert not answer.success and 'the model failed' in answer.message
    answers(victim)


@pytest.mark.parametrize(
    'jump', [-2 * NANOSECONDS, -HOUR, HOUR], ids=['a bag loops', 'the clock is set back', 'the clock is set forward']
)
def test_stamps_that_jump(victim: Robot, jump: int) -> None:
    """The tracks end and begin anew, and what is shown is found at once."""
    tracks = victim.listen(Tracks, 'tracks')
    with victim.camera('raw/image', GOOD, hertz=0.01) as camera:
        now = victim.node.get_clock().now().nanoseconds
        ids = []
        for begin in (now, now + jump):
            for frame in range(3):
                stamp = begin + frame * NANOSECONDS // 10
                last = victim.until(lambda s=stamp: _shown(tracks, camera, s), 'tracks of this stamp')
            ids.append({i for i, status in zip(last.track_ids, last.status, strict=True) if status == Tracks.TRACKED})
        answer = victim.find('red', cameras=['raw'])
    assert len(ids[1]) == 1 and not ids[0] & ids[1] and max(last.age) == pytest.approx(0.2)
    assert answer.outcome == Find.Response.FOUND
    answers(victim)


def _shown(tracks: list[Tracks], camera: Camera, stamp: int) -> Tracks | None:
    """Publish one image until it comes back as tracks; repeating a stamp is allowed."""
    camera.publish(stamp)
    return next((t for t in tracks if stamp_to_ns(t.header.stamp) == stamp), None)


@pytest.mark.parametrize(
    ('text', 'success'),
    [
        ('', False),
        ('   ', False),
        ('a' * 10_000, False),
        ('[SEP] </s> <object> <|im_start|> red', True),
        ('red \x00 \n\t "quoted" {braces} %s', True),
        ('червоний 红色 🔴 red', True),
    ],
)
def test_any_text_is_answered(victim: Robot, text: str, success: bool) -> None:
    with victim.camera('raw/image', GOOD):
        victim.found('red', cameras=['raw'])
        answer = victim.find(text)
        assert (answer.success, bool(answer.message)) == (success, True)
        embedded = victim.call(EmbedText, 'embed_text', EmbedText.Request(texts=[text]))
        assert (embedded.success, bool(embedded.message)) == (success, True)


@pytest.mark.parametrize(
    'request_',
    [
        EmbedText.Request(texts=[]),
        EmbedText.Request(texts=['red'] * 257),
        EmbedText.Request(texts=['red', '']),
        EmbedText.Request(texts=['red'], kind=9),
    ],
)
def test_texts_that_cannot_be_embedded(victim: Robot, request_: EmbedText.Request) -> None:
    answer = victim.call(EmbedText, 'embed_text', request_)
    assert not answer.success and answer.message


@pytest.mark.parametrize(
    'changes',
    [
        {'camera': ''},
        {'dim': 0},
        {'dim': 7},
        {'boxes': [1.0, 2.0, 3.0]},
        {'boxes': [float('nan')] * 4},
        {'boxes': [10.0, 10.0, 5.0, 20.0]},
        {'iou': []},
        {'embeddings': [float('nan')] * 8},
        {'embeddings': [2.0] * 8},
        {'model_id': 'another'},
    ],
)
def test_a_foreign_objects_message_is_skipped(victim: Robot, changes: dict[str, Any]) -> None:
    """Another publisher on `objects`: an older version, or a recording."""
    message = ObjectEmbeddings(camera='raw', model_id='blobs-1', dim=8, width=320, height=240)
    row = {'objectness': [1.0], 'iou': [1.0], 'boxes': [0.0, 0.0, 10.0, 10.0], 'embeddings': [1.0] + [0.0] * 7}
    for name, new in {**row, **changes}.items():
        setattr(message, name, new)
    tracks = victim.listen(Tracks, 'tracks')
    publisher = victim.node.create_publisher(ObjectEmbeddings, 'objects', wire.OUTPUT_QOS)

    def skipped() -> int:
        publisher.publish(message)
        return int(value(victim, 'grounder: scene', 'skipped messages'))

    before = skipped()
    victim.until(lambda: skipped() > before, 'the message to be skipped')
    assert not tracks
    victim.node.destroy_publisher(publisher)


@pytest.mark.parametrize('wrong', [{}, {'scale': float('nan')}, {'identity_dim': 3}])
def test_a_foreign_model_message_is_refused(victim: Robot, wrong: dict[str, Any]) -> None:
    before = victim.processes[0].output.count('model message refused')
    publisher = victim.node.create_publisher(ModelInfo, 'model', wire.STATE_QOS)
    publisher.publish(ModelInfo(**({'model_id': 'x', 'dim': 8, **wrong} if wrong else {})))
    victim.until(lambda: victim.processes[0].output.count('model message refused') > before, 'the refusal')
    victim.node.destroy_publisher(publisher)
    answers(victim)


def test_bytes_that_are_no_message(victim: Robot) -> None:
    """A publisher with another definition of the same type."""
    publisher = victim.node.create_publisher(Image, 'raw/image', RELIABLE)
    whole = serialize_message(image())
    for data in (whole[:50], whole[: len(whole) // 2], b'', bytes(8)):
        publisher.publish(data)
    victim.node.destroy_publisher(publisher)
    answers(victim)


class Told:
    """Stands for a node that offers a service, and keeps what it logs."""

    def __init__(self) -> None:
        self.logged: list[str] = []
        self.error = self.logged.append

    def create_service(self, kind: Any, name: str, callback: Any, **options: Any) -> Any:
        return callback

    def get_logger(self) -> Told:
        return self


@pytest.mark.parametrize(
    ('error', 'message', 'logged'),
    [
        (UserError('give object_ids'), 'give object_ids', 0),
        (RuntimeError('no such bit'), 'forget failed with RuntimeError: no such bit; see the log', 1),
    ],
)
def test_a_service_that_fails_is_answered(error: Exception, message: str, logged: int) -> None:
    """Nothing half done is in the answer, and the node lives on."""

    async def fail(request: Forget.Request, response: Forget.Response) -> None:
        response.success, response.forgotten = True, 3
        raise error

    node = Told()
    answer = asyncio.run(wire.offer(node, wire.FORGET, fail)(Forget.Request(), Forget.Response()))
    assert (answer.success, answer.forgotten, answer.message) == (False, 0, message)
    assert [text.startswith('Traceback') for text in node.logged] == [True] * logged


def test_nobody_publishes(tmp_path: Path) -> None:
    with robot('/silent', tmp_path) as it:
        it.start('perception')
        answer = it.until(lambda: (a := it.find('red')).success and a, 'the node to answer')
        assert (answer.outcome, answer.reason, answer.age) == (Find.Response.NOT_FOUND, 'no_frames', -1)
        assert '/diagnostics' in answer.message
        unknown = it.find('red', cameras=['roof'])
        assert not unknown.success and "no camera 'roof'; seen so far: none" in unknown.message
        it.status('embedder: camera camera', 'nobody publishes')


def test_where_nothing_can_be_written_the_nodes_say_so_or_start(tmp_path: Path) -> None:
    """Home, logs, caches and the working folder on a full or read-only disk; below a file even root makes nothing."""
    blocker = tmp_path / 'file'
    blocker.write_text('')
    folder = tmp_path / 'read only'
    folder.mkdir(mode=0o555)
    places = ('HOME', 'ROS_HOME', 'ROS_LOG_DIR', 'XDG_CACHE_HOME', 'TMPDIR')
    where = {'env': dict.fromkeys(places, str(blocker / 'folder')), 'cwd': folder}
    with robot('/readonly', tmp_path, calm=False) as it:
        process = it.start('perception', blobs=False, **where)
        it.until(lambda: process.popen.poll() is not None, 'the node to end')
        assert process.popen.poll() == 1 and 'Traceback' not in process.output
        assert 'set ROS_LOG_DIR' in process.output and '--disable-external-lib-logs' in process.output
        process = it.start('perception', '--disable-external-lib-logs', blobs=False, **where)
        answer = it.until(lambda: (a := it.find('a cup')).success and a, 'an answer')
        assert answer.reason == 'no_frames'
        with it.camera('image', GOOD):
            it.until(lambda: it.find('a cup').frames_searched == 1, 'a frame to be searched')
        assert process.stop() == 0 and 'Traceback' not in process.output

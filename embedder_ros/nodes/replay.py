# SPDX-License-Identifier: Apache-2.0
"""Be a camera: publish a bag, photo, folder of photos or video into `image` or `image/compressed`, then end.

`ros2 bag play` does this for bags where it is installed; this one also runs where it is not, and plays photos and
videos. Images of a bag are published as they were recorded, small photos and videos as rgb8, large ones as JPEG.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import qos_profile_sensor_data
from rclpy.utilities import remove_ros_args

from embedder_ros.bags import wire as bag_wire
from embedder_ros.bags.source import PHOTO_PERIOD, BagSource, Source, open_source
from embedder_ros.nodes import messages, wire
from embedder_ros.nodes.images import rgb_to_image, rgb_to_jpeg
from embedder_ros.types import NANOSECONDS, UserError

# Bytes above which a photo or video goes as JPEG: three raw ones fill the shared-memory segment of config/fastdds.xml.
RAW_BYTES = 10 << 20
JPEG_QUALITY = 95
SETTLE = 0.5  # seconds for the other side to know of us, and for the last image to leave

_log = logging.getLogger(__name__)


class Shot(NamedTuple):
    """An image message, or its bytes, to publish, and the stamp it was recorded with, nanoseconds."""

    stamp: int
    message: Any


def is_compressed(source: Source) -> bool:
    """Whether a source of one camera is published on `image/compressed`. Raises UserError when it cannot be read."""
    if isinstance(source, BagSource):
        return source.kind(next(iter(source.topics))) == bag_wire.COMPRESSED
    first = next(source.frames(), None)
    return first is not None and first.image.nbytes > RAW_BYTES


def one_camera(path: str | Path, topic: str = '') -> Source:
    """The source for one camera: the named topic, or the first that a bag has. Raises UserError."""
    source = open_source(path, topics=[topic] if topic else None)
    if not isinstance(source, BagSource) or len(source.topics) == 1:
        return source
    first, *others = source.topics
    _log.warning('%s is used; --topic picks another: %s', first, ', '.join(others))
    return open_source(path, topics=[first])


def shots(source: Source) -> Iterator[Shot]:
    """Every image as a message with the recorded header; a bag's is left serialised, as it was recorded."""
    if isinstance(source, BagSource):
        for _, _, recorded, data in source.recorded():
            yield Shot(bag_wire.stamp_of(data) or recorded, data)
    else:
        to_message = partial(rgb_to_jpeg, quality=JPEG_QUALITY) if is_compressed(source) else rgb_to_image
        for frame in source.frames():
            yield Shot(frame.stamp, to_message(frame.image, messages.header(frame.stamp, frame.frame_id)))


def stamped(message: Any, stamp: int) -> Any:
    """The message with another stamp, nanoseconds."""
    if isinstance(message, bytes):
        return bag_wire.with_stamp(message, stamp)
    message.header.stamp = messages.ns_to_stamp(stamp)
    return message


def repeated(play: Callable[[], Iterator[Shot]], loop: bool) -> Iterator[Shot]:
    """What `play` gives, once or for ever; a single photo is not decoded again."""
    while True:
        count = 0
        for count, shot in enumerate(play(), 1):  # noqa: B007
            yield shot
        if not loop or not count:
            return
        if count == 1:
            yield from itertools.repeat(shot)


def pauses(stamps: Iterator[Shot], rate: float) -> Iterator[tuple[float, Shot]]:
    """Each shot with the seconds since the one before it; where the time jumps back, a photo's period."""
    previous = None
    for shot in stamps:
        step = shot.stamp - previous if previous is not None else 0
        previous = shot.stamp
        yield (step if step > 0 else PHOTO_PERIOD) / NANOSECONDS / rate, shot


class Replay:
    """A node that publishes shots at their pace.

    Args:
        source: of one camera.
        rate: speed; 2 is twice as fast as recorded.
        loop: begin again at the end.
        stamp_now: stamp with the node's clock, not as recorded.
        log: takes 'published recorded' stamps, nanoseconds, one line per image; None for none.
    """

    def __init__(self, source: Source, *, rate: float, loop: bool, stamp_now: bool, log: TextIO | None) -> None:
        topic = wire.COMPRESSED if is_compressed(source) else wire.IMAGE
        self._node = rclpy.create_node('replay')
        self._publisher = self._node.create_publisher(topic.type, topic.name, qos_profile_sensor_data)
        self._shots = pauses(repeated(lambda: shots(source), loop), rate)
        self._stamp_now, self._log = stamp_now, log
        self.count = 0

    def run(self) -> None:
        """Wait for a subscriber, then publish until the end."""
        logger = self._node.get_logger()
        logger.info(f'waiting for a subscriber to {self._publisher.topic_name}')
        while rclpy.ok() and not self._publisher.get_subscription_count():
            time.sleep(0.05)
        due = time.monotonic() + SETTLE
        for pause, shot in self._shots:
            time.sleep(max(0.0, due - time.monotonic()))
            if not rclpy.ok():
                return
            self._publish(shot)
            due = max(due, time.monotonic() - pause) + pause  # late images are not made up for by a burst
        time.sleep(SETTLE)
        logger.info(f'{self.count} images published')

    def _publish(self, shot: Shot) -> None:
        stamp = self._node.get_clock().now().nanoseconds if self._stamp_now else shot.stamp
        self._publisher.publish(stamped(shot.message, stamp))
        if self._log is not None:
            print(stamp, shot.stamp, file=self._log, flush=True)
        self.count += 1


def _arguments(args: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='replay', description=(__doc__ or '').splitlines()[0])
    parser.add_argument('input', help='rosbag2 folder, .mcap, .db3, photo, folder of photos, or video')
    parser.add_argument('--topic', default='', help='image topic of a bag; the first when not given')
    parser.add_argument('--rate', type=float, default=1.0, help='speed; 2 is twice as fast as recorded')
    parser.add_argument('--loop', action='store_true', help='begin again at the end; a photo becomes a still camera')
    parser.add_argument('--stamps', choices=('now', 'recorded'), default='now', help="the images' stamps")
    parser.add_argument('--stamp-log', default='', help='file that takes published and recorded stamps, a line each')
    options = parser.parse_args(args)
    if not 0 < options.rate <= 1000:
        parser.error('--rate must be above 0 and at most 1000')
    return options


def main(args: Sequence[str] | None = None) -> int:
    """Play one input; 2 when it cannot be read."""
    logging.basicConfig(format='%(message)s')
    rclpy.init(args=args)
    options = _arguments(remove_ros_args(list(sys.argv if args is None else args))[1:])
    log = Path(options.stamp_log).open('w', encoding='utf-8') if options.stamp_log else None
    try:
        source = one_camera(options.input, options.topic)
        Replay(source, rate=options.rate, loop=options.loop, stamp_now=options.stamps == 'now', log=log).run()
    except UserError as error:
        print(f'replay: {error}', file=sys.stderr)
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        if log is not None:
            log.close()
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())

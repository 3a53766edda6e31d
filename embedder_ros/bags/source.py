# SPDX-License-Identifier: Apache-2.0
"""Frames from whatever people have: a bag, a photo, a folder of photos, a video. None is dropped on the way.

What cannot be decoded is skipped, counted in `Source.counts` and told once. A recording cut short is read until the
cut. Stamps of photos and videos begin one period after zero, because a stamp of zero means 'unset'.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from embedder_ros.bags import wire
from embedder_ros.bags.rescue import Recorded
from embedder_ros.bags.storage import Bag, is_bag, natural
from embedder_ros.images import ImageError, decode
from embedder_ros.types import NANOSECONDS, Frame, UserError

PHOTOS = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm', '.jp2')
PHOTO_PERIOD = NANOSECONDS // 10  # between the stamps of a folder's photos
CAMERA = 'camera'  # name of the camera of photos and videos

# Last parts of image topics that say nothing about which camera it is.
_PLAIN = ('image', 'image_raw', 'image_color', 'image_rect', 'image_rect_color', 'image_rect_raw', 'image_mono', 'rgb')

_log = logging.getLogger(__name__)


class Source:
    """Where frames come from.

    Attributes:
        path: the file or folder.
        cameras: names of the cameras in it.
        counts: 'frames', and what was skipped, by reason.
        damage: '' or where and why the recording ends too early; known once it was read.
    """

    def __init__(self, path: Path, cameras: Sequence[str]) -> None:
        self.path = path
        self.cameras = list(cameras)
        self.counts: Counter[str] = Counter()
        self.damage = ''

    def frames(self) -> Iterator[Frame]:
        """All frames, in order, from the beginning at every call."""
        return (frame for frame, _ in self.read())

    def read(self) -> Iterator[tuple[Frame, Recorded | None]]:
        """All frames, each with the message it came from if it lay in a bag."""
        self.counts.clear()
        for frame, recorded in self._decoded():
            self.counts['frames'] += 1
            yield frame, recorded

    def photo(self, stamp: int) -> str:
        """File name of the photo whose frame has this stamp; '' when frames are no files."""
        return ''

    def _decoded(self) -> Iterator[tuple[Frame, Recorded | None]]:
        raise NotImplementedError

    def _skip(self, reason: str, error: UserError) -> None:
        if not self.counts[reason]:  # once per reason, not once per frame
            _log.warning('%s: %s skipped: %s', self.path, reason, error)
        self.counts[reason] += 1


class BagSource(Source):
    """The image topics of a recording; `topics` maps each to its camera's name."""

    def __init__(self, path: Path, topics: Sequence[str] | None) -> None:
        self.bag = Bag(path)
        self.topics = camera_names(_chosen(self.bag, topics))
        super().__init__(path, list(self.topics.values()))

    def kind(self, topic: str) -> str:
        """Message type of an image topic."""
        return self.bag.topics[topic]

    def recorded(self) -> Iterator[Recorded]:
        """The image messages as they lie in the bag."""
        yield from self.bag.messages(self.topics)
        self.damage = self.bag.damage

    def _decoded(self) -> Iterator[tuple[Frame, Recorded | None]]:
        for recorded in self.recorded():
            try:
                yield (
                    wire.frame_from(recorded.data, recorded.type, self.topics[recorded.topic], recorded.time),
                    recorded,
                )
            except UserError as error:
                self._skip(f'bad image of {recorded.topic}', error)


class PhotoSource(Source):
    """One photo, or many in the order of their names."""

    def __init__(self, path: Path, photos: Sequence[Path]) -> None:
        super().__init__(path, [CAMERA])
        self.photos = photos

    def photo(self, stamp: int) -> str:
        """Stamps count the photos."""
        return self.photos[stamp // PHOTO_PERIOD - 1].name

    def _decoded(self) -> Iterator[tuple[Frame, Recorded | None]]:
        for number, photo in enumerate(self.photos, 1):
            try:
                yield Frame(read_photo(photo), number * PHOTO_PERIOD, CAMERA), None
            except UserError as error:
                if len(self.photos) == 1:
                    raise
                self._skip('bad photo', error)
        if not self.counts['frames']:
            raise UserError(f'{self.path}: none of its {len(self.photos)} photos can be read; give JPEG or PNG files')


class VideoSource(Source):
    """A video file, stamped by its own clock."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, [CAMERA])
        _video(path).release()

    def _decoded(self) -> Iterator[tuple[Frame, Recorded | None]]:
        video = _video(self.path)
        try:
            rate = video.get(cv2.CAP_PROP_FPS)
            period = round(NANOSECONDS / rate) if rate > 0 else PHOTO_PERIOD
            stamp, expected = 0, int(video.get(cv2.CAP_PROP_FRAME_COUNT))
            while (image := _next_image(video)) is not None:
                clock = period + round(video.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
                stamp = clock if clock > stamp else stamp + period  # some containers have no clock
                yield Frame(image, stamp, CAMERA), None
        finally:
            video.release()
        self._end(expected)

    def _end(self, expected: int) -> None:
        read = self.counts['frames']
        if not read:
            raise UserError(
                f'{self.path}: no frame can be decoded; convert it to H.264 in mp4, or give a folder of photos'
            )
        # Containers state their number of frames loosely: a frame or two fewer is no damage.
        if read < expected - 2:
            self.damage = f'{self.path} is cut short: {read} of {expected} frames'
            _log.warning('%s', self.damage)


def open_source(path: str | Path, *, topics: Sequence[str] | None = None) -> Source:
    """Find out what a path is.

    Args:
        path: a rosbag2 folder, a .mcap or .db3 file, a photo, a folder of photos, or a video.
        topics: image topics of a bag; None means every colour image topic, of which each becomes a camera.

    Raises:
        UserError: nothing there can be read as images; the message says what to give.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f'{path} does not exist; give a bag, a photo, a folder of photos or a video')
    if is_bag(path):
        return BagSource(path, topics)
    if topics:
        raise UserError(f'{path} is no bag, it has no topics; leave them out')
    if path.suffix == '.bag':
        raise UserError(f'{path} is a ROS 1 bag; convert it: rosbags-convert --src {path.name} --dst {path.stem}')
    if path.is_dir():
        return PhotoSource(path, _photos(path))
    photo = path.suffix.lower() in PHOTOS or cv2.haveImageReader(str(path))
    return PhotoSource(path, [path]) if photo else VideoSource(path)


def open_frames(path: str | Path, *, topics: Sequence[str] | None = None) -> Iterator[Frame]:
    """The frames of `open_source`, in order; a bag's stamps are the messages' own."""
    return open_source(path, topics=topics).frames()


def read_photo(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB, upright as its EXIF data says, transparency on white. Raises UserError when it is none."""
    try:
        return decode(path.read_bytes(), as_shown=True)
    except (ImageError, OSError) as error:
        raise UserError(f'photo {path} cannot be read: {error}; copy it again, or give another') from error


def camera_names(topics: Iterable[str]) -> dict[str, str]:
    """Topic -> a short name of its camera, all different: '/front/image_raw/compressed' -> 'front'."""
    topics = list(topics)
    short = {topic: _camera(topic) for topic in topics}
    count = Counter(short.values())
    return {t: name if count[name] == 1 else t.strip('/').replace('/', '_') for t, name in short.items()}


def _camera(topic: str) -> str:
    parts = topic.removesuffix('/compressed').strip('/').split('/')
    while len(parts) > 1 and parts[-1] in _PLAIN:
        parts.pop()
    return CAMERA if parts[0] in _PLAIN else '_'.join(parts)


def _chosen(bag: Bag, topics: Sequence[str] | None) -> list[str]:
    """The image topics to read."""
    images = {name for name, kind in bag.topics.items() if kind in (wire.IMAGE, wire.COMPRESSED)}
    if topics is None:
        chosen = [t for t in sorted(images) if not _twice(t, images) and not _depth(bag, t)]
    else:
        topics = ['/' + t.lstrip('/') for t in topics]
        chosen = [t for t in topics if t in images]
    if not chosen or (topics is not None and len(chosen) < len(topics)):
        have = ', '.join(f'{name} ({kind})' for name, kind in sorted(bag.topics.items()))
        if topics is None:
            raise UserError(
                f'{bag.path} has no camera images: none of its topics is a colour or grey sensor_msgs/Image or '
                f'CompressedImage. It has {have}'
            )
        missing = ', '.join(t for t in topics if t not in images)
        raise UserError(f'{bag.path}: {missing} is not there as sensor_msgs/Image or CompressedImage; it has {have}')
    return chosen


def _twice(topic: str, images: set[str]) -> bool:
    """Whether the same pictures are recorded raw, too."""
    return topic.endswith('/compressed') and topic.removesuffix('/compressed') in images


def _depth(bag: Bag, topic: str) -> bool:
    """Whether the first message is depth; one that cannot be read is left to the reading proper."""
    first = next(bag.messages([topic]), None)
    try:
        return first is not None and wire.is_depth(first.data, first.type)
    except UserError:
        return False


def _photos(folder: Path) -> list[Path]:
    photos = sorted((p for p in folder.iterdir() if p.suffix.lower() in PHOTOS), key=natural)
    if not photos:
        raise UserError(f'{folder} holds neither a bag nor photos ({", ".join(PHOTOS)})')
    return photos


def _video(path: Path) -> cv2.VideoCapture:
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')  # what it writes to the terminal, our error says better
    video = cv2.VideoCapture(str(path))
    if not video.isOpened():
        raise UserError(f'{path} is not a bag (.mcap, .db3), photo or video that can be opened')
    return video


def _next_image(video: cv2.VideoCapture) -> NDArray[np.uint8] | None:
    good, image = video.read()
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8) if good else None

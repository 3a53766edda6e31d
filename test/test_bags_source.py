# SPDX-License-Identifier: Apache-2.0
"""Frames from real small bags, photos and videos, whole and damaged."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from embedder_ros.bags import wire
from embedder_ros.bags.source import PHOTO_PERIOD, BagSource, camera_names, open_frames, open_source
from embedder_ros.bags.wire import stamp_of, with_stamp
from embedder_ros.types import UserError

TYPES = get_typestore(Stores.LATEST)
MCAP, SQLITE = StoragePlugin.MCAP, StoragePlugin.SQLITE3
START = 1_700_000_000_000_000_000
STEP = 33_333_333
HEIGHT, WIDTH = 48, 64


def pixels(number: int) -> np.ndarray:
    """A picture that carries its number and that JPEG keeps nearly as it is."""
    image = np.full((HEIGHT, WIDTH, 3), (10 * number % 250, 120, 60), np.uint8)
    image[:, : WIDTH // 2] //= 2
    return image


def header(number: int, frame_id: str = 'optical') -> Any:
    """A header stamped by its number."""
    seconds, rest = divmod(START + number * STEP, 1_000_000_000)
    time = TYPES.types['builtin_interfaces/msg/Time'](sec=seconds, nanosec=rest)
    return TYPES.types['std_msgs/msg/Header'](stamp=time, frame_id=frame_id)


def raw(number: int, encoding: str = 'bgr8', image: np.ndarray | None = None) -> Any:
    """A raw image message."""
    data = pixels(number)[..., ::-1] if image is None else image
    return TYPES.types['sensor_msgs/msg/Image'](
        header=header(number), height=data.shape[0], width=data.shape[1], encoding=encoding, is_bigendian=0,
        step=data.nbytes // data.shape[0], data=np.ascontiguousarray(data).view(np.uint8).reshape(-1),
    )  # fmt: skip


def compressed(number: int) -> Any:
    """A JPEG message."""
    data = cv2.imencode('.jpg', pixels(number)[..., ::-1])[1].reshape(-1)
    return TYPES.types['sensor_msgs/msg/CompressedImage'](header=header(number), format='jpeg', data=data)


def text(number: int) -> Any:
    """A message that is no image."""
    return TYPES.types['std_msgs/msg/String'](data=str(number))


def write_bag(
    path: Path, makers: dict[str, Any], *, count: int = 12, storage: Any = MCAP, compression: Any = None
) -> Path:
    """A bag with `count` messages on each topic, in turn; half of it is enough to be useful."""
    writer = Writer(path, version=9, storage_plugin=storage)
    if compression is not None:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        connections = {t: writer.add_connection(t, m(0).__msgtype__, typestore=TYPES) for t, m in makers.items()}
        for number in range(count):
            for topic, maker in makers.items():
                data = TYPES.serialize_cdr(maker(number), maker(number).__msgtype__)
                writer.write(connections[topic], START + number * STEP + 5, data)
    return path


def storage_file(path: Path) -> Path:
    """The one storage file of a bag."""
    return next(f for f in path.iterdir() if f.suffix in ('.mcap', '.db3'))


def cut(path: Path, share: float) -> Path:
    """Cut a file short."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def assert_frames(frames: list[Any], numbers: list[int], *, camera: str = 'camera', tolerance: int = 0) -> None:
    """Stamps, names and pixels are those of these numbers."""
    assert [f.stamp for f in frames] == [START + n * STEP for n in numbers]
    for frame, number in zip(frames, numbers, strict=True):
        assert (frame.camera, frame.frame_id) == (camera, 'optical')
        assert np.abs(frame.image.astype(int)[:, 4:28] - pixels(number)[:, 4:28]).max() <= tolerance


@pytest.mark.parametrize('storage', [MCAP, SQLITE])
@pytest.mark.parametrize(('maker', 'tolerance'), [(raw, 0), (compressed, 6)])
@pytest.mark.parametrize('bare', [False, True])
def test_both_storages_and_both_kinds_of_image(
    tmp_path: Path, storage: Any, maker: Any, tolerance: int, bare: bool
) -> None:
    """Every frame, in order, with the source's own stamps; from the folder and from its bare file."""
    path = write_bag(tmp_path / 'bag', {'/image': maker, '/talk': text}, storage=storage)
    frames = list(open_frames(storage_file(path) if bare else path))
    assert_frames(frames, list(range(12)), tolerance=tolerance)


@pytest.mark.parametrize(
    ('storage', 'mode'),
    [(MCAP, CompressionMode.STORAGE), (SQLITE, CompressionMode.MESSAGE), (SQLITE, CompressionMode.FILE)],
)
def test_compressed_bags(tmp_path: Path, storage: Any, mode: Any) -> None:
    """Compression of the bag itself makes no difference."""
    path = write_bag(tmp_path / 'bag', {'/image': raw}, storage=storage, compression=mode)
    assert_frames(list(open_frames(path)), list(range(12)))


def test_several_cameras(tmp_path: Path) -> None:
    """All image topics in recorded order, or the named ones, with or without the leading slash."""
    path = write_bag(tmp_path / 'bag', {'/left/image': raw, '/right/image/compressed': compressed, '/talk': text})
    assert open_source(path).cameras == ['left', 'right']
    assert [f.camera for f in open_frames(path)] == ['left', 'right'] * 12
    assert_frames(list(open_frames(path, topics=['left/image'])), list(range(12)), camera='left')


def test_depth_and_second_copies_are_no_cameras(tmp_path: Path) -> None:
    """A depth topic and the JPEGs of a raw topic are left out, but a JPEG topic that is asked for is read."""
    depth = np.full((HEIGHT, WIDTH), 1000, np.uint16)
    makers = {'/c/image': raw, '/c/image/compressed': compressed, '/c/depth': lambda n: raw(n, '16UC1', depth)}
    path = write_bag(tmp_path / 'bag', makers)
    assert_frames(list(open_frames(path)), list(range(12)), camera='c')
    source = open_source(path, topics=['/c/image/compressed'])
    assert_frames(list(source.frames()), list(range(12)), camera='c', tolerance=6)


@pytest.mark.parametrize(
    ('topics', 'names'),
    [
        (['/image'], ['camera']),
        (['/front/image_raw', '/wrist/image_raw/compressed'], ['front', 'wrist']),
        (['/robot/head/rgb/image_rect_color'], ['robot_head']),
        (['/a/image', '/a/image_raw'], ['a_image', 'a_image_raw']),
        (['/image', '/image_raw/compressed'], ['image', 'image_raw_compressed']),
    ],
)
def test_cameras_have_short_and_different_names(topics: list[str], names: list[str]) -> None:
    """The part of the topic that tells cameras apart."""
    assert camera_names(topics) == dict(zip(topics, names, strict=True))


def test_a_header_without_stamp_takes_the_recorded_time(tmp_path: Path) -> None:
    """Zero means unset."""

    def unset(number: int) -> Any:
        message = raw(number)
        message.header.stamp.sec = message.header.stamp.nanosec = 0
        return message

    path = write_bag(tmp_path / 'bag', {'/image': unset}, count=2)
    assert [f.stamp for f in open_frames(path)] == [START + 5, START + STEP + 5]


@pytest.mark.parametrize('storage', [MCAP, SQLITE])
@pytest.mark.parametrize('topics', [{}, {'/talk': text}])
def test_a_bag_without_images_lists_its_topics(tmp_path: Path, storage: Any, topics: dict[str, Any]) -> None:
    """The user sees what the bag has."""
    path = write_bag(tmp_path / 'bag', topics, storage=storage)
    with pytest.raises(UserError, match='has no camera images: .* It has /talk .std_msgs' if topics else 'no topic'):
        open_frames(path)


@pytest.mark.parametrize('topics', [['talk'], ['/image', '/nowhere']])
def test_an_unknown_topic_lists_what_there_is(tmp_path: Path, topics: list[str]) -> None:
    """The missing one is named, too."""
    path = write_bag(tmp_path / 'bag', {'/image': raw, '/talk': text}, count=1)
    with pytest.raises(UserError, match=f'{topics[-1]} is not there .*it has /image .*, /talk '):
        open_frames(path, topics=topics)


@pytest.mark.parametrize(('storage', 'mode'), [(MCAP, None), (MCAP, CompressionMode.STORAGE), (SQLITE, None)])
@pytest.mark.parametrize('share', [0.99, 0.7, 0.4])
def test_a_bag_cut_short_is_read_until_the_cut(
    tmp_path: Path, storage: Any, share: float, mode: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Complete messages before the cut are all there, and a warning says that it is damaged."""
    noise = np.random.default_rng(0).integers(0, 256, (40, HEIGHT, WIDTH, 3), dtype=np.uint8)
    makers = {'/image': lambda n: raw(n, 'rgb8', noise[n]), '/talk': text}
    path = write_bag(tmp_path / 'bag', makers, count=40, storage=storage, compression=mode)
    cut(storage_file(path), share)
    source = open_source(path)
    with caplog.at_level(logging.WARNING):
        frames = list(source.frames())
    assert 40 * share - 4 <= len(frames) <= 40
    for number, frame in enumerate(frames):
        assert frame.stamp == START + number * STEP and (frame.image == noise[number]).all()
    assert 'cut short' in source.damage and source.damage in caplog.text
    assert source.counts == {'frames': len(frames)}


@pytest.mark.parametrize('storage', [MCAP, SQLITE])
def test_a_bag_without_metadata_is_read(tmp_path: Path, storage: Any) -> None:
    """What a killed recorder leaves: several files, no metadata.yaml; the tenth comes after the second."""
    folder = tmp_path / 'killed'
    folder.mkdir()
    for number in (1, 2, 10):
        part = write_bag(
            tmp_path / f'part{number}', {'/image': lambda n, k=number: raw(n + k)}, count=1, storage=storage
        )
        storage_file(part).rename(folder / f'killed_{number}{storage_file_suffix(storage)}')
    assert_frames(list(open_frames(folder)), [1, 2, 10])


def test_damage_in_the_middle_ends_the_reading(tmp_path: Path) -> None:
    """The index is whole, a chunk is not: the frames before it are given."""
    noise = np.random.default_rng(0).integers(0, 256, (200, HEIGHT, WIDTH, 3), dtype=np.uint8)
    makers = {'/image': lambda n: raw(n, 'rgb8', noise[n])}
    path = write_bag(tmp_path / 'bag', makers, count=200, compression=CompressionMode.STORAGE)
    file = storage_file(path)
    before, magic, after = file.read_bytes().rpartition(b'\x28\xb5\x2f\xfd')  # how zstd begins, in the last chunk
    file.write_bytes(before + bytes(len(magic)) + after)
    source = open_source(path)
    frames = list(source.frames())
    assert 0 < len(frames) < 200 and source.damage
    assert all((frame.image == noise[n]).all() for n, frame in enumerate(frames))


@pytest.mark.parametrize('metadata', ['rosbag2_bagfile_information: [', 'nothing: true\n', ''])
def test_a_folder_whose_metadata_is_damaged_is_read_by_its_files(
    tmp_path: Path, metadata: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The images do not depend on it, but something is wrong and is told."""
    path = write_bag(tmp_path / 'bag', {'/image': raw})
    (path / 'metadata.yaml').write_text(metadata)
    with caplog.at_level(logging.WARNING):
        assert_frames(list(open_frames(path)), list(range(12)))
    assert 'one by one' in caplog.text


def test_a_missing_part_of_a_split_recording_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The parts that are there are read."""
    path = write_bag(tmp_path / 'bag', {'/image': raw})
    metadata = path / 'metadata.yaml'
    metadata.write_text(metadata.read_text().replace('- bag.mcap', '- bag.mcap\n  - bag_1.mcap'))
    with caplog.at_level(logging.WARNING):
        assert_frames(list(open_frames(path)), list(range(12)))
    assert 'bag_1.mcap' in caplog.text


def test_a_killed_recorders_write_ahead_log_is_read(tmp_path: Path) -> None:
    """What sqlite has not yet moved into its file is no less recorded."""
    whole = storage_file(write_bag(tmp_path / 'bag', {'/image': raw}, storage=SQLITE))
    folder = tmp_path / 'killed'
    folder.mkdir()
    shutil.copy(whole, folder / 'killed.db3')
    with contextlib.closing(sqlite3.connect(folder / 'killed.db3')) as database:
        database.execute('PRAGMA journal_mode=WAL')
        database.execute('PRAGMA wal_autocheckpoint=0')
        database.execute('UPDATE messages SET timestamp=timestamp+1')
        database.execute(
            'INSERT INTO messages(topic_id, timestamp, data) SELECT topic_id, timestamp+9, data FROM messages'
        )
        database.commit()
        copy = tmp_path / 'copy'
        shutil.copytree(folder, copy)  # as it lies there when the recorder dies
    assert len(list(open_frames(copy))) == 24


def storage_file_suffix(storage: Any) -> str:
    """Suffix of a storage's files."""
    return '.mcap' if storage is MCAP else '.db3'


@pytest.mark.parametrize(
    'name', ['noise.mcap', 'noise.db3', 'empty.mcap', 'empty.db3', 'noise.mp4', 'empty.mp4', 'noise']
)
def test_what_is_no_recording_is_refused(tmp_path: Path, name: str) -> None:
    """Noise and empty files with any name: one clear error."""
    path = tmp_path / name
    path.write_bytes(b'' if 'empty' in name else np.random.default_rng(1).bytes(5000))
    with pytest.raises(UserError, match=name):
        next(open_frames(path))


def test_images_that_cannot_be_decoded_are_skipped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A torn JPEG, a JPEG that is noise, and a message without a whole header: one warning, and a count."""

    def torn(number: int) -> Any:
        message = compressed(number)
        message.data = {5: message.data[:100], 6: message.data[::-1].copy()}.get(number, message.data)
        return message

    path = write_bag(tmp_path / 'bag', {'/image': torn})
    source = open_source(path)
    with caplog.at_level(logging.WARNING):
        frames = list(source.frames())
    assert_frames(frames, [n for n in range(12) if n not in (5, 6)], tolerance=6)
    assert source.counts == {'frames': 10, 'bad image of /image': 2} and len(caplog.records) == 1


@pytest.mark.parametrize('size', [0, 3, 11, 20, 40, 100])
def test_a_torn_message_is_skipped(tmp_path: Path, size: int) -> None:
    """Bytes that end anywhere."""
    path, data = tmp_path / 'bag', TYPES.serialize_cdr(raw(0), 'sensor_msgs/msg/Image')
    with Writer(path, version=9, storage_plugin=MCAP) as writer:
        connection = writer.add_connection('/image', 'sensor_msgs/msg/Image', typestore=TYPES)
        for number, kept in enumerate((bytes(data), bytes(data)[:size], bytes(data))):
            writer.write(connection, START + number, kept)
    source = open_source(path)
    assert len(list(source.frames())) == 2 and source.counts['bad image of /image'] == 1


def test_a_folder_of_photos(tmp_path: Path) -> None:
    """In the order of their names, 0.1 s apart; other files do not matter."""
    for number, name in ((2, 'c.png'), (0, 'a.PNG'), (1, 'b.png')):
        cv2.imencode('.png', pixels(number)[..., ::-1])[1].tofile(tmp_path / name)
    (tmp_path / 'notes.txt').write_text('not a photo')
    source = open_source(tmp_path)
    frames = list(source.frames())
    assert [source.photo(f.stamp) for f in frames] == ['a.PNG', 'b.png', 'c.png']
    assert [f.stamp for f in frames] == [PHOTO_PERIOD, 2 * PHOTO_PERIOD, 3 * PHOTO_PERIOD]
    assert all((f.image == pixels(n)).all() for n, f in enumerate(frames)) and frames[0].camera == 'camera'


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.bmp', '.webp', '.tiff', ''])
def test_one_photo(tmp_path: Path, suffix: str) -> None:
    """Any format OpenCV reads, by what it is and not by its name."""
    path = tmp_path / f'photo{suffix}'
    cv2.imencode(suffix or '.png', pixels(7)[..., ::-1])[1].tofile(path)
    (frame,) = open_frames(path)
    assert frame.image.shape == (HEIGHT, WIDTH, 3) and np.abs(frame.image.astype(int) - pixels(7))[:, 4:28].max() <= 8


def test_a_photo_is_turned_upright(tmp_path: Path) -> None:
    """Phones store how they were held."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    Image.fromarray(pixels(3)).save(tmp_path / 'photo.jpg', exif=exif)
    (frame,) = open_frames(tmp_path / 'photo.jpg')
    assert frame.image.shape == (WIDTH, HEIGHT, 3)


@pytest.mark.parametrize(
    ('suffix', 'mode', 'steps'),
    # OpenCV multiplies a TIFF's colours by their alpha, so that only all or nothing comes out right there.
    [('.png', 'RGBA', 4), ('.png', 'LA', 4), ('.png', 'P', 4), ('.webp', 'RGBA', 4), ('.tif', 'RGBA', 255)],
)
def test_what_is_transparent_is_white(tmp_path: Path, suffix: str, mode: str, steps: int) -> None:
    """As in the authors' preprocessing; below the transparency many files are black."""
    from PIL import Image

    alpha = np.tile(np.linspace(0, 255, WIDTH) // steps * steps, (HEIGHT, 1)).astype(np.uint8)
    image = Image.fromarray(np.dstack([pixels(3), alpha])).convert(mode)
    image.save(tmp_path / f'photo{suffix}', **({'lossless': True} if suffix == '.webp' else {}))
    with Image.open(tmp_path / f'photo{suffix}') as stored:
        rgba = stored.convert('RGBA')
    expected = Image.new('RGB', rgba.size, 'white')
    expected.paste(rgba, mask=rgba.getchannel('A'))
    (frame,) = open_frames(tmp_path / f'photo{suffix}')
    assert (frame.image == np.asarray(expected)).all() and frame.image[:, 0].min() > 240


def test_sixteen_bits_with_transparency(tmp_path: Path) -> None:
    """Full scale stays full scale."""
    image = np.full((HEIGHT, WIDTH, 4), 100 * 257, np.uint16)
    image[:, :8, 3], image[:, 8:, 3] = 0, 65535
    cv2.imwrite(str(tmp_path / 'photo.png'), image)
    (frame,) = open_frames(tmp_path / 'photo.png')
    assert (frame.image[:, :8] == 255).all() and (frame.image[:, 8:] == 100).all()


@pytest.mark.parametrize('keep', [0, 10, 400])
def test_an_unreadable_photo_is_named(tmp_path: Path, keep: int) -> None:
    """Empty, a stub, or cut short: an error when it is the only one, else a counted skip."""
    data = cv2.imencode('.jpg', np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))[1].tobytes()
    (tmp_path / 'broken.jpg').write_bytes(data[:keep])
    with pytest.raises(UserError, match='broken.jpg cannot be read'):
        next(open_frames(tmp_path / 'broken.jpg'))
    cv2.imencode('.png', pixels(0)[..., ::-1])[1].tofile(tmp_path / 'whole.png')
    source = open_source(tmp_path)
    assert [f.stamp for f in source.frames()] == [2 * PHOTO_PERIOD] and source.counts['bad photo'] == 1
    assert source.photo(2 * PHOTO_PERIOD) == 'whole.png'


def test_a_folder_of_unreadable_photos_is_refused(tmp_path: Path) -> None:
    """Nothing to answer from is no answer."""
    for name in ('a.jpg', 'b.jpg'):
        (tmp_path / name).write_bytes(b'no photo')
    with pytest.raises(UserError, match='none of its 2 photos'):
        next(open_frames(tmp_path))


def test_an_empty_folder_and_a_missing_path(tmp_path: Path) -> None:
    """Both are the user's to correct."""
    with pytest.raises(UserError, match='holds neither'):
        open_frames(tmp_path)
    with pytest.raises(UserError, match='does not exist'):
        open_frames(tmp_path / 'nowhere')


@pytest.mark.parametrize(('suffix', 'codec'), [('.avi', 'MJPG'), ('.mp4', 'mp4v')])
def test_a_video(tmp_path: Path, suffix: str, codec: str) -> None:
    """Every frame, stamped by its number and the video's rate."""
    path = tmp_path / f'video{suffix}'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 20.0, (WIDTH, HEIGHT))
    for number in range(10):
        writer.write(pixels(number)[..., ::-1])
    writer.release()
    frames = list(open_frames(path))
    assert [f.stamp for f in frames] == [(n + 1) * 50_000_000 for n in range(10)]
    assert all(np.abs(f.image.astype(int)[:, 8:24] - pixels(n)[:, 8:24]).max() <= 12 for n, f in enumerate(frames))


def test_only_a_bag_has_topics(tmp_path: Path) -> None:
    """A topic for a photo is a mistake worth telling."""
    cv2.imencode('.png', pixels(0))[1].tofile(tmp_path / 'photo.png')
    with pytest.raises(UserError, match='is no bag'):
        open_frames(tmp_path / 'photo.png', topics=['image'])


def test_what_was_recorded_can_be_replayed_under_another_stamp(tmp_path: Path) -> None:
    """Replay needs the JPEG itself, and a stamp of its own."""
    path = write_bag(tmp_path / 'bag', {'/image/compressed': compressed}, count=2)
    source = open_source(path)
    assert isinstance(source, BagSource)
    for number, recorded in enumerate(source.recorded()):
        assert stamp_of(recorded.data) == START + number * STEP
        moved = TYPES.deserialize_cdr(with_stamp(recorded.data, 7_000_000_009), source.kind(recorded.topic))
        assert (moved.header.stamp.sec, moved.header.stamp.nanosec, moved.header.frame_id) == (7, 9, 'optical')
        assert bytes(moved.data) == bytes(compressed(number).data)


def test_a_source_can_be_read_again(tmp_path: Path) -> None:
    """Loops begin from the beginning, and counts with them."""
    source = open_source(write_bag(tmp_path / 'bag', {'/image': raw}, count=3))
    assert [len(list(source.frames())) for _ in range(2)] == [3, 3] and source.counts['frames'] == 3


def test_an_installation_without_our_messages_is_no_damaged_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(relative: str) -> Path:
        raise UserError(f'{relative} is not installed with embedder_ros; install the package again')

    wire.typestore.cache_clear()
    monkeypatch.setattr(wire, 'share_file', missing)
    with pytest.raises(UserError, match=r'^msg/ObjectEmbeddings\.msg is not installed') as told:
        wire.deserialize(b'', 'std_msgs/msg/String')
    assert 'damaged' not in str(told.value)

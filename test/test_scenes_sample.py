# SPDX-License-Identifier: Apache-2.0
"""The sample bag is what its users are promised, and its ground truth belongs to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

SAMPLE = Path(__file__).parent / 'sample'
TOPIC, INFO = '/camera/image_raw/compressed', '/camera/camera_info'
SECOND = 1_000_000_000
MEGABYTE = 1_000_000


@pytest.fixture(scope='module')
def messages() -> dict[str, list[tuple[int, Any]]]:
    """Recording time and content of the messages of each topic."""
    store, found = get_typestore(Stores.ROS2_HUMBLE), {}
    with Reader(SAMPLE / 'kitchen') as reader:
        for connection, time, data in reader.messages():
            found.setdefault(connection.topic, []).append((time, store.deserialize_cdr(data, connection.msgtype)))
    return found


@pytest.fixture(scope='module')
def truth() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((SAMPLE / 'kitchen_truth.json').read_text())
    return content


def stamp(message: Any) -> int:
    return int(message.header.stamp.sec) * SECOND + int(message.header.stamp.nanosec)


def decoded(message: Any) -> np.ndarray:
    return cv2.imdecode(message.data, cv2.IMREAD_COLOR)


def test_size_and_files() -> None:
    files = [path for path in SAMPLE.rglob('*') if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 6 * MEGABYTE
    assert {path.name for path in (SAMPLE / 'kitchen').iterdir()} == {'metadata.yaml', 'kitchen.mcap'}


def test_images_come_at_ten_hertz(messages: dict[str, list[tuple[int, Any]]]) -> None:
    stamps = np.array([stamp(m) for _, m in messages[TOPIC]])
    gaps = np.diff(stamps) / SECOND
    assert 12 <= (stamps[-1] - stamps[0]) / SECOND <= 14
    assert (gaps > 0.08).all() and (gaps < 0.12).all() and gaps.std() > 0
    assert all(time > stamp(m) for time, m in messages[TOPIC])  # a message is recorded after its exposure


def test_images_are_jpeg_pictures(messages: dict[str, list[tuple[int, Any]]]) -> None:
    for _, message in messages[TOPIC][::25]:
        assert message.format == 'jpeg' and message.header.frame_id == 'camera_optical_frame'
        image = decoded(message)
        assert image.shape == (480, 640, 3) and image.std() > 25


def test_every_image_has_its_camera_info(messages: dict[str, list[tuple[int, Any]]]) -> None:
    assert [stamp(m) for _, m in messages[INFO]] == [stamp(m) for _, m in messages[TOPIC]]
    info = messages[INFO][0][1]
    k, p = info.k.reshape(3, 3), info.p.reshape(3, 4)
    assert (info.width, info.height) == (640, 480) and info.header.frame_id == 'camera_optical_frame'
    assert k[0, 0] == k[1, 1] > 300 and np.array_equal(p[:, :3], k) and np.array_equal(k[:2, 2], (319.5, 239.5))


def test_truth_is_about_the_frames_of_the_bag(
    messages: dict[str, list[tuple[int, Any]]], truth: dict[str, Any]
) -> None:
    assert truth['topic'] == TOPIC
    assert [frame['stamp'] for frame in truth['frames']] == [stamp(m) for _, m in messages[TOPIC]]


def test_boxes_lie_inside_the_image_and_parts_belong_to_something(truth: dict[str, Any]) -> None:
    known = {o['instance'] for frame in truth['frames'] for o in frame['objects']}
    for frame in truth['frames']:
        seen = [o['instance'] for o in frame['objects']]
        assert len(seen) == len(set(seen)) >= 15
        for entry in frame['objects']:
            x0, y0, x1, y1 = entry['box']
            assert 0 <= x0 < x1 <= 640 and 0 <= y0 < y1 <= 480 and 0 < entry['visible'] <= 1
            assert entry['part_of'] is None or entry['part_of'] in known


def red_handles(frame: dict[str, Any]) -> list[dict[str, Any]]:
    return [o for o in frame['objects'] if o['name'] == 'handle' and 'red' in o['colours']]


def test_there_is_exactly_one_red_handle(truth: dict[str, Any]) -> None:
    """It is in most frames, large enough for a small model, and has rivals in three other colours."""
    seen = [red_handles(frame) for frame in truth['frames']]
    assert max(map(len, seen)) == 1 and len({h['instance'] for handles in seen for h in handles}) == 1
    sides = np.array([sorted((h['box'][2] - h['box'][0], h['box'][3] - h['box'][1])) for [h] in filter(None, seen)])
    assert len(sides) > 0.9 * len(seen) and (np.median(sides, axis=0) >= (12, 30)).all()
    handles = [o for frame in truth['frames'] for o in frame['objects'] if o['name'] == 'handle']
    assert {'red', 'blue', 'green', 'yellow'} <= {colour for o in handles for colour in o['colours']}


def test_the_red_handle_is_red(messages: dict[str, list[tuple[int, Any]]], truth: dict[str, Any]) -> None:
    """The truth's boxes fit the picture: red in them, none just left or right of them."""
    for (_, message), frame in list(zip(messages[TOPIC], truth['frames'], strict=True))[::10]:
        for handle in red_handles(frame):
            x0, y0, x1, y1 = handle['box']
            b, g, r = np.moveaxis(decoded(message).astype(int), 2, 0)
            red = (r > 100) & (r > 2.2 * g) & (r > 2.2 * b)
            assert red[y0:y1, x0:x1].mean() > 0.2
            assert not red[y0:y1, max(0, x0 - 12) : max(0, x0 - 3)].any() and not red[y0:y1, x1 + 3 : x1 + 12].any()


def test_the_blue_mug_leaves_for_seconds_and_returns(truth: dict[str, Any]) -> None:
    [mug] = next(q['instances'] for q in truth['queries'] if q['text'] == 'the blue mug')
    times = [f['stamp'] for f in truth['frames'] if any(o['instance'] == mug for o in f['objects'])]
    gaps = np.diff(times) / SECOND
    assert gaps.max() >= 2 and len(times) >= 40
    assert sum(gaps > 1) == 1  # it stays away once, without flickering at the border


def test_queries_name_what_is_there(truth: dict[str, Any]) -> None:
    known = {o['instance'] for frame in truth['frames'] for o in frame['objects']}
    queries = {q['text']: q['instances'] for q in truth['queries']}
    assert len(queries) == len(truth['queries']) and next(iter(queries)) == 'the red handle'
    assert len(queries['the red handle']) == 1
    assert queries['the teddy bear'] == queries['the banana'] == []
    assert all(set(instances) <= known for instances in queries.values())
    names = {n for frame in truth['frames'] for o in frame['objects'] for n in (o['name'], *o['synonyms'])}
    assert names.isdisjoint({'teddy bear', 'banana'}) and {'mug', 'bottle', 'bowl', 'kettle', 'fruit'} <= names

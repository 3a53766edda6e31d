# SPDX-License-Identifier: Apache-2.0
"""`detections` for tools that know vision_msgs, over DDS. It is not among the wheels: its fields are built here."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from livetest import Robot, picture, robot

from embedder_ros.msg import Query, Tracks
from embedder_ros.nodes import wire
from embedder_ros.srv import Remember
from embedder_ros.types import Observation, Track, TrackStatus

ROOT = Path(__file__).resolve().parents[1]
RED, GREEN = (40, 60, 100, 120), (200, 60, 260, 121)
# vision_msgs 4 (Humble and later), as far as a Detection2DArray holds it.
FIELDS = {
    'Point2D': 'float64 x\nfloat64 y',
    'Pose2D': 'vision_msgs/Point2D position\nfloat64 theta',
    'BoundingBox2D': 'vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y',
    'ObjectHypothesis': 'string class_id\nfloat64 score',
    'ObjectHypothesisWithPose': 'vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose',
    'Detection2D': (
        'std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n'
        'vision_msgs/BoundingBox2D bbox\nstring id'
    ),
    'Detection2DArray': 'std_msgs/Header header\nvision_msgs/Detection2D[] detections',
}


@pytest.fixture(scope='module')
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where vision_msgs is installed, built as our own interfaces are."""
    source, prefix = (tmp_path_factory.mktemp(name) for name in ('vision_msgs', 'prefix'))
    for name, own in (('CMakeLists.txt', 'project({})'), ('package.xml', '<name>{}</name>')):
        text = (ROOT / name).read_text().replace('<exec_depend>vision_msgs</exec_depend>', '')
        assert own.format('embedder_ros') in text
        (source / name).write_text(text.replace(own.format('embedder_ros'), own.format('vision_msgs')))
    (source / 'msg').mkdir()
    for name, fields in FIELDS.items():
        (source / 'msg' / f'{name}.msg').write_text(fields + '\n')
    options = {
        'BUILD_TESTING': 'OFF',
        'EMBEDDER_ROS_INTERFACES_ONLY': 'ON',
        'Python3_EXECUTABLE': sys.executable,
        'CMAKE_BUILD_TYPE': 'Debug',
        'CMAKE_INSTALL_PREFIX': prefix,
    }
    build = source / 'build'
    env = {**os.environ, 'CMAKE_PREFIX_PATH': sys.prefix, 'AMENT_PREFIX_PATH': sys.prefix}
    for command in (
        ['-S', source, '-B', build, '-G', 'Ninja', *(f'-D{key}={value}' for key, value in options.items())],
        ['--build', build, '--parallel', 2],
        ['--install', build],
    ):
        done = subprocess.run(['cmake', *map(str, command)], env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return prefix


@pytest.fixture(scope='module')
def site(prefix: Path) -> Path:
    """The folder of its Python package."""
    (found,) = prefix.glob('lib/python3*/*-packages')
    return found


@pytest.fixture(scope='module')
def vision_msgs(prefix: Path, site: Path) -> Iterator[ModuleType]:
    """Its messages, in this process, which reads LD_LIBRARY_PATH no more: a library that is loaded is found by name."""
    for kind in ('fastrtps_c', 'introspection_c'):
        ctypes.CDLL(str(prefix / f'lib/libvision_msgs__rosidl_typesupport_{kind}.so'))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        import vision_msgs.msg

        yield vision_msgs.msg


def test_a_detection_has_the_tracks_id_its_box_and_the_name_somebody_gave(vision_msgs: ModuleType) -> None:
    """Row 0 is placed by depth, row 1 is not, and what the frame does not show is not told."""
    from embedder_ros.nodes.detections import detections

    unit = np.eye(2, 4, dtype=np.float32)
    boxes = np.array([[10, 20, 40, 80], [0, 0, 5, 8]], np.float32)
    shown = Observation(
        stamp=1_700_000_000_123_456_789, camera='front', frame_id='optical', width=640, height=480, boxes=boxes,
        objectness=np.array([0.3, 0.4], np.float32), iou=np.array([0.75, 0.5], np.float32), embeddings=unit,
        frame_embeddings=unit, model_id='nano-3f2a91c0',
        positions=np.array([[0.5, -0.25, 2], [np.nan] * 3], np.float32),
    )  # fmt: skip

    def track(number: int, row: int, object_id: str = '') -> Track:
        box, iou = (boxes[row], float(shown.iou[row])) if row >= 0 else (boxes[0], 0.9)
        status = TrackStatus.TRACKED if row >= 0 else TrackStatus.LOST
        return Track(number, 'front', status, row, box, unit[0], iou, 0.3, 0, shown.stamp, shown.stamp, object_id)

    tracks = [track(7, 0, 'object-1'), track(8, -1, 'object-1'), track(2**40, 1, 'object-2')]
    told = detections(tracks, shown, {'object-1': "Ana's mug", 'object-2': ''})
    assert (told.header.stamp.sec, told.header.stamp.nanosec) == (1_700_000_000, 123_456_789)
    first, second = told.detections
    assert first.header == second.header == told.header and told.header.frame_id == 'optical'
    assert (first.id, second.id) == ('7', str(2**40))
    box = first.bbox
    assert (box.center.position.x, box.center.position.y, box.center.theta) == (25, 50, 0)
    assert (box.size_x, box.size_y) == (30, 60)
    (named,), (unnamed,) = first.results, second.results
    assert (named.hypothesis.class_id, named.hypothesis.score) == ("Ana's mug", 0.75)
    assert (unnamed.hypothesis.class_id, unnamed.hypothesis.score) == ('object', 0.5)
    at, unknown = named.pose.pose.position, unnamed.pose.pose.position
    assert (at.x, at.y, at.z) == (0.5, -0.25, 2) and (unknown.x, unknown.y, unknown.z) == (0, 0, 0)
    without = detections(tracks, Observation(**{**_fields(shown), 'positions': None}), {})
    assert [d.results[0].pose.pose.position.z for d in without.detections] == [0, 0]


def _fields(observation: Observation) -> dict[str, object]:
    return {name: getattr(observation, name) for name in Observation.__dataclass_fields__}


def test_nodes_publish_detections_where_vision_msgs_is_installed(
    prefix: Path, site: Path, vision_msgs: ModuleType, tmp_path: Path
) -> None:
    """Two boxes seen by a real node: the ids are those of `tracks`, and a name that is given is told from then on."""
    with robot('/detections', tmp_path) as it:
        libraries = os.pathsep.join([str(prefix / 'lib'), os.environ.get('LD_LIBRARY_PATH', '')])
        it.start('perception', env={'PYTHONPATH': str(site), 'LD_LIBRARY_PATH': libraries})
        tracks = it.listen(Tracks, wire.TRACKS.name)
        told = it.listen(vision_msgs.Detection2DArray, wire.DETECTIONS.name)
        with it.camera('image', picture(red=RED, green=GREEN)):
            red = it.found('red').candidates[0]
            order = Remember.Request(target=Query(track_id=red.track_id), name="Ana's mug")
            it.until(lambda: it.call(Remember, 'remember', order).success, 'an object')
            it.until(lambda: told and _classes(told[-1]).get(str(red.track_id)) == "Ana's mug", 'its name')
        assert told[-1].header.frame_id == 'optical'
        boxes = {
            (d.bbox.center.position.x, d.bbox.center.position.y, d.bbox.size_x, d.bbox.size_y)
            for d in told[-1].detections
        }
        assert boxes == {(70, 90, 60, 60), (230, 90.5, 60, 61)}
        it.until(lambda: tracks and set(_classes(told[-1])) == {str(i) for i in tracks[-1].track_ids}, 'the same ids')
        assert [d.results[0].hypothesis.score for d in told[-1].detections] == pytest.approx([0.9] * 2)
        (_, qos), *others = _publishers(it)
        assert not others and qos == (wire.OUTPUT_QOS.reliability, wire.OUTPUT_QOS.durability)


def _classes(told: object) -> dict[str, str]:
    """class_id by id."""
    return {d.id: d.results[0].hypothesis.class_id for d in told.detections}


def _publishers(it: Robot) -> list[tuple[str, tuple[object, object]]]:
    """Node name, reliability and durability of each publisher of `detections`."""
    found = it.node.get_publishers_info_by_topic(f'{it.namespace}/{wire.DETECTIONS.name}')
    return [(one.node_name, (one.qos_profile.reliability, one.qos_profile.durability)) for one in found]


def test_nodes_start_without_vision_msgs_and_offer_no_detections(tmp_path: Path) -> None:
    with robot('/without', tmp_path) as it:
        it.start('perception')
        with it.camera('image', picture(red=RED)):
            it.found('red')
        assert _publishers(it) == []
        offered = dict(it.node.get_topic_names_and_types())
        assert f'{it.namespace}/{wire.MARKERS.name}' in offered and '/without/detections' not in offered

# SPDX-License-Identifier: Apache-2.0
"""Live nodes over DDS with a model that is known to the pixel: questions, cameras, regions, targets, states."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from livetest import RELIABLE, Robot, picture, robot
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import DescribeParameters, ListParameters
from rclpy.action import ActionClient
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from visualization_msgs.msg import Marker, MarkerArray

from embedder_ros.action import Follow
from embedder_ros.images import to_field
from embedder_ros.msg import ObjectEmbeddings, Query, Region, Targets, Tracks
from embedder_ros.nodes import parameters
from embedder_ros.nodes.images import rgb_to_image, rgb_to_jpeg
from embedder_ros.nodes.messages import header, stamp_to_ns
from embedder_ros.srv import EmbedRegion, EmbedText, Find, Remember

RED, GREEN = (40, 60, 100, 120), (200, 60, 260, 120)


@pytest.fixture(scope='module')
def perception(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    """Two cameras, one of them compressed, one with depth."""
    with robot('/live', tmp_path_factory.mktemp('live')) as it:
        it.start(
            'perception',
            cameras=['front', 'rear'],
            image_topics=['front/image', 'rear/image/compressed'],
            depth_topics=['front/depth', ''],
        )
        yield it


def test_find_names_camera_box_score_and_track(perception: Robot) -> None:
    with perception.camera('front/image', picture(red=RED, green=GREEN)):
        answer = perception.found('the red thing')
    best = answer.candidates[0]
    assert (answer.success, answer.reason, best.camera) == (True, 'found', 'front')
    assert best.box.tolist() == list(RED) and best.header.frame_id == 'optical'
    assert best.iou == pytest.approx(0.9) and best.score == pytest.approx(0.9 * best.semantic) and best.track_id > 0
    assert not best.has_position
    assert 'front' in answer.message


@pytest.mark.parametrize(
    ('text', 'boxes', 'outcome', 'reason'),
    [
        ('red', {'green': GREEN}, Find.Response.NOT_FOUND, 'below_threshold'),
        ('red', {'red': [RED, GREEN]}, Find.Response.AMBIGUOUS, 'small_margin'),
        ('red', {}, Find.Response.NOT_FOUND, 'no_objects'),
    ],
)
def test_find_says_why_not(perception: Robot, text: str, boxes: dict[str, object], outcome: int, reason: str) -> None:
    with perception.camera('front/image', picture(**boxes)):
        answer = perception.until(
            lambda: (a := perception.find(text, cameras=['front'])).reason == reason and a, f'reason {reason}'
        )
    assert (answer.success, answer.outcome) == (True, outcome) and answer.message


@pytest.mark.parametrize('qos', [qos_profile_sensor_data, RELIABLE], ids=['best effort', 'reliable'])
@pytest.mark.parametrize('topic', ['front/image', 'rear/image/compressed'])
def test_every_kind_of_camera_is_heard(perception: Robot, topic: str, qos: object) -> None:
    objects = perception.listen(ObjectEmbeddings, 'objects')
    with perception.camera(topic, picture(blue=RED), qos=qos) as camera:
        perception.until(lambda: len(objects) >= 3, f'objects of {topic}')
    stamps = [(m.header.stamp.sec, m.header.stamp.nanosec) for m in objects]
    assert stamps == sorted(set(stamps)) and len(objects) <= camera.count
    assert {(m.camera, m.width, m.height, m.dim, m.model_id) for m in objects} == {
        (topic.split('/')[0], 320, 240, 8, 'blobs-1')
    }
    boxes = np.array(objects[-1].boxes).reshape(-1, 4)
    assert np.abs(boxes - RED).max() <= (1 if camera.compressed else 0)


def test_each_camera_has_its_own_tracks(perception: Robot) -> None:
    tracks = perception.listen(Tracks, 'tracks')
    with (
        perception.camera('front/image', picture(red=RED, green=GREEN)) as front,
        perception.camera('rear/image/compressed', picture(red=RED, blue=GREEN)),
    ):
        last = perception.until(lambda: _settled(tracks, {'front': 2, 'rear': 2}), 'two tracks in each camera')
        ids = {camera: _tracked(last[camera]) for camera in last}
        assert not set(ids['front'].values()) & set(ids['rear'].values())
        front.image = picture(green=GREEN)
        lost = perception.until(lambda: _settled(tracks, {'front': 1, 'rear': 2}), 'one track lost')['front']
    assert _tracked(lost) == {GREEN: ids['front'][GREEN]}, 'the other track is not what it was'
    rows = {i: (status, unseen > 0) for i, status, unseen in zip(lost.track_ids, lost.status, lost.unseen, strict=True)}
    assert rows[ids['front'][RED]] == (Tracks.LOST, True) and rows[ids['front'][GREEN]] == (Tracks.TRACKED, False)


def _settled(tracks: list[Tracks], seen: dict[str, int]) -> dict[str, Tracks] | None:
    """The newest tracks of each camera once this many are TRACKED."""
    newest = {m.camera: m for m in list(tracks)}
    return newest if {camera: len(_tracked(m)) for camera, m in newest.items()} == seen else None


def _tracked(tracks: Tracks) -> dict[tuple[float, ...], int]:
    """Track ids by box."""
    rows = zip(tracks.track_ids, tracks.status, np.array(tracks.boxes).reshape(-1, 4).tolist(), strict=True)
    return {tuple(box): i for i, status, box in rows if status == Tracks.TRACKED}


@pytest.mark.parametrize(('known', 'late'), [(True, 0.0), (True, 0.03), (False, 0.0)])
def test_depth_and_camera_info_give_a_position(perception: Robot, known: bool, late: float) -> None:
    """A red box 2 m away, 40 px right and 10 px above the optical axis of a camera of 200 px focal length.

    Depth that is registered to the image may be published `late` seconds after it.
    """
    node = perception.node
    box = (180, 90, 220, 130)
    depth = node.create_publisher(Image, 'front/depth', RELIABLE)
    info = node.create_publisher(CameraInfo, 'front/camera_info', RELIABLE)
    metres = np.full((240, 320), 2.0 if known else np.nan, np.float32)

    with perception.camera('front/image', picture(red=box), hertz=0.01) as camera:

        def answer() -> Find.Response | None:
            at = header(node.get_clock().now().nanoseconds, 'optical')
            info.publish(CameraInfo(header=at, k=[200.0, 0, 160, 0, 200, 120, 0, 0, 1]))
            message = Image(header=at, height=240, width=320, encoding='32FC1', step=1280)
            message.data = metres.tobytes()
            stamp = stamp_to_ns(at.stamp)
            if late:
                camera.publish(stamp)
                time.sleep(late)
            depth.publish(message)
            if not late:
                camera.publish(stamp)
            if not objects or np.isfinite(objects[-1].positions).tolist() != [known] * 3:
                return None
            response = perception.find('red', cameras=['front'])
            return response if response.candidates[0].has_position is known else None

        objects = perception.listen(ObjectEmbeddings, 'objects')
        drawn = perception.listen(MarkerArray, 'markers')
        best = perception.until(answer, f'positions that are known: {known}').candidates[0]
        if known:
            order = Remember.Request(target=Query(track_id=best.track_id), name="Ana's mug")
            perception.until(lambda: answer() and perception.call(Remember, 'remember', order).success, 'an object')
            perception.until(lambda: answer() and drawn[-1].markers[1].text == "Ana's mug", 'its name in RViz')
    if known:
        point = best.position.point
        assert [point.x, point.y, point.z] == pytest.approx([0.4, -0.1, 2.0], abs=0.02)
        assert best.position.header.frame_id == 'optical'
        ball, name = perception.until(lambda: drawn and drawn[-1].markers, 'markers')
        assert (ball.type, name.type, ball.id) == (Marker.SPHERE, Marker.TEXT_VIEW_FACING, best.track_id)
        at = ball.pose.position
        assert [at.x, at.y, at.z] == pytest.approx([0.4, -0.1, 2.0], abs=0.02) and ball.header.frame_id == 'optical'
    else:
        perception.until(lambda: drawn, 'markers')
        assert not any(message.markers for message in drawn)
    for publisher in (depth, info):
        node.destroy_publisher(publisher)


def test_a_camera_without_a_calibration_gives_no_positions_and_all_else(perception: Robot) -> None:
    """Drivers publish a camera matrix of zeros until somebody calibrates the camera."""
    node = perception.node
    depth = node.create_publisher(Image, 'front/depth', RELIABLE)
    info = node.create_publisher(CameraInfo, 'front/camera_info', RELIABLE)

    def publish() -> None:
        at = header(node.get_clock().now().nanoseconds, 'optical')
        info.publish(CameraInfo(header=at))
        message = Image(header=at, height=240, width=320, encoding='32FC1', step=1280)
        message.data = np.full((240, 320), 2.0, np.float32).tobytes()
        depth.publish(message)

    timer = node.create_timer(0.05, publish)
    with perception.camera('front/image', picture(red=RED)):
        perception.status('embedder: camera front', 'no positions: camera_info without a calibration')
        best = perception.found('red', cameras=['front']).candidates[0]
    assert not best.has_position and best.track_id > 0
    node.destroy_timer(timer)
    for publisher in (depth, info):
        node.destroy_publisher(publisher)


def test_images_without_a_stamp_are_answered_from(perception: Robot) -> None:
    """They count as taken when they arrive: what is new is seen, and tracked."""
    with perception.camera('rear/image/compressed', picture(red=RED), hertz=0.01) as camera:

        def found(text: str) -> bool:
            camera.publish(0)
            return perception.find(text, cameras=['rear']).outcome == Find.Response.FOUND

        perception.until(lambda: found('red'), 'the red thing')
        camera.image = picture(blue=GREEN)
        perception.until(lambda: found('blue'), 'the blue thing')
        best = perception.find('blue', cameras=['rear']).candidates[0]
    assert best.track_id > 0 and stamp_to_ns(best.header.stamp) > 0


def test_texts_and_regions_are_embedded_alike(perception: Robot) -> None:
    """Box, point, mask, image and a stamped frame of the past all give the embedding of the same blob."""
    red = perception.call(EmbedText, 'embed_text', EmbedText.Request(texts=['red', 'blue']))
    assert (red.success, red.model_id, red.dim, red.scale) == (True, 'blobs-1', 8, 20.0)
    vectors = np.array(red.embeddings).reshape(2, 8)
    objects = perception.listen(ObjectEmbeddings, 'objects')
    with perception.camera('front/image', picture(red=RED, blue=GREEN)) as camera:
        perception.found('blue', cameras=['front'])  # an earlier picture may still be on its way
        inside = np.zeros((240, 320), np.uint8)
        inside[60:120, 40:100] = 255
        mask = Image(height=240, width=320, encoding='mono8', step=320, data=to_field(inside, 'B'))
        jpeg = rgb_to_jpeg(camera.image, header(0, ''))
        regions = [
            Region(camera='front', box=RED),
            Region(camera='front', point=[70.0, 90.0]),
            Region(camera='front', mask=mask),
            Region(image=jpeg, box=RED),
        ]
        for region in regions:
            answer = perception.call(EmbedRegion, 'embed_region', EmbedRegion.Request(region=region, thumbnail=True))
            assert answer.success and answer.box.tolist() == list(RED)
            assert np.dot(answer.embedding, vectors[0]) == pytest.approx(1, abs=0.01)
            assert len(answer.image.data) > 100
        camera.image = picture(blue=RED)
        past = objects[-1].header
        perception.until(lambda: _colour(objects[-1]) == 2, 'the new picture')
        now = perception.call(EmbedRegion, 'embed_region', EmbedRegion.Request(region=regions[0]))
        then = perception.call(
            EmbedRegion, 'embed_region', EmbedRegion.Request(region=Region(header=past, camera='front', box=RED))
        )
    assert np.dot(now.embedding, vectors[1]) > 0.99 and np.dot(then.embedding, vectors[0]) > 0.99
    assert then.header.stamp == past.stamp


def _colour(objects: ObjectEmbeddings) -> int:
    return int(np.argmax(np.array(objects.embeddings[:3])))


@pytest.mark.parametrize(
    ('region', 'remedy'),
    [
        (Region(camera='roof', box=RED), "no camera 'roof'; this node has front, rear"),
        (Region(box=RED), "no camera ''"),
        (Region(camera='front'), 'one of box, point or mask; none given'),
        (Region(camera='front', box=RED, point=[1.0, 1.0]), 'box, point given'),
        (Region(camera='front', box=[0.0, 0.0, np.nan, 5.0]), 'four finite numbers'),
        (Region(camera='front', box=[500.0, 0.0, 600.0, 5.0]), 'does not cover a pixel'),
        (Region(camera='front', point=[5.0, 5.0]), 'no proposal covers the point'),
        (Region(camera='front', box=RED, header=header(12345, '')), 'raise parameter frame_history'),
    ],
)  # fmt: skip
def test_a_region_that_means_nothing_says_so(perception: Robot, region: Region, remedy: str) -> None:
    objects = perception.listen(ObjectEmbeddings, 'objects')
    with perception.camera('front/image', picture(red=RED)):
        perception.until(lambda: objects, 'a frame')
        answer = perception.call(EmbedRegion, 'embed_region', EmbedRegion.Request(region=region))
        find = perception.find(query=Query(region=region))
    assert not answer.success and remedy in answer.message
    assert not find.success


def test_find_by_region_and_by_track(perception: Robot) -> None:
    with perception.camera('front/image', picture(red=RED, green=GREEN)):
        track = perception.found('green').candidates[0].track_id
        by_track = perception.find(query=Query(track_id=track))
        by_region = perception.find(query=Query(region=Region(camera='front', point=[70.0, 90.0])))
    assert by_track.outcome == Find.Response.FOUND and by_track.candidates[0].box.tolist() == list(GREEN)
    assert by_region.outcome == Find.Response.FOUND and by_region.candidates[0].box.tolist() == list(RED)


def test_a_picture_of_it_is_example_enough(perception: Robot) -> None:
    example = Region(image=rgb_to_jpeg(picture(green=(10, 10, 300, 200)), header(0, ''), 95))
    with perception.camera('front/image', picture(red=RED, green=GREEN)):
        perception.found('green')
        answer = perception.find(query=Query(region=example))
    assert answer.outcome == Find.Response.FOUND and answer.candidates[0].box.tolist() == list(GREEN)


@pytest.mark.parametrize(
    ('fields', 'remedy'),
    [
        ({'query': Query()}, 'none given'),
        ({'query': Query(text='red', track_id=1)}, 'text, track_id given'),
        ({'query': Query(track_id=10**6)}, 'no live track'),
        ({'query': Query(object_id='o')}, "no remembered object 'o'"),
        ({'query': Query(text='red'), 'scope': 9}, 'scope 9'),
        ({'query': Query(text='red'), 'cameras': ['roof']}, "no camera 'roof'"),
    ],
)
def test_a_question_that_cannot_be_answered_says_so(perception: Robot, fields: dict[str, Any], remedy: str) -> None:
    answer = perception.find(**fields)
    assert not answer.success and remedy in answer.message


class Goal:
    """A Follow goal and what came of it."""

    def __init__(self, it: Robot, client: ActionClient, **fields: Any) -> None:
        self.feedback: list[Any] = []
        self._robot = it
        it.until(client.server_is_ready, 'action follow')
        future = client.send_goal_async(Follow.Goal(**fields), lambda m: self.feedback.append(m.feedback))
        self.handle = it.result(future, 'goal to be accepted')
        assert self.handle.accepted
        self._result = self.handle.get_result_async()

    def cancel(self) -> None:
        assert self._robot.result(self.handle.cancel_goal_async(), 'cancel').goals_canceling

    def result(self) -> tuple[int, Follow.Result]:
        """Status and result."""
        response = self._robot.result(self._result, 'result of follow')
        return response.status, response.result


@pytest.fixture(scope='module')
def follow(perception: Robot) -> ActionClient:
    return ActionClient(perception.node, Follow, 'follow')


def test_two_targets_are_followed_at_once_until_cancelled(perception: Robot, follow: ActionClient) -> None:
    targets = perception.listen(Targets, 'targets')
    with perception.camera('front/image', picture(red=RED, green=GREEN)) as camera:
        perception.found('red')
        red = Goal(perception, follow, query=Query(text='red'))
        green = Goal(perception, follow, query=Query(text='green'), cameras=['front'])
        perception.until(lambda: len(red.feedback) > 2 and len(green.feedback) > 2, 'feedback of both')
        moved = (50, 70, 110, 130)
        camera.image = picture(red=moved, green=GREEN)
        perception.until(lambda: red.feedback[-1].target.box.tolist() == list(moved), 'the target to move')
        assert green.feedback[-1].target.box.tolist() == list(GREEN)
        perception.until(lambda: targets[-1].goals == ['red', 'green'], 'both on topic targets')
        camera.image = picture(green=GREEN)
        perception.until(lambda: red.feedback[-1].target.status == Tracks.LOST, 'the target to be lost')
        assert red.feedback[-1].target.box.tolist() == list(moved)
        red.cancel()
        status, result = red.result()
        seen = green.feedback[-1].frames
        perception.until(lambda: green.feedback[-1].frames > seen + 2, 'the other goal to go on')
        green.cancel()
        green.result()
    assert (status, result.outcome, result.success) == (GoalStatus.STATUS_CANCELED, Follow.Result.CANCELLED, True)
    assert result.target.box.tolist() == list(moved) and result.frames > 2


@pytest.mark.parametrize(
    ('boxes', 'goal', 'outcome', 'message'),
    [
        ({'green': GREEN}, {'find_timeout': 0.5}, Follow.Result.NOT_FOUND, 'nothing matched'),
        ({'red': [RED, GREEN]}, {'find_timeout': 0.5}, Follow.Result.AMBIGUOUS, 'say more'),
        ({}, {'query': Query(text='')}, Follow.Result.FAILED, 'none given'),
        ({}, {'query': Query(track_id=10**6)}, Follow.Result.FAILED, 'no live track'),
    ],
)
def test_what_cannot_be_followed_ends_with_a_reason(
    perception: Robot, follow: ActionClient, boxes: dict[str, Any], goal: dict[str, Any], outcome: int, message: str
) -> None:
    objects = perception.listen(ObjectEmbeddings, 'objects')
    begin = perception.node.get_clock().now().nanoseconds  # an earlier picture may still be on its way
    with perception.camera('front/image', picture(**boxes)):
        perception.until(lambda: any(stamp_to_ns(o.header.stamp) >= begin for o in objects), 'a frame')
        status, result = Goal(perception, follow, **{'query': Query(text='red'), **goal}).result()
    assert (status, result.outcome, result.success) == (GoalStatus.STATUS_ABORTED, outcome, False)
    assert message in result.message and result.frames == 0


def test_a_target_that_stays_lost_ends_the_goal(perception: Robot, follow: ActionClient) -> None:
    with perception.camera('front/image', picture(red=RED)) as camera:
        perception.found('red')
        goal = Goal(perception, follow, query=Query(text='red'), lost_timeout=0.5)
        perception.until(lambda: goal.feedback, 'feedback')
        camera.image = picture()
        status, result = goal.result()
    assert (status, result.outcome) == (GoalStatus.STATUS_ABORTED, Follow.Result.LOST)
    assert result.target.box.tolist() == list(RED) and result.frames == goal.feedback[-1].frames


@pytest.mark.parametrize(('node', 'table'), [('embedder', parameters.EMBEDDER), ('grounder', parameters.GROUNDER)])
def test_every_parameter_describes_itself(
    perception: Robot, node: str, table: tuple[parameters.Parameter, ...]
) -> None:
    """What `ros2 param describe` shows: sentence and range."""
    names = perception.call(ListParameters, f'{node}/list_parameters').result.names
    assert {p.name for p in table} <= set(names)
    request = DescribeParameters.Request(names=[p.name for p in table])
    described = perception.call(DescribeParameters, f'{node}/describe_parameters', request).descriptors
    for parameter, it in zip(table, described, strict=True):
        assert (it.name, it.description) == (parameter.name, parameter.sentence)
        ranges = [(r.from_value, r.to_value) for r in (*it.floating_point_range, *it.integer_range)]
        numeric = it.type in (ParameterType.PARAMETER_DOUBLE, ParameterType.PARAMETER_INTEGER)
        assert ranges == ([(parameter.low, parameter.high)] if numeric else [])
        assert all(choice in it.additional_constraints for choice in parameter.choices)


def test_diagnostics_name_the_state_and_the_remedy(perception: Robot) -> None:
    name = 'embedder: camera front'
    perception.status(name, 'waiting for image: nobody publishes /live/front/image')
    with perception.camera('front/image', picture(red=RED)) as camera:
        perception.status(name, 'no positions: ')  # it is said to have depth, and none comes
        perception.status('embedder: model', 'running')
        perception.status('grounder: scene', 'tracking')
        bad = rgb_to_image(camera.image, header(0, ''))
        bad.encoding = 'plaid8'
        perception.until(
            lambda: camera.publisher.publish(bad) or 'plaid8' in _message(perception, name), 'invalid images'
        )
    with perception.camera('rear/image/compressed', picture(red=RED)):
        perception.status('embedder: camera rear', 'images a second')
    with perception.camera('front/image', picture(red=RED), hertz=0.01) as camera:
        perception.until(lambda: camera.publish(10**9) or 'stale stamps' in _message(perception, name), 'stale stamps')
        assert 'use_sim_time' in _message(perception, name)
    with perception.camera('front/image/compressed', picture(red=RED)) as camera:
        wrong = perception.node.create_publisher(type(camera.message()), 'front/image', RELIABLE)
        perception.status(name, 'carries sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image')
        perception.node.destroy_publisher(wrong)


def _message(it: Robot, name: str) -> str:
    return it.status(name).message

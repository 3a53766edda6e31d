# SPDX-License-Identifier: Apache-2.0
"""Live nodes under load and apart: a model slower than the cameras, two processes, simulated time.

Latency is counted in inferences, not in seconds, so that a busy machine changes nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from livetest import Robot, picture, robot
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock

from embedder_ros.bags.source import open_source
from embedder_ros.msg import ObjectEmbeddings, Query, Region
from embedder_ros.nodes.messages import header, stamp_to_ns
from embedder_ros.srv import EmbedRegion, Find
from embedder_ros.types import NANOSECONDS

RED, GREEN = (40, 60, 100, 120), (200, 60, 260, 120)
SECONDS = 0.3  # of one inference


@pytest.fixture(scope='module')
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    """A model of 0.3 s before two cameras of 30 frames a second."""
    with robot('/slow', tmp_path_factory.mktemp('slow')) as it:
        it.start(
            'perception',
            env={'BLOBS_SECONDS': str(SECONDS)},
            cameras=['front', 'rear'],
            image_topics=['front/image', 'rear/image'],
        )
        with (
            it.camera('front/image', picture(red=RED), hertz=30),
            it.camera('rear/image', picture(green=GREEN), hertz=30),
        ):
            it.found('red')
            yield it


def test_latency_is_two_inferences_at_most_however_fast_the_camera(slow: Robot) -> None:
    """Between a frame's exposure and its objects ends the batch at hand and its own; a queue would be ever longer."""
    arrivals: list[tuple[int, int]] = []

    def on_objects(msg: ObjectEmbeddings) -> None:
        if msg.camera == 'front':
            arrivals.append((stamp_to_ns(msg.header.stamp), time.time_ns()))

    subscription = slow.node.create_subscription(ObjectEmbeddings, 'objects', on_objects, 10)
    slow.until(lambda: len(arrivals) >= 10, 'ten frames')
    slow.node.destroy_subscription(subscription)
    inferences = [sum(stamp < other <= arrival for _, other in arrivals) for stamp, arrival in arrivals]
    assert max(inferences) <= 3, inferences


def test_both_cameras_share_a_batch(slow: Robot) -> None:
    slow.until(lambda: slow.processes[0].output.count('batch of 2') >= 3, 'batches of both cameras')


def test_dropped_frames_are_counted_in_diagnostics(slow: Robot) -> None:
    """Received is what was dropped, what was published and the few at hand."""

    def values() -> dict[str, float] | None:
        told = {v.key: v.value for v in slow.status('embedder: camera front', 'images a second').values}
        numbers = {key: float(told[key]) for key in ('received', 'dropped for a newer frame')}
        return numbers if numbers['dropped for a newer frame'] > 20 else None

    counts = slow.until(values, 'dropped frames')
    told = {v.key: v.value for v in slow.status('embedder: model', 'running').values}
    done = float(told['frames'])  # of both cameras
    assert counts['dropped for a newer frame'] > done / 2, 'a camera three times as fast drops two of three frames'
    assert counts['received'] >= counts['dropped for a newer frame'] + done / 2 - 8
    assert float(told['processing (s)']) >= SECONDS and told['failed batches'] == '0'


def test_a_burst_of_questions_does_not_wait_for_inference(slow: Robot) -> None:
    """Fifty answers while at most a few frames are done; behind inference each would wait for one."""
    frames = slow.listen(ObjectEmbeddings, 'objects')
    begin = len(frames)
    futures = [slow.send(Find, 'find', Find.Request(query=Query(text='red'))) for _ in range(50)]
    answers = [slow.result(f, 'the burst to be answered') for f in futures]
    inferences = (len(frames) - begin) / 2
    assert all(a.success and a.outcome == Find.Response.FOUND for a in answers)
    assert inferences < 20, f'{inferences} inferences were done meanwhile'


def test_a_region_is_embedded_between_two_frames(slow: Robot) -> None:
    frames = slow.listen(ObjectEmbeddings, 'objects')
    region = Region(camera='front', box=RED)
    answer = slow.call(EmbedRegion, 'embed_region', EmbedRegion.Request(region=region))
    assert answer.success and len(frames) / 2 <= 4


@pytest.fixture(scope='module')
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    """nano in one process, the grounder in another."""
    with robot('/apart', tmp_path_factory.mktemp('apart')) as it:
        it.start('embedder', blobs=False)
        it.start('grounder', blobs=False)
        yield it


def test_a_grounder_of_its_own_asks_the_embedder_through_its_services(apart: Robot) -> None:
    """Text and region queries on a kitchen; how well nano does on it is measured elsewhere."""
    frame = next(iter(open_source(Path(__file__).with_name('sample') / 'kitchen').frames()))
    with apart.camera('image', frame.image, hertz=5):
        answer = apart.until(lambda: (a := apart.find('the red handle')).candidates and a, 'candidates')
        best = answer.candidates[0]
        assert answer.reason in ('found', 'small_margin', 'below_threshold') and answer.objects_searched > 5
        assert best.track_id > 0 and best.score == pytest.approx(best.semantic * best.iou, rel=1e-3)
        picked = apart.call(EmbedRegion, 'embed_region', EmbedRegion.Request(region=Region(box=best.box)))
        assert picked.success and picked.camera == 'camera'
        region = Query(region=Region(box=best.box))
        again = apart.until(
            lambda: (a := apart.find(query=region, max_candidates=50)).candidates and a, 'candidates like a region'
        )
        assert again.success and max(c.semantic for c in again.candidates) > 0.8, 'nothing looks like its own box'
        empty = apart.find(' ')
        assert not empty.success and empty.message
    apart.processes[0].stop()
    gone = apart.until(lambda: not (a := apart.find('a cup')).success and a, 'the embedder to be gone')
    assert 'start the embedder' in gone.message or 'did not answer' in gone.message


def test_simulated_time(tmp_path: Path) -> None:
    """Ages and stamps are those of /clock; without a clock /diagnostics still come, and say so."""
    with robot('/simulated', tmp_path) as it:
        it.start('perception', use_sim_time=True)
        it.status('embedder: camera camera', 'waiting for image')
        it.status('embedder: clock', 'no /clock arrives')
        clock = it.node.create_publisher(Clock, '/clock', 10)
        objects = it.listen(ObjectEmbeddings, 'objects')
        now = [100 * NANOSECONDS]

        def tick(seconds: float) -> None:
            now[0] += round(seconds * NANOSECONDS)
            clock.publish(Clock(clock=header(now[0], '').stamp))

        with it.camera('image', picture(red=RED), hertz=0.01, qos=qos_profile_sensor_data) as camera:

            def answer() -> Find.Response | None:
                tick(0.1)
                camera.publish(now[0])
                response = it.find('red')
                return response if response.outcome == Find.Response.FOUND else None

            found = it.until(answer, 'an answer in simulated time')
            assert stamp_to_ns(found.candidates[0].header.stamp) <= now[0]
            camera_status = 'embedder: camera camera'
            it.until(lambda: answer() and 'images a second' in it.status(camera_status).message, 'fresh stamps')

            def stale() -> Find.Response | None:
                tick(10)  # every time: /clock is best effort
                response = it.find('red')
                return response if response.reason == 'stale_frames' else None

            newest = now[0]
            assert 9 < it.until(stale, 'time to pass').age < (now[0] - newest) / NANOSECONDS + 60  # not wall time
        assert all(stamp_to_ns(o.header.stamp) <= newest for o in objects)
        assert re.search('running', it.status('embedder: model').message)

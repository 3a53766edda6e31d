# SPDX-License-Identifier: Apache-2.0
"""The memory's services on live nodes: what was seen is found out of view, after a restart, until forgotten."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from livetest import Robot, picture, robot

from embedder_ros.msg import ObjectEmbeddings, Query, Region, Tracks
from embedder_ros.nodes.images import rgb_to_jpeg
from embedder_ros.nodes.messages import header, stamp_to_ns
from embedder_ros.srv import Find, Forget, ListObjects, Reidentify, Remember, SearchFrames

RED, GREEN, ELSEWHERE = (40, 60, 100, 120), (200, 60, 260, 120), (150, 150, 210, 210)
QUICK = {'memory_settle': 0.2, 'memory_frame_interval': 0.2, 'max_age': 0.5, 'max_lost': 0.5}
MEMORY = Find.Request.MEMORY


def start(it: Robot, memory: str = '', **parameters: Any) -> Any:
    """Perception with two cameras; waits until its memory is open."""
    cameras, topics = ['front', 'rear'], ['front/image', 'rear/image']
    process = it.start('perception', cameras=cameras, image_topics=topics, memory=memory, **QUICK, **parameters)

    def opened() -> bool:
        answer = it.send(ListObjects, 'list_objects')
        it.settle(0.5)  # a killed node's service is known for a while, and never answers
        return answer.done() and answer.result().success

    it.until(opened, 'the memory to be open')
    return process


def see(it: Robot, camera: str = 'front', **boxes: Any) -> list[str]:
    """Show blobs until each is an object; the objects' ids from left to right."""
    messages = it.listen(Tracks, 'tracks')

    def known() -> list[str]:
        tracks = [m for m in messages if m.camera == camera]
        live = [(m.boxes[4 * i], o) for m in tracks[-1:] for i, o in enumerate(m.object_ids) if m.rows[i] >= 0]
        ids = [object_id for _, object_id in sorted(live)]
        return ids if len(ids) == len(boxes) and all(ids) else []

    with it.camera(f'{camera}/image', picture(**boxes)):
        return it.until(known, f'{sorted(boxes)} to be remembered objects')


def remembered(it: Robot, **filters: Any) -> ListObjects.Response:
    return it.call(ListObjects, 'list_objects', ListObjects.Request(**filters))


@pytest.fixture(scope='module')
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    """A red and a green thing were seen, and the cameras show nothing any more."""
    with robot('/house', tmp_path_factory.mktemp('house')) as it:
        start(it)
        it.ids = see(it, red=RED, green=GREEN)
        it.until(lambda: all(o.thumbnail.data for o in remembered(it, thumbnails=True).objects), 'pictures of both')
        yield it


def test_what_left_the_view_is_found_in_memory(house: Robot) -> None:
    house.until(lambda: house.find('red').reason == 'stale_frames', 'the view to be old')
    for scope in (MEMORY, Find.Request.BOTH):
        answer = house.find('red', scope=scope, thumbnails=True)
        best = answer.candidates[0]
        assert (answer.outcome, best.object_id, best.camera) == (Find.Response.FOUND, house.ids[0], 'front')
        assert best.box.tolist() == list(RED) and best.unseen > 0.3
        shown = cv2.imdecode(np.asarray(best.thumbnail.data), cv2.IMREAD_COLOR)
        assert shown.shape == (60, 60, 3) and shown.mean(axis=(0, 1))[2] > 200  # BGR: it is red
    assert house.find('blue', scope=MEMORY).outcome == Find.Response.NOT_FOUND
    assert house.find('red', scope=MEMORY, cameras=['rear']).outcome == Find.Response.NOT_FOUND
    assert house.find('red', scope=MEMORY, max_age=0.01).outcome == Find.Response.NOT_FOUND
    assert house.find('red', scope=MEMORY, max_age=float('inf')).outcome == Find.Response.FOUND


def test_an_object_is_asked_for_by_its_id(house: Robot) -> None:
    query = Query(object_id=house.ids[1])
    answer = house.find(query=query, scope=MEMORY)
    assert answer.outcome == Find.Response.FOUND and answer.candidates[0].box.tolist() == list(GREEN)
    with house.camera('front/image', picture(red=RED)):  # a look-alike of another id is not it
        house.found('red')
        assert house.find(query=query).outcome == Find.Response.NOT_FOUND
    with house.camera('front/image', picture(green=ELSEWHERE)):
        house.until(lambda: house.find(query=query).outcome == Find.Response.FOUND, 'the green object now')
    unknown = house.find(query=Query(object_id='nobody'), scope=MEMORY)
    assert not unknown.success and 'list_objects' in unknown.message


def test_it_is_recognised_in_the_other_camera(house: Robot) -> None:
    assert see(house, 'rear', red=ELSEWHERE) == house.ids[:1]
    assert remembered(house).total == 2
    assert house.find('red', scope=MEMORY).candidates[0].camera == 'rear'
    assert see(house, 'front', red=RED) == house.ids[:1]


def test_a_region_is_compared_with_what_is_remembered(house: Robot) -> None:
    def ask(**boxes: Any) -> Reidentify.Response:
        image = rgb_to_jpeg(picture(**boxes), header(0, ''), 95)
        return house.call(
            Reidentify, 'reidentify', Reidentify.Request(target=Query(region=Region(image=image, box=ELSEWHERE)))
        )

    same = ask(red=ELSEWHERE)
    assert (same.success, same.outcome) == (True, Reidentify.Response.SAME), same.message
    assert same.candidates[0].object_id == house.ids[0] and same.margin > 0.5
    new = ask(blue=ELSEWHERE)
    assert (new.success, new.outcome) == (True, Reidentify.Response.UNKNOWN) and new.candidates[0].semantic < 0.1
    refused = house.call(Reidentify, 'reidentify', Reidentify.Request(target=Query(text='red')))
    assert not refused.success and 'track_id' in refused.message


def test_a_name_is_given_and_found(house: Robot) -> None:
    named = house.call(Remember, 'remember', Remember.Request(target=Query(object_id=house.ids[1]), name=" Ana's mug "))
    assert named.success and named.object.name == "Ana's mug" and named.object.pinned
    listed = remembered(house, text="ANA'S")
    assert [o.object_id for o in listed.objects] == [house.ids[1]] and listed.total == 1
    assert house.find('green', scope=MEMORY).candidates[0].name == "Ana's mug"
    with house.camera('front/image', picture(red=RED)):
        house.found('red')
        by_text = house.call(Remember, 'remember', Remember.Request(target=Query(text='red'), name='the red one'))
    assert by_text.success and by_text.object.object_id == house.ids[0], by_text.message
    house.until(lambda: house.find('red').outcome == Find.Response.NOT_FOUND, 'the red thing to be out of view')
    gone = house.call(Remember, 'remember', Remember.Request(target=Query(text='red'), name='the red one'))
    assert gone.success and gone.object.object_id == house.ids[0], gone.message
    absent = house.call(Remember, 'remember', Remember.Request(target=Query(text='blue')))
    assert not absent.success and 'NOT_FOUND' in absent.message


def test_objects_are_listed_by_page_camera_and_time(house: Robot) -> None:
    everything = remembered(house)
    newest, older = everything.objects
    assert stamp_to_ns(newest.last_seen) >= stamp_to_ns(older.last_seen)
    page = remembered(house, max_objects=1, offset=1)
    assert [o.object_id for o in page.objects] == [older.object_id] and page.total == 2
    assert remembered(house, until=older.first_seen).total == 0
    assert remembered(house, cameras=['nowhere']).total == 0
    assert newest.views >= 1 and newest.sightings >= 1 and newest.presence == 1.0 and not newest.has_position
    elsewhere = remembered(house, map_id='cellar')
    assert not elsewhere.success and 'map_id' in elsewhere.message


def test_the_frame_that_shows_it_is_found(house: Robot) -> None:
    request = SearchFrames.Request(query=Query(text='green'), max_frames=1, thumbnails=True)
    answer = house.until(
        lambda: next(filter(lambda r: r.frames, [house.call(SearchFrames, 'search_frames', request)]), None), 'a frame'
    )
    (best,) = answer.frames
    assert best.camera == 'front' and answer.frames_searched >= 1 and best.score > 0.9
    assert best.objects[0].box.tolist() in (list(GREEN), list(ELSEWHERE))
    shown = cv2.imdecode(np.asarray(best.thumbnail.data), cv2.IMREAD_COLOR)
    assert shown.shape == (240, 320, 3)
    wrong = house.call(SearchFrames, 'search_frames', SearchFrames.Request(query=Query(text='green'), by=9))
    assert not wrong.success and 'OBJECTS 0' in wrong.message


def test_diagnostics_count_what_is_remembered(house: Robot) -> None:
    status = house.status('grounder: memory')
    values = {v.key: v.value for v in status.values}
    assert values['kept in'] == 'RAM' and int(values['objects']) == 2 and int(values['frames']) >= 1


def test_forgotten_is_gone(tmp_path: Path) -> None:
    with robot('/oblivion', tmp_path) as it:
        start(it)
        red, green = see(it, red=RED, green=GREEN)
        answer = it.call(Forget, 'forget', Forget.Request(object_ids=[red, 'nobody']))
        assert (answer.success, answer.forgotten, answer.unknown) == (False, 1, ['nobody'])
        assert [o.object_id for o in remembered(it).objects] == [green]
        assert it.find('red', scope=MEMORY).outcome == Find.Response.NOT_FOUND
        assert not it.call(Forget, 'forget').success
        everything = it.call(Forget, 'forget', Forget.Request(all=True))
        assert everything.success and everything.forgotten == 1 and remembered(it).total == 0
        with it.camera('front/image', picture()):
            it.settle(1.0)  # its track ends: what is in view while it is forgotten is not remembered again
        assert see(it, red=RED) != [red], 'an id was given again'


def test_objects_outlive_the_process(tmp_path: Path) -> None:
    """Also one that is killed: what was told as remembered is kept."""
    memory = str(tmp_path / 'deep' / 'objects.db')
    (tmp_path / 'deep').mkdir()
    with robot('/life', tmp_path, calm=False) as it:
        first = start(it, memory)
        (red,) = see(it, red=RED)
        it.call(Remember, 'remember', Remember.Request(target=Query(object_id=red), name='cup'))
        first.popen.kill()
        first.popen.wait()
        start(it, memory)
        assert [(o.object_id, o.name) for o in remembered(it).objects] == [(red, 'cup')]
        assert it.find('red', scope=MEMORY).candidates[0].object_id == red
        assert see(it, 'rear', red=ELSEWHERE) == [red]


def test_a_memory_that_cannot_be_opened_leaves_the_present(tmp_path: Path) -> None:
    (tmp_path / 'objects.db').write_bytes(b'no database at all' * 1000)
    with robot('/broken', tmp_path, calm=False) as it:
        cameras = {'cameras': ['front'], 'image_topics': ['front/image']}
        it.start('perception', memory=str(tmp_path / 'objects.db'), **cameras)
        with it.camera('front/image', picture(red=RED)):
            it.found('red')
            listed = it.until(
                lambda: next(filter(lambda r: 'objects.db' in r.message, [remembered(it)]), None), 'the reason'
            )
            assert not listed.success
            assert 'objects.db' in it.status('grounder: memory', 'objects.db').message
            refused = it.find('red', scope=MEMORY)
            assert not refused.success and 'objects.db' in refused.message
    assert (tmp_path / 'objects.db').read_bytes().startswith(b'no database'), 'a file that is not ours was written to'


def test_cameras_go_on_while_the_memory_does_not_answer(tmp_path: Path) -> None:
    """A fleet's server behind a dead link takes seconds to refuse, and what is in view now needs no memory."""
    pytest.importorskip('psycopg')
    with socket.create_server(('127.0.0.1', 0)) as silent, robot('/lonely', tmp_path) as it:
        silent.setblocking(False)
        url = f'postgresql://robot@127.0.0.1:{silent.getsockname()[1]}/objects'
        it.start('perception', cameras=['front'], image_topics=['front/image'], memory=url)
        objects = it.listen(ObjectEmbeddings, 'objects')
        with it.camera('front/image', picture(red=RED)):
            it.found('red')
            while _called(silent):
                pass  # calls from before there was anything to see
            call = it.until(lambda: _called(silent), 'the next call to the server')
            before = len(objects)
            it.until(lambda: _given_up(call), 'the call to be given up')
        assert len(objects) - before >= 3
        it.status('grounder: memory', 'cannot be reached')


def _called(server: socket.socket) -> socket.socket | None:
    try:
        return server.accept()[0]
    except BlockingIOError:
        return None


def _given_up(call: socket.socket) -> bool:
    call.setblocking(False)
    try:
        return not call.recv(1000)
    except BlockingIOError:
        return False

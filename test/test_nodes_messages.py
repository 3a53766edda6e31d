# SPDX-License-Identifier: Apache-2.0
"""Our messages and our types say the same, and a message that contradicts itself is refused before it does harm."""

from __future__ import annotations

import array
import math
import re
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from visualization_msgs.msg import MarkerArray

from embedder_ros.models.base import TextKind
from embedder_ros.msg import GroundedObject, ObjectEmbeddings, Tracks
from embedder_ros.msg import ModelInfo as ModelInfoMsg
from embedder_ros.nodes import messages
from embedder_ros.nodes.markers import markers
from embedder_ros.srv import EmbedRegion, EmbedText, Find
from embedder_ros.types import (
    Answer,
    Calibration,
    Candidate,
    Frame,
    ModelInfo,
    Observation,
    Outcome,
    Track,
    TrackStatus,
    UserError,
    unit_rows,
)

STAMP = 1_700_000_000_123_456_789
FIELDS = ('boxes', 'objectness', 'iou', 'embeddings', 'frame_embeddings')


def observation(objects: int = 5, dim: int = 16, *, positions: bool = True, frame_rows: int = 2) -> Observation:
    """Random objects."""
    rng = np.random.default_rng(objects)
    low = rng.uniform(0, 200, (objects, 2))
    where = rng.normal(size=(objects, 3)).astype(np.float32)
    where[1:2] = np.nan
    return Observation(
        stamp=STAMP,
        camera='front',
        frame_id='front_optical_frame',
        width=640,
        height=480,
        boxes=np.hstack([low, low + 50]).astype(np.float32),
        objectness=rng.uniform(size=objects).astype(np.float32),
        iou=rng.uniform(size=objects).astype(np.float32),
        embeddings=unit_rows(rng.normal(size=(objects, dim))),
        frame_embeddings=unit_rows(rng.normal(size=(frame_rows, dim))),
        model_id='nano-3f2a91c0',
        positions=where if positions else None,
    )


def assert_same(a: Observation, b: Observation) -> None:
    """Every field, to the last bit."""
    for name in ('stamp', 'camera', 'frame_id', 'width', 'height', 'model_id', 'dim'):
        assert getattr(a, name) == getattr(b, name), name
    for name in FIELDS:
        mine, theirs = getattr(a, name), getattr(b, name)
        assert mine.dtype == theirs.dtype == np.float32, name
        np.testing.assert_array_equal(mine, theirs, err_msg=name)
    assert (a.positions is None) == (b.positions is None)
    if a.positions is not None:
        np.testing.assert_array_equal(a.positions, b.positions)


@pytest.mark.parametrize('stamp', [0, 1, 999_999_999, 1_000_000_000, STAMP, -1])
def test_stamps_keep_every_nanosecond(stamp: int) -> None:
    """Both ways, also before 1970, which a clock that was never set may claim."""
    msg = messages.ns_to_stamp(stamp)
    assert 0 <= msg.nanosec < 10**9
    assert messages.stamp_to_ns(msg) == stamp
    assert messages.header(stamp, 'camera').stamp == msg


@pytest.mark.parametrize(
    'shown',
    [
        observation(),
        observation(1, positions=False),
        observation(0, positions=False),
        observation(3, frame_rows=0),
        observation(100, 1024),
    ],
    ids=['positions', 'no positions', 'no objects', 'no frame embeddings', 'full size'],
)
def test_observations_survive_the_wire(shown: Observation) -> None:
    """Through real serialisation, which would also complain about a field of the wrong type."""
    data = serialize_message(messages.observation_to_msg(shown))
    assert_same(messages.observation_from_msg(deserialize_message(data, ObjectEmbeddings)), shown)


def test_arrays_that_are_not_plain_float32_are_published_right() -> None:
    """Cut-outs, other orders and float64 would serialise to garbage if their memory were taken as it is."""
    shown = observation(6)
    odd = Observation(
        **{name: getattr(shown, name) for name in ('stamp', 'camera', 'frame_id', 'width', 'height', 'model_id')},
        boxes=np.asfortranarray(shown.boxes),
        objectness=np.repeat(shown.objectness, 2)[::2],
        iou=shown.iou.astype(np.float64),
        embeddings=np.hstack([shown.embeddings, shown.embeddings])[:, :16],
        frame_embeddings=shown.frame_embeddings,
        positions=shown.positions,
    )
    assert_same(messages.observation_from_msg(messages.observation_to_msg(odd)), shown)


def test_reading_copies_nothing_and_cannot_write() -> None:
    """The Observation looks at the message; nobody can change either through it."""
    msg = messages.observation_to_msg(observation())
    seen = messages.observation_from_msg(msg)
    for name in (*FIELDS, 'positions'):
        assert np.shares_memory(getattr(seen, name), np.frombuffer(getattr(msg, name), np.float32)), name
        with pytest.raises(ValueError, match='read-only'):
            getattr(seen, name)[0] = 0


def set_field(name: str, value: object) -> Callable[[ObjectEmbeddings], None]:
    """Replace a field."""
    return lambda msg: setattr(msg, name, value)


def set_number(name: str, index: int, value: float) -> Callable[[ObjectEmbeddings], None]:
    """Replace one number of an array."""
    return lambda msg: getattr(msg, name).__setitem__(index, value)


def shorten(name: str) -> Callable[[ObjectEmbeddings], None]:
    """Drop an array's last number."""
    return lambda msg: getattr(msg, name).pop()


BAD = [
    ('boxes', shorten('objectness')),  # which says how many rows there are
    *((name, shorten(name)) for name in ('boxes', 'iou', 'embeddings', 'frame_embeddings', 'positions')),
    *((name, set_number(name, 1, math.nan)) for name in FIELDS),
    *((name, set_number(name, 1, math.inf)) for name in (*FIELDS, 'positions')),
    ('boxes', set_number('boxes', 2, -1.0)),
    ('embeddings', set_number('embeddings', 0, 1.5)),
    ('frame_embeddings', set_field('frame_embeddings', array.array('f', [0.0] * 32))),
    ('frame_embeddings', set_field('frame_embeddings', array.array('f', [0.25] * 16))),
    ('embeddings', set_field('dim', 8)),
    ('dim 0', set_field('dim', 0)),
    ("camera ''", set_field('camera', '')),
    ("model ''", set_field('model_id', '')),
]


@pytest.mark.parametrize(('named', 'spoil'), BAD, ids=[f'{i} {name}' for i, (name, _) in enumerate(BAD)])
def test_observations_that_contradict_themselves_are_refused(
    named: str, spoil: Callable[[ObjectEmbeddings], None]
) -> None:
    """The error names the field."""
    msg = messages.observation_to_msg(observation())
    messages.observation_from_msg(msg)
    spoil(msg)
    with pytest.raises(UserError, match=f'ObjectEmbeddings.*{named}'):
        messages.observation_from_msg(msg)


def track(number: int, status: TrackStatus, row: int, *, last: int = STAMP, object_id: str = '') -> Track:
    """A track that began two seconds ago."""
    box = np.array([number, 0, number + 10, 20], np.float32)
    return Track(
        number,
        'front',
        status,
        row,
        box,
        np.ones(4, np.float32) / 2,
        0.5,
        0.5,
        STAMP - 2 * 10**9,
        last,
        STAMP,
        object_id,
    )


def test_tracks() -> None:
    """Row i of every array is track i."""
    tracks = [
        track(7, TrackStatus.TRACKED, 3, object_id='object-1'),
        track(9, TrackStatus.LOST, -1, last=STAMP - 500_000_000),
        track(2**40, TrackStatus.NEW, 0),
    ]
    data = serialize_message(messages.tracks_to_msg(tracks, observation()))
    msg = deserialize_message(data, Tracks)
    assert messages.stamp_to_ns(msg.header.stamp) == STAMP
    assert (msg.header.frame_id, msg.camera, msg.model_id) == ('front_optical_frame', 'front', 'nano-3f2a91c0')
    assert list(msg.track_ids) == [7, 9, 2**40]
    assert list(msg.object_ids) == ['object-1', '', '']
    assert list(msg.status) == [Tracks.TRACKED, Tracks.LOST, Tracks.NEW]
    assert list(msg.rows) == [3, -1, 0]
    assert list(msg.age) == [2.0, 2.0, 2.0]
    assert list(msg.unseen) == [0.0, 0.5, 0.0]
    assert list(msg.boxes)[4:8] == [9, 0, 19, 20]
    assert len(messages.tracks_to_msg([], observation()).track_ids) == 0


def test_markers_are_where_depth_places_what_the_frame_shows() -> None:
    """Row 1 has no depth and the lost track no row; one individual keeps its colour, whatever its track is called."""
    o = observation()
    tracks = [
        track(7, TrackStatus.TRACKED, 3, object_id='object-1'),
        track(2**40 + 5, TrackStatus.NEW, 0),
        track(8, TrackStatus.TRACKED, 1),
        track(9, TrackStatus.LOST, -1),
    ]
    msg = deserialize_message(serialize_message(markers(tracks, o, {'object-2': 'other'})), MarkerArray)
    balls, names = msg.markers[::2], msg.markers[1::2]
    assert [(m.ns, m.id, m.text) for m in balls] == [
        ('front/objects', 7, 'object-1'),
        ('front/objects', 5, f'track {2**40 + 5}'),
    ]
    assert [(m.ns, m.id, m.text) for m in names] == [('front/names', m.id, m.text) for m in balls]
    for marker, row in zip(balls, (3, 0), strict=True):
        assert messages.stamp_to_ns(marker.header.stamp) == STAMP and marker.header.frame_id == 'front_optical_frame'
        at = marker.pose.position
        assert (at.x, at.y, at.z) == pytest.approx(tuple(map(float, o.positions[row])))
        assert marker.scale.x > 0 and marker.color.a > 0 and marker.lifetime.sec == 1
    assert all(n.pose.position.y < b.pose.position.y for n, b in zip(names, balls, strict=True))  # above it
    again = [track(11, TrackStatus.TRACKED, 3, object_id='object-1'), tracks[1]]
    first, named, other, _ = markers(again, o, {'object-1': "Ana's mug"}).markers
    assert named.text == "Ana's mug" and first.id == 11
    unnamed, text, *_ = markers(tracks, o, {'object-1': ''}).markers
    assert text.text == 'object-1' and first.color == unnamed.color != other.color
    assert not markers(tracks, observation(positions=False), {}).markers


def test_status_values_are_the_messages() -> None:
    """Types and wire must not drift apart."""
    assert {s.name: s.value for s in TrackStatus} == {s.name: getattr(Tracks, s.name) for s in TrackStatus}
    assert {o.name: o.value for o in Outcome} == {o.name: getattr(Find.Response, o.name) for o in Outcome}
    assert {k.name: k.value for k in TextKind} == {k.name: getattr(EmbedText.Request, k.name) for k in TextKind}


def candidate(score: float = 0.6, **more: object) -> Candidate:
    """A candidate in camera front."""
    return Candidate('front', 'optical', STAMP, np.array([1, 2, 3, 4], np.float32), score, 0.75, 0.8, **more)


def test_a_candidate_with_everything_and_one_with_nothing() -> None:
    """Unknown values have their documented stand-ins."""
    full = candidate(
        objectness=0.5,
        track_id=7,
        object_id='object-1',
        status=TrackStatus.LOST,
        position=np.array([1, 2, 3], np.float32),
        unseen=1.5,
    )
    msg = messages.candidate_to_msg(full)
    msg = deserialize_message(serialize_message(msg), GroundedObject)
    assert messages.stamp_to_ns(msg.header.stamp) == STAMP
    assert (msg.header.frame_id, msg.camera, msg.object_id, msg.track_id) == ('optical', 'front', 'object-1', 7)
    np.testing.assert_array_equal(msg.box, [1, 2, 3, 4])
    values = [msg.score, msg.semantic, msg.iou, msg.objectness, msg.unseen]
    np.testing.assert_allclose(values, [0.6, 0.75, 0.8, 0.5, 1.5], rtol=1e-6)
    assert msg.status == Tracks.LOST
    assert msg.has_position and msg.position.header == msg.header
    assert (msg.position.point.x, msg.position.point.y, msg.position.point.z) == (1, 2, 3)

    bare = messages.candidate_to_msg(candidate())
    assert (bare.track_id, bare.object_id, bare.status, bare.has_position, bare.unseen) == (0, '', 0, False, 0.0)
    assert not messages.candidate_to_msg(candidate(position=np.array([1, np.nan, 2], np.float32))).has_position


ANSWERS = {
    'found': (Outcome.FOUND, [0.8, 0.2], r'found in camera front, score 0\.80'),
    'small_margin': (Outcome.AMBIGUOUS, [0.8, 0.79, 0.3], r'2 likely enough.*say more'),
    'below_threshold': (Outcome.NOT_FOUND, [0.2], r'best score is 0\.20, 0\.50 is needed'),
    'no_objects': (Outcome.NOT_FOUND, [], r'no object in any of the 4 frames'),
    'no_frames': (Outcome.NOT_FOUND, [], r'no frame has arrived; see /diagnostics'),
    'stale_frames': (Outcome.NOT_FOUND, [], r'2\.5 s old.*/diagnostics'),
}


@pytest.mark.parametrize('reason', ANSWERS)
def test_answers(reason: str) -> None:
    """Every reason has its sentence, and every number arrives."""
    outcome, scores, sentence = ANSWERS[reason]
    answer = Answer(outcome, reason, [candidate(s) for s in scores], 0.1, 0.5, 4, 30, 2.5)
    response = messages.answer_to_response(answer, Find.Response())
    response = deserialize_message(serialize_message(response), Find.Response)
    assert response.success
    assert (response.outcome, response.reason) == (outcome.value, reason)
    assert re.search(sentence, response.message), response.message
    np.testing.assert_allclose([c.score for c in response.candidates], scores, rtol=1e-6)
    np.testing.assert_allclose([response.margin, response.threshold, response.age], [0.1, 0.5, 2.5], rtol=1e-6)
    assert (response.frames_searched, response.objects_searched) == (4, 30)


def test_an_answer_from_memory_does_not_speak_of_frames() -> None:
    answer = Answer(Outcome.NOT_FOUND, 'stale_frames', [candidate(0.8)], 0.1, 0.5, age=-1.0)
    response = messages.answer_to_response(answer, Find.Response(), remembered=True)
    assert 'older than max_age' in response.message and 'frame' not in response.message


CALIBRATION = Calibration(
    12.5, -4.0, 0.5, 0.125, image_scale=8.0, image_bias=-2.0, identity_scale=9.0, identity_bias=-7.0
)


@pytest.mark.parametrize('view', [None, np.arange(32, dtype=np.float32).reshape(16, 2)], ids=['whole', 'view'])
def test_model_info_survives_the_wire(view: np.ndarray | None) -> None:
    """With and without an identity view."""
    data = serialize_message(messages.model_info_to_msg(ModelInfo('nano-1', 16, CALIBRATION, view)))
    info = messages.model_info_from_msg(deserialize_message(data, ModelInfoMsg))
    assert (info.model_id, info.dim, info.calibration) == ('nano-1', 16, CALIBRATION)
    assert (info.identity_view is None) == (view is None)
    if view is not None:
        np.testing.assert_array_equal(info.identity_view, view)
        rows = unit_rows(np.random.default_rng(0).normal(size=(3, 16)))
        np.testing.assert_allclose(info.identity(rows), unit_rows(rows @ view), rtol=1e-6)


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('dim', 0),
        ('dim', 17),
        ('identity_dim', 0),
        ('identity_dim', 3),
        ('model_id', ''),
        ('scale', math.nan),
        ('margin', math.inf),
        ('identity_bias', math.nan),
        ('identity_view', array.array('f', [math.nan] * 32)),
    ],
)
def test_model_info_that_contradicts_itself_is_refused(field: str, value: object) -> None:
    """Scores computed with it would be nonsense."""
    msg = messages.model_info_to_msg(ModelInfo('nano-1', 16, CALIBRATION, np.ones((16, 2), np.float32)))
    setattr(msg, field, value)
    with pytest.raises(UserError, match='ModelInfo.*same version'):
        messages.model_info_from_msg(msg)


@pytest.mark.parametrize(('kind', 'scale', 'bias'), [(TextKind.OBJECT, 12.5, -4.0), (TextKind.IMAGE, 8.0, -2.0)])
def test_embed_text_response(kind: TextKind, scale: float, bias: float) -> None:
    """The scale and bias are the ones for what the text will be compared with."""
    rows = unit_rows(np.random.default_rng(0).normal(size=(2, 16)))
    response = messages.fill_embed_text(EmbedText.Response(), rows, ModelInfo('nano-1', 16, CALIBRATION), kind)
    response = deserialize_message(serialize_message(response), EmbedText.Response)
    assert response.success and (response.model_id, response.dim) == ('nano-1', 16)
    assert (response.scale, response.bias) == (scale, bias)
    np.testing.assert_array_equal(np.reshape(response.embeddings, (2, 16)), rows)


@pytest.mark.parametrize('thumbnail', [False, True])
def test_embed_region_response(thumbnail: bool) -> None:
    """One row, its box, and the pixels in the box when asked for."""
    image = np.zeros((480, 640, 3), np.uint8)
    one = observation(3).row(2)
    x0, y0, x1, y1 = one.boxes[0].astype(int)
    image[y0 : y1 + 1, x0 : x1 + 1] = (200, 90, 20)
    frame = Frame(image, STAMP, 'front', 'optical')
    response = messages.fill_embed_region(EmbedRegion.Response(), frame, one, thumbnail)
    response = deserialize_message(serialize_message(response), EmbedRegion.Response)
    assert response.success and (response.model_id, response.dim, response.camera) == (one.model_id, 16, 'front')
    np.testing.assert_array_equal(response.embedding, one.embeddings[0])
    np.testing.assert_array_equal(response.box, one.boxes[0])
    assert response.iou == one.iou[0]
    assert messages.stamp_to_ns(response.header.stamp) == STAMP
    if not thumbnail:
        assert len(response.image.data) == 0
        return
    picture = cv2.imdecode(np.asarray(response.image.data), cv2.IMREAD_COLOR)
    assert picture.shape == (y1 + 1 - y0, x1 + 1 - x0, 3)
    assert np.abs(picture.astype(int) - (20, 90, 200)).max() <= 4

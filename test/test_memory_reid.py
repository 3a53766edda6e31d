# SPDX-License-Identifier: Apache-2.0
"""Vetoes, one-to-one assignment, refusal: first as rules on their own, then in scenes made to provoke wrong merges."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from memory_world import DIM, LEFT, MIDDLE, MODEL, RIGHT, START, PlainStore, Robot, look, twin

from embedder_ros.memory.memory import Memory, Place
from embedder_ros.memory.policy import Settings, cosine_of, limits_of, margin_of
from embedder_ros.memory.reid import Limits, Same, Span, World, decide, veto
from embedder_ros.types import NANOSECONDS, Object, Sighting, UserError, View, unit_rows

LIMITS = Limits(same=0.8, similar=0.65, margin=0.1, near=0.15)
WORLD = World('m-1', 'home', 'map', ('now',), max_speed=2.0, slack=0.5)
SPAN = Span('now', 'front', 10 * NANOSECONDS, 20 * NANOSECONDS)


def thing(**changes: Any) -> Object:
    seen = Sighting('now', 'front', 1, 0, 5 * NANOSECONDS)
    box = np.array(LEFT, np.float32)
    plain = Object('a', 'home', 'm-1', (), (seen,), 1, 0, 5 * NANOSECONDS, 'front', box, 640, 480)
    return replace(plain, **changes)


def sighted(run: str = 'now', camera: str = 'front', first: float = 0, last: float = 5, track: int = 1) -> Object:
    sighting = Sighting(run, camera, track, round(first * NANOSECONDS), round(last * NANOSECONDS))
    return thing(sightings=(sighting,), last_seen=sighting.last)


@pytest.mark.parametrize(
    ('known', 'why'),
    [
        (sighted(), ''),
        (sighted(last=9.99), ''),
        (sighted(last=10), 'seen_together'),
        (sighted(first=12, last=13), 'seen_together'),
        (sighted(first=20, last=30), 'seen_together'),
        (sighted(first=21, last=30), ''),
        (sighted(first=12, last=13, camera='rear'), ''),
        (sighted(first=12, last=13, run='before'), ''),
        (thing(model_id='m-2'), 'other_model'),
        (thing(map_id='office'), 'other_map'),
    ],
)
def test_vetoes_by_time_model_and_map(known: Object, why: str) -> None:
    assert veto(SPAN, known, WORLD) == why


@pytest.mark.parametrize(
    ('known', 'why'),
    [
        (sighted(first=12, last=13, track=7), 'seen_together'),
        (sighted(first=12, last=13, track=8), ''),
        (sighted(first=5, last=9, track=7), ''),  # what the track was before it went on to what it was seen with
        (sighted(first=12, last=13, track=7, camera='rear'), ''),
    ],
)
def test_what_no_frame_shows_beside_it_was_not_seen_with_it(known: Object, why: str) -> None:
    assert veto(replace(SPAN, seen_with={7}), known, WORLD) == why


def test_a_second_box_proves_nothing() -> None:
    over = replace(SPAN, second_box_of={7})
    assert veto(over, sighted(first=12, last=13, track=7), WORLD) == ''
    assert veto(over, sighted(first=12, last=13, track=8), WORLD) == 'seen_together'


@pytest.mark.parametrize(
    ('metres', 'seconds', 'run', 'frame', 'why'),
    [
        (2.4, 1, 'now', 'map', ''),
        (2.6, 1, 'now', 'map', 'too_fast'),
        (2.6, -1, 'now', 'map', 'too_fast'),  # a camera whose clock is a little behind
        (20.6, 10, 'now', 'map', 'too_fast'),
        (20.4, 10, 'now', 'map', ''),
        (20.6, 10, 'now', 'front_optical', ''),  # not a place in the map
        (20.6, 10, 'before', 'map', ''),  # the clock of a simulation starts anew
        (0.6, 0, 'now', 'map', 'too_fast'),
    ],
)
def test_veto_by_speed(metres: float, seconds: float, run: str, frame: str, why: str) -> None:
    known = replace(sighted(run=run, camera='rear', last=10), position=np.array([1.0, 2.0, 0.0]), position_frame=frame)
    at = (round((10 + seconds) * NANOSECONDS), np.array([1.0 + metres, 2.0, 0.0]))
    assert veto(replace(SPAN, places=(at,)), known, WORLD) == why


def test_time_of_day_goes_on_across_runs() -> None:
    known = replace(sighted(run='before', last=0), position=np.zeros(3), position_frame='map', last_seen=START)

    def why(seconds: float) -> str:
        at = (START + round(seconds * NANOSECONDS), np.array([50.0, 0, 0]))
        return veto(replace(SPAN, places=(at,)), known, WORLD)

    assert why(10) == 'too_fast' and why(60) == ''
    assert why(-10) == '', 'a recording of another day, or a bag that loops'


def outcomes(cosines: list[list[float]], **more: Any) -> list[tuple[Same, int, str]]:
    values = np.array(cosines, np.float32).reshape(len(cosines), -1)
    verdicts = decide(values, more.pop('possible', np.ones(values.shape, bool)), LIMITS, **more)
    return [(v.outcome, v.column, v.reason) for v in verdicts]


NO, YES, HM = Same.UNKNOWN, Same.SAME, Same.REFUSED


@pytest.mark.parametrize(
    ('cosines', 'expected'),
    [
        ([[0.9]], [(YES, 0, '')]),
        ([[0.79]], [(HM, 0, 'below_threshold')]),
        ([[0.64]], [(NO, -1, '')]),
        ([[]], [(NO, -1, '')]),
        ([[0.9, 0.81]], [(HM, 0, 'small_margin')]),
        ([[0.95, 0.81]], [(YES, 0, '')]),
        # Two tracks for one object: one of them is a twin, and nobody knows which.
        ([[0.95], [0.9]], [(HM, 0, 'small_margin'), (HM, 0, 'small_margin')]),
        ([[0.95], [0.7]], [(YES, 0, ''), (NO, -1, '')]),
        # The second is clear and leaves the first without a rival.
        ([[0.92, 0.9], [0.7, 0.99]], [(HM, 0, 'small_margin'), (HM, 1, 'small_margin')]),
        ([[0.92, 0.85], [0.7, 0.99]], [(YES, 0, ''), (YES, 1, '')]),
        # Twins before twins, each a little more like its own.
        ([[0.95, 0.92], [0.9, 0.94]], [(HM, 0, 'small_margin'), (HM, 1, 'small_margin')]),
    ],
)
def test_decisions(cosines: list[list[float]], expected: list[tuple[Same, int, str]]) -> None:
    assert outcomes(cosines) == expected


def test_a_veto_decides_between_twins() -> None:
    assert outcomes([[0.95, 0.94]], possible=np.array([[False, True]])) == [(YES, 1, '')]


def test_the_remembered_place_decides_between_equals_but_not_against_looks() -> None:
    near = np.array([[False, True]])
    assert outcomes([[0.95, 0.93]], near=near) == [(YES, 1, '')]
    assert outcomes([[0.99, 0.81]], near=near) == [(HM, 0, 'small_margin')]
    assert outcomes([[0.99, 0.70]], near=near) == [(YES, 0, '')]


def test_what_must_wait_is_still_a_rival() -> None:
    held = np.array([[True, False]])
    assert outcomes([[0.95, 0.7]], held=held) == [(HM, 0, 'held')]
    assert outcomes([[0.85, 0.9]], held=held) == [(HM, 1, 'small_margin')]


def test_two_boxes_of_one_thing_are_no_rivals_but_one_of_them_gets_it() -> None:
    overlap = np.zeros((2, 2), bool)
    assert outcomes([[0.9], [0.95]], apart=overlap) == [(NO, -1, ''), (YES, 0, '')]


def test_two_boxes_of_one_thing_that_were_both_remembered_are_no_rivals() -> None:
    overlap = np.zeros((2, 2), bool)
    assert outcomes([[0.95, 0.94]], distinct=overlap) == [(YES, 0, '')]
    some = np.array([[True, False, True], [False, True, True], [True, True, True]])
    assert outcomes([[0.95, 0.94, 0.9]], distinct=some) == [(HM, 0, 'small_margin')]


def test_a_refusal_names_the_objects_that_it_may_as_well_be() -> None:
    values = np.array([[0.95, 0.9, 0.88, 0.7]], np.float32)
    (verdict,) = decide(values, np.array([[True, True, False, True]]), LIMITS)
    assert (verdict.reason, verdict.column, verdict.rivals) == ('small_margin', 0, (1,))
    assert verdict.margin == pytest.approx(0.05, abs=1e-6)


def test_a_track_that_is_not_asked_is_a_rival_only() -> None:
    assert outcomes([[0.95], [0.9]], asked=np.array([True, False]))[0] == (HM, 0, 'small_margin')
    assert outcomes([[0.7], [0.95]], asked=np.array([True, False]))[0][0] is not YES


def test_one_to_one_whatever_the_numbers() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        shape = tuple(rng.integers(1, 7, 2))
        cosines, possible = rng.uniform(0.4, 1, shape).astype(np.float32), rng.uniform(size=shape) < 0.7
        verdicts = decide(cosines, possible, LIMITS, held=rng.uniform(size=shape) < 0.2)
        given = [(i, v.column) for i, v in enumerate(verdicts) if v.outcome is YES]
        assert len({j for _, j in given}) == len(given)
        assert all(possible[i, j] and cosines[i, j] >= LIMITS.same for i, j in given)


def test_thresholds_are_the_models() -> None:
    calibration = MODEL.calibration
    assert float(calibration.same(np.array(cosine_of(0.8, calibration)))) == pytest.approx(0.8, abs=1e-4)
    assert margin_of(Settings(), calibration) == pytest.approx(np.log(1.25) / 15)
    assert margin_of(Settings(margin=0.02), calibration) == 0.02
    assert limits_of(Settings(), calibration).near == pytest.approx(np.log(8) / 15)


# Scenes.


def test_twins_side_by_side_are_two_and_stay_two() -> None:
    robot = Robot()
    twins = {'a': (LEFT, look(1)), 'b': (RIGHT, twin(1, 0.99))}
    ids = robot.watch(twins)
    assert len(set(ids.values())) == 2 and all(ids.values())
    assert robot.counts['new'] == 2
    robot.wait(20)
    again = robot.watch({'a': (MIDDLE, look(1)), 'b': (LEFT, twin(1, 0.99))})
    assert set(again.values()) == {''}, 'which is which cannot be told'
    assert robot.counts['small_margin'] == 2 and len(robot.store.things) == 2


def test_the_same_thing_in_two_cameras_is_one() -> None:
    robot = Robot()
    first = robot.watch({'a': (LEFT, look(1)), 'b': (RIGHT, look(2))})
    second = robot.watch({'a': (RIGHT, look(1, turned=0.4)), 'b': (LEFT, look(2, turned=0.4))}, camera='rear')
    assert second == first
    known = robot.memory.get(first['a'])
    assert known is not None and {s.camera for s in known.sightings} == {'front', 'rear'}
    assert known.camera == 'rear' and tuple(known.box) == RIGHT


@pytest.mark.parametrize(('cosine', 'bound'), [(0.95, True), (0.76, False), (0.5, False)])
def test_a_recoloured_twin(cosine: float, bound: bool) -> None:
    """Alone, nothing but its looks can tell it from the first; with a calibrated model they do."""
    robot = Robot()
    first = robot.watch({'a': (LEFT, look(1))})['a']
    robot.wait(20)
    second = robot.watch({'t': (LEFT, twin(1, cosine))}, 3)['t']
    assert (second == first) is bound and second
    assert robot.counts['below_threshold'] == (cosine == 0.76)


def test_the_original_beside_its_recoloured_twin() -> None:
    """The original is known again, and the twin is a thing of its own, in either order."""
    robot = Robot()
    first = robot.watch({'a': (LEFT, look(1))})['a']
    robot.wait(20)
    both = robot.watch({'t': (LEFT, twin(1, 0.85)), 'a': (RIGHT, look(1))})
    assert both['a'] == first and both['t'] not in ('', first)


def test_refused_is_no_flood_of_twins() -> None:
    """Either of two twins comes and goes twenty times: memory still holds two."""
    robot = Robot()
    robot.watch({'a': (LEFT, look(1)), 'b': (RIGHT, twin(1, 0.95))})
    for n in range(20):
        robot.wait(15)
        either = look(1) + twin(1, 0.95) + 0.1 * look(2 + n)
        robot.watch({'?': (MIDDLE, unit_rows(either[None])[0])}, 3)
    assert len(robot.store.things) == 2
    assert robot.counts['small_margin'] == 20 and robot.counts['undecided'] >= 19


def test_refused_tracks_are_decided_when_a_better_view_comes() -> None:
    robot = Robot()
    first = robot.watch({'a': (LEFT, look(1))})['a']
    robot.wait(20)
    far = {'a': ((300, 100, 330, 140), look(1, turned=np.arccos(0.75)))}
    assert robot.watch(far, 0.8)['a'] == '' and robot.counts['below_threshold'] == 1
    near = {'a': ((290, 90, 370, 190), look(1, turned=0.2))}
    assert robot.watch(near, 1.5)['a'] == first


def test_between_two_unlike_things_it_becomes_a_third_in_the_end() -> None:
    """Between look-alikes it does not: their number would grow with every visit."""
    for cosine, remembered in ((0.75, True), (0.97, False)):
        robot = Robot()
        first, second = look(1), twin(1, cosine)
        ids = robot.watch({'a': (LEFT, first), 'b': (RIGHT, second)})
        robot.wait(20)
        between = {'x': (MIDDLE, unit_rows((first + second)[None])[0])}
        assert robot.watch(between, 2.0)['x'] == '' and robot.counts['small_margin'] == 1
        found = robot.watch(between, 2.0)['x']
        assert bool(found) is remembered and found not in ids.values()


def test_a_loose_box_that_was_remembered_too_does_not_block_its_thing() -> None:
    """The proposals gave a second box that overlaps a little; both came to be objects."""
    robot = Robot()
    loose = (95, 100, 185, 200)
    ids = robot.watch({'a': (LEFT, look(1)), 'loose': (loose, twin(1, 0.96))})
    assert len(set(ids.values())) == 2 and all(ids.values())
    robot.wait(20)
    assert robot.watch({'a': (MIDDLE, look(1))})['a'] == ids['a']


@pytest.mark.parametrize('together', [False, True])
def test_a_thing_that_was_remembered_from_two_sides_is_known_from_between(together: bool) -> None:
    """The two look alike from one side and were never seen at once; two that were stay rivals."""
    robot = Robot()
    one, other, between = look(1, turned=-0.6), look(1, turned=0.6), look(1)
    if together:
        ids = robot.watch({'a': (LEFT, one), 'b': (RIGHT, other)})
    else:
        ids = robot.watch({'a': (LEFT, one)}) | robot.watch({'b': (RIGHT, other)}, 3.0, camera='rear')
    assert len(set(ids.values())) == 2 and all(ids.values())
    for name in ids:  # each was seen from almost the same side once
        known = robot.memory._existing(ids[name])
        side = look(1, turned=-0.2 if name == 'a' else 0.2)
        known.gallery.put(1, replace(known.gallery.views[0], embedding=side), MODEL.identity(side[None])[0], 1.0)
        robot.memory._working.changed(known, robot.now)
    robot.memory.flush()
    robot.wait(20)
    found = robot.watch({'a': (MIDDLE, between)})['a']
    assert found == '' if together else found in ids.values()


def test_a_track_that_slips_to_another_thing_loses_its_object() -> None:
    """The tracker carries on at the place; the first thing stays where and when it was last seen."""
    robot = Robot()
    ids = robot.watch({'a': (LEFT, look(1)), 'b': (RIGHT, look(2))})
    robot.wait(15)
    assert robot.watch({'a': (LEFT, look(1))})['a'] == ids['a']
    last, track = robot.now, robot.tracks['front'][0].track_id
    slipped = {'b': (LEFT, twin(1, 0.6))}
    robot.watch(slipped, 0.2)
    assert robot.tracks['front'][0].track_id == track and robot.tracks['front'][0].object_id == ''
    assert robot.counts['slipped'] == 1
    assert robot.watch(slipped, 2.0)['b'] not in ('', ids['a'])
    known = robot.memory.get(ids['a'])
    assert known is not None and known.last_seen == last and known.sightings[-1].last == last


def test_one_bad_view_is_no_slip_but_refreshes_nothing() -> None:
    robot = Robot()
    first = robot.watch({'a': (LEFT, look(1))})['a']
    last = robot.now
    assert robot.watch({'a': (LEFT, twin(1, 0.6))}, 0.1)['a'] == first
    known = robot.memory.get(first)
    assert known is not None and known.last_seen == last
    assert robot.watch({'a': (LEFT, look(1))}, 0.1)['a'] == first and robot.counts['slipped'] == 0
    known = robot.memory.get(first)
    assert known is not None and known.last_seen == robot.now


def test_after_a_pause_a_track_has_to_look_the_same() -> None:
    """The tracker bridges seconds between two frames; another thing of the kind may stand there now."""
    robot = Robot()
    first = robot.watch({'a': (LEFT, look(1))})['a']
    robot.seconds += 5
    assert robot.watch({'a': (LEFT, twin(1, 0.75))}, 0.1)['a'] == '' and robot.counts['slipped'] == 1
    robot = Robot()
    first = robot.watch({'a': (LEFT, look(1))})['a']
    robot.seconds += 5
    assert robot.watch({'a': (LEFT, twin(1, 0.85))}, 0.1)['a'] == first


def test_a_lost_track_holds_its_object() -> None:
    """While the tracker may still take the first track up again, its object is not given to another."""
    robot = Robot()
    first = robot.watch({'a': (LEFT, look(1))})['a']
    robot.watch({}, 0.5)
    # Out of the tracker's reach, because it looks different to it; the memory has seen this side before.
    known = robot.memory._existing(first)
    known.gallery.put(1, replace(known.gallery.views[0], embedding=look(1, turned=1.2)),
                      MODEL.identity(look(1, turned=1.2)[None])[0], 1.0)  # fmt: skip
    robot.memory._working.changed(known, robot.now)
    robot.memory.flush()
    assert robot.watch({'x': (RIGHT, look(1, turned=1.2))}, 1.0)['x'] == ''
    assert robot.counts['held'] == 1
    assert robot.watch({'x': (RIGHT, look(1, turned=1.2))}, 3.5)['x'] == first


def test_a_veto_by_positions_keeps_twins_in_two_cameras_apart() -> None:
    robot, still = Robot(), np.eye(4)
    away = np.eye(4)
    away[0, 3] = 5
    where = {'a': (0.1, 0.2, 2.0)}
    a = robot.watch({'a': (LEFT, look(1))}, positions=where, pose=still)['a']
    for _ in range(10):
        robot.seconds = round(robot.seconds + 0.1, 6)
        robot.show({'a': (LEFT, look(1))}, positions=where, pose=still)
        twin_id = robot.show({'a': (LEFT, twin(1, 0.97))}, 'rear', positions=where, pose=away)['a']
    assert twin_id not in ('', a) and robot.counts['too_fast'] >= 1


def test_twins_are_told_apart_by_their_places() -> None:
    robot, pose = Robot(), np.eye(4)
    places = {'a': (-1.0, 0.2, 2.0), 'b': (1.0, 0.2, 2.0)}
    twins = {'a': (LEFT, look(1)), 'b': (RIGHT, twin(1, 0.96))}
    ids = robot.watch(twins, positions=places, pose=pose)
    robot.wait(30)
    assert robot.watch(twins, positions=places, pose=pose) == ids


# Reidentify.


def test_reidentify_answers_with_reasons() -> None:
    robot = Robot()
    ids = robot.watch({'a': (LEFT, look(1)), 'b': (RIGHT, look(2))})
    ask = robot.memory.reidentify
    same = ask(embedding=look(1, turned=0.3), now=robot.now)
    assert same.outcome is YES and same.candidates[0].object_id == ids['a'] and same.margin > 0.5
    assert same.candidates[0].semantic == pytest.approx(float(MODEL.calibration.same(np.array(np.cos(0.3)))), abs=0.01)
    assert ask(embedding=look(3), now=robot.now).outcome is NO
    weak = ask(embedding=look(1, turned=np.arccos(0.75)), now=robot.now)
    assert weak.outcome is HM and weak.reasons == {'below_threshold': 1}
    place = Place('front', robot.now, np.array(MIDDLE, np.float32))
    elsewhere = ask(embedding=look(1), place=place, now=robot.now)
    assert elsewhere.outcome is NO and elsewhere.reasons == {'seen_together': 1}
    for box in ((54, 104, 134, 204), (50, 100, 90, 150), (0, 50, 250, 300)):  # beside it by a little, half, around it
        there = Place('front', robot.now, np.array(box, np.float32))
        assert ask(embedding=look(1), place=there, now=robot.now).outcome is YES
    assert ask(embedding=look(1), cameras=['rear'], now=robot.now).candidates == ()
    robot.wait(30)
    assert ask(embedding=look(1), max_age=5, now=robot.now).outcome is NO
    assert ask(embedding=look(1), max_age=60, now=robot.now).outcome is YES


def test_reidentify_an_object_and_a_track() -> None:
    robot = Robot()
    ids = robot.watch({'a': (LEFT, look(1)), 'b': (RIGHT, twin(1, 0.95))})
    ask = robot.memory.reidentify
    alone = ask(object_id=ids['a'], now=robot.now)
    assert alone.outcome is NO and alone.reasons == {'seen_together': 1}, 'its twin is not it'
    assert ask(track_id=1, now=robot.now).outcome is NO, 'it was never seen before this track'
    robot.wait(20)
    robot.watch({'c': (MIDDLE, look(3))})
    robot.wait(20)
    robot.watch({'c': (MIDDLE, look(3))})
    again = ask(track_id=robot.tracks['front'][0].track_id, now=robot.now)
    assert again.outcome is YES and again.candidates[0].object_id == robot.tracks['front'][0].object_id


@pytest.mark.parametrize(('begins', 'outcome'), [(10, YES), (4, HM)], ids=['never seen at once', 'seen at once'])
def test_reidentify_what_was_remembered_twice(begins: float, outcome: Same) -> None:
    robot = Robot()
    looks = {'a': look(1), 'b': twin(1, 0.9)}
    times = {'a': (0, 5), 'b': (begins, begins + 5)}
    for name, vector in looks.items():
        first, last = (START + round(s * NANOSECONDS) for s in times[name])
        box = np.array(LEFT if name == 'a' else RIGHT, np.float32)
        view = View(vector, last, 'front', box, 640, 480, 0.9, 0.9)
        seen = (Sighting('before', 'front', 1, first, last),)
        robot.store.put([Object(name, 'home', 'm-1', (view,), seen, 1, first, last, 'front', box, 640, 480)])
    answer = robot.memory.reidentify(embedding=unit_rows(looks['a'] + looks['b']), now=START + 60 * NANOSECONDS)
    assert answer.outcome is outcome and len(answer.candidates) == 2
    assert answer.reasons == ({} if outcome is YES else {'small_margin': 1})


def test_reidentify_refuses_what_it_cannot_read() -> None:
    robot = Robot()
    for wrong, words in [
        ({'embedding': look(1)[:-1]}, 'embed it with that model'),
        ({'embedding': 2 * look(1)}, 'length 1'),
        ({'embedding': look(1) * np.nan}, 'length 1'),
        ({'object_id': 'nothing'}, "no remembered object 'nothing'"),
        ({'track_id': 9}, 'no live track 9'),
        ({}, 'one of an embedding'),
        ({'object_id': 'a', 'track_id': 1}, 'one of an embedding'),
    ]:
        with pytest.raises(UserError, match=words):
            robot.memory.reidentify(**wrong, now=0)


def test_a_memory_refuses_a_store_of_another_map_or_model() -> None:
    with pytest.raises(UserError, match="map 'office'.*different models"):
        Memory(PlainStore('office'), MODEL, map_id='home')
    with pytest.raises(UserError, match='open the store'):
        Memory(PlainStore(), replace(MODEL, model_id='m-2'), map_id='home')
    with pytest.raises(UserError, match='embed it with that model'):
        Memory(PlainStore(), MODEL, map_id='home', person=np.zeros(DIM + 1, np.float32))

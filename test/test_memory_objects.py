# SPDX-License-Identifier: Apache-2.0
"""Objects: remembered once, found out of view, named, forgotten, kept within bounds; co-visible ones never merged."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from memory_world import DIM, LEFT, MIDDLE, MODEL, RIGHT, START, Robot, look, twin, word

from embedder_ros.memory.policy import Flood, Settings
from embedder_ros.memory.store import Filter
from embedder_ros.memory.views import Gallery, observation_weights
from embedder_ros.types import NANOSECONDS, FloatArray, Observation, Outcome, UserError, View

A, B = {'a': (LEFT, look(1))}, {'b': (RIGHT, look(2))}
HALF = (50, 100, 90, 150)  # of LEFT: half as wide, half as high


def test_an_object_is_remembered_once_it_is_sure_and_refreshed_only_by_sightings() -> None:
    robot = Robot()
    assert robot.watch(A, 0.3) == {'a': ''} and not robot.store.things
    first = robot.watch(A, 1.0)['a']
    assert first and robot.store.things[first].object_id == first, 'durable before its id is told'
    seen_until = robot.now
    robot.watch({}, 8.0)
    robot.memory.flush()
    known = robot.store.things[first]
    assert (known.first_seen, known.last_seen) == (START + NANOSECONDS // 10, seen_until)
    (sighting,) = known.sightings
    assert (sighting.run, sighting.camera, sighting.first, sighting.last) == (
        'run-1', 'front', known.first_seen, seen_until,
    )  # fmt: skip
    assert known.sighting_count == 1 and known.presence == 1.0 and known.position is None


def test_it_leaves_and_returns() -> None:
    robot = Robot()
    first = robot.watch(A | B)
    for n in range(5):
        robot.wait(30)
        turned = {'a': (RIGHT, look(1, turned=0.15 * n)), 'b': (LEFT, look(2, turned=0.15 * n))}
        assert robot.watch(turned) == first
    known = robot.memory.get(first['a'])
    assert known is not None and known.sighting_count == 6 and len(known.sightings) == 6
    assert all(a.last < b.first for a, b in zip(known.sightings, known.sightings[1:], strict=False))
    assert robot.counts['new'] == 2 and robot.counts['same'] == 10


def test_nothing_is_merged_that_looks_new() -> None:
    robot = Robot()
    ids = set()
    for n in range(12):
        ids |= set(robot.watch({'x': (MIDDLE, look(n))}, 1.0).values())
        robot.wait(15)
    assert len(ids) == 12 and '' not in ids


@pytest.mark.parametrize('second', [(55, 105, 132, 205), (50, 100, 130, 175)])
def test_a_second_box_on_a_thing_makes_no_second_object(second: tuple[int, ...]) -> None:
    robot = Robot()
    first = robot.watch(A)['a']
    both = robot.watch(A | {'again': (second, look(1, turned=0.2))}, 3.0)
    assert both == {'a': first, 'again': ''} and len(robot.store.things) == 1
    assert robot.counts['duplicate'] == 1


def test_two_boxes_from_the_start_make_one_object() -> None:
    robot = Robot()
    both = robot.watch(A | {'again': ((55, 105, 132, 205), look(1, turned=0.2))}, 3.0)
    assert len(robot.store.things) == 1 and sorted(map(bool, both.values())) == [False, True]


def test_a_second_box_takes_the_object_over_when_the_first_ends() -> None:
    """And the sightings still do not overlap."""
    robot = Robot()
    first = robot.watch(A)['a']
    again = {'again': ((55, 105, 132, 205), look(1, turned=0.2))}
    robot.watch(A | again, 2.0)
    assert robot.watch(again, 5.0)['again'] == first and len(robot.store.things) == 1
    known = robot.memory.get(first)
    assert known is not None
    one, two = known.sightings
    assert one.track_id != two.track_id and one.last < two.first


def test_a_second_box_is_remembered_as_the_object_it_is_on() -> None:
    robot = Robot()
    first = robot.watch(A)['a']
    robot.watch(A | {'again': ((55, 105, 132, 205), look(1, turned=0.2))}, 1.0)
    (again,) = [t.track_id for t in robot.tracks['front'] if not t.object_id]
    assert robot.memory.remember(track_id=again, name='cup').object_id == first


def test_half_a_box_on_a_thing_becomes_the_thing_when_the_whole_box_ends() -> None:
    """It overlaps too little to be a second box, and being seen inside the other is no proof that there are two."""
    robot = Robot()
    half, whole = {'half': (HALF, look(1, turned=0.2))}, {'whole': (LEFT, look(1))}
    first = robot.watch(whole)['whole']
    robot.watch(whole | half, 2.0)
    assert robot.watch(half, 5.0)['half'] == first and len(robot.store.things) == 1


def test_half_a_box_that_looks_otherwise_is_an_object_of_its_own() -> None:
    robot = Robot()
    ids = robot.watch({'whole': (LEFT, look(1)), 'half': (HALF, look(2))}, 3.0)
    assert len(set(ids.values()) - {''}) == 2


def test_a_part_is_an_object_of_its_own() -> None:
    robot = Robot()
    drawer, handle = (100, 100, 400, 300), (220, 190, 280, 215)
    ids = robot.watch({'drawer': (drawer, look(1, 0)), 'handle': (handle, look(2, 1))})
    assert len(set(ids.values())) == 2 and all(ids.values())
    answer = robot.memory.find(word(1), now=robot.now)
    assert answer.outcome is Outcome.FOUND and answer.candidates[0].object_id == ids['handle']


@pytest.mark.parametrize(
    ('seen', 'iou', 'known'),
    [(look(1), 0.9, True), (look(1), 0.65, False), (twin(1, 0.9), 0.9, False), (look(3), 0.9, False)],
    ids=['itself', 'a bad fit', 'a second box on its part', 'new'],
)
def test_a_whole_is_known_although_its_part_was_recognised_first(seen: FloatArray, iou: float, known: bool) -> None:
    robot = Robot()
    whole, part = (50, 100, 130, 200), {'part': ((50, 110, 130, 165), twin(1, 0.9))}
    ids = robot.watch({'whole': (LEFT, look(1)), 'part': (RIGHT, twin(1, 0.9))})
    robot.wait(20)
    assert robot.watch(part, 1.0)['part'] == ids['part'] != ids['whole']
    found = robot.watch(part | {'whole': (whole, seen)}, 4.0, iou=iou)
    assert found == {'part': ids['part'], 'whole': ids['whole'] if known else ''}
    assert len(robot.store.things) == 2


def test_views_are_few_diverse_and_the_best() -> None:
    robot = Robot()
    first = robot.watch({'a': ((300, 100, 320, 125), look(1))}, 2.0, iou=0.65)['a']
    robot.wait(15)
    for turned in (0.0, 0.05, 0.6, 0.62, 1.2, 0.3):
        robot.watch({'a': ((280, 80, 360, 180), look(1, turned=turned))}, 0.5)
    views = robot.memory.get(first).views  # type: ignore[union-attr]
    looks = MODEL.identity(np.stack([v.embedding for v in views]))
    cosines = looks @ looks.T - np.eye(len(views))
    assert 3 <= len(views) <= 5 and cosines.max() < 0.97
    assert all(v.iou > 0.8 for v in views), 'the far views gave way'


def test_weights_say_which_view_to_trust() -> None:
    boxes = np.array([[100, 100, 200, 200], [100, 100, 120, 120], [0, 100, 100, 200], [100, 100, 200, 200]], np.float32)
    iou, nothing = np.array([0.9, 0.9, 0.9, np.nan], np.float32), np.zeros((4, 0), np.float32)
    observation = Observation(0, 'c', '', 640, 480, boxes, np.ones(4, np.float32), iou, nothing, nothing, 'm')
    whole, small, cut, broken = observation_weights(observation)
    assert whole == pytest.approx(0.9) and small < whole / 2 and cut == pytest.approx(whole / 2) and broken == 0


def test_a_gallery_replaces_the_same_view_only_by_a_better_one() -> None:
    gallery = Gallery(2, 0.9)
    view = View(look(1), 0, 'c', np.zeros(4, np.float32), 1, 1, 0.9, 1.0)
    first, same, other, third = (MODEL.identity(look(1, turned=t)[None])[0] for t in (0, 0.1, 1.0, 2.0))
    for offered, weight, place in [
        (first, 0.5, 0), (same, 0.5, None), (same, 0.7, 0), (other, 0.4, 1), (third, 0.3, None), (third, 0.6, 1),
    ]:  # fmt: skip
        assert gallery.place_for(offered, weight) == place
        if place is not None:
            gallery.put(place, view, offered, weight)
    assert gallery.weights.tolist() == pytest.approx([0.7, 0.6])


def test_boxes_that_fit_nothing_are_not_remembered() -> None:
    robot = Robot()
    assert robot.watch(A, 5.0, iou=0.4)['a'] == '' and not robot.store.things
    assert robot.watch(A, 1.0, iou=0.7)['a']


def test_broken_vectors_are_no_views_and_stop_nothing() -> None:
    robot = Robot()
    ids = robot.watch({'a': (LEFT, look(1)), 'long': (RIGHT, 2 * look(2)), 'none': (MIDDLE, look(3) * np.nan)})
    assert ids['a'] and ids['long'] == ids['none'] == '' and robot.counts['store'] == 0
    robot.memory.keep_frame(robot.observation, robot.tracks['front'])
    (frame,) = robot.store.frames.values()
    assert frame.object_ids == (ids['a'],)


# Co-visible things are never one object.


def scene_of(rng: np.random.Generator) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Things that look alike to any degree, and where they stand."""
    base = int(rng.integers(100))
    looks = [twin(base, float(rng.uniform(0.6, 1.0)), n) for n in range(6)]
    corners = [np.array([40 + 100 * n, rng.uniform(50, 300)]) for n in range(6)]
    return looks, corners


@pytest.mark.parametrize('seed', range(8))
def test_co_visible_things_never_share_an_object(seed: int) -> None:
    """Random look-alikes come, go, move, hide and are missed, in two cameras, over restarts and jumps of the clock."""
    rng = np.random.default_rng(seed)
    looks, corners = scene_of(rng)
    robot = Robot()
    here = set(range(4))
    track_ids: dict[tuple[str, int], str] = {}
    for step in range(250):
        chance = rng.uniform()
        if chance < 0.05:
            here ^= {int(rng.integers(6))}
        elif chance < 0.07:
            robot.wait(float(rng.uniform(1, 20)))
        elif chance < 0.075:
            robot.seconds = max(0.0, robot.seconds - float(rng.uniform(0, 20)))
        elif chance < 0.08:
            robot, track_ids = robot.restarted(f'run {step}'), {}
        for n in here:
            corners[n] += rng.normal(0, 8 if rng.uniform() < 0.05 else 1, 2)
        camera = 'front' if rng.uniform() < 0.7 else 'rear'
        robot.seconds = round(robot.seconds + 0.1, 6)
        seen = [n for n in sorted(here) if rng.uniform() < 0.9]
        boxes = {n: (*corners[n], *(corners[n] + (80, 90))) for n in seen}
        noisy = {n: looks[n] + 0.05 * rng.normal(size=DIM).astype(np.float32) for n in seen}
        shown = {str(n): (boxes[n], noisy[n] / np.linalg.norm(noisy[n])) for n in seen}
        ids = robot.show(shown, camera)
        for a, b in combinations(seen, 2):
            assert not ids[str(a)] or ids[str(a)] != ids[str(b)]
        live = [t for t in robot.tracks[camera] if t.object_id and t.status.name != 'REMOVED']
        assert len({t.object_id for t in live}) == len(live), 'no two live tracks of a camera share one'
        for track in live:
            key = (camera, track.track_id)
            assert track_ids.setdefault(key, track.object_id) == track.object_id, 'a live track keeps its object'
        if robot.counts['restarts']:
            track_ids = {}
    robot.memory.flush()
    for known in robot.store.things.values():
        assert known.first_seen <= known.last_seen
        assert all(s.first <= s.last for s in known.sightings)
        for a, b in combinations(known.sightings, 2):
            apart = (a.run, a.camera) != (b.run, b.camera) or a.last < b.first or b.last < a.first
            assert apart, 'one thing is not seen twice at once'
        assert len({v.embedding.tobytes() for v in known.views}) == len(known.views) <= Settings().max_views


# Find.


def test_find_says_where_and_when_it_was_last_seen() -> None:
    robot = Robot()
    ids = robot.watch({'mug': (LEFT, look(1, 0)), 'bowl': (RIGHT, look(2, 1))})
    last = robot.now
    robot.wait(60)
    answer = robot.memory.find(word(1), now=robot.now)
    best = answer.candidates[0]
    assert (answer.outcome, answer.reason, best.object_id) == (Outcome.FOUND, 'found', ids['bowl'])
    assert (best.stamp, best.camera, tuple(best.box), best.frame_id) == (last, 'front', RIGHT, 'front_optical')
    assert best.unseen == pytest.approx((robot.now - last) / NANOSECONDS) and answer.age == best.unseen
    assert best.score == pytest.approx(best.semantic * 0.9, abs=1e-5) and answer.objects_searched == 2
    assert answer.margin == pytest.approx(best.score - answer.candidates[1].score)
    nothing = robot.memory.find(word(3), now=robot.now)
    assert (nothing.outcome, nothing.reason) == (Outcome.NOT_FOUND, 'below_threshold')
    assert nothing.candidates, 'so that a person can judge'


def test_find_is_ambiguous_among_things_of_a_kind_and_not_about_an_individual() -> None:
    robot = Robot()
    ids = robot.watch(A | B)
    answer = robot.memory.find(word(0), now=robot.now)
    assert answer.outcome is Outcome.AMBIGUOUS and {c.object_id for c in answer.candidates} == set(ids.values())
    one = robot.memory.find(look(2, turned=0.1), by_identity=True, now=robot.now)
    assert one.outcome is Outcome.FOUND and one.candidates[0].object_id == ids['b']


@pytest.mark.parametrize(
    ('likeness', 'together', 'places', 'expected'),
    [
        (0.75, False, None, Outcome.FOUND),
        (0.75, True, None, Outcome.AMBIGUOUS),
        (0.5, False, None, Outcome.AMBIGUOUS),
        (0.75, False, ((0, 0, 1), (0, 0.3, 1)), Outcome.FOUND),
        (0.75, False, ((0, 0, 1), (0, 3, 1)), Outcome.AMBIGUOUS),
    ],
    ids=['from another side', 'a twin beside it', 'another one', 'at its place', 'at another place'],
)
def test_what_may_be_one_thing_remembered_twice_is_found_where_it_was_last(
    likeness: float, together: bool, places: tuple[tuple[float, ...], ...] | None, expected: Outcome
) -> None:
    """MODEL takes cosines from 0.66 to 0.81 for similar: too little to bind a track to, too much to be a rival."""
    robot = Robot()
    at = [{'positions': {'mug': place}, 'pose': np.eye(4)} if places else {} for place in places or (None, None)]
    one, other = look(1), twin(1, likeness)
    if together:
        robot.watch({'one': (LEFT, one), 'other': (RIGHT, other)}, 4)
    first = robot.watch({'mug': (LEFT, one)}, **at[0])['mug']
    robot.wait(20)
    second = robot.watch({'mug': (RIGHT, other)}, 4, **at[1])['mug']
    assert first and second and first != second
    robot.wait(20)
    answer = robot.memory.find(word(), now=robot.now)
    assert answer.outcome is expected and {c.object_id for c in answer.candidates} == {first, second}
    assert answer.outcome is not Outcome.FOUND or answer.candidates[0].object_id == second


def test_find_by_age_and_camera_counts_what_was_not_written_yet() -> None:
    robot = Robot()
    ids = robot.watch({'mug': (LEFT, look(1, 0))})
    robot.wait(100)
    find = robot.memory.find
    assert find(word(), max_age=50, now=robot.now).reason == 'stale_frames'
    for age in (150, 1e300, float('inf')):
        assert find(word(), max_age=age, now=robot.now).outcome is Outcome.FOUND
    assert find(word(), cameras=['rear'], now=robot.now).outcome is Outcome.NOT_FOUND
    puts = robot.store.puts
    robot.watch({'mug': (LEFT, look(1, 0))}, 0.6, camera='rear')
    assert robot.store.puts == puts
    assert find(word(), max_age=5, cameras=['rear'], now=robot.now).candidates[0].object_id == ids['mug']
    assert find(word(), cameras=['front'], now=robot.now).outcome is Outcome.NOT_FOUND


def test_find_in_an_empty_memory_and_with_wrong_vectors() -> None:
    robot = Robot()
    empty = robot.memory.find(word(), now=0)
    assert (empty.outcome, empty.reason, empty.age, empty.candidates) == (Outcome.NOT_FOUND, 'no_objects', -1.0, ())
    for wrong, words in [(word()[1:], 'embed it'), (3 * word(), 'length 1'), (np.nan * word(), 'length 1')]:
        with pytest.raises(UserError, match=words):
            robot.memory.find(wrong, now=0)


def test_ages_of_a_bag_count_from_its_last_frame() -> None:
    """The node's clock is years after the stamps."""
    robot = Robot()
    robot.watch(A)
    robot.memory._clock = (robot.memory._clock[0], 10**19)  # type: ignore[index]
    answer = robot.memory.find(word(), max_age=5, now=10**19 + 2 * NANOSECONDS)
    assert answer.outcome is Outcome.FOUND and answer.candidates[0].unseen == pytest.approx(2)


# Orders.


def test_remember_names_and_pins_at_once() -> None:
    robot = Robot()
    ids = robot.watch(A | B)
    robot.memory.remember(object_id=ids['a'], name='my mug')
    assert (robot.store.things[ids['a']].name, robot.store.things[ids['a']].pinned) == ('my mug', True)
    track = next(t for t in robot.tracks['front'] if t.object_id == ids['b'])
    assert robot.memory.remember(track_id=track.track_id).object_id == ids['b']
    assert robot.memory.remember(object_id=ids['a']).name == 'my mug'
    robot.memory.label(ids['b'], 'the bowl')
    robot.memory.label(ids['b'], 'the bowl')
    found, total = robot.memory.objects(Filter(text='BOWL'))
    assert [o.object_id for o in found] == [ids['b']] and total == 1 and found[0].labels == ('the bowl',)


def test_orders_about_unknown_things_say_so() -> None:
    robot = Robot()
    robot.watch(A, 0.3)
    with pytest.raises(UserError, match='too briefly'):
        robot.memory.remember(track_id=1)
    for order in (lambda: robot.memory.remember(object_id='x'), lambda: robot.memory.label('x', 'y')):
        with pytest.raises(UserError, match="no remembered object 'x'"):
            order()
    with pytest.raises(UserError, match='one of'):
        robot.memory.remember(name='x')
    assert robot.memory.get('x') is None and robot.memory.forget(['x', 'x']) == (0, ['x'])


def test_forget_is_for_good_and_does_not_come_back_by_being_in_view() -> None:
    robot = Robot()
    ids = robot.watch(A | B)
    assert robot.memory.forget([ids['a'], 'nothing']) == (1, ['nothing'])
    later = robot.watch(A | B, 6.0)
    assert later == {'a': '', 'b': ids['b']} and set(robot.store.things) == {ids['b']}
    with pytest.raises(UserError, match='forgotten'):
        robot.memory.remember(track_id=1)
    robot.wait(20)
    assert robot.watch(A)['a'] not in ('', ids['a']), 'seen anew it is a new object'


def test_forget_all() -> None:
    robot = Robot()
    robot.watch(A | B)
    assert robot.memory.forget_all() == 2
    robot.watch(A | B, 6.0)
    robot.memory.flush()
    assert not robot.store.things and robot.memory.find(word(), now=robot.now).reason == 'no_objects'


def test_thumbnails_go_to_the_views_of_their_frame() -> None:
    robot = Robot()
    ids = robot.watch(A | B, 0.5)
    assert robot.memory.wants_thumbnails(robot.observation) == {}
    while not all(ids.values()):
        ids = robot.watch(A | B, 0.1)
    wanted = robot.memory.wants_thumbnails(robot.observation)
    assert wanted == {0: ids['a'], 1: ids['b']}
    assert robot.memory.add_thumbnail(ids['a'], robot.observation.stamp, 'front', b'jpeg')
    assert robot.memory.wants_thumbnails(robot.observation) == {1: ids['b']}
    assert not robot.memory.add_thumbnail(ids['a'], 5, 'front', b'jpeg')
    assert not robot.memory.add_thumbnail('x', robot.observation.stamp, 'front', b'jpeg')
    robot.memory.flush()
    assert [v.thumbnail for v in robot.store.things[ids['a']].views] == [b'jpeg']
    old = replace(robot.observation, stamp=1)
    assert robot.memory.wants_thumbnails(old) == {}


def test_frames_are_kept_by_an_interval_searched_and_dropped() -> None:
    robot = Robot(settings=Settings(frame_interval=1.0, keep_frames=100.0))
    kept = 0
    for n in range(30):
        things = {'mug': (LEFT, look(1, 0))} if n < 15 else {'bowl': (RIGHT, look(2, 1))}
        ids = robot.watch(things, 0.1)
        if robot.memory.wants_frame(robot.observation):
            robot.memory.keep_frame(robot.observation, robot.tracks['front'], b'picture')
            kept += 1
    assert kept == 3 == robot.store.count()[1]
    found = robot.memory.search_frames(word(1), limit=2)
    assert found.searched == 3 and len(found.frames) == 2
    best = found.frames[0]
    assert best.frame.thumbnail == b'picture' and best.objects[0].object_id == ids['bowl']
    assert best.score == best.objects[0].semantic > 0.9 > found.frames[1].score
    assert robot.memory.search_frames(word(1), cameras=['rear']).frames == ()
    with pytest.raises(UserError, match='not by'):
        robot.memory.search_frames(word(1), by='colour')
    robot.wait(200)
    robot.memory.keep_frame(robot.observation, robot.tracks['front'])
    assert robot.store.count()[1] == 1


# Bounds.


def test_a_flood_of_new_objects_is_bounded_and_told() -> None:
    robot = Robot(settings=Settings(flood_burst=5, flood_rate=60.0, searches=50))
    crowd = {str(n): ((10 + 60 * n, 100, 60 + 60 * n, 160), look(n)) for n in range(10)}
    robot.watch(crowd, 0.8)
    assert len(robot.store.things) == 5 and robot.counts['flood'] == 5
    assert any('too many at once' in s for s in robot.memory.report.sentences())
    robot.watch(crowd, 20.0)
    assert len(robot.store.things) == 10, 'the others as the rate allows'


def test_the_flood_gate_fills_with_time_and_survives_a_clock_that_jumps_back() -> None:
    gate = Flood(2, 60.0)
    assert [gate.take(0) for _ in range(3)] == [True, True, False]
    assert gate.take(NANOSECONDS) and not gate.take(NANOSECONDS)
    assert not gate.take(0) and gate.take(NANOSECONDS)


def test_a_full_memory_drops_what_is_unseen_for_longest_but_nothing_pinned() -> None:
    robot = Robot(settings=Settings(max_objects=6, searches=50))
    ids = []
    for n in range(10):
        ids.append(robot.watch({'x': (MIDDLE, look(n))}, 1.0)['x'])
        if n == 0:
            robot.memory.remember(object_id=ids[0], name='kept')
        robot.wait(12)
    assert len(robot.store.things) <= 6 and ids[0] in robot.store.things and ids[-1] in robot.store.things
    assert robot.counts['dropped'] >= 4 and all(ids)


def test_a_memory_of_pinned_things_takes_no_more_and_says_so() -> None:
    robot = Robot(settings=Settings(max_objects=1))
    robot.memory.remember(object_id=robot.watch(A)['a'])
    robot.wait(12)
    assert robot.watch(B, 1.0)['b'] == ''
    assert robot.counts['full'] >= 1 and len(robot.store.things) == 1


def test_a_store_that_refuses_costs_nothing_that_was_stored() -> None:
    robot = Robot()
    first = robot.watch(A)['a']
    robot.store.refuses = True
    ids = robot.watch(A | B, 8.0)
    assert ids == {'a': first, 'b': ''} and set(robot.store.things) == {first}, 'tracking goes on'
    assert 'disk is full' in robot.memory.report.failure and robot.counts['store'] >= 1
    with pytest.raises(UserError, match='disk is full'):
        robot.memory.remember(object_id=first)
    robot.store.refuses = False
    ids = robot.watch(A | B, 8.0)
    assert ids['a'] == first and ids['b'] in robot.store.things and robot.memory.report.failure == ''


def test_writes_are_spread_and_nothing_waits_for_ever() -> None:
    robot = Robot(settings=Settings(searches=50, write_interval=1.0, writes=2))
    crowd = {str(n): ((10 + 60 * n, 100, 60 + 60 * n, 160), look(n)) for n in range(8)}
    robot.watch(crowd, 1.0)
    before = robot.store.puts
    for _ in range(30):
        puts = robot.store.puts
        robot.watch(crowd, 0.1)
        assert robot.store.puts - puts <= 2
    assert robot.store.puts - before >= 16
    assert all(robot.now - o.last_seen < 2 * NANOSECONDS for o in robot.store.things.values())


def test_threads_ask_while_frames_come() -> None:
    robot = Robot()
    robot.watch(A | B)
    failures: list[BaseException] = []
    stop = threading.Event()

    def ask() -> None:
        try:
            while not stop.is_set():
                robot.memory.find(word(), now=robot.now)
                robot.memory.objects(Filter())
                robot.memory.forget(['x'])
        except BaseException as error:
            failures.append(error)

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    robot.watch(A | B, 3.0)
    stop.set()
    for thread in asking:
        thread.join()
    assert not failures

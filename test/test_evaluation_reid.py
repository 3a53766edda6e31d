# SPDX-License-Identifier: Apache-2.0
"""Evaluation of re-identification: numbers worked out by hand, and the command on the sample bag."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from embedder_ros import cli
from embedder_ros.evaluation import reid, reid_fit
from embedder_ros.evaluation import reid_score as scoring
from embedder_ros.evaluation.reid_clips import (
    Clip,
    Shown,
    drop,
    from_tracks,
    hide,
    joined,
    labelled,
    match,
    seen_together,
)
from embedder_ros.evaluation.reid_methods import Nearest, Remembering, TrackerOnly, identify, track, track_ids
from embedder_ros.types import NANOSECONDS, Calibration, ModelInfo, Observation, UserError

SAMPLE = Path(__file__).parent / 'sample'
MODEL = ModelInfo('made-up', 8, Calibration(10.0, -5.0, 0.5, 0.1, identity_scale=20.0, identity_bias=-14.0))
RATE = 5
KINDS = np.eye(8, dtype=np.float32)


def observation(
    stamp: float, places: list[int], looks: list[np.ndarray] | None = None, camera: str = 'front'
) -> Observation:
    """One frame with a 40 pixel box at each place (100 pixels apart) and the given unit looks."""
    boxes = np.array([[100 * p, 100, 100 * p + 40, 140] for p in places], np.float32).reshape(-1, 4)
    one = np.ones(len(places), np.float32)
    rows = np.stack(looks) if looks else np.tile(KINDS[0], (len(places), 1))
    frame = np.zeros((0, 8), np.float32)
    return Observation(round(stamp * NANOSECONDS), camera, '', 1000, 480, boxes, one, one, rows, frame, 'made-up')


def clip(*frames: tuple[float, str], camera: str = 'front') -> Clip:
    """Frames as (second, letters of the things in view)."""
    shown = tuple(Shown(observation(t, list(range(len(names))), camera=camera), tuple(names)) for t, names in frames)
    return Clip(shown, lambda a, b: a != b)


def steady(start: float, seconds: float, names: str) -> list[tuple[float, str]]:
    """The same things in view for a while."""
    return [(start + i / RATE, names) for i in range(round(seconds * RATE))]


def ids(given: Clip, names: dict[tuple[int, str], str]) -> list[list[str]]:
    """Each row's id by (session, thing); a session is the whole tens of seconds."""
    return [
        [names.get((s.observation.stamp // (10 * NANOSECONDS), label), '') for label in s.labels] for s in given.shown
    ]


def results(given: Clip, names: dict[tuple[int, str], str]) -> list[scoring.Result]:
    return scoring.judge(given, scoring.spells(given, ids(given, names)), seen_together(given.shown))


THREE = clip(*steady(0, 2, 'AB'), *steady(10, 2, 'AB'), *steady(20, 2, 'ABC'))


def test_precision_and_recall_count_spells() -> None:
    # A keeps its id, then loses it; B is taken for A's, later gets its own back; C is new.
    named = {(0, 'A'): '1', (0, 'B'): '2', (1, 'A'): '1', (1, 'B'): '1', (2, 'A'): '3', (2, 'B'): '2', (2, 'C'): '4'}
    total = scoring.score(results(THREE, named))
    assert (total.returns, total.right, total.wrong, total.new, total.unnamed) == (4, 2, 1, 1, 0)
    assert total.precision == pytest.approx(2 / 3)
    assert total.recall == pytest.approx(2 / 4)


def test_a_wrong_name_of_a_new_thing_counts_against_precision() -> None:
    named = {(0, 'A'): '1', (0, 'B'): '2', (1, 'A'): '1', (1, 'B'): '2', (2, 'A'): '1', (2, 'B'): '2', (2, 'C'): '2'}
    total = scoring.score(results(THREE, named))
    assert (total.returns, total.right, total.wrong) == (4, 4, 1)


def test_a_spell_without_an_id_is_missed_and_not_wrong() -> None:
    total = scoring.score(results(THREE, {(0, 'A'): '1', (0, 'B'): '2'}))
    assert (total.returns, total.unnamed, total.wrong, total.recall, total.precision) == (4, 4, 0, 0.0, 1.0)


def test_one_sighting_under_another_id_is_no_merge_and_two_are() -> None:
    given = clip(*steady(0, 2, 'AB'))
    names = [['1', '2'] for _ in given.shown]
    names[5] = ['1', '1']
    assert not any(r.merged for r in scoring.judge(given, scoring.spells(given, names), set()))
    names[6] = ['1', '1']
    merged = [r.merged for r in scoring.judge(given, scoring.spells(given, names), seen_together(given.shown))]
    assert merged == [(), (('A', 'seen together'),)]
    assert scoring.switches(given, names) == 1


def test_gaps_are_counted_from_the_last_sighting_by_any_camera() -> None:
    shown = [*clip(*steady(0, 2, 'A')).shown, *clip(*steady(5, 1, 'A'), camera='side').shown]
    given = Clip(tuple([*shown, *clip(*steady(40, 1, 'A')).shown]), lambda a, b: a != b)
    first, second, third = scoring.judge(given, scoring.spells(given, [['1']] * len(given.shown)), set())
    assert (first.returns, first.gap, first.places, first.pool) == (False, -1.0, '', 0)
    assert (second.gap, second.places, second.outcome) == (pytest.approx(3.2), 'another camera', 'right')
    assert (third.gap, third.places, third.pool) == (pytest.approx(34.2), 'same camera', 1)
    assert [scoring.gap_class(r) for r in (first, second, third)] == ['', '03-10 s', '30-60 s']


def test_a_short_break_does_not_end_a_spell() -> None:
    given = clip(*steady(0, 2, 'A'), *steady(2.6, 2, 'A'))
    assert len(scoring.spells(given, [['']] * len(given.shown))) == 1


def test_a_restart_ends_a_spell_and_the_next_one_is_asked() -> None:
    given = clip(*steady(0, 2, 'A'), *steady(2, 2, 'A'))
    middle = len(given.shown) // 2
    found = scoring.spells(given, [['1']] * len(given.shown), [middle])
    assert [r.restarted for r in scoring.judge(given, found, set())] == [False, True]


def test_covisible_merges_are_found() -> None:
    given = clip(*steady(0, 1, 'AB'))
    assert scoring.covisible(given, [['1', '2']] * 5) == set()
    assert scoring.covisible(given, [['1', '1']] * 5) == {('1', frozenset('AB'))}
    assert scoring.covisible(given, [['', '']] * 5) == set()


def test_pauses_are_no_time_in_which_one_can_be_wrong() -> None:
    assert scoring.hours(THREE) * 3600 == pytest.approx(3 * 1.8)


def test_look_alikes_are_told_apart_from_others() -> None:
    given = clip(*steady(0, 2, 'A'), *steady(10, 2, 'B'), *steady(20, 2, 'B'))
    given = Clip(given.shown, given.apart, {'B': ('A', 'recoloured')})
    found = results(given, {(0, 'A'): '1', (1, 'B'): '1', (2, 'B'): '2'})
    assert reid.merges(found) == {'recoloured': 1}
    assert reid.look_alikes(given, found) == {'recoloured': {'met': 2, 'merged': 1}}


def test_another_light_is_a_class_of_its_own() -> None:
    parts = clip(*steady(0, 2, 'A')).shown, clip(*steady(10, 2, 'A')).shown
    evening = [Shown(s.observation, s.labels, 'evening') for s in parts[1]]
    given = Clip((*parts[0], *evening), lambda a, b: a != b)
    assert [r.relit for r in results(given, {})] == [False, True]


@pytest.mark.parametrize(
    ('overlap', 'expected'),
    [(0, ('a', 'b')), (5, ('a', 'b')), (14, ('', 'b')), (30, ('b', ''))],
)
def test_each_box_shows_the_thing_that_it_covers_best(overlap: int, expected: tuple[str, str]) -> None:
    boxes = np.array([[overlap, 0, 40 + overlap, 40], [20 + overlap, 0, 60 + overlap, 40]], np.float32)
    things = np.array([[0, 0, 40, 40], [30, 0, 70, 40]], np.float32)
    assert match(boxes, things, ['a', 'b']) == expected


def test_second_boxes_show_the_thing_too() -> None:
    boxes = np.array([[0, 0, 40, 40], [8, 0, 48, 40], [60, 0, 90, 40]], np.float32)
    assert match(boxes, np.array([[0, 0, 40, 40]], np.float32), ['a']) == ('a', 'a', '')
    assert match(boxes, np.zeros((0, 4), np.float32), []) == ('', '', '')


def test_dropping_leaves_out_that_share_and_is_the_same_every_time() -> None:
    given = clip(*steady(0, 100, 'A'))
    kept = drop(given, 0.3, seed=4)
    assert 0.6 < len(kept.shown) / len(given.shown) < 0.8
    assert [s.observation.stamp for s in kept.shown] == [s.observation.stamp for s in drop(given, 0.3, seed=4).shown]


def test_hiding_takes_a_thing_out_for_the_gap_and_brings_it_back() -> None:
    given = hide(clip(*steady(0, 20, 'AB')), [4.0])
    found = scoring.spells(given, [[''] * len(s.labels) for s in given.shown])
    for name in 'AB':
        spells = [s for s in found if s.label == name]
        gaps = [(b.first - a.last) / NANOSECONDS for a, b in zip(spells, spells[1:], strict=False)]
        assert len(gaps) >= 2 and all(4.0 <= g <= 4.4 for g in gaps)
    assert all(len(s.observation) == len(s.labels) for s in given.shown)


def test_hiding_takes_second_boxes_of_the_thing_too() -> None:
    frames = []
    for s in clip(*steady(0, 20, 'A')).shown:
        double = observation(s.observation.stamp / NANOSECONDS, [0, 0])
        frames.append(Shown(double, ('A', '')))
    counts = {len(s.observation) for s in hide(Clip(tuple(frames), lambda a, b: a != b), [4.0]).shown}
    assert counts == {0, 2}


def look_frames(*spans: tuple[float, float, list[int]]) -> list[Observation]:
    """Things at places by their number, each with a look of its own."""
    return [
        observation(start + i / RATE, places, [KINDS[p % 8] for p in places])
        for start, seconds, places in spans
        for i in range(round(seconds * RATE))
    ]


def test_tracks_stand_in_for_labels() -> None:
    given = from_tracks(look_frames((0, 5, [0, 3]), (20, 5, [3, 6])), MODEL)
    names = sorted({name for s in given.shown for name in s.labels if name})
    assert len(names) == 4  # the thing at place 3 is two tracks, nobody knows that they are one
    assert given.apart(names[0], names[1]) and not given.apart(names[0], names[2])


def test_methods_differ_as_they_should() -> None:
    seen = look_frames((0, 4, [0, 3]), (30, 4, [3, 6]))
    labels = [tuple(str(int(b[0]) // 100) for b in o.boxes) for o in seen]
    given = Clip(tuple(Shown(o, names) for o, names in zip(seen, labels, strict=True)), lambda a, b: a != b)
    tracks = track(given, MODEL)
    alone, nearest = (reid.run(given, tracks, m)[1] for m in (TrackerOnly(), Nearest(MODEL)))
    assert [r.outcome for r in alone if r.returns] == ['new']
    assert [r.outcome for r in nearest if r.returns] == ['right']


def test_memory_knows_things_after_a_restart(tmp_path: Path) -> None:
    seen = look_frames((0, 4, [0, 3]), (30, 4, [0, 3]))
    labels = [tuple(str(int(b[0]) // 100) for b in o.boxes) for o in seen]
    given = Clip(tuple(Shown(o, names) for o, names in zip(seen, labels, strict=True)), lambda a, b: a != b)
    method = Remembering(MODEL, tmp_path / 'memory.db')
    restarts = [len(seen) // 2]
    _, found = reid.run(given, track(given, MODEL, restarts), method, restarts)
    method.close()
    assert [r.outcome for r in found if r.restarted] == ['right', 'right']
    assert method.counts()['same'] == 2


def test_restarts_are_made_in_pauses_or_in_the_middle() -> None:
    assert reid.pauses(clip(*steady(0, 1, 'A'), *steady(20, 1, 'A'), *steady(40, 1, 'A'))) == [5, 10]
    assert reid.pauses(clip(*steady(0, 2, 'A'))) == [5]


def test_identify_names_no_row_before_its_track_is_confirmed() -> None:
    given = Clip((Shown(observation(0, [0]), ('A',)),), lambda a, b: a != b)
    tracks = track(given, MODEL)
    assert identify(given, tracks, TrackerOnly()) == [['']]
    assert track_ids(given, tracks) == [['0:1']]


def test_joined_clips_share_no_things_and_keep_the_order_of_stamps() -> None:
    late, early = clip(*steady(10, 1, 'A')), clip(*steady(0, 1, 'B'))
    both = joined([late, early])
    stamps = [s.observation.stamp for s in both.shown]
    assert stamps == sorted(stamps)
    assert both.apart('A', 'B')


def test_whether_tracks_of_two_recordings_are_one_thing_is_unknown() -> None:
    recordings = [from_tracks(look_frames((start, 5, places)), MODEL) for start, places in ((0, [0, 3]), (60, [6, 3]))]
    both = joined(recordings)
    labels = [[name for s in shown for name in s.labels if name] for shown in (both.shown[:25], both.shown[25:])]
    (a, b), (c, d) = map(sorted, map(set, labels))
    assert len({a, b, c, d}) == 4
    assert both.apart(a, b) and both.apart(c, d) and not any(both.apart(x, y) for x in (a, b) for y in (c, d))
    report = reid.evaluate(both, MODEL)
    assert report['things'] == 4
    memory = report['memory']  # knows the thing at place 3 again, which is neither right nor wrong
    assert (memory['returns'], memory['unknown'], memory['wrong']) == (0, 1, 0)


def test_truth_of_another_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='no stamp of this recording'):
        labelled([observation(1, [0])], SAMPLE / 'kitchen_truth.json')
    (tmp_path / 'x.json').write_text('{}')
    with pytest.raises(UserError, match='is no ground truth'):
        labelled([observation(1, [0])], tmp_path / 'x.json')


def test_truth_with_topics_labels_each_camera_by_its_own(tmp_path: Path) -> None:
    entry = {'stamp': NANOSECONDS, 'objects': [{'box': [0, 100, 40, 140], 'instance': 'cup', 'part_of': None}]}
    other = {**entry, 'objects': [{'box': [0, 100, 40, 140], 'instance': 'pan', 'part_of': 'stove', 'visible': 0.9}]}
    frames = [
        {**entry, 'topic': '/front/image_raw/compressed', 'light': 'day'},
        {**other, 'topic': '/side/image_raw/compressed'},
    ]
    twins = [{'instance': 'cup', 'of': 'mug', 'how': 'recoloured'}]
    path = tmp_path / 'truth.json'
    path.write_text(json.dumps({'frames': frames, 'twins': twins}))
    given = labelled([observation(1, [0], camera='front'), observation(1, [0], camera='side')], path)
    assert [s.labels for s in given.shown] == [('cup',), ('pan',)]
    assert (given.shown[0].light, given.parts, given.twins) == ('day', {'pan'}, {'cup': ('mug', 'recoloured')})


def test_things_hardly_visible_are_not_scored(tmp_path: Path) -> None:
    thing = {'box': [0, 100, 40, 140], 'instance': 'cup', 'visible': 0.2}
    path = tmp_path / 'truth.json'
    path.write_text(json.dumps({'frames': [{'stamp': NANOSECONDS, 'objects': [thing]}]}))
    assert labelled([observation(1, [0])], path).shown[0].labels == ('',)


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    """What the command prints about every fourth frame of the sample bag."""
    command = ['evaluate', 'reid', str(SAMPLE / 'kitchen'), '--every', '4', '--device', 'cpu', '--json', *arguments]
    assert cli.main(command) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_measures_the_sample_bag(capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluated(capsys, '--truth', str(SAMPLE / 'kitchen_truth.json'))
    memory, nearest, tracker = (report[name] for name in ('memory', 'nearest', 'tracker'))
    assert memory['returns'] == nearest['returns'] == tracker['returns'] >= 20
    assert memory['covisible'] == 0
    assert memory['precision'] > nearest['precision']
    assert memory['right'] > 0
    assert len(report['margins']) == len(reid.MARGIN_ODDS)
    assert set(memory['by']) == {'gap', 'pool', 'camera', 'light'}


def test_shares_of_nothing_are_not_told_as_numbers() -> None:
    """A recording in which nothing leaves has no precision of 1 and no recall of 0."""
    told = list(reid.lines(reid.evaluate(from_tracks(look_frames((0, 5, [0, 3])), MODEL), MODEL)))
    assert any('nothing comes back within 60 s' in line for line in told)
    lines = [line for line in told if not line.startswith('after a restart')]  # after which both are asked
    assert not any(share in line for line in lines for share in ('1.000', '0.000')), lines
    assert next(line for line in lines if line.startswith('memory')).split()[-2:] == ['-', '-']
    seen = look_frames((0, 4, [0, 3]), (30, 4, [3, 6]))
    labels = [tuple(str(int(b[0]) // 100) for b in o.boxes) for o in seen]
    given = Clip(tuple(Shown(o, names) for o, names in zip(seen, labels, strict=True)), lambda a, b: a != b)
    told = list(reid.lines(reid.evaluate(given, MODEL)))
    assert not any('nothing comes back' in line for line in told)
    assert next(line for line in told if line.startswith('memory')).split()[-2:] == ['1.000', '1.000']


def test_as_many_truths_as_bags(capsys: pytest.CaptureFixture[str]) -> None:
    truth = str(SAMPLE / 'kitchen_truth.json')
    assert cli.main(['evaluate', 'reid', 'a', 'b', '--truth', truth]) == cli.USER_ERROR
    assert '2 bags but 1 truths' in capsys.readouterr().err


def test_pairs_of_a_fit_hold_every_known_thing_that_is_not_in_view() -> None:
    seen = look_frames((0, 4, [0, 3]), (30, 4, [3, 6]))
    labels = [tuple(str(int(b[0]) // 100) for b in o.boxes) for o in seen]
    given = Clip(tuple(Shown(o, names) for o, names in zip(seen, labels, strict=True)), lambda a, b: a != b)
    cosine, same = reid_fit.pairs(given, MODEL)
    # The thing at 3 is compared with itself and one other, the new one at 6 with that other: 3 is in view beside it.
    assert same.tolist().count(True) == 1 and len(same) == 3
    assert cosine[same] == pytest.approx(1.0) and cosine[~same] == pytest.approx(0.0, abs=1e-6)

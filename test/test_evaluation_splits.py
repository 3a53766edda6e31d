# SPDX-License-Identifier: Apache-2.0
"""Measures with known answers, what frames are asked, which frames a split holds, and the report on the sample bag."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from blobs import BlobEmbedder, BlobProposer

from embedder_ros import cli
from embedder_ros.commands import options as build
from embedder_ros.evaluation import measures, sightings
from embedder_ros.evaluation.estimates import NOTHING, auroc, bootstrap, mean, rank_correlation, share
from embedder_ros.evaluation.grounding import Result
from embedder_ros.evaluation.measures import Boxed, Choice, Fit
from embedder_ros.evaluation.questions import UNSURE, as_given, questions
from embedder_ros.evaluation.report import speed
from embedder_ros.evaluation.sightings import POOL, Return, View
from embedder_ros.evaluation.splits import Digest, open_split
from embedder_ros.pipeline import Pipeline
from embedder_ros.training.photos import Sample, Thing
from embedder_ros.types import Calibration, UserError

SAMPLE = Path(__file__).parent / 'sample' / 'kitchen'
CALIBRATION = Calibration(scale=10.0, bias=-5.0, found=0.5, margin=0.1, identity_scale=20.0, identity_bias=-10.0)
EACH = [str(i) for i in range(10)]


def test_a_share_of_single_answers_has_wilsons_interval() -> None:
    half = share([True] * 5 + [False] * 5, EACH)
    assert (half.value, half.count, half.by) == (0.5, 10, 'Wilson over 10')
    assert (half.low, half.high) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_answers_that_come_together_say_less() -> None:
    """A hundred answers of ten frames that each agree within themselves are worth ten, not a hundred."""
    units = np.repeat(EACH, 10).tolist()
    together = share(np.repeat([True, False] * 5, 10), units)
    apart = share([True, False] * 50, units)
    alone = share([True, False] * 50, [str(i) for i in range(100)])
    assert together.high - together.low > 2 * (alone.high - alone.low)
    assert apart.high - apart.low == 0  # every frame has half of its answers right
    assert together.low <= 0.25 and together.high >= 0.75


def test_agreeing_answers_have_the_interval_of_their_units() -> None:
    sure = share([True] * 100, np.repeat(EACH, 10).tolist())
    assert (sure.value, sure.high) == (1.0, 1.0) and sure.low == pytest.approx(0.7225, abs=1e-4)


def test_few_units_give_no_bootstrap() -> None:
    two = share([True, False, True, True], ['a', 'a', 'b', 'b'])
    assert two.by == 'Wilson over 2' and two.high - two.low > 0.7
    assert math.isnan(mean([0.1, 0.2, 0.3], ['a', 'a', 'b']).low)
    assert share([], []) == NOTHING and NOTHING.as_dict()['value'] is None


def test_the_mean_of_a_known_spread_lies_in_its_interval() -> None:
    values = np.random.default_rng(1).normal(3.0, 1.0, 400)
    found = mean(values, [str(i) for i in range(400)])
    assert found.low < 3.0 < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert str(found).startswith(f'{values.mean():.2f} (')


@pytest.mark.parametrize(
    ('scores', 'positive', 'area'),
    [
        ([0.1, 0.2, 0.8, 0.9], [False, False, True, True], 1.0),
        ([0.9, 0.8, 0.2, 0.1], [False, False, True, True], 0.0),
        ([0.5, 0.5, 0.5, 0.5], [False, False, True, True], 0.5),
        ([0.1, 0.4, 0.35, 0.8], [False, False, True, True], 0.75),
    ],
)
def test_area_under_the_roc(scores: list[float], positive: list[bool], area: float) -> None:
    assert auroc(scores, positive) == pytest.approx(area)


def test_area_needs_both_sides() -> None:
    assert math.isnan(auroc([0.1, 0.2], [True, True]))


def test_rank_correlation_looks_at_ranks_alone() -> None:
    x = np.linspace(0.1, 1, 8)
    assert rank_correlation(x, x**5) == pytest.approx(1) and rank_correlation(x, -x) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]) == pytest.approx(0.8208, abs=1e-4)  # a tie
    assert math.isnan(rank_correlation(x, np.ones(8)))
    units = [str(i) for i in range(8)]
    found = bootstrap(lambda i: rank_correlation(x[i], x[i] ** 2), units)
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))


def view(group: str, stamp: float, **looks: list[float]) -> View:
    rows = np.array(list(looks.values()), np.float32).reshape(len(looks), -1)
    return View(f'{group}{stamp}', group, int(stamp * 1e9), tuple(looks), rows / np.linalg.norm(rows, axis=1)[:, None])


def test_a_thing_is_looked_for_in_the_next_view_that_shows_it() -> None:
    views = [
        view('a', 0, mug=[1, 0, 0], jar=[0, 1, 0]),
        view('a', 1, jar=[0, 1, 0.2], can=[0, 1, 0]),
        view('b', 1, mug=[0, 0, 1]),
        view('a', 5, mug=[1, 0.1, 0], jar=[1, 0, 0.5]),
    ]
    kept, found = sightings.returns(views)
    assert [(one.unit, after.stamp) for one, (_, after, _) in zip(kept, found, strict=True)] == [
        ('a0', 5_000_000_000),
        ('a0', 1_000_000_000),
        ('a1', 5_000_000_000),
    ]
    assert [one.first for one in kept] == [True, False, False]
    assert kept[0].same == pytest.approx(1 / math.sqrt(1.01)) and len(kept[0].others) == 1
    later, _ = sightings.returns(views, gap=3.0)
    assert [one.unit for one in later] == ['a0', 'a0', 'a1']


def test_rank_one_in_a_pool_of_many() -> None:
    """One of 400 others is nearer than the thing itself: it is lost exactly when that one is drawn."""
    random = np.random.default_rng(0)
    others = np.abs(random.normal(0, 1, (400, 8))) * [0, 1, 1, 1, 1, 1, 1, 1]
    crowd = view('c', 0, **{f'other{i}': row.tolist() for i, row in enumerate(others)})
    here, there = view('a', 0, mug=[1.0] + [0.0] * 7), view('a', 1, mug=[1.0, 0.1] + [0.0] * 6)
    kept, found = sightings.returns([here, there])
    (one,) = sightings.in_pool(kept, found, [here, there, crowd])
    assert len(one.others) == POOL - 1 and one.first
    twin = view('d', 0, **{f'twin{i}': [1.0] + [0.0] * 7 for i in range(400)})
    (lost,) = sightings.in_pool(kept, found, [here, there, twin])
    assert not lost.first


def test_a_look_that_several_share_is_no_rival_of_itself() -> None:
    """Packages' meshes come back in other scenes (scenes/packages.py): nothing could tell these two cans apart."""
    here, there = (
        view('a', 0, **{'a/can_0@soup': [1, 0]}),
        view('a', 1, **{'a/can_0@soup': [1, 0.1], 'a/can_1@soup': [1, 0]}),
    )
    elsewhere = view('b', 0, **{'b/can_3@soup': [1, 0], 'b/can_0@beans': [1, 0.05]})
    kept, found = sightings.returns([here, there])
    assert [len(one.others) for one in kept] == [0]
    (one,) = sightings.in_pool(kept, found, [elsewhere])
    assert len(one.others) == 1 and not one.first  # the beans, which are nearer


def test_refusal_trades_recall_for_precision() -> None:
    def one(unit: str, same: float, *others: float) -> Return:
        return Return(unit, same, np.array(others, np.float32))

    kept = [one('0', 0.9, 0.2), one('1', 0.9, 0.85), one('2', 0.6, 0.7), one('3', 0.4, 0.1)]
    loose, strict = (sightings.refusal(kept, CALIBRATION, m) for m in (0.0, 0.2))
    # with the thing: 2 right, 1 wrong, 1 refused; without it: the rivals of 1 and 2 are claimed
    assert loose['precision'].value == pytest.approx(2 / 5) and loose['recall'].value == 0.5
    assert loose['false'].value == 0.5
    assert strict['recall'].value == 0.25
    assert strict['precision'].value == pytest.approx(1 / 3)  # rivals alone in the frame have nothing to lead over


def test_false_found_and_area_of_what_is_not_there() -> None:
    def result(number: int, *, present: bool, score: float, lead: float = 0.3) -> Result:
        return Result('noun' if present else 'absent', present, present, present, score, lead, str(number))

    results = [result(i, present=True, score=0.6 + 0.05 * i) for i in range(6)]
    results += [result(i, present=False, score=s) for i, s in enumerate((0.1, 0.2, 0.3, 0.55, 0.58, 0.7))]
    results[-1] = result(5, present=False, score=0.75, lead=0.05)
    found = measures.refusal(results, CALIBRATION)['absent']
    assert found['false found'].value == pytest.approx(2 / 6) and found['ambiguous'].value == pytest.approx(1 / 6)
    assert found['auroc'].value == pytest.approx((36 - 3.5) / 36) and found['auroc'].count == 12
    ended = measures.grounding(results[:6], CALIBRATION)
    assert ended['found'].value == 1 and ended['wrong'].value == 0


def test_found_on_the_thing_by_a_loose_box_is_told_from_found_elsewhere() -> None:
    ends = [
        (0.8, 0.9),
        (0.49, 0.9),
        (0.2, 0.9),
        (0.19, 0.9),
        (0.0, 0.9),
        (0.3, 0.05),
    ]  # IoU and score; FOUND but the last
    results = [Result('noun', True, iou >= 0.5, True, score, score, str(i), iou) for i, (iou, score) in enumerate(ends)]
    ended = measures.grounding(results, CALIBRATION)
    assert [ended[n].value for n in ('found', 'loose', 'wrong')] == pytest.approx([1 / 6, 2 / 6, 2 / 6])


def test_recall_counts_the_first_boxes() -> None:
    found = measures.recall([Boxed(u, 'things', place) for u, place in zip('abcd', (0, 29, 64, 100), strict=True)])
    assert [found[n].value for n in ('30', '64', '100')] == [0.5, 0.5, 0.75]


def test_the_curve_tells_what_iou_gains() -> None:
    fits = [Fit(u, 'all own boxes', (0.5, 0.6, 0.7, 0.6), 0.8, 0.4) for u in 'abcdef']
    found = measures.curve(fits)
    assert found['a = 0'].value == pytest.approx(0.5) and found['gain of a = 1'].value == pytest.approx(0.2)
    assert found['gain of a = 1'].low == pytest.approx(0.2) and found['best'].value == pytest.approx(0.8)


def test_choosing_among_one_box_does_not_count() -> None:
    found = measures.choices([Choice('a', 'noun', True, 1.0, False), Choice('b', 'noun', False, 0.5, True)])
    assert (found['annotated only'].value, found['annotated only'].count) == (0, 1)
    assert found['with distractors'].value == 0.5 and found['chance'].value == 0.5


def drawer() -> Sample:
    """A cabinet's drawer with a red handle, a door with a blue handle, and a red mug."""
    box = np.array([0, 0, 9, 9], np.float32)
    things = [
        Thing(box, ('cabinet', 'cupboard'), ('white',), 's/c_0'),
        Thing(box, ('drawer',), ('white',), 's/c_0#drawer1', part=True),
        Thing(box, ('handle', 'pull'), ('red',), 's/c_0#drawer1/handle0', part=True),
        Thing(box, ('handle', 'pull'), ('blue',), 's/c_0#door0/handle0', part=True),  # its door is not labelled
        Thing(box, ('mug', 'cup'), ('red', 'white'), 's/mug_0'),
    ]
    return Sample('drawn', np.zeros((48, 64, 3), np.uint8), things, group='s')


def test_parts_are_asked_by_colour_and_by_owner() -> None:
    asked = {a.text: a for a in questions(drawer())}
    present = {text: (a.kind, a.meant) for text, a in asked.items() if a.meant}
    assert present == {
        'the cabinet': ('noun', (0,)),
        'the white cabinet': ('colour noun', (0,)),
        'the drawer': ('part', (1,)),
        'the white drawer': ('colour part', (1,)),
        'the cabinet drawer': ('owned part', (1,)),
        'the handle': ('part', (2, 3)),
        'the red handle': ('colour part', (2,)),
        'the drawer handle': ('owned part', (2,)),
        'the blue handle': ('colour part', (3,)),
        'the door handle': ('owned part', (3,)),
        'the mug': ('noun', (4,)),
    }
    absent = [a for a in asked.values() if not a.meant]
    assert {a.kind for a in absent} == {'absent', 'absent colour'}
    assert not {'the mug', 'the drawer', 'the red handle', 'the blue handle'} & {a.text for a in absent}
    assert questions(drawer()) == questions(drawer())


def test_what_may_be_there_unlabelled_is_not_asked_for_as_absent() -> None:
    box = np.array([0, 0, 9, 9], np.float32)
    photo = Sample('p', np.zeros((48, 64, 3), np.uint8), [Thing(box, ('a cat', 'my dog'))] * 2, complete=False)
    given = as_given(photo)
    assert [(a.text, a.meant) for a in given if a.kind == 'given'] == [('a cat', (0, 1)), ('my dog', (0, 1))]
    for asked in (given, questions(photo)):
        words = {a.text.removeprefix('the ') for a in asked if a.kind == 'absent'}
        assert words and not words & {'cat', 'dog', *UNSURE} if asked is given else not words & set(UNSURE)


def test_a_split_reads_whole_scenes_evenly(tmp_path: Path) -> None:
    frames = []
    for number in range(12):
        cv2.imwrite(str(tmp_path / f'{number}.png'), np.full((48, 64, 3), number, np.uint8))
        frames.append({'file': f'{number}.png', 'scene': f's{number // 3}', 'objects': []})
    (tmp_path / 'annotations.json').write_text(json.dumps({'frames': frames}))
    split = open_split(f'render-held:{tmp_path}', photo_folder=None, classes=None, frames=6)
    items = list(split.items())
    assert (split.name, split.unit, split.frames) == ('render-held', 'scene', 6)
    assert [int(i.frame.image[0, 0, 0]) for i in items] == [0, 1, 2, 6, 7, 8]
    assert len({i.unit for i in items}) == 2


def test_kitchen_splits_share_no_video(tmp_path: Path) -> None:
    content = []
    for number, video in enumerate(('carlos_tea', 'rahul_tea', 'carlos_soup', 'ana_tea')):
        cv2.imwrite(str(tmp_path / f'{video}_{number}.png'), np.full((48, 64, 3), number, np.uint8))
        objects = [{'name': 'cup', 'box': [1, 1, 9, 9]}]
        content.append({'image': f'{video}_{number}.png', 'video': video, 'objects': objects})
    (tmp_path / 'annotations.json').write_text(json.dumps(content))
    shown = {
        name: [
            int(i.frame.image[0, 0, 0])
            for i in open_split(f'{name}:{tmp_path}', photo_folder=None, classes=None).items()
        ]
        for name in ('kitchen-held', 'kitchen-trained')
    }
    assert shown == {'kitchen-held': [0, 2], 'kitchen-trained': [1, 3]}
    part = open_split(f'kitchen-held:{tmp_path}:carlos_s', photo_folder=None, classes=None)
    assert part.name == 'kitchen-held:carlos_s' and [i.sample.things[0].names for i in part.items()] == [('cup',)]
    photos = open_split(f'photos:{tmp_path}/annotations.json', photo_folder=None, classes=None, frames=3)
    assert photos.name == 'photos:annotations.json' and photos.frames == 3
    first = next(photos.items())
    assert [a.text for a in first.asked if a.meant] == ['cup']
    digests = []
    for box in (9, 9, 8):
        digest = Digest()
        first.sample.things[0].box[2] = box
        digest.add(first)
        digests.append(str(digest))
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ('spec', 'match'),
    [
        ('kitchen:somewhere', 'no split is called'),
        ('mosaic-held:4:1', '--photos'),
        ('render-held:nowhere', 'cannot be read'),
        ('bag:nowhere', 'cannot be read'),
    ],
)
def test_a_wrong_split_is_named(spec: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        open_split(spec, photo_folder=None, classes=None)


def test_stages_are_told_apart() -> None:
    told = speed([{'encode': 0.1, 'embed': 0.02}, {'encode': 0.3, 'embed': 0.04}])
    assert told['ms']['encode']['p50'] == 200 and told['ms']['frame']['p50'] == pytest.approx(230)


def test_the_report_on_drawn_blobs_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six photos with a red and a green block, and one with nothing, where nothing is asked."""
    monkeypatch.setattr(build, 'pipeline', lambda options: Pipeline(BlobEmbedder(), BlobProposer()))
    content = []
    for number in range(7):
        image = np.zeros((240, 320, 3), np.uint8)
        red, green = [20 + 9 * number, 60, 90 + 9 * number, 150], [210, 40, 280, 110]
        objects = [{'name': 'the red one', 'box': red}, {'name': 'the green one', 'box': green}] if number < 6 else []
        for entry, colour in zip(objects, ((0, 0, 255), (0, 255, 0)), strict=False):
            x0, y0, x1, y1 = entry['box']
            image[y0:y1, x0:x1] = colour
        cv2.imwrite(str(tmp_path / f'{number}.png'), image)
        content.append({'image': f'{number}.png', 'objects': objects})
    (tmp_path / 'set.json').write_text(json.dumps(content))
    assert cli.main(['evaluate', 'splits', f'photos:{tmp_path}/set.json', '--json']) == 0
    split = json.loads(capsys.readouterr().out)['splits']['photos:set.json']
    asked = split['grounding']['all']
    assert [asked[n]['value'] for n in ('boxed', 'first', 'found', 'loose', 'wrong', 'ambiguous')] == [1, 1, 1, 0, 0, 0]
    assert asked['first']['count'] == 12 and asked['iou of first']['value'] == pytest.approx(1)
    assert [split['given boxes']['all'][n]['value'] for n in ('annotated only', 'chance')] == [1, 0.5]
    absent = split['not there']['absent']
    assert absent['auroc']['value'] == 1 and absent['false found']['value'] == 0 and absent['auroc']['count'] == 24
    assert split['proposal recall']['things']['30']['value'] == 1 and split['frames'] == 7
    assert split['iou head']['own boxes']['value'] is None  # the blobs' iou is constant
    assert 're-identification' not in split
    assert cli.main(['evaluate', 'splits', f'photos:{tmp_path}/set.json']) == 0
    assert '== photos:set.json: 7 frames' in capsys.readouterr().out


def test_the_report_on_the_sample_bag(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['evaluate', 'splits', f'bag:{SAMPLE}', '--frames', '5', '--json']) == 0
    told = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f'{name} is no JSON'))
    split = told['splits']['bag:kitchen']
    assert split['frames'] == 5 and len(split['input_sha256']) == 64
    first = split['grounding']['all']['first']
    assert first['low'] <= first['value'] <= first['high'] and first['value'] > 0.5 and first['count'] > 100
    assert split['given boxes']['all']['annotated only']['value'] > 4 * split['given boxes']['all']['chance']['value']
    kinds = [split['grounding'][kind]['first']['count'] for kind in ('part', 'colour part', 'owned part')]
    widths = split['parts by width']
    assert sum(row['first']['count'] for row in widths.values()) == sum(kinds)
    assert widths['from 24 pixels']['boxed']['value'] > widths['under 12 pixels']['boxed']['value']
    assert split['not there']['absent']['auroc']['value'] > 0.8
    assert split['iou head']['own boxes']['value'] > 0.4
    recall = [split['proposal recall']['things'][n]['value'] for n in ('30', '64', '100')]
    assert recall == sorted(recall) and recall[-1] > 0.7
    known = split['re-identification']['next view']
    assert (
        known['rank 1 in frame']['value'] > 0.6
        and known['rank 1 in frame']['value'] >= known['rank 1 in pool']['value']
    )
    assert {'encode', 'propose', 'embed', 'frame'} == set(told['cost']['ms']) and told['cost']['peak_memory_mib'] > 100
    assert cli.main(['evaluate', 'splits', 'bag:nowhere']) == 2
    assert 'cannot be read' in capsys.readouterr().err

# SPDX-License-Identifier: Apache-2.0
"""Readers of the published benchmarks on small drawn sets, with a model that is known to the pixel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from blobs import BlobEmbedder, BlobProposer
from livetest import picture

from embedder_ros import cli
from embedder_ros.commands import options as build
from embedder_ros.evaluation import degrade, detection, named, refer, retrieval
from embedder_ros.evaluation.images import interval, load
from embedder_ros.pipeline import Pipeline
from embedder_ros.types import UserError

pytest.importorskip('pycocotools')
RED, GREEN, BLUE = (40, 60, 100, 120), (200, 60, 260, 120), (100, 150, 200, 220)


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline(BlobEmbedder(), BlobProposer())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, blobs in {'a': {'red': RED, 'green': GREEN}, 'b': {'blue': BLUE}, 'c': {}}.items():
        cv2.imwrite(str(tmp_path / f'{name}.png'), picture(**blobs)[..., ::-1])
    return tmp_path


def write(folder: Path, content: Any) -> Path:
    (folder / 'set.json').write_text(json.dumps(content))
    return folder / 'set.json'


def xywh(box: tuple[int, ...]) -> list[int]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def coco(**image_fields: Any) -> dict[str, Any]:
    """Red and green in image 1, blue in image 2, nothing in image 3."""
    return {
        'images': [{'id': i, 'file_name': f'{n}.png', **image_fields} for i, n in ((1, 'a'), (2, 'b'), (3, 'c'))],
        'categories': [{'id': 10, 'name': 'red'}, {'id': 20, 'name': 'green'}, {'id': 30, 'name': 'blue'}],
        'annotations': [
            {'image_id': 1, 'category_id': 10, 'bbox': xywh(RED)},
            {'image_id': 1, 'category_id': 20, 'bbox': xywh(GREEN)},
            {'image_id': 2, 'category_id': 30, 'bbox': xywh(BLUE)},
        ],
    }


def test_perfect_detections_have_ap_one(pipeline: Pipeline, folder: Path) -> None:
    result = detection.run_detection(pipeline, detection.read_dataset(write(folder, coco())), folder)
    assert result['AP'] == pytest.approx(1) and result['AP50'] == pytest.approx(1)
    assert result['AP medium'] == pytest.approx(1) and np.isnan(result['AP large'])


def test_a_category_that_is_never_found_costs_its_third(pipeline: Pipeline, folder: Path) -> None:
    content = coco()
    content['annotations'].append({'image_id': 3, 'category_id': 20, 'bbox': [0, 0, 50, 50]})
    result = detection.run_detection(pipeline, detection.read_dataset(write(folder, content)), folder)
    # green: one of two found at every precision 1, so recall up to .5 counts: 51 of 101 points
    assert result['AP'] == pytest.approx((1 + 51 / 101 + 1) / 3, abs=1e-6)


def test_lvis_counts_only_what_was_looked_for(folder: Path) -> None:
    """A false detection counts where its category is known to be absent, not where nobody looked."""
    results = np.array([(0, 0, xywh(RED), 0.8), (2, 0, xywh(RED), 0.9)], detection.ROW)  # right, and wrong

    def precision(**fields: Any) -> float:
        content = coco()
        content['images'][2] |= fields
        content['annotations'] = content['annotations'][:1]
        dataset = detection.read_dataset(write(folder, content))
        return detection.average_precision(dataset, results, lvis=True)['AP']

    assert precision() == pytest.approx(1)  # not looked for
    assert precision(neg_category_ids=[10]) == pytest.approx(0.5)
    assert precision(not_exhaustive_category_ids=[10]) == pytest.approx(1)


@pytest.mark.parametrize('pending', [0, 100, 10_000])
def test_the_best_of_each_category_count_and_no_more_are_held(pending: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, 'PENDING', pending)
    random, most, names = np.random.default_rng(pending), 20, 7
    best, everything = detection.Best(names, most), []
    for image in range(60):
        rows = np.zeros(30, detection.ROW)
        rows['image'], rows['category'] = image, random.integers(names - 1, size=30)  # the last is never found
        rows['score'], rows['bbox'] = random.integers(40, size=30) / 40, random.random((30, 4))  # many are equal
        best.add(rows)
        everything += list(rows)
        assert sum(map(len, best._taken)) <= names * most + pending + len(rows)
    expected = [
        row
        for category in range(names)
        for row in sorted((r for r in everything if r['category'] == category), key=lambda r: -r['score'])[:most]
    ]
    assert best.rows().tobytes() == np.array(expected, detection.ROW).tobytes()


def test_without_a_limit_all_detections_count() -> None:
    best = detection.Best(3)
    for image in range(5):
        best.add(np.array([(image, 2, [0, 0, 1, 1], 0.1)] * 4, detection.ROW))
    assert len(best.rows()) == 20


def test_lvis_is_averaged_over_the_categories_that_are_somewhere(pipeline: Pipeline, folder: Path) -> None:
    content = coco(neg_category_ids=[10, 20, 30, 40])
    content['categories'].append({'id': 40, 'name': 'purple'})
    content['annotations'].append({'image_id': 3, 'category_id': 20, 'bbox': [0, 0, 50, 50]})
    dataset = detection.read_dataset(write(folder, content))
    result = detection.run_detection(pipeline, dataset, folder, lvis=True)
    assert result['AP'] == pytest.approx((1 + 51 / 101 + 1) / 3, abs=1e-6)
    nothing = detection.average_precision(dataset, np.zeros(0, detection.ROW), lvis=True)
    assert nothing['AP'] == 0 and np.isnan(nothing['AP large'])


def test_lvis_reads_its_image_names(pipeline: Pipeline, folder: Path) -> None:
    content = coco(neg_category_ids=[10, 20, 30])
    for image in content['images']:
        image['coco_url'] = 'http://images/' + image.pop('file_name')
    result = detection.run_detection(pipeline, detection.read_dataset(write(folder, content)), folder, lvis=True)
    assert result['AP'] > 0.99


def test_recall_is_averaged_over_overlaps() -> None:
    truth = {1: np.array([[0, 0, 100, 100]], np.float32), 2: np.zeros((0, 4), np.float32)}
    given = {1: np.array([[0, 0, 100, 72]], np.float32), 2: np.zeros((0, 4), np.float32)}
    assert detection.average_recall(given, truth) == pytest.approx(0.5)  # .5 .55 .6 .65 .7 of ten
    assert detection.average_recall({**given, 1: given[2]}, truth) == 0


def test_worse_boxes_cost_recall_and_precision(pipeline: Pipeline, folder: Path) -> None:
    dataset = detection.read_dataset(write(folder, coco()))
    damages = [degrade.Damage(), degrade.Damage(drop=1.0), degrade.Damage(jitter=0.2), degrade.Damage(1.0, truth=True)]
    whole, nothing, shaken, replaced = degrade.study(pipeline, dataset, folder, damages)
    assert whole['AR'] == pytest.approx(1) and whole['AP'] == pytest.approx(1) and whole['proposals'] == 'as they are'
    assert nothing['AR'] == 0 and nothing['AP'] == 0
    assert shaken['AR'] < 0.9 and shaken['AP'] < whole['AP']
    assert replaced['AR'] == pytest.approx(1) and replaced['proposals'] == 'drop 100%, truth'


@pytest.mark.parametrize('layout', ['list', 'coco'])
def test_expressions_in_both_layouts(pipeline: Pipeline, folder: Path, layout: str) -> None:
    asked = [('a', 'the red one', RED), ('a', 'the green one', RED), ('b', 'blue', BLUE), ('c', 'red', RED)]
    if layout == 'list':
        content: Any = [{'image': f'{n}.png', 'box': box, 'expressions': [text]} for n, text, box in asked]
    else:
        images = [{'id': i, 'file_name': f'{n}.png', 'caption': text} for i, (n, text, _) in enumerate(asked)]
        content = {
            'images': images,
            'annotations': [{'image_id': i, 'bbox': xywh(box)} for i, (*_, box) in enumerate(asked)],
        }
    counts = refer.accuracy(pipeline, refer.read_expressions(write(folder, content)), folder)
    assert counts == {'expressions': 4, 'top 1': 2, 'top 5': 3, 'top 10': 3}


def test_retrieval_by_text_and_by_example(pipeline: Pipeline, folder: Path) -> None:
    gallery = ['c.png', 'b.png', 'a.png']
    queries = [
        {'text': 'red', 'positives': ['a.png']},
        {'image': 'b.png', 'positives': ['b.png']},
        {'text': 'green', 'positives': ['b.png']},
    ]
    path = write(folder, {'gallery': gallery, 'queries': queries})
    result = retrieval.retrieve(pipeline, *retrieval.read_retrieval(path), folder)
    assert result['R@1'] == pytest.approx(2 / 3) and result['R@5'] == 1
    assert 2 / 3 < result['mAP@50'] < 1
    with pytest.raises(UserError, match='one wording only'):
        retrieval.retrieve(pipeline, *retrieval.read_retrieval(path), folder, image_wording=True)


def test_a_file_that_the_gallery_lists_twice_is_one_place(folder: Path) -> None:
    gallery = ['c.png', 'c.png', 'b.png', 'a.png']
    path = write(folder, {'gallery': gallery, 'queries': [{'text': 'red', 'positives': ['a.png']}]})
    names, (query,) = retrieval.read_retrieval(path)
    assert names == ['c.png', 'b.png', 'a.png'] and [names[i] for i in query.positives] == ['a.png']


def test_mean_precision_is_normalised_by_the_positives() -> None:
    ranking = [True, False, True] + [False] * 60 + [True]
    result = retrieval.measured([ranking], [4])
    assert result['mAP@50'] == pytest.approx((1 + 2 / 3) / 4)
    assert retrieval.measured([[False, True]], [1]) == {'R@1': 0, 'R@5': 1, 'R@10': 1, 'mAP@50': 0.5}


class WholeFrames(BlobEmbedder):
    """Frames embedded by their mean colour."""

    def embed(self, *args: Any) -> Any:
        from dataclasses import replace

        out = []
        for frame, o in zip(args[0], super().embed(*args), strict=True):
            row = np.zeros((2, o.dim), np.float32)
            row[:, :3] = frame.image.reshape(-1, 3).mean(axis=0) + 1e-3
            out.append(replace(o, frame_embeddings=row / np.linalg.norm(row, axis=1, keepdims=True)))
        return out


def test_captions_both_ways(folder: Path, pipeline: Pipeline) -> None:
    entries = [
        {'image': 'a.png', 'captions': ['red and green', 'red']},
        {'image': 'b.png', 'captions': ['blue', 'red']},
    ]
    path = write(folder, entries)
    result = retrieval.captions(Pipeline(WholeFrames(), BlobProposer()), retrieval.read_captions(path), folder)
    assert result == {'image to text': 1.0, 'text to image': 0.75}
    with pytest.raises(UserError, match='no whole frames'):
        retrieval.captions(pipeline, retrieval.read_captions(path), folder)


@pytest.mark.parametrize('layout', ['pixels', 'shares'])
def test_named_boxes_in_both_layouts(pipeline: Pipeline, folder: Path, layout: str) -> None:
    things = {'a': [('red', RED), ('green', GREEN)], 'b': [('green', BLUE)]}
    size = np.array([320, 240, 320, 240])
    content = [
        {
            'image': f'{name}.png',
            'objects': [
                {'name': text, 'box': list(box)}
                if layout == 'pixels'
                else {'box_frac': (np.array(box) / size).tolist(), 'queries': [text]}
                for text, box in objects
            ],
        }
        for name, objects in things.items()
    ]
    result = named.evaluate(pipeline, named.read_photos(write(folder, content)), folder)
    assert (result.first.right, result.first.count) == (3, 3)  # the one blob of b.png is first, however unlike green
    assert (result.found.right, result.wrong.right) == (2, 0)
    assert result.boxed.right == 3 and result.distracted.count == 3
    assert (result.given.right, result.given.count) == (2, 2)  # among a photo's only box there is nothing to choose


def test_named_boxes_end_at_the_photos_edges_and_may_be_none(pipeline: Pipeline, folder: Path) -> None:
    content = [
        {'image': 'a.png', 'objects': [{'name': 'red', 'box': [-5, 10, 900, 900]}]},
        {'image': 'c.png', 'objects': []},
    ]
    photos = named.read_photos(write(folder, content))
    assert photos[0].pixels(load(folder, 'a.png')).tolist() == [[0, 10, 320, 240]]
    assert named.evaluate(pipeline, photos, folder).first.count == 1


@pytest.mark.parametrize(('share', 'ends'), [(0.8, 'found'), (0.3, 'loose'), (0.1, 'wrong')])
def test_named_boxes_that_are_covered_a_little(pipeline: Pipeline, folder: Path, share: float, ends: str) -> None:
    """FOUND on the thing by a loose box is told from FOUND on something else."""
    x0, y0, x1, y1 = RED
    labelled = [x0, y0, x0 + (x1 - x0) * share, y1]
    photos = named.read_photos(write(folder, [{'image': 'a.png', 'objects': [{'name': 'red', 'box': labelled}]}]))
    result = named.evaluate(pipeline, photos, folder)
    assert [n for n in ('found', 'loose', 'wrong') if getattr(result, n).right] == [ends]


def test_an_interval_is_wilsons() -> None:
    assert interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert interval(0, 0) == (0, 1) and interval(10, 10)[1] == 1


def test_named_boxes_of_some_videos(folder: Path) -> None:
    content = [{'image': f'{v}.png', 'video': v, 'objects': []} for v in ('ana_tea', 'ben_tea', 'ana_soup')]
    path = write(folder, content)
    assert [p.image for p in named.read_photos(path, videos=['ana'])] == ['ana_tea.png', 'ana_soup.png']
    assert len(named.read_photos(path, 1, ['ana', 'ben'])) == 1
    with pytest.raises(UserError, match='no video begins with eve; there are ana_soup, ana_tea, ben_tea'):
        named.read_photos(path, videos=['eve'])
    with pytest.raises(UserError, match="lacks 'video'"):
        named.read_photos(write(folder, [{'image': 'a.png', 'objects': []}]), videos=['ana'])


@pytest.mark.parametrize(
    ('read', 'content', 'match'),
    [
        (detection.read_dataset, {'images': []}, "lacks 'categories'"),
        (detection.read_dataset, {**coco(), 'annotations': [{'image_id': 1}]}, r"annotations\[0\] lacks 'category_id'"),
        (detection.read_dataset, {**coco(), 'categories': []}, 'has category 10'),
        (
            detection.read_dataset,
            {**coco(), 'annotations': [{'image_id': 1, 'category_id': 10, 'bbox': 7}]},
            r'annotations\[0\] has box 7; give four numbers',
        ),
        (named.read_photos, [{'image': 'a.png', 'objects': [3]}], "entry 0 lacks 'box'"),
        (refer.read_expressions, [{'image': 'a.png', 'box': [1, 2, 3], 'expressions': ['x']}], 'give four numbers'),
        (refer.read_expressions, [], 'holds no expressions'),
        (retrieval.read_retrieval, {'gallery': [], 'queries': [{'positives': ['x']}]}, "either 'text' or 'image'"),
        (
            retrieval.read_retrieval,
            {'gallery': [], 'queries': [{'text': 't', 'positives': ['x']}]},
            'not in the gallery',
        ),
        (retrieval.read_captions, {}, 'no list of images'),
        (named.read_photos, [{'image': 'a.png', 'objects': [{'name': 'x'}]}], "lacks 'box'"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, read: Any, content: Any, match: str) -> None:
    with pytest.raises(UserError, match=match):
        read(write(tmp_path, content))


def test_an_image_that_is_missing_is_named(pipeline: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='a.png is missing; .* --images'):
        detection.run_detection(pipeline, detection.read_dataset(write(tmp_path, coco())), tmp_path)


@pytest.mark.parametrize('kind', ['coco', 'lvis', 'proposals', 'grounding'])
def test_the_command_prints_ours_and_theirs(
    kind: str, folder: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, 'pipeline', lambda options: pipeline)
    named_content = [{'image': 'a.png', 'objects': [{'name': 'red', 'box': RED}]}]
    path = write(folder, named_content if kind == 'grounding' else coco())
    assert cli.main(['evaluate', kind, str(path), '--images', str(folder), '--json']) == 0
    told = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f'{name} is no JSON'))
    if kind == 'grounding':
        assert told['first']['share'] == 1 and told['photos'] == 1
    else:
        ours = told['ours'][0] if kind == 'proposals' else told['ours']
        assert ours['AP'] == pytest.approx(1) and told['published']
    assert cli.main(['evaluate', kind, str(path), '--images', str(folder)]) == 0
    assert capsys.readouterr().out
    assert cli.main(['evaluate', kind, str(folder / 'no.json'), '--images', str(folder)]) == 2

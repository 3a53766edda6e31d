# SPDX-License-Identifier: Apache-2.0
"""`embedder-ros detect`, `search`, `score` and `embed` on drawn photos with the default model."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from embedder_ros import cli
from embedder_ros.bags.source import open_source
from embedder_ros.models.base import TextKind
from embedder_ros.models.registry import load_model
from embedder_ros.pipeline import Pipeline

SQUARE, CIRCLE = [30, 60, 111, 141], [185, 105, 276, 196]


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red square and a blue circle, a blue circle alone, and nothing."""
    folder = tmp_path_factory.mktemp('photos')
    for number, shown in enumerate(({'square', 'circle'}, {'circle'}, set())):
        image = np.full((240, 320, 3), 150, np.uint8)
        if 'square' in shown:
            cv2.rectangle(image, (30, 60), (110, 140), (30, 30, 200), cv2.FILLED)
        if 'circle' in shown:
            cv2.circle(image, (230, 150), 45, (200, 40, 30), cv2.FILLED)
        cv2.imwrite(str(folder / f'{number}.png'), image)
    return folder


def out(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main(list(map(str, arguments))) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main(list(map(str, arguments))) == 2
    return capsys.readouterr().err


def test_detect_lists_what_is_there(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / 'out.png'
    names = ['red square', 'blue circle']
    told = out(capsys, 'detect', photos, *names, '--json', '--threshold', '0.05', '--single', '--annotate', picture)
    assert [json.loads(line)['photo'] for line in told.splitlines()] == ['0.png', '1.png', '2.png']
    frames = [json.loads(line)['detections'] for line in told.splitlines()]
    assert len(frames) == 3 and {d['name'] for d in frames[0]} <= set(names) and frames[0]
    for d in frames[0]:
        assert d['score'] == pytest.approx(d['semantic'] * d['iou'], abs=2e-4) and d['score'] >= 0.05
    boxes = [tuple(d['box']) for d in frames[0]]
    assert len(boxes) == len(set(boxes)), 'a box bears two names'
    assert cv2.imread(str(picture)).shape == (240, 320, 3)
    plain = out(capsys, 'detect', photos / '0.png', *names)
    assert plain.startswith('0.png: ') and ' found' in plain.splitlines()[0]
    assert 'no picture' in refused(capsys, 'detect', photos, 'mug', '--annotate', tmp_path / 'out.txt')


def test_detect_tells_each_thing_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = pytest.importorskip('skimage.data').coffee()  # one cup, of which many boxes are proposed
    cv2.imwrite(str(tmp_path / 'coffee.png'), photo[..., ::-1])
    boxes = [d['box'] for d in json.loads(out(capsys, 'detect', tmp_path, 'cup', '--json'))['detections']]
    x0, y0, x1, y1 = boxes[0]
    assert 1 <= len(boxes) <= 2 and x0 < 190 and y0 < 60 and x1 > 420 and y1 > 330, boxes  # round the cup


@pytest.mark.parametrize('by', ['objects', 'short', 'long'])
def test_search_ranks_frames_by_words(photos: Path, by: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = json.loads(out(capsys, 'search', photos, 'a red square', '--by', by, '--json'))
    assert answer['frames'] == len(answer['matches']) == 3
    scores = [m['score'] for m in answer['matches']]
    assert scores == sorted(scores, reverse=True) and 0 <= scores[-1]
    if by == 'objects':
        best = answer['matches'][0]
        assert (
            best['photo'] == '0.png'
            and best['stamp'] == next(open_source(photos).frames()).stamp
            and len(best['box']) == 4
        )


def test_search_by_an_example(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = out(capsys, 'search', photos, '--image', photos / '0.png', '--top', 1)
    assert told.splitlines()[0] == '3 frames' and len(told.splitlines()) == 2 and '  0.png  box ' in told
    assert 'either TEXT or --image' in refused(capsys, 'search', photos)
    assert 'leave --by out' in refused(capsys, 'search', photos, '--image', photos / '0.png', '--by', 'short')


@pytest.mark.parametrize(('shown', 'place'), [('coffee', 1), ('astronaut', 2), ('chelsea', 3)])
def test_search_by_an_example_tells_its_own_frame_from_others(
    shown: str, place: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pytest.importorskip('skimage.data')
    for name in ('1camera', '2coffee', '3astronaut', '4chelsea'):  # never the first file
        photo = np.atleast_3d(getattr(data, name[1:])())
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.broadcast_to(photo, (*photo.shape[:2], 3))[..., ::-1])
    photo = getattr(data, shown)()
    height, width = photo.shape[:2]
    example = tmp_path.parent / f'{shown}.png'
    cv2.imwrite(str(example), photo[height // 6 : -height // 6, width // 6 : -width // 6, ::-1])
    matches = json.loads(out(capsys, 'search', tmp_path, '--image', example, '--json'))['matches']
    assert matches[0]['stamp'] == [f.stamp for f in open_source(tmp_path).frames()][place]
    assert matches[0]['score'] > 0.5 and all(m['score'] < 0.2 for m in matches[1:]), matches


def test_foreign_boxes_are_scored(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = tmp_path / 'boxes.json'
    given.write_text(json.dumps([SQUARE, CIRCLE, [0, 0, 20, 20]]))
    rows = tmp_path / 'rows.npy'
    told = out(capsys, 'score', photos / '0.png', '--boxes', given, '--find', 'red square', '--embeddings', rows)
    lines = [json.loads(line) for line in told.splitlines()]
    assert [line['box'] for line in lines] == [[float(v) for v in box] for box in (SQUARE, CIRCLE, [0, 0, 20, 20])]
    model = load_model('nano')
    frame = next(open_source(photos / '0.png').frames())
    seen = Pipeline(model.embedder, model.proposer).embed_boxes(frame, np.array([SQUARE, CIRCLE, [0, 0, 20, 20]]))
    np.testing.assert_allclose(np.load(rows), seen.embeddings, atol=1e-5)
    np.testing.assert_allclose([line['iou'] for line in lines], seen.iou, atol=1e-3)
    assert lines[0]['semantic'] > lines[1]['semantic']
    given.write_text(json.dumps([[500, 0, 600, 20]]))
    assert 'has no area in the 320x240 photo' in refused(capsys, 'score', photos / '0.png', '--boxes', given)
    given.write_text('{"boxes": 3}')
    assert 'is no list of boxes' in refused(capsys, 'score', photos / '0.png', '--boxes', given)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('no/x.npy', 'no is no folder; make it first'),
        ('x', 'x names no array file; end it in .npy'),  # numpy writes x.npy
        ('folder.npy', 'folder.npy cannot be written (Is a directory)'),
    ],
)
def test_an_array_that_cannot_be_written_is_one_line(
    photos: Path, tmp_path: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'folder.npy').mkdir()
    (tmp_path / 'boxes.json').write_text(json.dumps([SQUARE]))
    told = refused(capsys, 'embed', 'a mug', '--output', tmp_path / name)
    assert message in told and len(told.splitlines()) == 1
    scored = ('score', photos / '0.png', '--boxes', tmp_path / 'boxes.json')
    told = refused(capsys, *scored, '--embeddings', tmp_path / name)
    assert message in told and len(told.splitlines()) == 1


def test_texts_are_embedded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(out(capsys, 'embed', 'a mug', 'a bowl'))
    embedder = load_model('nano').embedder
    np.testing.assert_allclose(told['embeddings'], embedder.embed_text(['a mug', 'a bowl']), atol=1e-6)
    c = embedder.info.calibration
    assert (told['model_id'], told['dim']) == (embedder.info.model_id, embedder.info.dim)
    assert (told['scale'], told['bias']) == (c.scale, c.bias)
    told = json.loads(out(capsys, 'embed', 'a kitchen', '--kind', 'image', '--output', tmp_path / 'x.npy'))
    assert told['scale'] == c.image_scale
    np.testing.assert_allclose(
        np.load(tmp_path / 'x.npy'), embedder.embed_text(['a kitchen'], TextKind.IMAGE), atol=1e-6
    )

# SPDX-License-Identifier: Apache-2.0
"""`embedder-ros` as a user runs it: in its own process, on real files, with the default model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from embedder_ros import __version__
from embedder_ros.bags.source import open_source
from embedder_ros.bags.write import read_observations, to_bag
from embedder_ros.grounding.ground import ground
from embedder_ros.models.registry import load_model
from embedder_ros.pipeline import Pipeline

TEXTS = ['the red square', 'the blue circle']


def run(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    """The command from another folder than the repository's."""
    command = [sys.executable, '-m', 'embedder_ros.cli', *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd='/', timeout=300)
    assert done.returncode == status, done.stderr
    return done


def test_a_reader_that_has_enough_ends_it_quietly() -> None:
    command = f'{sys.executable} -m embedder_ros.cli embed {"mug " * 200} | head -c 1'
    done = subprocess.run(['bash', '-o', 'pipefail', '-c', command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 141 and not done.stderr


def scene(shift: int) -> np.ndarray:
    """(240, 320, 3) RGB: a red square and a blue circle on grey."""
    image = np.full((240, 320, 3), 150, np.uint8)
    cv2.rectangle(image, (30 + shift, 60), (110 + shift, 140), (200, 30, 30), cv2.FILLED)
    cv2.circle(image, (230, 150), 45, (30, 40, 200), cv2.FILLED)
    return image


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three photos."""
    folder = tmp_path_factory.mktemp('photos')
    for number in range(3):
        cv2.imencode('.png', scene(10 * number)[..., ::-1])[1].tofile(folder / f'{number}.png')
    return folder


def test_find_says_what_the_pipeline_says(photos: Path, tmp_path: Path) -> None:
    """The answers of one photo are those of the library, and the picture is drawn."""
    out = tmp_path / 'out.png'
    done = run('find', photos / '1.png', *TEXTS, '--json', '--annotate', out)
    report = json.loads(done.stdout)
    model = load_model('nano')
    observations = Pipeline(model.embedder, model.proposer).observe(list(open_source(photos / '1.png').frames()))
    assert [a['photo'] for a in report['answers']] == ['1.png', '1.png']
    assert report['model_id'] == model.embedder.info.model_id and report['frames'] == 1
    for text, query, got in zip(TEXTS, model.embedder.embed_text(TEXTS), report['answers'], strict=True):
        expected = ground(query, observations, model.embedder.info.calibration)
        assert (got['text'], got['outcome'], got['reason']) == (text, expected.outcome.name, expected.reason)
        assert got['candidates'][0]['score'] == pytest.approx(expected.candidates[0].score, abs=1e-3)
        np.testing.assert_allclose(got['candidates'][0]['box'], expected.candidates[0].box, atol=0.2)
    picture = cv2.imread(str(out))
    assert picture.shape == (240, 640, 3) and (picture[:, :320] != scene(10)[..., ::-1]).any()


def test_find_in_many_frames_tells_the_best(photos: Path) -> None:
    """One line per text with the number of frames, then boxes."""
    lines = run('find', photos, *TEXTS).stdout.splitlines()
    heads = [line for line in lines if not line.startswith(' ')]
    assert [h.split(':')[0] for h in heads] == TEXTS and all('of 3 frames; best in ' in h for h in heads)
    assert all(h.rpartition(' ')[2] in ('0.png', '1.png', '2.png') for h in heads)
    assert sum(line.startswith('  box ') for line in lines) >= 2


def test_annotate_and_to_bag(photos: Path, tmp_path: Path) -> None:
    """Photos to a bag, the bag to objects: every frame, under the same stamps."""
    assert run('to-bag', photos, tmp_path / 'bag', '--raw').stdout.startswith('3 images into')
    done = run('annotate', tmp_path / 'bag', tmp_path / 'out', '--storage', 'sqlite3', '--images')
    assert done.stdout.startswith('3 frames into')
    frames = list(open_source(tmp_path / 'bag').frames())
    assert [o.stamp for o in read_observations(tmp_path / 'out')] == [f.stamp for f in frames]
    assert [f.stamp for f in open_source(tmp_path / 'out').frames()] == [f.stamp for f in frames]


def test_a_bag_cut_short_is_told_and_used(photos: Path, tmp_path: Path) -> None:
    """What is there is answered from, and the damage is on the screen."""
    to_bag(open_source(photos), tmp_path / 'bag', compressed=False)
    file = tmp_path / 'bag' / 'bag.mcap'
    os.truncate(file, 2 * 240 * 320 * 3 + 5000)
    done = run('find', file, TEXTS[0])
    assert (
        'of 2 frames; best in camera camera at ' in done.stdout
        and 'cut short' in done.stdout
        and 'Traceback' not in done.stderr
    )


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['find', '{tmp}/nowhere', 'x'], 'does not exist'),
        (['find', '{tmp}', 'x'], 'holds neither a bag nor photos'),
        (['find', '{tmp}/noise.jpg', 'x'], 'noise.jpg cannot be read'),
        (['find', '{tmp}/noise.mp4', 'x'], 'not a bag'),
        (['find', '{tmp}/noise.mcap', 'x'], 'no topic can be read'),
        (['find', '{photos}', ''], 'text'),
        (['find', '{photos}', 'x', '--topic', '/image'], 'is no bag'),
        (['find', '{photos}', 'x', '--model', '{tmp}'], "model '"),
        (['find', '{photos}', 'x', '--annotate', '{tmp}/out.txt'], 'end it in .png'),
        (['find', '{photos}', 'x', '--annotate', '{tmp}/no/out.png'], 'make it first'),
        (['annotate', '{photos}', '{photos}'], 'exists already'),
        (['models', '{tmp}'], "model '"),
    ],
)
def test_what_the_user_can_correct_is_one_line(
    photos: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    """No traceback, nothing on stdout, exit status 2."""
    noise = tmp_path / Path(arguments[1]).name
    if noise.stem == 'noise':
        noise.write_bytes(b'\0\0\0\x20ftypisom' + b'x' * 3000)
    done = run(*(a.format(tmp=tmp_path, photos=photos) for a in arguments), status=2)
    assert message in done.stderr and done.stderr.startswith('embedder-ros: ')
    assert len(done.stderr.splitlines()) == 1 and not done.stdout


def test_descriptions() -> None:
    """Version, model and parameters."""
    assert run('--version').stdout == f'embedder-ros {__version__}\n'
    assert load_model('nano').embedder.info.model_id in run('models').stdout
    assert run('params', '--yaml').stdout == (Path(__file__).parents[1] / 'config' / 'perception.yaml').read_text()
    assert '| `embedder` parameter |' in run('params', '--markdown').stdout


def test_starting_needs_no_ros_and_no_model_library() -> None:
    """`--help` is instant, and find works where there is no rclpy."""
    heavy = ('rclpy', 'torch', 'onnxruntime', 'cv2', 'rosbags')
    code = f'import sys, embedder_ros.cli; print([m for m in {heavy} if m in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd='/', check=True)
    assert done.stdout == '[]\n'

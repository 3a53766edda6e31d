# SPDX-License-Identifier: Apache-2.0
"""What the demo is made of: judging answers, child processes that end, tables, pictures and video."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from embedder_ros.evaluation.truth import Truth
from embedder_ros.nodes import demo_report as report
from embedder_ros.nodes.processes import Child
from embedder_ros.types import Outcome, UserError

HANDLE, MUG_1, MUG_2, SLIVER = [10, 10, 50, 50], [100, 10, 140, 60], [200, 10, 240, 60], [310, 10, 320, 60]


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    """Two frames: a handle and two mugs, then a bowl that is leaving the view."""
    objects = [{'box': HANDLE, 'instance': 1}, {'box': MUG_1, 'instance': 2}, {'box': MUG_2, 'instance': 3}]
    queries = {'the red handle': [1], 'a mug': [2, 3], 'the blue mug': [3], 'a piano': [], 'a bowl': [4]}
    leaving = {'box': SLIVER, 'instance': 4, 'visible': 0.4}
    content = {
        'frames': [{'stamp': 100, 'objects': objects}, {'stamp': 200, 'objects': [leaving]}],
        'queries': [{'text': text, 'instances': instances} for text, instances in queries.items()],
    }
    (tmp_path / 'truth.json').write_text(json.dumps(content))
    return Truth(tmp_path / 'truth.json')


FOUND, AMBIGUOUS, NOT_FOUND = Outcome.FOUND, Outcome.AMBIGUOUS, Outcome.NOT_FOUND


@pytest.mark.parametrize(
    ('text', 'stamp', 'outcome', 'boxes', 'expected'),
    [
        ('the red handle', 100, FOUND, [HANDLE], True),
        ('the red handle', 100, FOUND, [[12, 12, 52, 52]], True),
        ('the red handle', 100, FOUND, [MUG_1, HANDLE], False),
        ('the red handle', 100, FOUND, [[10, 10, 29, 50]], False),  # less than half of it
        ('the red handle', 100, NOT_FOUND, [HANDLE], False),
        ('the red handle', 100, AMBIGUOUS, [HANDLE, MUG_1], False),  # there is only one
        ('the red handle', 200, FOUND, [HANDLE], False),  # it has left the view
        ('the red handle', 200, NOT_FOUND, [], True),
        ('a mug', 100, FOUND, [MUG_2], True),
        ('a mug', 100, AMBIGUOUS, [MUG_1, MUG_2], True),
        ('a mug', 100, AMBIGUOUS, [HANDLE, MUG_2], False),
        ('the blue mug', 100, FOUND, [MUG_1], False),
        ('a piano', 100, NOT_FOUND, [HANDLE], True),
        ('a piano', 100, FOUND, [HANDLE], False),
        ('a piano', 100, AMBIGUOUS, [], False),
        ('a bowl', 200, FOUND, [SLIVER], True),  # seeing the rest of it is as right as not seeing it
        ('a bowl', 200, NOT_FOUND, [], True),
        ('a bowl', 200, FOUND, [HANDLE], False),
        ('a violin', 100, NOT_FOUND, [], None),
        ('a piano', 150, NOT_FOUND, [], None),
    ],
)
def test_an_answer_is_judged(
    truth: Truth, text: str, stamp: int, outcome: Outcome, boxes: list[Any], expected: bool | None
) -> None:
    candidates = [np.asarray(box, np.float32) for box in boxes]
    assert truth.agrees(text, stamp, outcome, candidates) is expected


def test_frames_may_name_the_topic_of_their_camera(truth: Truth) -> None:
    content = json.loads(truth.path.read_text())
    for frame in content['frames']:
        frame['topic'] = '/camera/image_raw'
    truth.path.write_text(json.dumps(content))
    assert Truth(truth.path).agrees('the red handle', 100, FOUND, [np.asarray(HANDLE, np.float32)]) is True


def test_the_questions_keep_their_order(truth: Truth) -> None:
    assert truth.questions == ['the red handle', 'a mug', 'the blue mug', 'a piano', 'a bowl']


@pytest.mark.parametrize('content', ['', '{}', '[]', '{"frames": [{}], "queries": []}', '{"frames": 3, "queries": []}'])
def test_a_damaged_truth_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / 'truth.json').write_text(content)
    with pytest.raises(UserError, match='truth.json is no ground truth'):
        Truth(tmp_path / 'truth.json')


def module(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> str:
    """A module that a child can run."""
    (folder / 'some_child.py').write_text(code)
    monkeypatch.setenv('PYTHONPATH', str(folder), prepend=os.pathsep)
    return 'some_child'


def wait_for(until: Callable[[], bool]) -> None:
    """Until it is so, for half a minute at most."""
    deadline = time.monotonic() + 30
    while not until() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert until()


def ended(pid: str) -> bool:
    """Whether a process is gone, or waits only for its parent to notice."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().split()[2] == 'Z'
    except OSError:
        return True


def test_a_child_that_dies_explains_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its status and the end of what it said."""
    code = 'import sys\nprint("\\n" * 100 + "the last line")\nsys.exit(7)\n'
    with Child(module(tmp_path, monkeypatch, code), [], logs=tmp_path) as child:
        wait_for(lambda: not child.running)
        with pytest.raises(UserError, match='(?s)some_child died with status 7.*the last line'):
            child.check()
        assert len(child.tail().splitlines()) <= 12


def test_a_child_that_ends_in_order_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Child(module(tmp_path, monkeypatch, 'print("done")'), [], logs=tmp_path) as child:
        wait_for(lambda: not child.running)
        child.check()


def test_children_are_stopped_when_the_parent_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By SIGINT, and by SIGKILL when that is ignored; their own children go with them."""
    code = (
        'import signal, subprocess, sys, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n'
        'grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])\n'
        'print(grandchild.pid, "started", flush=True)\ntime.sleep(600)\n'
    )
    monkeypatch.setattr('embedder_ros.nodes.processes.STOP_SECONDS', 0.5)
    with pytest.raises(RuntimeError), Child(module(tmp_path, monkeypatch, code), [], logs=tmp_path) as child:
        wait_for(lambda: 'started' in child.tail())
        raise RuntimeError
    assert not child.running
    wait_for(lambda: ended(child.tail().split()[0]))


def found(**changes: Any) -> SimpleNamespace:
    """A response of `find` with one candidate."""
    header = SimpleNamespace(stamp=SimpleNamespace(sec=12, nanosec=500_000_000), frame_id='optical')
    grounded = SimpleNamespace(
        header=header, camera='front', box=[1.0, 2.0, 30.0, 40.0], score=0.5, semantic=0.8, iou=0.625, track_id=4
    )
    answer = {'outcome': 1, 'reason': 'found', 'message': 'found', 'threshold': 0.2, 'candidates': [grounded]}
    return SimpleNamespace(**{**answer, **changes})


def test_answers_as_table_and_json(tmp_path: Path) -> None:
    """Both say the same, and an answer without candidates is one too."""
    nothing = found(outcome=0, reason='no_objects', candidates=[])
    entries = [
        report.entry('the red handle', found(), 12_500_000_000, 77, True),
        report.entry('a piano', nothing, 13_000_000_000, 78, None),
    ]
    lines = report.table(entries).splitlines()
    assert lines[2].split('  ')[0] == 'the red handle' and '1 2 30 40' in lines[2] and '12.500' in lines[2]
    assert 'not found' in lines[3] and len({len(line) for line in lines}) == 1
    report.write_json(tmp_path / 'answers.json', entries, {'model': 'nano'})
    content = json.loads((tmp_path / 'answers.json').read_text())
    assert content['model'] == 'nano' and content['answers'][0]['box'] == [1.0, 2.0, 30.0, 40.0]
    assert [a['agrees'] for a in content['answers']] == [True, None]
    assert report.verdict(entries[0]).endswith('found, agrees with the ground truth')


@pytest.mark.parametrize('size', [(48, 64), (47, 63)])
def test_a_video_of_any_size_can_be_read_back(tmp_path: Path, size: tuple[int, int]) -> None:
    """Encoders want even sizes; the last odd row and column are left out."""
    pictures = [np.full((*size, 3), 20 * n, np.uint8) for n in range(10)]
    video = cv2.VideoCapture(str(report.write_video(tmp_path, pictures, 2.0)))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(5.0)
    shown = [video.read()[1] for _ in pictures]
    assert all(np.abs(s.astype(int) - 20 * n).max() <= 12 for n, s in enumerate(shown))


def test_results_of_an_earlier_run_go(tmp_path: Path) -> None:
    """A video of then is no answer of now; what is not ours stays."""
    folder = tmp_path / 'new' / 'output'
    report.clear(folder)
    for name in ('answers.json', 'follow.mp4', 'notes.txt'):
        (folder / name).write_text('then')
    report.clear(folder)
    assert [p.name for p in folder.iterdir()] == ['notes.txt']
    with pytest.raises(UserError, match='notes.txt cannot be written to .*; give another --output'):
        report.clear(folder / 'notes.txt')


def test_a_sheet_stays_small(tmp_path: Path) -> None:
    """Large pictures are shrunk to a cell."""
    report.write_sheet(tmp_path / 'sheet.png', [np.zeros((300, 4000, 3), np.uint8)] * 3, 2)
    assert cv2.imread(str(tmp_path / 'sheet.png')).shape == (96, 1280, 3)
    with pytest.raises(UserError, match='cannot be written'):
        report.write_sheet(tmp_path / 'nowhere' / 'sheet.png', [np.zeros((3, 4, 3), np.uint8)], 1)


def test_frames_are_picked_evenly() -> None:
    assert report.evenly(list(range(100)), 4) == [0, 33, 66, 99]
    assert report.evenly([1, 2], 8) == [1, 2] and report.evenly([], 8) == []

# SPDX-License-Identifier: Apache-2.0
"""The demo as its user runs it: the sample bag against its ground truth, and inputs that cannot be used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from embedder_ros.evaluation.truth import Truth
from embedder_ros.nodes.demo import SAMPLE
from embedder_ros.types import Outcome

LIMIT = 300.0


def demo(output: Path, *args: object) -> subprocess.CompletedProcess[str]:
    """A run of the demo, with its name for the children to inherit, so that leftovers can be found."""
    command = [sys.executable, '-m', 'embedder_ros.nodes.demo', '--relative-to', output, *args]
    environment = {**os.environ, 'DEMO_TEST': str(output)}
    return subprocess.run(
        [str(c) for c in command], env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )


def left_over(output: Path) -> list[str]:
    """Processes that inherited the name of this run, after a moment for the system to clear them away."""
    time.sleep(0.5)
    mark, found = f'DEMO_TEST={output}'.encode(), []
    for process in Path('/proc').glob('[0-9]*'):
        try:
            if mark in (process / 'environ').read_bytes().split(b'\0'):
                found.append((process / 'cmdline').read_text())
        except OSError:  # it has ended, or is not ours
            continue
    return found


def test_the_sample_is_answered_as_the_truth_says(tmp_path: Path) -> None:
    """Present things are found in the very frame the answer names, absent ones are not, the first is followed."""
    done = demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'Traceback' not in done.stdout + done.stderr and not left_over(tmp_path)
    output, truth = tmp_path / 'demo_output', Truth(SAMPLE.with_name('kitchen_truth.json'))
    content = json.loads((output / 'answers.json').read_text())
    answers = content['answers']
    assert [a['query'] for a in answers] == truth.questions and answers[0]['query'] == 'the red handle'
    assert {a['answer'] for a in answers} >= {'FOUND', 'NOT_FOUND'}
    for answer in answers:
        boxes = [answer['box']] if answer['box'] else []
        outcome = Outcome[answer['answer']]
        assert truth.agrees(answer['query'], answer['recorded_stamp'], outcome, boxes), answer
    assert content['follow']['frames'] >= 5
    assert content['follow']['boxes_right'] >= 0.8 * content['follow']['boxes_judged'] > 0
    pictures = [cv2.imread(str(output / name)) for name in ('answers.png', 'follow.png')]
    assert all(p is not None and p.std() > 10 for p in pictures)
    assert cv2.VideoCapture(str(output / 'follow.mp4')).get(cv2.CAP_PROP_FRAME_COUNT) == content['follow']['frames']


@pytest.mark.parametrize(
    ('args', 'status', 'message'),
    [
        (['--input', 'nowhere.jpg', '--find', 'a cup'], 1, 'nowhere.jpg does not exist'),
        (['--input', 'broken.jpg', '--find', 'a cup'], 1, 'broken.jpg'),
        (['--input', 'broken.jpg'], 2, 'say what to find'),
    ],
)
def test_a_mistake_is_told_before_anything_starts(tmp_path: Path, args: list[str], status: int, message: str) -> None:
    """One clear line, no traceback, nothing left running."""
    (tmp_path / 'broken.jpg').write_bytes(b'\xff\xd8\xff\xe0 not much of a photo')
    done = demo(tmp_path, *args)
    assert done.returncode == status and message in done.stderr.splitlines()[-1]
    assert 'Traceback' not in done.stderr and 'starting' not in done.stdout and not left_over(tmp_path)

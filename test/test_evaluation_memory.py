# SPDX-License-Identifier: Apache-2.0
"""Evaluation of questions to memory: answers worked out by hand, and the command on the sample bag."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from memory_world import DIM, LEFT, MIDDLE, MODEL, RIGHT, START, look, word

from embedder_ros import cli
from embedder_ros.evaluation import recall
from embedder_ros.evaluation.recall import Asked
from embedder_ros.evaluation.truth import Truth
from embedder_ros.types import NANOSECONDS, FloatArray, Observation, UserError

SAMPLE = Path(__file__).parent / 'sample'
HALF_LEFT = (50, 100, 130, 135)  # IoU .35 with LEFT
MUG = {'name': 'mug', 'synonyms': ['cup'], 'colours': ['red', 'white']}
BOWL = {'name': 'bowl', 'synonyms': [], 'colours': ['blue']}
PAN = {'name': 'pan', 'synonyms': [], 'colours': ['black']}
WORDS = {'the red mug': word(0), 'the blue bowl': word(1), 'the green pan': word(2)}

Things = Mapping[str, tuple[Sequence[float], FloatArray]]


def frame(seconds: float, things: Things) -> Observation:
    """What the model saw: name -> (box, look)."""
    n = len(things)
    boxes = np.array([box for box, _ in things.values()], np.float32).reshape(n, 4)
    looks = np.array([look for _, look in things.values()], np.float32).reshape(n, DIM)
    stamp, one = START + round(seconds * NANOSECONDS), np.full(n, 0.9, np.float32)
    return Observation(stamp, 'front', '', 640, 480, boxes, one, one, looks, np.zeros((0, DIM), np.float32), 'm-1')


def recording(*visits: tuple[float, Things]) -> list[Observation]:
    """Two seconds of frames from each second on."""
    return [frame(start + i / 10, things) for start, things in visits for i in range(20)]


def truth(folder: Path, seen: Sequence[Observation], *shown: Mapping[str, object], queries: object = ()) -> Truth:
    """A file that says that all frames show these objects."""
    path = folder / 'truth.json'
    frames = [{'stamp': o.stamp, 'objects': shown} for o in seen]
    path.write_text(json.dumps({'frames': frames, 'queries': queries}))
    return Truth(path)


def placed(instance: str, box: Sequence[float], thing: Mapping[str, object], visible: float = 1.0) -> dict[str, object]:
    return {'instance': instance, 'box': list(box), 'visible': visible, **thing}


def test_without_queries_everything_is_asked_for_by_colour_and_name(tmp_path: Path) -> None:
    seen = recording((0, {}))
    found = truth(tmp_path, seen, placed('m', LEFT, MUG), placed('m2', RIGHT, MUG), placed('b', MIDDLE, BOWL))
    assert found.questions == ['the blue bowl', 'the red mug']
    assert found.meant['the red mug'] == found.meant['the white cup'] == {'m', 'm2'}
    asked = truth(tmp_path, seen, placed('m', LEFT, MUG), queries=[{'text': 'a mug', 'instances': ['m']}])
    assert asked.questions == ['a mug'] and asked.meant == {'a mug': {'m'}}


def test_answers_are_judged_where_they_say_that_the_thing_was(tmp_path: Path) -> None:
    """The mug is found where it was, the bowl's box is loose, there is no pan."""
    seen = recording((0, {'mug': (RIGHT, look(1, 0)), 'bowl': (HALF_LEFT, look(2, 1))}))
    there = truth(tmp_path, seen, placed('m', RIGHT, MUG), placed('b', LEFT, BOWL), placed('p', MIDDLE, PAN, 0.4))
    mug, bowl, pan = recall.ask(3, seen, there, MODEL, WORDS)
    assert (mug.recording, mug.text, mug.seen, mug.outcome, mug.best) == (3, 'the red mug', 1, 'FOUND', 'right')
    assert (bowl.seen, bowl.outcome, bowl.best) == (1, 'FOUND', 'loose')
    assert (pan.seen, pan.outcome, pan.best) == (0, 'NOT_FOUND', 'wrong')
    assert mug.late == bowl.late == 0 and mug.score > mug.margin > 0.8


def test_an_answer_is_late_when_its_thing_was_in_view_after_it(tmp_path: Path) -> None:
    seen = recording((0, {'mug': (RIGHT, look(1, 0))}), (10, {}))
    (asked, *_) = recall.ask(0, seen, truth(tmp_path, seen, placed('m', RIGHT, MUG)), MODEL, WORDS)
    assert (asked.outcome, asked.best, asked.late) == ('FOUND', 'right', pytest.approx(10))


def test_another_recordings_truth_is_refused(tmp_path: Path) -> None:
    there = truth(tmp_path, recording((0, {})), placed('m', RIGHT, MUG))
    with pytest.raises(UserError, match='no stamp of this recording'):
        recall.ask(0, recording((50, {})), there, MODEL, WORDS)


def test_shares_by_how_many_things_were_meant() -> None:
    def one(outcome: str, best: str, seen: int = 1, late: float = 0.0) -> Asked:
        return Asked(0, f'{outcome} {best} {late}', seen, outcome, best, late, 0.9, 0.9)

    measured = recall.shares(
        [
            one('FOUND', 'right'),
            one('FOUND', 'right', late=2.0),
            one('FOUND', 'wrong'),
            one('AMBIGUOUS', 'right'),
            one('AMBIGUOUS', 'right', seen=2),
            one('FOUND', 'wrong', seen=0),
            one('NOT_FOUND', 'wrong', seen=0),
        ]
    )
    told = {name: {kind: e.value for kind, e in kinds.items() if e.value} for name, kinds in measured.items()}
    assert told == {
        'one': {'first': 0.75, 'found': 0.5, 'wrong': 0.25, 'late': 0.25, 'ambiguous': 0.25},
        'several': {'first': 1.0, 'ambiguous': 1.0},
        'none': {'wrong': 0.5, 'not found': 0.5},
    }
    lines = list(recall.lines(measured))
    assert len(lines) == 5 and len({line.count('|') for line in lines}) == 1
    assert lines[2].startswith('| one thing seen | 4 | .75 (')


def test_the_command_asks_about_the_sample_bag(capsys: pytest.CaptureFixture[str]) -> None:
    bag, there = str(SAMPLE / 'kitchen'), SAMPLE / 'kitchen_truth.json'
    command = ['evaluate', 'memory', bag, '--truth', str(there), '--every', '2', '--device', 'cpu', '--json']
    assert cli.main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert [a['text'] for a in report['answers']] == sorted(Truth(there).questions)
    assert report['one']['found']['count'] == 13 and report['none']['found']['count'] == 3
    assert report['one']['first']['value'] >= 0.7
    assert report['one']['found']['value'] > report['one']['wrong']['value']
    assert report['none']['not found']['value'] > report['none']['wrong']['value']


def test_as_many_truths_as_bags(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['evaluate', 'memory', 'a', 'b', '--truth', 'c']) == cli.USER_ERROR
    assert '2 bags but 1 truths' in capsys.readouterr().err

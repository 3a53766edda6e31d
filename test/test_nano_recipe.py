# SPDX-License-Identifier: Apache-2.0
"""The recipe's commands are ones that its stages take, and a recipe that was stopped goes on where it was."""

from __future__ import annotations

import importlib.util
import json
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from embedder_ros.training import recipe

ARGUMENTS = ['--work=w', '--nanodet=n.json', '--photos=p', '--classes=c.txt', '--coco=o.txt', '--list']


def output(*words: str) -> str:
    ran = subprocess.run([sys.executable, '-m', *words], capture_output=True, text=True)
    assert not ran.returncode, ran.stderr
    return ran.stdout


def listed(*more: str) -> list[list[str]]:
    """The commands that the recipe would run, from the module on."""
    lines = output('embedder_ros.training.recipe', *ARGUMENTS, *more).splitlines()
    return [shlex.split(line)[2:] for line in lines if not line.startswith('#')]


def test_every_stage_takes_the_options_it_is_given() -> None:
    """The help of each module names them. Modules that need mujoco, torch or onnx are asked where those are."""
    asked: dict[tuple[str, ...], set[str]] = {}
    for module, *words in listed():
        command = (module, words[0]) if module.endswith('.cli') else (module,)
        asked.setdefault(command, set()).update(word for word in words if word.startswith('--'))
    assert len(asked) == 12
    if any(importlib.util.find_spec(name) is None for name in ('torch', 'onnx')):
        pytest.skip('no torch or no onnx here')
    if importlib.util.find_spec('mujoco') is None:
        asked = {command: options for command, options in asked.items() if '.scenes.' not in command[0]}
    with ThreadPoolExecutor(2) as pool:
        helps = pool.map(lambda command: output(*command, '--help'), asked)
        for (command, options), told in zip(asked.items(), helps, strict=True):
            assert {option for option in options if option not in told} == set(), command


def test_a_share_takes_less_of_everything_and_all_of_the_path() -> None:
    whole, little = listed(), listed('--share=0.005')
    rooms = [words for words in whole if 'bag:' in ' '.join(words)]
    assert len(rooms) == recipe.ROOMS
    assert {words[0] for words in little} == {words[0] for words in whole}
    steps = [
        [int(words[words.index('--steps') + 1]) for words in found if '--steps' in words] for found in (whole, little)
    ]
    assert steps == [[1650, 2350, 2400, 3500, 1500], [8, 12, 12, 18, 8]]


def test_a_failed_recipe_goes_on_where_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The second stage needs a file that is not there yet; the first one is not run again."""
    work, missing = tmp_path / 'work', tmp_path / 'missing.json'
    first, copied = tmp_path / 'first.json', tmp_path / 'copied.json'
    first.write_text('{"a": 1}')
    tool = 'json.tool'
    stages: list[recipe.Stage] = [
        ('copy', [(tool, str(first), str(copied))]),
        ('both', [(tool, str(copied)), (tool, str(missing))]),
        ('last', [(tool, str(missing), str(tmp_path / 'last.json'))]),
    ]
    with pytest.raises(SystemExit, match=f'both: this failed.*\\n{tool} {missing}$'):
        recipe.run(stages, work)
    assert (work / 'weights' / 'vocab.txt').exists() and json.loads(copied.read_text()) == {'a': 1}
    copied.write_text('{"a": 2}')
    missing.write_text('{"b": 3}')
    capfd.readouterr()
    recipe.run(stages, work)
    assert json.loads(copied.read_text()) == {'a': 2}, 'a stage that was through ran again'
    assert json.loads((tmp_path / 'last.json').read_text()) == {'b': 3}
    assert set(json.loads((work / 'times.json').read_text())) == {'copy', 'both', 'last'}
    assert 'copy: through' in capfd.readouterr().out

# SPDX-License-Identifier: Apache-2.0
"""Several processes that train one network: texts and gradients cross over as if one process held everything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import labelledblocks
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')
pytest.importorskip('peft')

import tinyobjembed  # noqa: E402
import twoprocesses  # noqa: E402
from twoprocesses import CASES, loss_of, parameter, shared  # noqa: E402

from embedder_ros.models import objembed  # noqa: E402
from embedder_ros.training.objembed import processes  # noqa: E402
from embedder_ros.training.objembed.losses import text_bank  # noqa: E402
from embedder_ros.training.objembed.processes import Shared  # noqa: E402


def torchrun(*arguments: object, count: int = 2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(count)]
    environment = os.environ | {'OMP_NUM_THREADS': '1'}
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done


def bank_of(mine: list[str], *others: list[str], **options: object) -> list[float]:
    """Rows that say where they come from: tens the process, ones the column."""
    told = [
        Shared(texts, torch.tensor([[10.0 * number + column] for column in range(len(texts))]), [0])
        for number, texts in enumerate((mine, *others))
    ]
    return text_bank(told[0], told[1:], **options)[:, 0].tolist()


def test_bank_holds_own_texts_then_new_ones_of_others() -> None:
    assert bank_of(['mug', 'cup'], ['cup', 'jar'], ['jar', 'box']) == [0, 1, 11, 21]
    assert bank_of(['mug', 'cup'], ['cup', 'jar'], ['jar', 'box'], most=3) == [0, 1, 11]
    assert bank_of(['mug', 'cup'], ['jar'], most=1) == [0, 1], 'its own are never cut'
    assert bank_of(['mug', 'cup'], ['cup', 'cup', 'jar'], apart=True) == [0, 1, 11, 12], 'first names stay at home'
    assert bank_of(['mug']) == [0]


def test_alone_nothing_is_exchanged() -> None:
    weight = parameter()
    one = shared(CASES['different'][0], weight)[0]
    assert processes.count() == 1 and processes.rank() == 0 and processes.exchange(one) == []
    processes.average_gradients([weight])
    assert weight.grad is None and processes.average(torch.tensor(3.0)) == 3


@pytest.mark.parametrize('case', CASES)
def test_gradients_cross_processes(tmp_path: Path, case: str) -> None:
    """Also where what one process is told changes nothing for it, and where it has nothing to tell."""
    asked, weight = CASES[case], parameter()
    torchrun(twoprocesses.__file__, tmp_path, case, count=len(asked))
    told = [shared(one, weight) for one in asked]
    losses = [
        loss_of(rank, asked[rank], weight, [list(kind) for kind in zip(*told[:rank], *told[rank + 1 :], strict=True)])
        for rank in range(len(asked))
    ]
    mean = sum(losses) / len(asked)
    mean.backward()
    for rank in range(len(asked)):
        gradient, loss, unused = torch.load(tmp_path / f'{rank}.pt')
        torch.testing.assert_close(gradient, weight.grad)
        torch.testing.assert_close(loss, mean.detach())
        assert unused.tolist() == [0, 0]


def test_two_processes_fine_tune(tmp_path: Path) -> None:
    checkpoint = tinyobjembed.write(tmp_path / 'checkpoint')
    blocks = labelledblocks.write(tmp_path / 'blocks')
    done = torchrun(
        '-m', 'embedder_ros.cli', 'finetune', checkpoint, blocks / 'data.json', '--images', blocks / 'images',
        '--proposals', blocks / 'proposals.json', '--output', tmp_path / 'out', '--device', 'cpu', '--steps', 3,
        '--batch-size', 1, '--accumulate', 1, '--min-tokens', 12, '--max-tokens', 20, '--added',
    )  # fmt: skip
    assert done.stdout.count('merged into') == 1, 'one process tells'
    assert objembed.load(tmp_path / 'out', device='cpu').info.dim == 64

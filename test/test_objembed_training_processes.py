# SPDX-License-Identifier: Apache-2.0
"""Two processes that train one network: texts and gradients cross over as if one process held everything."""

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

from embedder_ros.models import objembed  # noqa: E402
from embedder_ros.training.objembed import processes  # noqa: E402
from embedder_ros.training.objembed.losses import Calibration, region_loss, text_bank  # noqa: E402
from embedder_ros.training.objembed.processes import Shared  # noqa: E402

TEXTS = (['mug', 'cup'], ['cup', 'jar', 'box'])
ONE_OF_TWO = """
import sys, torch
sys.path.insert(0, {tests!r})
import test_objembed_training_processes as test
from embedder_ros.training.objembed import processes

processes.join('cpu')
rank = processes.rank()
weight = test.parameter()
loss = test.loss_of(rank, weight, processes.exchange(test.shared(rank, weight)))
loss.backward()
unused = torch.zeros(2, requires_grad=True)
processes.average_gradients([weight, unused])
mean = processes.average(loss.detach().clone())
torch.save([weight.grad, mean, unused.grad], {out!r} + f'/{{rank}}.pt')
processes.leave()
"""


def parameter() -> torch.Tensor:
    return torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()


def shared(rank: int, weight: torch.Tensor) -> Shared:
    """Texts of one process: random vectors, the same for the same text, through the network, which is one matrix."""
    raw = [torch.randn(4, generator=torch.Generator().manual_seed(sum(map(ord, text)))) for text in TEXTS[rank]]
    return Shared(TEXTS[rank], torch.stack(raw) @ weight, [0])


def loss_of(rank: int, weight: torch.Tensor, others: list[Shared]) -> torch.Tensor:
    objects = torch.randn(3, 4, generator=torch.Generator().manual_seed(10 + rank)) @ weight
    mine = shared(rank, weight)
    targets = torch.eye(3, len(mine.texts))
    calibration = Calibration(torch.tensor([2.0]), torch.tensor([-1.0]))
    return region_loss(objects, text_bank(mine, others), targets, torch.ones_like(targets), calibration)


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
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
    assert processes.count() == 1 and processes.rank() == 0 and processes.exchange(shared(0, weight)) == []
    processes.average_gradients([weight])
    assert weight.grad is None and processes.average(torch.tensor(3.0)) == 3


def test_gradients_cross_processes(tmp_path: Path) -> None:
    script = tmp_path / 'one_of_two.py'
    script.write_text(ONE_OF_TWO.format(tests=str(Path(__file__).parent), out=str(tmp_path)))
    torchrun(script)
    weight = parameter()
    mean = sum(loss_of(rank, weight, [shared(1 - rank, weight)]) for rank in range(2)) / 2
    mean.backward()
    for rank in range(2):
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

# SPDX-License-Identifier: Apache-2.0
"""What each of several processes computes when torchrun starts this file; tests compute the same alone."""

from __future__ import annotations

import faulthandler
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from embedder_ros.training.objembed import processes
from embedder_ros.training.objembed.losses import Calibration, image_blocks, image_loss, region_loss, text_bank
from embedder_ros.training.objembed.processes import Shared

PATIENCE = 30  # seconds after which a process that waits for another ends; what it computes takes milliseconds


class Asked(NamedTuple):
    """Texts of the objects of one process, and short and long captions of its images, '' where one has none."""

    texts: list[str]
    short: list[str]
    long: list[str]


# By name, what each process of a case is asked.
CASES = {
    'different': [
        Asked(['mug', 'cup'], ['a mug', 'a cup'], ['a mug on a table', 'a cup on a shelf']),
        Asked(['cup', 'jar', 'box'], ['a jar', ''], ['a jar at a window', 'a box on the floor']),
    ],
    'nothing new for the first': [
        Asked(['mug', 'cup'], ['a mug', 'a cup'], ['a mug on a table', 'a cup on a shelf']),
        Asked(['cup'], ['a cup', 'a cup'], ['a cup on a shelf', 'a cup on a shelf']),
    ],
    'no long captions for the last': [
        Asked(['mug'], ['a mug', ''], ['a mug on a table', '']),
        Asked(['cup'], ['a cup', ''], ['a cup on a shelf', '']),
        Asked(['jar'], ['a jar', ''], ['', '']),
    ],
    'no captions for the last': [
        Asked(['mug'], ['a mug', ''], ['a mug on a table', '']),
        Asked(['cup'], ['a cup', ''], ['a cup on a shelf', '']),
        Asked(['jar'], ['', ''], ['', '']),
    ],
}


def random(rows: int, seed: int) -> torch.Tensor:
    """(rows, 4), always the same."""
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))


def parameter() -> torch.Tensor:
    """The network: one matrix."""
    return random(4, 0).requires_grad_()


def shared(asked: Asked, weight: torch.Tensor) -> list[Shared]:
    """What one process shares of its texts and captions; the same vector for the same text, through the network."""
    return [
        Shared(said, torch.cat([random(1, sum(map(ord, text))) for text in said]) @ weight)
        if said
        else Shared(said, torch.zeros(0, 4))  # as fine-tuning has it: without gradients
        for said in ([text for text in texts if text] for texts in asked)
    ]


def loss_of(rank: int, asked: Asked, weight: torch.Tensor, others: list[list[Shared]]) -> torch.Tensor:
    """Loss of one process's objects and images; `others` has what others share of texts, short and long captions."""
    mine = shared(asked, weight)
    texts, *captions = (text_bank(one, told) for one, told in zip(mine, others, strict=True))
    calibration = Calibration(torch.tensor([2.0]), torch.tensor([-1.0]))
    targets = torch.eye(3, len(asked.texts))
    region = region_loss(random(3, 10 + rank) @ weight, texts, targets, torch.ones_like(targets), calibration)
    given = []
    for said, own in zip(asked[1:], mine[1:], strict=True):
        rows = iter(own.rows)
        given.append([next(rows) if text else None for text in said])
    beyond = [bank[len(own.rows) :] for bank, own in zip(captions, mine[1:], strict=True)]
    images = (random(4, 20 + rank) @ weight).reshape(2, 2, 4)
    return region + image_loss(image_blocks(images, given, beyond), calibration)


def main(folder: Path, case: str) -> None:
    """Write this process's averaged gradient and loss, and the gradient of a weight it did not use."""
    processes.join('cpu')
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    rank, weight, unused = processes.rank(), parameter(), torch.zeros(2, requires_grad=True)
    asked = CASES[case][rank]
    loss = loss_of(rank, asked, weight, [processes.exchange(one) for one in shared(asked, weight)])
    loss.backward()
    processes.average_gradients([weight, unused])
    torch.save([weight.grad, processes.average(loss.detach().clone()), unused.grad], folder / f'{rank}.pt')
    processes.leave()


if __name__ == '__main__':
    main(Path(sys.argv[1]), sys.argv[2])

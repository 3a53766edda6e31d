# SPDX-License-Identifier: Apache-2.0
"""What one of two processes computes when torchrun starts this file; tests compute the same alone."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from embedder_ros.training.objembed import processes
from embedder_ros.training.objembed.losses import Calibration, region_loss, text_bank
from embedder_ros.training.objembed.processes import Shared

TEXTS = (['mug', 'cup'], ['cup', 'jar', 'box'])


def parameter() -> torch.Tensor:
    """The network: one matrix."""
    return torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()


def shared(rank: int, weight: torch.Tensor) -> Shared:
    """Texts of one process, the same vector for the same text, through the network."""
    raw = [torch.randn(4, generator=torch.Generator().manual_seed(sum(map(ord, text)))) for text in TEXTS[rank]]
    return Shared(TEXTS[rank], torch.stack(raw) @ weight, [0])


def loss_of(rank: int, weight: torch.Tensor, others: list[Shared]) -> torch.Tensor:
    """Region loss of one process's objects."""
    objects = torch.randn(3, 4, generator=torch.Generator().manual_seed(10 + rank)) @ weight
    mine = shared(rank, weight)
    targets = torch.eye(3, len(mine.texts))
    calibration = Calibration(torch.tensor([2.0]), torch.tensor([-1.0]))
    return region_loss(objects, text_bank(mine, others), targets, torch.ones_like(targets), calibration)


def main(folder: Path) -> None:
    """Write this process's averaged gradient and loss, and the gradient of a weight it did not use."""
    processes.join('cpu')
    rank, weight, unused = processes.rank(), parameter(), torch.zeros(2, requires_grad=True)
    loss = loss_of(rank, weight, processes.exchange(shared(rank, weight)))
    loss.backward()
    processes.average_gradients([weight, unused])
    torch.save([weight.grad, processes.average(loss.detach().clone()), unused.grad], folder / f'{rank}.pt')
    processes.leave()


if __name__ == '__main__':
    main(Path(sys.argv[1]))

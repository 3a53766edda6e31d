# SPDX-License-Identifier: Apache-2.0
"""Several processes that train one network, as torchrun starts them; alone, all of this does nothing.

Texts of one process are wrong answers for the boxes of the others, so their embeddings are exchanged, gradients
included. Not measured: more than one GPU; the tests exchange between two and three processes on a CPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather


class Shared(NamedTuple):
    """What one process tells the others.

    Attributes:
        texts: T of them.
        rows: (T, H) raw embeddings, with gradients.
        private: columns that are about its own images alone.
    """

    texts: Sequence[str]
    rows: Tensor
    private: Sequence[int] = ()


def join(device: str) -> None:
    """Meet the other processes if torchrun started several; each then takes its own GPU."""
    if int(os.environ.get('WORLD_SIZE', '1')) < 2 or dist.is_initialized():
        return
    cuda = device != 'cpu' and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get('LOCAL_RANK', '0')))
    dist.init_process_group('nccl' if cuda else 'gloo')


def leave() -> None:
    """Part from the others."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process; 0 writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def exchange(mine: Shared) -> list[Shared]:
    """What the other processes shared, in the order of their ranks. Every process must call this.

    Gradients travel back in a second exchange, which a process takes part in only where its loss depends on a row of
    others, be it one of no length or times 0; the others wait for it. So every loss must depend on one.
    """
    if count() == 1:
        return []
    told: list[tuple[list[str], list[int]]] = [([], [])] * count()
    dist.all_gather_object(told, (list(mine.texts), list(mine.private)))
    longest = max(1, *(len(texts) for texts, _ in told))
    padded = torch.cat([mine.rows, mine.rows.new_zeros(longest - len(mine.rows), mine.rows.shape[1])])
    padded.requires_grad_()  # without texts it needs none, and this process would take no part in the second exchange
    rows = all_gather(padded)
    return [
        Shared(texts, rows[number][: len(texts)], private)
        for number, (texts, private) in enumerate(told)
        if number != rank()
    ]


def average_gradients(weights: Iterable[Tensor]) -> None:
    """Every process gets the mean of all processes' gradients; one that has none counts as zero."""
    if count() == 1:
        return
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        dist.all_reduce(weight.grad)
        weight.grad /= count()


def average(values: Tensor) -> Tensor:
    """Mean over all processes."""
    if count() > 1:
        dist.all_reduce(values)
    return values / count()

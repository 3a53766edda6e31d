# SPDX-License-Identifier: Apache-2.0
"""Which images make a batch (MODELS.md 1.10): all from one data set, so that its names are each other's wrong answers.

Order depends on the seed and the epoch alone: a resumed run continues where it stopped without any kept state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from embedder_ros.types import UserError


class Drawn(NamedTuple):
    """One batch of one process: which data set, which of its records, and in which epoch."""

    epoch: int
    dataset: int
    records: tuple[int, ...]


class Batches:
    """Every batch of a run by its number.

    Incomplete batches are dropped; every epoch is shuffled anew, within data sets and between them.

    Args:
        sizes: records of each data set; one that is listed twice is drawn twice as often.
        batch: images of one process in a batch.
        seed: of the order.
        rank: of this process.
        processes: how many share each batch.

    Raises:
        UserError: a data set has too few records for one batch, so that it would never be seen.
    """

    def __init__(self, sizes: Sequence[int], batch: int, *, seed: int, rank: int = 0, processes: int = 1) -> None:
        self._sizes, self._batch, self._seed, self._rank = list(sizes), batch, seed, rank
        self._whole = batch * processes
        if short := [number for number, size in enumerate(sizes, 1) if size < self._whole]:
            raise UserError(
                f'data set {short[0]} has {sizes[short[0] - 1]} records, fewer than the {self._whole} of a batch; '
                'lower --batch-size or label more images'
            )
        self._kept: tuple[int, list[tuple[int, np.ndarray]]] = -1, []

    def __len__(self) -> int:
        """Batches of one epoch."""
        return sum(size // self._whole for size in self._sizes)

    def __getitem__(self, number: int) -> Drawn:
        """Batch `number`, counted from 0 through all epochs."""
        epoch, place = divmod(number, len(self))
        if self._kept[0] != epoch:
            self._kept = epoch, self._order(epoch)
        dataset, records = self._kept[1][place]
        first = self._rank * self._batch
        return Drawn(epoch, dataset, tuple(int(r) for r in records[first : first + self._batch]))

    def _order(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        rng = np.random.default_rng([self._seed, epoch])
        batches = []
        for dataset, size in enumerate(self._sizes):
            order = rng.permutation(size)[: size - size % self._whole]
            batches += [(dataset, part) for part in order.reshape(-1, self._whole)]
        return [batches[place] for place in rng.permutation(len(batches))]

# SPDX-License-Identifier: Apache-2.0
"""Products of many rows, without BLAS's threads, which wait for each other by spinning.

On a robot whose processors have other work, each product that BLAS takes several threads for waits until all of them
had their turn: a hundred times as long as the product itself. Rows with one query are no matter for BLAS; larger
products are handed to it in pieces for which it takes no threads. What is long is done in two threads of our own.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder_ros.types import FloatArray

Rows = NDArray[np.intp]

PICKED = 2**17  # numbers picked at once; they fit the processor's cache
PIECE, TALL = 2**18, 16  # multiplications from which OpenBLAS takes threads, and rows that it needs to be quick
PARALLEL = 2**21  # multiplications from which two threads are quicker than one


def scores_of(rows: FloatArray, query: FloatArray) -> FloatArray:
    """(n,) products of every row with one query."""
    if not hasattr(np, 'vecdot'):  # numpy 1
        return rows @ query
    out = np.empty(len(rows), np.float32)
    _in_halves(len(rows), query, lambda start, stop: np.vecdot(rows[start:stop], query, out=out[start:stop]))
    return out


def picked(rows: FloatArray, which: Rows, query: FloatArray) -> FloatArray:
    """(n,) products of some rows, which are copied a few at a time: more would leave the processor's cache."""
    out = np.empty(len(which), np.float32)

    def fill(start: int, stop: int) -> None:
        step = max(1, PICKED // len(query))
        copies = np.empty((min(step, stop - start), len(query)), np.float32)
        for at in range(start, stop, step):
            part = which[at : min(at + step, stop)]
            few = np.take(rows, part, axis=0, out=copies[: len(part)], mode='clip')  # other modes copy twice
            out[at : at + len(part)] = np.vecdot(few, query) if hasattr(np, 'vecdot') else few @ query

    _in_halves(len(which), query, fill)
    return out


def products(rows: FloatArray, others: FloatArray) -> FloatArray:
    """(n, m) products of every row with every other one."""
    out = np.empty((len(rows), len(others)), np.float32)
    if len(others) == 1:
        out[:, 0] = scores_of(rows, others[0])
        return out
    parts = max(1, -(-others.size // (PIECE // TALL)))
    for few, filled in zip(np.array_split(others, parts), np.array_split(out, parts, axis=1), strict=True):
        _multiply(rows, few.T, filled)
    return out


def _multiply(rows: FloatArray, few: FloatArray, out: FloatArray) -> None:
    """The product (n, m) of (n, D) and (D, m), piece by piece."""
    tall = max(1, PIECE // few.size)

    def fill(start: int, stop: int) -> None:
        whole = stop - (stop - start) % tall
        pieces = rows[start:whole].reshape(-1, tall, len(few))
        np.matmul(pieces, few, out=out[start:whole].reshape(-1, tall, few.shape[1]))
        np.matmul(rows[whole:stop], few, out=out[whole:stop])

    _in_halves(len(rows), few, fill)


def _in_halves(count: int, others: FloatArray, work: Callable[[int, int], Any]) -> None:
    """Do the work on rows from start to stop; long work in two threads."""
    if count * others.size < PARALLEL:
        work(0, count)
        return
    other = _helper().submit(work, count // 2, count)
    work(0, count // 2)
    other.result()


@cache
def _helper() -> ThreadPoolExecutor:
    """The thread that takes one half of a long pass."""
    return ThreadPoolExecutor(1, 'memory search')

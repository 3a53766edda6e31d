# SPDX-License-Identifier: Apache-2.0
"""Products of many rows, without BLAS's threads, which wait for each other by spinning.

On a robot whose processors have other work, each product that BLAS takes several threads for waits until all of them
had their turn: a hundred times as long as the product itself. Rows with one query are no matter for BLAS; larger
products are handed to it in pieces for which it takes no threads. What is long is done in two threads of our own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from embedder_ros.inference.beside import Beside
from embedder_ros.types import FloatArray

Rows = NDArray[np.intp]
Result = TypeVar('Result')

PICKED = 2**17  # numbers picked at once; they fit the processor's cache
PIECE, TALL = 2**18, 16  # multiplications from which OpenBLAS takes threads, and rows that it needs to be quick
PARALLEL = 2**21  # multiplications from which two threads are quicker than one, of rows with one query
PACKED = 32  # times as many multiplications take as long in a product of matrices, or until two threads have begun

_helping = threading.Lock()


def scores_of(rows: FloatArray, query: FloatArray) -> FloatArray:
    """(n,) products of every row with one query."""
    if not hasattr(np, 'vecdot'):  # numpy 1
        return rows @ query
    out = np.empty(len(rows), np.float32)
    in_halves(len(rows), len(query), lambda start, stop: np.vecdot(rows[start:stop], query, out=out[start:stop]))
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

    in_halves(len(which), len(query), fill)
    return out


def products(rows: FloatArray, others: FloatArray) -> FloatArray:
    """(n, m) products of every row with every other one; those with one of the others lie together."""
    out = np.empty((len(others), len(rows)), np.float32)
    if len(others) == 1:
        out[0] = scores_of(rows, others[0])
        return out.T
    parts = max(1, -(-others.size // (PIECE // TALL)))

    def fill(start: int, stop: int) -> None:
        for few, filled in zip(np.array_split(others, parts), np.array_split(out, parts), strict=True):
            _multiply(few, rows[start:stop], filled[:, start:stop])

    in_halves(len(rows), others.size // PACKED, fill)
    return out.T


def _multiply(few: FloatArray, rows: FloatArray, out: FloatArray) -> None:
    """The products (m, n) of (m, D) with (n, D), piece by piece."""
    tall = max(1, PIECE // few.size)
    pieces, whole = len(rows) // tall, len(rows) - len(rows) % tall
    into = out[:, :whole].reshape(len(few), pieces, tall)
    np.matmul(few, rows[:whole].reshape(pieces, tall, rows.shape[1]).swapaxes(1, 2), out=into.swapaxes(0, 1))
    np.matmul(few, rows[whole:].T, out=out[:, whole:])


def in_halves(count: int, size: int, work: Callable[[int, int], Result]) -> list[Result]:
    """What the work returns for rows from start to stop: of all, or of two halves that are done at the same time.

    Args:
        count: rows.
        size: multiplications for each. Too few of them, or any while others are done in halves, are done here.
        work: takes start and stop.
    """
    if count * size < PARALLEL or not _helping.acquire(blocking=False):
        return [work(0, count)]
    try:
        return list(_both()(lambda: work(0, count // 2), lambda: work(count // 2, count)))
    finally:
        _helping.release()


@cache
def _both() -> Beside:
    """One for the process, begun with the first long pass."""
    return Beside(0)

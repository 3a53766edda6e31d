# SPDX-License-Identifier: Apache-2.0
"""Vectors of remembered objects in RAM: the nearest objects of a query, among all or among those a filter leaves.

Exact search costs one pass over all vectors, which is as fast as RAM is. For long vectors most of that pass is spared:
the first numbers of every vector in a basis fitted to the vectors (its `head`) bound its cosine to the query from
above, q.x <= q1.x1 + |q2||x2| (Cauchy and Schwarz), and only vectors whose bound reaches the k best found so far are
compared further: first by more numbers of the head, then in full. The result is the same to float32 rounding, whatever
the basis. A query that lies outside of what the basis covers is bounded badly and takes the full pass; where that would
cost too much, `exact=False` compares only those whose heads are nearest. Numbers that texts have nothing in, those of
individuals, are left out of the heads and bounded apart, so that they do not loosen the bounds of texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedder_ros.memory.products import Rows, in_halves, picked, products, scores_of
from embedder_ros.types import FloatArray, highest

Array = TypeVar('Array', bound=NDArray[Any])

# Numbers of a head, in parts: every search passes over the first part and looks at the others where that is not enough.
# Raising them bounds better; the first costs time in every search, all cost memory.
PARTS = (64, 64, 128)
LONG = 384  # vectors shorter than this have no head: the full pass is as good
FIT_FROM = 8192  # rows from which a head pays; the basis is fitted again whenever there are four times as many
FIT_SAMPLE = 4096  # rows that it is fitted to
FEW = 0.1  # share of rows below which picking them is quicker than a pass over all of them, for many queries
MANY = 0.4  # the same for one query
IN_VAIN = 0.9  # share of rows left after a part of their heads from which the other parts leave too many as well
APPROXIMATE = 2**21  # most numbers of a part looked at in approximate search. Raising it finds more, takes longer.
BLOCK = 2**19  # cosines made at once; they fit the processor's cache
STEP, LARGE = 2**10, 2**8  # rows whose heads are made at once while others wait, and from which one product is quicker
RESERVE = 2**30  # most bytes reserved before they are needed
SAMPLE, SHARE = 1024, 64  # fewest rows, and share of all, that tell what the k best of many queries must reach
SEEDS = 8  # times as many rows as are wanted are compared in full to learn what the wanted ones reach
LIGHT = 8  # multiplications that take as long as what else is done for a row before the second part
ROUNDING, SQUARES = 1e-5, 1e-6  # of float32 sums, and of sums of squares
NOTHING = 1e-5  # share of a vector that is left when all of it is taken away, by rounding


class VectorIndex:
    """Unit vectors, each the view of an owner (the slot of an object). Not thread-safe.

    Args:
        dim: D, length of the vectors.
        expected: rows for which memory is reserved; it is used only when they come.
        aside: numbers of a vector that many queries have nothing in.
    """

    def __init__(self, dim: int, expected: int = 0, aside: slice | Rows | None = None) -> None:
        size = max(1024, min(expected, RESERVE // (4 * dim)))
        self.dim = dim
        self.count = 0
        self._rows = np.empty((size, dim), np.float32)
        self._owner = np.empty(size, np.int32)
        self._view = np.empty(size, np.int32)
        self._most = 1  # views of the owner that has most
        self._aside = np.zeros(dim, bool)
        if aside is not None:
            self._aside[aside] = True
        self._used = np.zeros(dim, bool)  # numbers that any row ever had; what a query has elsewhere meets nothing
        self._basis: FloatArray | None = None
        self._fitted = 0
        self._headed = 0  # rows whose heads are made; heads are used when that is all of them
        self._heads: list[FloatArray] = []  # (rows, part) for each of the parts
        # (rows,) for each: how long what is left of the rows is, but for what is aside; and how long that is.
        self._tails: list[FloatArray] = []
        self._asides: FloatArray = np.empty(0, np.float32)

    def add(self, owners: NDArray[np.int32], views: NDArray[np.int32], rows: FloatArray, *, fit: bool = True) -> None:
        """Append rows (n, D) with their owners (n,) and their places among the owner's views (n,).

        Without `fit` no basis is fitted, since the caller will.
        """
        start, stop = self.count, self.count + len(rows)
        self.reserve(stop)
        self._rows[start:stop], self._owner[start:stop], self._view[start:stop] = rows, owners, views
        self.count = stop
        self._most = max(self._most, int(views.max(initial=0)) + 1)
        unused = np.flatnonzero(~self._used)  # few
        self._used[unused] = rows[:, unused].any(axis=0)
        if self._basis is not None and self._headed == start:
            self._project(slice(start, stop))
            self._headed = stop
        if fit:
            for _ in self.fit():
                pass

    def fit(self) -> Iterator[None]:
        """Fit the basis if it is time to; in steps, between which everything may be searched and changed."""
        if self.dim < LONG or self.count < max(FIT_FROM, 4 * self._fitted):
            return
        self._fitted, self._basis = self.count, None
        rng = np.random.default_rng(0)
        sample = self._rows[np.sort(rng.choice(self.count, min(FIT_SAMPLE, self.count), replace=False))]
        sample[:, self._aside] = 0
        basis: FloatArray = rng.standard_normal((sum(PARTS), self.dim), dtype=np.float32)
        for _ in range(3):  # subspace iteration: the directions that the rows vary most in, most important first
            yield
            basis = np.asarray(basis @ sample.T @ sample, np.float32)
            yield
            basis = _orthonormal(basis)
        mine = self._basis = basis
        self._heads = [np.empty((len(self._rows), width), np.float32) for width in PARTS]
        self._tails = [np.empty(len(self._rows), np.float32) for _ in self._heads]
        self._asides = np.empty(len(self._rows), np.float32)
        self._headed = 0
        while self._basis is mine and self._headed < self.count:
            yield
            start, self._headed = self._headed, min(self._headed + STEP, self.count)
            self._project(slice(start, self._headed))

    def remove(self, owners: Sequence[int]) -> None:
        """Remove all rows of these owners and overwrite them."""
        n = self.count
        gone = np.flatnonzero(np.isin(self._owner[:n], np.asarray(owners, np.int32)))
        stay = n - len(gone)
        holes = gone[gone < stay]
        movers = np.setdiff1d(np.arange(stay, n), gone, assume_unique=True)
        for array in self._columns():
            array[holes] = array[movers]
            array[stay:n] = 0
        late = holes[(movers >= self._headed) & (holes < self._headed)]  # what moved there has no head yet
        self.count, self._headed = stay, min(self._headed, stay)
        if self._basis is not None and len(late):
            self._project(late)

    def clear(self) -> None:
        """Remove everything."""
        for array in self._columns():
            array[: self.count] = 0
        self.count, self._most, self._basis, self._fitted, self._headed = 0, 1, None, 0, 0
        self._used[:] = False

    def search(
        self, queries: FloatArray, k: int, allowed: NDArray[np.bool_] | None = None, *, exact: bool = True
    ) -> list[list[tuple[int, float, int]]]:
        """For each of (Q, D) unit queries the k owners with the nearest rows, best first: (owner, cosine, view).

        Args:
            queries: (Q, D) float32.
            k: owners wanted.
            allowed: by owner, whether it counts; None counts all.
            exact: False looks at no more than APPROXIMATE numbers of every part, of the rows with the nearest heads.
        """
        mask = None if allowed is None else allowed[self._owner[: self.count]]
        rows = np.arange(self.count) if mask is None else np.flatnonzero(mask)
        if k < 1 or not len(rows):
            return [[] for _ in queries]
        if len(queries) > 1 and len(rows) <= FEW * self.count:
            return [self._best(rows, scores, k) for scores in products(self._rows[rows], queries).T]
        if self._basis is not None and self._headed == self.count:
            return [self._by_head(q, k, rows, exact) for q in queries]
        if len(queries) == 1:
            return [self._best(rows, self._dots(self._rows, rows, queries[0]), k)]
        return self._by_block(queries, k, mask)

    def _by_head(self, query: FloatArray, k: int, rows: Rows, exact: bool) -> list[tuple[int, float, int]]:
        """One query: after each part of the heads, rows that cannot be among the best are left out."""
        assert self._basis is not None
        query, wanted = np.where(self._used, query, np.float32(0)), k * self._most
        parts = np.split(scores_of(self._basis, query), np.cumsum(PARTS)[:-1])
        scores = np.empty(len(rows), np.float32)

        def begin(start: int, stop: int) -> Rows:
            scores[start:stop] = self._dots(self._heads[0], rows[start:stop], parts[0])
            return start + _about_highest(scores[start:stop], SEEDS * wanted)

        seeds = rows[np.concatenate(in_halves(len(rows), PARTS[0], begin))]
        enough = _kth(picked(self._rows, seeds, query), wanted) - ROUNDING
        covered = np.where(self._aside, np.float32(0), query)
        asked = _Asked(parts, _lengths_beyond(covered, parts), float(np.linalg.norm(query - covered)), enough, exact)

        def narrow(start: int, stop: int) -> Rows:
            return start + self._reach(asked, 0, rows[start:stop], scores[start:stop], (stop - start) / len(rows))

        reach = np.concatenate(in_halves(len(rows), LIGHT, narrow))
        in_vain = len(reach) > IN_VAIN * len(rows)
        if not in_vain:
            rows, scores = rows[reach], scores[reach]

        def finish(start: int, stop: int) -> tuple[Rows, FloatArray]:
            some, share = rows[start:stop], (stop - start) / len(rows)
            if not in_vain:
                some = self._narrowed(asked, some, scores[start:stop], share)
            return some, self._dots(self._rows, some, query)

        found = in_halves(len(rows), self.dim, finish)
        rows, scores = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        return self._best(rows, scores, k)

    def _narrowed(self, asked: _Asked, rows: Rows, scores: FloatArray, share: float) -> Rows:
        """Those of the rows that all parts but the first leave; `scores` are by the first."""
        for i in range(1, len(PARTS)):
            scores = scores + self._dots(self._heads[i], rows, asked.parts[i])
            reach = self._reach(asked, i, rows, scores, share)
            if len(reach) > IN_VAIN * len(rows):
                break
            rows, scores = rows[reach], scores[reach]
        return rows

    def _reach(self, asked: _Asked, i: int, rows: Rows, scores: FloatArray, share: float) -> Rows:
        """Where those are that may reach what is enough, going by parts up to i; they are a share of all looked at."""
        most_like = scores + asked.beyond[i] * _of(self._tails[i], rows)
        if asked.aside:
            most_like += asked.aside * _of(self._asides, rows)
        reach = np.flatnonzero(most_like >= asked.enough)
        if not asked.exact:
            most = int(share * APPROXIMATE / (*PARTS[1:], self.dim)[i])
            if len(reach) > most:
                reach = reach[_nearest(scores[reach], most)]
        return reach

    def _dots(self, array: FloatArray, rows: Rows, query: FloatArray) -> FloatArray:
        """(n,) products of some rows of an array, in their order, with the query."""
        span = _span(array, rows)
        if len(rows) > MANY * len(span):
            scores = scores_of(span, query)
            return scores if len(rows) == len(span) else scores[rows - rows[0]]
        return picked(array, rows, query)

    def _by_block(
        self, queries: FloatArray, k: int, mask: NDArray[np.bool_] | None
    ) -> list[list[tuple[int, float, int]]]:
        """Many queries at once: rows that reach the k-th best of a sample."""
        n = self.count
        step = max(1, n // max(SAMPLE, n // SHARE))
        sample = np.arange(0, n, step) if mask is None else np.flatnonzero(mask)[::step]
        enough = [_kth(scores, k * self._most) - ROUNDING for scores in products(self._rows[sample], queries).T]
        least, block = np.array(enough, np.float32)[:, None], max(1, BLOCK // len(queries))

        def look(start: int, stop: int) -> list[tuple[Rows, Rows, FloatArray]]:
            found = []
            for first in range(start, stop, block):
                last = min(first + block, stop)
                scores = products(self._rows[first:last], queries).T
                reach = scores >= least
                if mask is not None:
                    reach &= mask[first:last]
                at = np.flatnonzero(reach)  # several times quicker than np.nonzero
                found.append((at // (last - first), at % (last - first) + first, scores.ravel()[at]))
            return found

        found = sum(in_halves(n, queries.size, look), [])
        which, rows, reached = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.argsort(which, kind='stable')
        cuts = np.searchsorted(which[order], np.arange(1, len(queries)))
        return [self._best(rows[part], reached[part], k) for part in np.split(order, cuts)]

    def _best(self, rows: Rows, scores: FloatArray, k: int) -> list[tuple[int, float, int]]:
        """The k owners with the highest of these scores."""
        top = highest(scores, k * self._most)
        top = top[np.argsort(-scores[top], kind='stable')]
        at, best = rows[top], dict[int, tuple[int, float, int]]()
        for hit in zip(self._owner[at].tolist(), scores[top].tolist(), self._view[at].tolist(), strict=True):
            best.setdefault(hit[0], hit)
        return list(best.values())[:k]

    def _project(self, which: slice | Rows) -> None:
        """Make the heads of these rows."""
        assert self._basis is not None
        rows = self._rows[which]
        # One large product waits but once for BLAS's threads.
        head = rows @ self._basis.T if len(rows) > LARGE else products(rows, self._basis)
        left, start = np.einsum('ij,ij->i', rows, rows), 0
        apart = rows[:, self._aside]
        apart = np.einsum('ij,ij->i', apart, apart)
        self._asides[which], left = np.sqrt(apart + SQUARES), left - apart
        for heads, tails in zip(self._heads, self._tails, strict=True):
            part = heads[which] = head[:, start : start + heads.shape[1]]
            start += part.shape[1]
            left -= np.einsum('ij,ij->i', part, part)
            tails[which] = np.sqrt(np.maximum(left, 0) + SQUARES)

    def reserve(self, size: int) -> None:
        """Make place for so many rows and some more."""
        if size > len(self._rows):
            grown = size + size // 4
            self._rows = _grown(self._rows, grown, self.count)
            self._owner, self._view = _grown(self._owner, grown, self.count), _grown(self._view, grown, self.count)
            if self._basis is not None:
                self._heads = [_grown(array, grown, self.count) for array in self._heads]
                self._tails = [_grown(array, grown, self.count) for array in self._tails]
                self._asides = _grown(self._asides, grown, self.count)

    def _columns(self) -> list[NDArray[Any]]:
        heads = [*self._heads, *self._tails, self._asides] if self._basis is not None else []
        return [self._rows, self._owner, self._view, *heads]


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """Of a query the parts of its head, the length of what is beyond each and aside, and the cosine that is enough."""

    parts: list[FloatArray]
    beyond: FloatArray
    aside: float
    enough: float
    exact: bool


def _orthonormal(rows: FloatArray) -> FloatArray:
    """Gram and Schmidt, in place: each row without those before it; nothing of one that adds nothing.

    numpy's takes BLAS's threads hundreds of times, which on a busy robot is seconds in which nothing else is answered.
    """
    for i, row in enumerate(rows):
        before = np.sqrt(np.einsum('i,i', row, row))
        for _ in range(2):  # once leaves what rounding does to a row that lies almost in the others
            row -= np.einsum('i,ij', np.einsum('ij,j', rows[:i], row), rows[:i])
        length = np.sqrt(np.einsum('i,i', row, row))
        row *= 1 / length if length > NOTHING * before else 0
    return rows


def _span(array: FloatArray, rows: Rows) -> FloatArray:
    """The part of an array from the first to the last of these rows."""
    return array[rows[0] : rows[-1] + 1] if len(rows) else array[:0]


def _of(values: FloatArray, rows: Rows) -> FloatArray:
    """The values of these rows."""
    span = _span(values, rows)
    return span if len(span) == len(rows) else values[rows]


def _lengths_beyond(query: FloatArray, parts: list[FloatArray]) -> FloatArray:
    """(parts,) lengths of what is left of a query after each part."""
    left = float(query @ query) - np.cumsum([float(part @ part) for part in parts])
    return np.sqrt(np.maximum(left, 0) + SQUARES).astype(np.float32)


def _about_highest(scores: FloatArray, k: int) -> Rows:
    """Where about the k highest are, at most twice as many; several times quicker than `highest`."""
    reach = _nearest(scores, k, k // SEEDS)
    return reach if len(reach) <= 2 * k else reach[highest(scores[reach], k)]


def _nearest(scores: FloatArray, k: int, sample: int = SAMPLE) -> Rows:
    """Where about the k largest are: those that reach what a part of all tells, in which are `sample` of them."""
    step = max(1, k // sample)
    return np.flatnonzero(scores >= _kth(scores[::step], k // step))


def _kth(scores: FloatArray, k: int) -> float:
    """The k-th largest; -inf when there are fewer."""
    return float(np.partition(scores, len(scores) - k)[len(scores) - k]) if k <= len(scores) else -np.inf


def _grown(array: Array, size: int, used: int) -> Array:
    grown = np.empty((size, *array.shape[1:]), array.dtype)
    grown[:used] = array[:used]
    return grown  # type: ignore[return-value]

# SPDX-License-Identifier: Apache-2.0
"""What the object memory costs: a frame put, a question answered, opened again, bytes per object.

Run `python benchmarks/memory_search.py [--objects 10000 100000] [--index 1000000]`. Objects are nano embeddings of
boxes in the sample bag with small noise, and random clusters for comparison; questions are texts and other boxes.
Times are on the clock, and of the processor (all threads), which other work on the machine disturbs less.
`--objects` goes through the whole store, `--index` through its index in RAM alone, where a search spends its time. Not
measured: disks slower than this one, and several views per object unless `--views` says so. On a busy machine compare
OPENBLAS_NUM_THREADS=1: the threads of a matrix product wait for each other by spinning.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from report import ROOT, write_result

from embedder_ros.bags.source import open_source
from embedder_ros.memory.index import VectorIndex
from embedder_ros.memory.open import open_store
from embedder_ros.memory.sqlite import SqliteStore
from embedder_ros.memory.store import Filter
from embedder_ros.models.registry import load_model
from embedder_ros.pipeline import Pipeline
from embedder_ros.types import ModelInfo, Object, Sighting, View, unit_rows

KITCHEN = ROOT / 'test' / 'sample' / 'kitchen'
TEXTS = (
    'the red handle', 'mug', 'a blue cup', 'wooden chair', 'spoon', 'kettle', 'the green bottle', 'cat', 'a person',
    'white plate', 'black remote control', 'door', 'window', 'yellow banana', 'computer keyboard', 'small metal screw',
    'sofa', 'table', 'plant in a pot', 'shoe', 'backpack', 'knife on the counter', 'microwave', 'fridge', 'lamp',
)  # fmt: skip
NOISE = 0.05  # length of the noise on an embedding of length 1
BOX = np.array([100, 100, 200, 180], np.float32)
ALL = Filter()


def seen() -> tuple[ModelInfo, np.ndarray, np.ndarray]:
    """The model, embeddings of many boxes in the sample bag, and of texts."""
    model = load_model('nano', threads=2)
    pipeline = Pipeline(model.embedder, model.proposer)
    rng = np.random.default_rng(0)
    rows = []
    for number, frame in enumerate(open_source(KITCHEN).frames()):
        rows.append(pipeline.observe([frame])[0].embeddings)
        if number % 2 == 0:
            size = np.exp(rng.uniform(np.log(20), np.log(200), (80, 2)))
            centre = rng.uniform(0, 1, (80, 2)) * (frame.width, frame.height)
            limit = (frame.width, frame.height, frame.width, frame.height)
            boxes = np.clip(np.concatenate([centre - size / 2, centre + size / 2], axis=1), 0, limit)
            boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) > 8).all(axis=1)]
            rows.append(pipeline.embed_boxes(frame, boxes).embeddings)
    return model.embedder.info, np.concatenate(rows), model.embedder.embed_text(TEXTS)


def noisy(base: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, D) rows drawn from the base, with small noise in the numbers that the base has."""
    rows, where = base[rng.integers(0, len(base), count)], base.any(axis=0)
    for start in range(0, count, 10_000):
        part = rows[start : start + 10_000]
        part += rng.standard_normal(part.shape, dtype=np.float32) * where * np.float32(NOISE / np.sqrt(where.sum()))
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return rows


def clusters(count: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    """(count, dim) random unit rows, some 50 to a cluster, with as little structure as can be."""
    rows = rng.standard_normal((max(1, count // 50), dim), dtype=np.float32)[
        rng.integers(0, max(1, count // 50), count)
    ]
    rows += rng.standard_normal((count, dim), dtype=np.float32)
    return unit_rows(rows)


def objects(rows: np.ndarray, views: int, model: ModelInfo, start: int = 0) -> Iterator[Object]:
    """One object for every `views` rows."""
    for i in range(len(rows) // views):
        n = start + i
        looks = tuple(View(e, n, 'front', BOX, 640, 480, 0.8, 0.9) for e in rows[i * views : (i + 1) * views])
        sightings = (Sighting('run', 'front', n, n, n + 1),)
        camera = f'camera {n % 20}'
        yield Object(f'object-{n:08}', 'kitchen', model.model_id, looks, sightings, 1, n, n + 1, camera, BOX, 640, 480)


def timed(step: Callable[[Any], Any], arguments: Sequence[Any]) -> dict[str, float]:
    """Milliseconds of the step over the arguments, after two unmeasured rounds: on the clock, and of the processor."""
    durations = []
    for argument in [*arguments[:2], *arguments]:
        begin, used = time.perf_counter(), time.process_time()
        step(argument)
        durations.append((time.perf_counter() - begin, time.process_time() - used))
    values = (np.percentile(durations[2:], (50, 95, 99), axis=0) * 1e3).T.ravel()
    names = (f'{kind}{p}' for kind in ('p', 'processor_p') for p in (50, 95, 99))
    return {name: round(float(v), 2) for name, v in zip(names, values, strict=True)}


def through_the_store(model: ModelInfo, rows: np.ndarray, queries: dict[str, np.ndarray], views: int) -> dict[str, Any]:
    """Everything about a memory of these views, in a file that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'objects.db'
        store = SqliteStore(str(path), 'kitchen', model)
        for start in range(0, len(rows), 500 * views):
            store.put(objects(rows[start : start + 500 * views], views, model, start // views))
        result: dict[str, Any] = {'index_bytes_per_object': indexed(store._index, store._identity, per=views)}
        result |= questions(store, queries)
        result |= writes(store, model, rows, views)
        store.close()
        result['file_bytes_per_object'] = round(path.stat().st_size / (len(rows) // views))
        opening, answering, working = [], [], []
        for _ in range(5):
            begin, used = time.perf_counter(), time.process_time()
            store = SqliteStore(str(path), 'kitchen', model)
            opening.append(time.perf_counter() - begin)
            store.search(queries['text'][:1], 10, ALL)
            answering.append(time.perf_counter() - begin)
            working.append(time.process_time() - used)
            store.close()
        result['open_s'] = round(float(np.median(opening)), 3)
        result['open_and_first_answer_s'] = round(float(np.median(answering)), 3)
        result['open_and_first_answer_processor_s'] = round(float(np.median(working)), 3)
    return result


def questions(store: Any, queries: dict[str, np.ndarray]) -> dict[str, Any]:
    """Milliseconds of searches of every kind."""
    one_camera, recent = Filter(cameras=('camera 3',)), Filter(since=store.count()[0] // 2)
    texts = [q[None] for q in queries['text']] * 8
    boxes = [q[None] for q in queries['boxes'][:200]]
    batch = [queries['boxes'][:100]] * 8
    return {
        'find by text': timed(lambda q: store.search(q, 10, ALL), texts),
        'find by text, one camera in 20': timed(lambda q: store.search(q, 10, one_camera), texts),
        'find by text, newer half': timed(lambda q: store.search(q, 10, recent), texts),
        'find by a box': timed(lambda q: store.search(q, 10, ALL), boxes),
        'recognise 1': timed(lambda q: store.search(q, 8, ALL, identity=True), boxes),
        'recognise 8 together': timed(lambda q: store.search(q, 8, ALL, identity=True), [b[:8] for b in batch]),
        'recognise 100 together': timed(lambda q: store.search(q, 8, ALL, identity=True), batch),
        'recognise 100 together, one camera in 20': timed(
            lambda q: store.search(q, 8, one_camera, identity=True), batch
        ),
    }


def writes(store: Any, model: ModelInfo, rows: np.ndarray, views: int) -> dict[str, Any]:
    """Milliseconds of puts of 100 objects."""
    known = list(objects(rows[: 100 * views], views, model))
    count = store.count()[0]
    new = [list(objects(rows[: 100 * views], views, model, count + 100 * i)) for i in range(10)]
    turned = [list(objects(np.roll(rows[: 100 * views], i, axis=0), views, model)) for i in range(10)]
    result = {
        'put 100 seen again': timed(store.put, [known] * 20),
        'put 100 with new views': timed(store.put, turned),
        'put 100 new': timed(store.put, new),
        'put 1 new': timed(lambda o: store.put(o[:1]), new),
    }
    result['forget 1'] = timed(lambda o: store.forget([o[0].object_id]), new)
    return result


def index_alone(model: ModelInfo, rows: np.ndarray, queries: dict[str, np.ndarray], k: int = 10) -> dict[str, Any]:
    """Milliseconds and recall of approximate and exact search in RAM, with filters."""
    index = VectorIndex(model.dim, len(rows), model.identity_dims)
    for start in range(0, len(rows), 50_000):
        part = rows[start : start + 50_000]
        owners = np.arange(start, start + len(part), dtype=np.int32)
        index.add(owners, np.zeros(len(part), np.int32), part)
    result: dict[str, Any] = {'index_bytes_per_object': indexed(index)}
    rng = np.random.default_rng(1)
    for kind, vectors in queries.items():
        for share in (1.0, 0.3, 0.02):
            allowed = None if share == 1 else rng.random(len(rows)) < share
            many = [q[None] for q in vectors[:20]]
            name = f'{kind}, {share:.0%} of all'
            result[name] = timed(lambda q, a=allowed: index.search(q, k, a, exact=False), many * 3)
            result[name]['recall'] = round(float(recall(index, rows, many, allowed, k)), 4)
    result['exact, text, all'] = timed(lambda q: index.search(q, k), [q[None] for q in queries['text']])
    return result


def recall(
    index: VectorIndex, rows: np.ndarray, queries: list[np.ndarray], allowed: np.ndarray | None, k: int
) -> float:
    """Share of the truly nearest that approximate search finds."""
    right = 0
    for query in queries:
        scores = rows @ query[0]
        if allowed is not None:
            scores[~allowed] = -np.inf
        least = np.partition(scores, -k)[-k]
        right += sum(cosine >= least - 1e-5 for _, cosine, _ in index.search(query, k, allowed, exact=False)[0])
    return right / (k * len(queries))


def indexed(*indexes: VectorIndex, per: int = 1) -> int:
    """Bytes of RAM that the vectors of an object with `per` views take."""
    return per * sum(column[:1].nbytes for index in indexes for column in index._columns())


def main() -> None:
    """Measure, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--objects', type=int, nargs='*', default=[10_000, 100_000])
    parser.add_argument('--index', type=int, nargs='*', default=[1_000_000])
    parser.add_argument('--views', type=int, default=1, help='per object')
    options = parser.parse_args()
    model, base, texts = seen()
    rng = np.random.default_rng(0)
    queries = {'text': texts, 'boxes': noisy(base, 200, rng)}
    measured: dict[str, Any] = {
        'model': model.model_id,
        'dim': model.dim,
        'views': options.views,
        'unit': 'milliseconds',
    }
    measured['blas_threads'] = os.environ.get('OPENBLAS_NUM_THREADS', 'all')
    for count in options.objects:
        rows = noisy(base, count * options.views, rng)
        measured[f'{count} objects'] = through_the_store(model, rows, queries, options.views)
        rows = clusters(count, model.dim, rng)
        even = {'text': clusters(25, model.dim, rng), 'boxes': noisy(rows, 200, rng)}
        store = open_store('', 'kitchen', model)
        store.put(objects(rows, 1, model))
        measured[f'{count} random clusters'] = questions(store, even)
        store.close()
        show(measured)
    for count in options.index:
        measured[f'index alone, {count}'] = index_alone(model, noisy(base, count, rng), queries)
    show(measured)
    print('written to', write_result('memory_search', measured, [KITCHEN / 'kitchen.mcap']))


def show(measured: dict[str, Any]) -> None:
    """Print what was measured."""
    for name, value in measured.items():
        print(name, value if not isinstance(value, dict) else '')
        if isinstance(value, dict):
            for step, numbers in value.items():
                print(f'    {step:42}', numbers)


if __name__ == '__main__':
    main()

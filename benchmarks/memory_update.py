# SPDX-License-Identifier: Apache-2.0
"""What remembering costs per frame: 100 objects in view, a memory of 100 000, vectors as long as nano's.

Run `python benchmarks/memory_update.py [--objects 100000] [--views 3]`. Three scenes: `steady`, all in view are known
and bound; `new`, 100 things that nobody has seen come into view at once; `return`, 100 remembered things do. Each with
searches in a thread, as the node has them, and at once, as recordings have them. Times are of `Memory.update` alone,
frame by frame at 10 a second, over an SQLite file on the disk: on the clock, and of the processor (all threads).
Vectors are random, with an identity cosine of about 0.5 between any two. Not measured: the tracker, and memories of
look-alikes.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from report import percentiles, write_result

from embedder_ros.memory.memory import Memory
from embedder_ros.memory.open import open_store
from embedder_ros.memory.policy import Settings
from embedder_ros.memory.store import Store
from embedder_ros.models.nano.layout import DIM, IDENTITY
from embedder_ros.types import (
    NANOSECONDS,
    Calibration,
    FloatArray,
    ModelInfo,
    Object,
    Observation,
    Sighting,
    Track,
    TrackStatus,
    View,
    unit_rows,
)

CALIBRATION = Calibration(41.4, -6.9, 0.29, 0.08, identity_scale=14.9, identity_bias=-10.7)  # nano's
MODEL = ModelInfo('benchmark-1', DIM, CALIBRATION, np.eye(DIM, dtype=np.float32)[:, IDENTITY])
IN_VIEW = 100
FPS = 10
START = 1_760_000_000 * NANOSECONDS
WIDTH, HEIGHT = 1280, 720
COMMON = np.random.default_rng(0).normal(size=DIM)  # what all things share


def looks(rng: np.random.Generator, count: int) -> FloatArray:
    """(count, D) unit rows of things that are all somewhat alike."""
    return unit_rows(COMMON + rng.normal(size=(count, DIM)))


def turned(rng: np.random.Generator, rows: FloatArray) -> FloatArray:
    """Other views of the same things; cosine about 0.85."""
    return unit_rows(rows + 0.6 * unit_rows(rng.normal(size=rows.shape)))


def fill(store: Store, count: int, views: int) -> FloatArray:
    """Put `count` objects into the store; (IN_VIEW, D) looks of the first of them."""
    rng, first = np.random.default_rng(1), np.zeros((0, DIM), np.float32)
    for start in range(0, count, 1000):
        base = looks(rng, min(1000, count - start))
        sides = np.stack([base, *(turned(rng, base) for _ in range(views - 1))], axis=1)
        store.put([remembered(start + n, rows) for n, rows in enumerate(sides)])
        first = base[:IN_VIEW] if not start else first
    return first


def remembered(number: int, rows: FloatArray) -> Object:
    """An object seen once, long ago."""
    seen, box = START - (10**6 - number) * NANOSECONDS, np.array([10, 10, 110, 110], np.float32)
    views = tuple(View(row, seen + n, 'camera', box, WIDTH, HEIGHT, 0.8, 0.9) for n, row in enumerate(rows))
    sighting = (Sighting('before', 'camera', number + 1, seen, seen),)
    return Object(
        f'object-{number}', 'map', MODEL.model_id, views, sighting, 1, seen, seen, 'camera', box, WIDTH, HEIGHT
    )


def frames(rng: np.random.Generator, rows: FloatArray, begin: float, first_track: int) -> Iterator[Any]:
    """Frame after frame of the same things, each with an observation and its confirmed tracks."""
    x, y = np.divmod(np.arange(len(rows)), 10)
    boxes = np.stack([x * 120 + 10, y * 70 + 10, x * 120 + 100, y * 70 + 65], axis=1).astype(np.float32)
    one, stamp = np.full(len(rows), 0.9, np.float32), START + round(begin * NANOSECONDS)
    since = stamp - NANOSECONDS // 5
    while True:
        seen = unit_rows(rows + 0.1 * unit_rows(rng.normal(size=rows.shape)))
        observation = Observation(
            stamp, 'camera', 'optical', WIDTH, HEIGHT, boxes, one, one, seen, seen[:2], MODEL.model_id
        )
        yield observation, [
            Track(
                first_track + n, 'camera', TrackStatus.TRACKED, n, boxes[n], seen[n], 0.9, 0.9, since, stamp, stamp
            )
            for n in range(len(rows))
        ]  # fmt: skip
        stamp += NANOSECONDS // FPS


def watch(memory: Memory, scene: Iterator[Any], count: int, *, live: bool) -> dict[str, Any]:
    """Milliseconds of each update, and how many frames it took until every track had an object; `live` in real time."""
    clock, processor, complete = [], [], -1
    for n in range(count):
        observation, tracks = next(scene)
        begin, begun = time.perf_counter(), time.process_time()
        named = memory.update(observation, tracks, now=observation.stamp)
        clock.append((time.perf_counter() - begin) * 1e3)
        processor.append((time.process_time() - begun) * 1e3)
        if complete < 0 and all(t.object_id for t in named):
            complete = n + 1
        if live:
            time.sleep(max(0.0, 1 / FPS - clock[-1] / 1e3))
    times = percentiles(clock, 1) | {'max': round(max(clock), 1)}
    used = {f'processor_{k}': v for k, v in percentiles(processor, 1).items()}
    return times | used | {'frames_until_known': complete}


def timed(ask: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Percentiles of milliseconds."""
    took = []
    for _ in range(repeats):
        begin = time.perf_counter()
        ask()
        took.append((time.perf_counter() - begin) * 1e3)
    return percentiles(took, 1) | {'max': max(took)}


def scenes(memory: Memory, old: FloatArray, begin: float, *, live: bool) -> dict[str, Any]:
    """The three scenes, from `begin` seconds on, with tracks that no other call has."""
    rng, tracks = np.random.default_rng(1000 + int(begin)), int(begin) * 1000
    scene = frames(rng, looks(rng, IN_VIEW), begin, tracks)
    return {
        'new_ms': watch(memory, scene, 60, live=live),
        'steady_ms': watch(memory, scene, 100, live=live),
        'return_ms': watch(memory, frames(rng, turned(rng, old), begin + 100, tracks + 500), 60, live=live),
    }


def main() -> None:
    """Fill, measure, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--objects', type=int, default=100_000)
    parser.add_argument('--views', type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / 'memory.db')
        store = open_store(path, 'map', MODEL)
        begin = time.perf_counter()
        old = fill(store, options.objects, options.views)
        result: dict[str, Any] = {'objects': options.objects, 'views_each': options.views, 'load': os.getloadavg()[0]}
        result['fill_s'] = time.perf_counter() - begin
        settings = Settings(max_objects=2 * options.objects)
        for name, live in (('in a thread', True), ('at once', False)):
            memory = Memory(store, MODEL, map_id='map', settings=settings, background=live)
            result |= {f'{name}, {k}': v for k, v in scenes(memory, old, 1 + 300 * live, live=live).items()}
            result[f'{name}, counts'] = dict(memory.report.counts)
            memory.flush()
        rng, newest = np.random.default_rng(5), START + 10**12
        result['find_ms'] = timed(lambda: memory.find(looks(rng, 1)[0], now=newest), 200)
        result['find_by_identity_ms'] = timed(lambda: memory.find(looks(rng, 1)[0], by_identity=True, now=newest), 200)
        result['peak_memory_mib'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        memory.close()
    for name, value in result.items():
        print(f'{name:22}', value)
    print('written to', write_result('memory_update', result))


if __name__ == '__main__':
    main()

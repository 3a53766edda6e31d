# SPDX-License-Identifier: Apache-2.0
"""All measures of a model over named splits: one dictionary for JSON, and the same as tables."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from embedder_ros.evaluation import measures, sightings
from embedder_ros.evaluation.estimates import Estimate
from embedder_ros.evaluation.grounding import RIGHT_IOU
from embedder_ros.evaluation.splits import Digest, Split
from embedder_ros.pipeline import Pipeline

WARM = 2  # first frames of a process, which pay for what is made once
TEXTS = 30  # texts that are timed


def measure(pipeline: Pipeline, splits: Sequence[Split], *, threads: int = 0, quiet: bool = True) -> dict[str, Any]:
    """Everything, for every split; memory is that of the whole process.

    Args:
        pipeline: the model and how many boxes it keeps.
        splits: of open_split; names are unique.
        threads: what the model was loaded with, to be said; 0 for the runtime's choice.
        quiet: no progress bar.
    """
    rows, about = {}, {}
    for split in splits:
        rows[split.name], sha256 = _observed(pipeline, split, quiet)
        about[split.name] = {'frames': split.frames, 'unit': split.unit, 'input_sha256': sha256}
    seconds = [s for kept in rows.values() for s in kept.seconds]
    cost = speed(seconds[min(WARM, len(seconds) - 1) :]) | texts(pipeline) | {'threads': threads or 'of the runtime'}
    return {
        'model_id': pipeline.embedder.info.model_id,
        'max_objects': pipeline.max_objects,
        'interval': '95 %',
        'cost': cost | {'peak_memory_mib': round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)},
        'splits': {name: about[name] | _summary(kept, rows, pipeline) for name, kept in rows.items()},
    }


def _observed(pipeline: Pipeline, split: Split, quiet: bool) -> tuple[measures.Rows, str]:
    rows, digest = measures.Rows(), Digest()
    for item in tqdm(split.items(), split.name, split.frames, leave=False, unit=' frames', disable=quiet):
        measures.observe(pipeline, item, rows)
        digest.add(item)
    return rows, str(digest)


def _summary(rows: measures.Rows, every: Mapping[str, measures.Rows], pipeline: Pipeline) -> dict[str, Any]:
    calibration = pipeline.embedder.info.calibration
    out = measures.summary(rows, calibration)
    pool = [view for kept in every.values() for view in kept.views]
    again = sightings.summary(rows.views, pool, calibration)
    return out | ({'re-identification': again} if again else {})


def speed(seconds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Milliseconds of each stage and of all three, over frames."""
    stages = {name: [s[name] for s in seconds] for name in seconds[0]}
    stages['frame'] = [sum(s.values()) for s in seconds]
    return {'frames': len(seconds), 'ms': {name: _percentiles(values) for name, values in stages.items()}}


def texts(pipeline: Pipeline) -> dict[str, Any]:
    """Milliseconds of a text that is new, and of one that is known."""
    new: list[float] = []
    known: list[float] = []
    for number in range(TEXTS):
        text = [f'the red handle of drawer {number}']
        for spent in (new, known):
            begin = time.perf_counter()
            pipeline.embedder.embed_text(text)
            spent.append(time.perf_counter() - begin)
    return {'text_ms': {'new': _percentiles(new), 'known': _percentiles(known)}}


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {f'p{p}': round(float(np.percentile(seconds, p)) * 1e3, 2) for p in (50, 95)}


def plain(value: Any) -> Any:
    """The same for JSON."""
    if isinstance(value, Estimate):
        return value.as_dict()
    return {name: plain(v) for name, v in value.items()} if isinstance(value, Mapping) else value


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Tables; each number with its 95 % interval."""
    yield f'{report["model_id"]}, {report["max_objects"]} boxes, IoU {RIGHT_IOU:g}'
    for name, split in report['splits'].items():
        yield f'\n== {name}: {split["frames"]} frames; intervals of 95 % by Wilson or bootstrap over {split["unit"]}s'
        for measure, found in split.items():
            if isinstance(found, Mapping) and found:
                yield f'\n{measure}'
                yield from _table(found)
    yield f'\ncost, threads: {report["cost"]["threads"]}'
    yield from _cost(report['cost'])


def _table(found: Mapping[str, Any], indent: str = '  ') -> Iterator[str]:
    """Rows of estimates below a common head; single estimates and numbers on lines of their own."""
    head: list[str] = []
    for name, row in found.items():
        if not isinstance(row, Mapping):
            yield f'{indent}{name:36} {row}'
        elif not all(isinstance(v, Estimate) for v in row.values()):
            yield f'{indent}{name}'
            yield from _table(row, indent + '  ')
        else:
            if list(row) != head:
                head = list(row)
                yield f'{indent}{"":36} {"n":>5}  ' + '  '.join(f'{h:20}' for h in head)
            count = list(row.values())[-1].count if row else 0
            yield f'{indent}{name:36} {count:5}  ' + '  '.join(f'{v!s:20}' for v in row.values())


def _cost(cost: Mapping[str, Any]) -> Iterator[str]:
    for name, spent in [*cost['ms'].items(), *((f'{n} text', s) for n, s in cost['text_ms'].items())]:
        yield f'  {name:12} p50 {spent["p50"]:8.2f} ms  p95 {spent["p95"]:8.2f} ms'
    yield f'  peak memory {cost["peak_memory_mib"]} MiB, {cost["frames"]} frames'

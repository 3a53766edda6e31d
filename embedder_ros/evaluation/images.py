# SPDX-License-Identifier: Apache-2.0
"""What every benchmark reader shares: JSON that may be wrong, and images by file name through the pipeline."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from embedder_ros.bags.source import read_photo
from embedder_ros.pipeline import Pipeline
from embedder_ros.types import FloatArray, Frame, Observation, UserError

Z = 1.96  # of a 95 % interval


def read_json(path: Path) -> Any:
    """The content of a JSON or JSON-lines file. Raises UserError."""
    try:
        text = path.read_text(encoding='utf-8')
        if path.suffix == '.jsonl':
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        return json.loads(text)
    except (OSError, ValueError) as error:
        raise UserError(f'{path} cannot be read as JSON ({error}); fetch or export it again') from error


def take(path: Path, entry: Any, index: int | str, *names: str) -> list[Any]:
    """Fields of one entry. Raises UserError that names file, entry and field."""
    if not isinstance(entry, dict) or (missing := [n for n in names if n not in entry]):
        lacks = missing[0] if isinstance(entry, dict) else names[0]
        raise UserError(f"{path}: entry {index} lacks '{lacks}'; every entry has {', '.join(names)}")
    return [entry[n] for n in names]


def xyxy(path: Path, box: Any, index: int | str, *, width_height: bool = False) -> FloatArray:
    """(4,) float32 x0 y0 x1 y1 of a box in a file, which may be x y width height. Raises UserError."""
    try:
        out = np.asarray(box, np.float32)
    except (ValueError, TypeError):
        out = np.zeros(0, np.float32)
    if out.shape != (4,) or not np.isfinite(out).all():
        raise UserError(f'{path}: entry {index} has box {box}; give four numbers')
    if width_height:
        out[2:] += out[:2]
    return out


def load(folder: Path, name: str) -> Frame:
    """An image of a benchmark; the frame's camera is its name. Raises UserError for one that cannot be read."""
    path = folder / name
    if not path.is_file():
        raise UserError(f'{path} is missing; give the folder that the file names are relative to with --images')
    return Frame(read_photo(path), 0, str(name))


def observe(
    pipeline: Pipeline, folder: Path, names: Iterable[str], *, quiet: bool = True
) -> Iterator[tuple[Frame, Observation]]:
    """Each image and what the pipeline makes of it, with a progress bar unless `quiet`."""
    names = list(names)
    for name in tqdm(names, unit=' images', leave=False, disable=quiet):
        frame = load(folder, name)
        yield frame, pipeline.observe([frame])[0]


def interval(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson)."""
    if not count:
        return 0.0, 1.0
    p, n = right / count, count
    centre, spread = p + Z**2 / (2 * n), Z * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    low, high = (centre - spread) / (1 + Z**2 / n), (centre + spread) / (1 + Z**2 / n)
    return max(0.0, float(low)), min(1.0, float(high))

# SPDX-License-Identifier: Apache-2.0
"""Labelled frames on disk (MODELS.md 1.10), and the names that an image is asked about and does not show.

A record is `{image, objects: [{label, bbox: [x0, y0, x1, y1]}], negs?: [text], captions?: {short_caption,
long_caption}}`, in a JSON list or one per line (.jsonl). All of a file is checked before training starts, since a bad
record found in the third hour costs three hours. A label may be a list of names, of which the first is used.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedder_ros.models.inputs import checked_texts
from embedder_ros.types import FloatArray, UserError

LONGEST_CAPTION = 4000  # characters; a longer one costs memory in every batch it is in
RECORD = '{"image": "a.jpg", "objects": [{"label": "red mug", "bbox": [x0, y0, x1, y1]}]}'


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One labelled image.

    Attributes:
        image: path below the images' folder; also its key among the proposals.
        labels: K texts, one per object.
        boxes: (K, 4) float32 xyxy in pixels of the image.
        negatives: texts that are true of nothing in the image.
        captions: short and long, '' where there is none.
        where: file and line or number, for messages.
    """

    image: str
    labels: tuple[str, ...]
    boxes: FloatArray
    negatives: tuple[str, ...]
    captions: tuple[str, str]
    where: str


def read_records(path: Path) -> list[Record]:
    """Every record of a .json or .jsonl file.

    Raises:
        UserError: no such file, no JSON, or a record that cannot be used; file, line and remedy are named.
    """
    records = [_record(value, where) for where, value in _values(path)]
    if not records:
        raise UserError(f'{path} holds no record; write records like {RECORD}')
    return records


def read_proposals(path: Path) -> dict[str, FloatArray]:
    """Boxes (N, 4) per image, best first, from `{image: [[x0, y0, x1, y1], ...]}` or `{image: [boxes, scores]}`.

    Raises:
        UserError: the file is neither.
    """
    values = _loaded(path, _text(path))
    if not isinstance(values, dict):
        raise UserError(f'{path} must map each image to its boxes: {{"a.jpg": [[x0, y0, x1, y1], ...]}}')
    return {name: _proposed(value, f'{path}, image {name!r}') for name, value in values.items()}


class Vocabulary:
    """Names to draw wrong answers from.

    Args:
        weights: name -> how often to draw it, relative to the others, above 0.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = dict(weights)
        self._names = list(weights)
        self._below = np.cumsum(np.array([weights[n] for n in self._names], np.float64))

    @classmethod
    def of(cls, records: Sequence[Record], *, federated: bool = False) -> Vocabulary:
        """All labels and negatives of a data set, alike, or each by the root of the number of images that show it.

        Args:
            records: of the data set.
            federated: for sets such as LVIS, where common names would otherwise hardly ever be wrong answers.
        """
        images = Counter(name for r in records for name in set(r.labels))
        names = sorted({*images, *(name for r in records for name in r.negatives)})
        return cls({n: math.sqrt(max(1, images[n])) if federated else 1.0 for n in names})

    def draw(self, count: int, without: AbstractSet[str], rng: np.random.Generator) -> list[str]:
        """`count` different names that are not in `without`; fewer when the vocabulary has no more."""
        count = min(count, len(self._names) - len(self.weights.keys() & without))
        drawn: dict[str, None] = {}
        while len(drawn) < count:
            places = np.searchsorted(self._below, rng.random(4 * count) * self._below[-1], side='right')
            names = (self._names[min(place, len(self._names) - 1)] for place in places)
            drawn |= dict.fromkeys(name for name in names if name not in without)
        return list(drawn)[:count]


def read_vocabulary(path: Path) -> Vocabulary:
    """Names to draw wrong answers from: one per line, or JSON that maps each to its number of images (then federated).

    Raises:
        UserError: the file holds no names.
    """
    text = _text(path)
    if path.suffix != '.json':
        return Vocabulary(dict.fromkeys(_texts(filter(str.strip, text.splitlines()), str(path)), 1.0))
    counts = _loaded(path, text)
    if not isinstance(counts, dict) or not all(isinstance(c, int | float) and c > 0 for c in counts.values()):
        raise UserError(f'{path} must map each name to its number of images: {{"red mug": 12}}')
    return Vocabulary(dict(zip(_texts(counts, str(path)), map(math.sqrt, counts.values()), strict=True)))


def _values(path: Path) -> Iterator[tuple[str, Any]]:
    """Where each record stands, and what stands there."""
    text = _text(path)
    if path.suffix == '.jsonl':
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield f'{path}, line {number}', _loaded(f'{path}, line {number}', line)
        return
    values = _loaded(path, text)
    if not isinstance(values, list):
        raise UserError(f'{path} must be a list of records like {RECORD}; with one per line, name it .jsonl')
    yield from ((f'{path}, record {number}', value) for number, value in enumerate(values, 1))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path} cannot be read ({error}); give a UTF-8 file') from error


def _loaded(where: object, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        hint = '; with one record per line, name it .jsonl' if 'Extra data' in str(error) else ''
        raise UserError(f'{where} is no JSON ({error}){hint}') from error


def _record(value: Any, where: str) -> Record:
    if not isinstance(value, dict) or not isinstance(value.get('image'), str) or not value['image']:
        raise UserError(f'{where} names no image; write records like {RECORD}')
    objects = value.get('objects', [])
    if not isinstance(objects, list) or not all(isinstance(o, dict) for o in objects):
        raise UserError(f'{where}: objects must be a list; write records like {RECORD}')
    labels = _texts((_first(o.get('label')) for o in objects), f'{where}, label')
    boxes = [_box(o.get('bbox'), f'{where}, object {number}') for number, o in enumerate(objects, 1)]
    negatives = value.get('negs') or []
    if not isinstance(negatives, list):
        raise UserError(f'{where}: negs must be a list of texts')
    return Record(
        value['image'],
        tuple(labels),
        np.array(boxes, np.float32).reshape(-1, 4),
        tuple(n for n in _texts(negatives, f'{where}, negs') if n not in labels),
        _captions(value.get('captions') or {}, where),
        where,
    )


def _first(label: Any) -> Any:
    return label[0] if isinstance(label, list) and label else label


def _texts(values: Any, where: str, most: int | None = None) -> list[str]:
    values = list(values)
    if wrong := [v for v in values if not isinstance(v, str)]:
        raise UserError(f'{where}: {wrong[0]!r} is no text; write what an object is called')
    try:
        return checked_texts(values, most) if most else checked_texts(values)
    except UserError as error:
        raise UserError(f'{where}: {error}') from error


def _box(box: Any, where: str) -> list[float]:
    if not _is_box(box):
        raise UserError(f'{where}: bbox is {box!r}; give four numbers x0, y0, x1, y1 in pixels')
    if not (box[2] > box[0] and box[3] > box[1]):
        raise UserError(f'{where}: bbox {box} is empty; give x0 < x1 and y0 < y1 (not width and height)')
    return box


def _is_box(box: Any) -> bool:
    numbers = isinstance(box, list) and len(box) == 4
    return numbers and all(isinstance(v, int | float) and math.isfinite(v) for v in box)


def _captions(captions: Any, where: str) -> tuple[str, str]:
    if not isinstance(captions, dict):
        raise UserError(f'{where}: captions must be {{"short_caption": text, "long_caption": text}}')
    found = [captions.get(name) or '' for name in ('short_caption', 'long_caption')]
    short, long = (_texts([c], f'{where}, captions', LONGEST_CAPTION)[0] if c else '' for c in found)
    return short, long


def _proposed(value: Any, where: str) -> FloatArray:
    scored = isinstance(value, list) and len(value) == 2 and all(isinstance(part, list) for part in value)
    if scored and (not value[0] or isinstance(value[0][0], list)):
        value = value[0]  # the scores are not used: the order says which is best
    if not isinstance(value, list) or not all(map(_is_box, value)):
        raise UserError(f'{where}: give its boxes [[x0, y0, x1, y1], ...] or [boxes, scores]')
    return np.array(value, np.float32).reshape(-1, 4)

# SPDX-License-Identifier: Apache-2.0
"""COCO- and LVIS-style detection from a list of names, judged by pycocotools (MODELS.md 1.9).

The annotations are COCO's JSON: images (id, file_name), categories (id, name), annotations (image_id, category_id,
bbox x y width height). LVIS adds to its images which categories were looked for: only those count, up to 10 000
detections of a category over the whole set and none cut per image ("fixed AP").
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder_ros.evaluation.images import observe, read_json, take, xyxy
from embedder_ros.grounding.detect import MOST, PAIRS, Detections, detect
from embedder_ros.pipeline import Pipeline
from embedder_ros.types import FloatArray, UserError, box_iou

FIXED = 10_000  # detections of a category that count in LVIS' fixed AP
RECALL_AT = 100  # proposals that recall is measured at
PENDING = 5_000_000  # detections held beside the best, of 28 bytes each; raising it sorts more seldom
# A detection: the places of image and category in their dataset, x y width height in pixels, and the score.
ROW = np.dtype([('image', np.int32), ('category', np.int32), ('bbox', np.float32, 4), ('score', np.float32)])
Rows = NDArray[np.void]  # of ROW
THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class Dataset:
    """A COCO-style file.

    Attributes:
        path: of the file.
        content: its JSON.
        names: file name of each image by id.
        categories: ids and names, in the file's order.
    """

    path: Path
    content: dict[str, Any]
    names: dict[int, str]
    categories: dict[int, str]

    def boxes(self) -> dict[int, FloatArray]:
        """(G, 4) xyxy of every image, crowds left out."""
        found: dict[int, list[list[float]]] = {image: [] for image in self.names}
        for a in self.content['annotations']:
            if not a.get('iscrowd'):
                x, y, width, height = a['bbox']
                found[a['image_id']].append([x, y, x + width, y + height])
        return {image: np.asarray(rows, np.float32).reshape(-1, 4) for image, rows in found.items()}


def read_dataset(path: Path, limit: int = 0) -> Dataset:
    """Read and check; `limit` keeps the first images. Raises UserError that names entry and field."""
    content = read_json(path)
    take(path, content, 'top', 'images', 'categories', 'annotations')
    images = [take(path, e, f'images[{i}]', 'id') + [_file_name(path, e, i)] for i, e in enumerate(content['images'])]
    names = dict(images[: limit or None])
    categories = dict(take(path, e, f'categories[{i}]', 'id', 'name') for i, e in enumerate(content['categories']))
    kept = []
    for i, annotation in enumerate(content['annotations']):
        image, category, box = take(path, annotation, f'annotations[{i}]', 'image_id', 'category_id', 'bbox')
        xyxy(path, box, f'annotations[{i}]', width_height=True)
        if category not in categories:
            raise UserError(f'{path}: annotations[{i}] has category {category}, which categories does not list')
        if image in names:
            kept.append({'iscrowd': 0, 'area': box[2] * box[3], 'id': i + 1, **annotation})
    chosen = [e for e in content['images'] if e['id'] in names]
    return Dataset(path, {**content, 'images': chosen, 'annotations': kept}, names, categories)


def _file_name(path: Path, entry: dict[str, Any], index: int) -> str:
    """LVIS names its images by URL."""
    if 'file_name' in entry:
        return str(entry['file_name'])
    return Path(str(take(path, entry, f'images[{index}]', 'coco_url')[0])).name


def run_detection(
    pipeline: Pipeline, dataset: Dataset, folder: Path, *, lvis: bool = False, quiet: bool = True
) -> dict[str, float]:
    """Detect every category in every image; AP, AP50 and AP75 in 0..1, and AP of small, medium and large things."""
    words = pipeline.embedder.embed_text(list(dataset.categories.values()))
    calibration = pipeline.embedder.info.calibration
    best = Best(len(words), FIXED) if lvis else Best(len(words))
    for place, (_, observation) in enumerate(observe(pipeline, folder, dataset.names.values(), quiet=quiet)):
        every = len(observation) * len(words)
        pairs, most = (every, every) if lvis else (PAIRS, MOST)
        found = detect(observation, words, calibration, pairs=pairs, most=most)
        best.add(_rows(place, found))
    return average_precision(dataset, best.rows(), lvis=lvis)


def _rows(place: int, found: Detections) -> Rows:
    """One image's detections."""
    rows = np.zeros(len(found), ROW)
    rows['image'], rows['category'], rows['bbox'], rows['score'] = place, found.labels, found.boxes, found.scores
    rows['bbox'][:, 2:] -= found.boxes[:, :2]
    return rows


class Best:
    """The best detections of each category over all images; of equal ones the earlier.

    Args:
        categories: how many there are.
        most: kept of each; None keeps all.
    """

    def __init__(self, categories: int, most: int | None = None) -> None:
        self._most, self._taken = most, [np.zeros(0, ROW)]
        self._floor = np.full(categories, -np.inf, np.float32)  # what a score must exceed to be among the best

    def add(self, rows: Rows) -> None:
        """Take the detections of the next image."""
        self._taken.append(rows[rows['score'] > self._floor[rows['category']]])
        if self._most and sum(map(len, self._taken[1:])) > PENDING:
            self.rows()

    def rows(self) -> Rows:
        """What is kept."""
        rows = np.concatenate(self._taken)
        if self._most:
            rows = rows[np.lexsort((-rows['score'], rows['category']))]
            counts = np.bincount(rows['category'], minlength=len(self._floor))
            rank = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
            last = rows[rank == self._most - 1]
            self._floor[last['category']] = last['score']
            rows = rows[rank < self._most]
        self._taken = [rows]
        return rows


def average_precision(dataset: Dataset, results: Rows, *, lvis: bool = False) -> dict[str, float]:
    """AP by pycocotools, in 0..1; NaN where there is nothing to find.

    Args:
        dataset: the truth.
        results: what was detected.
        lvis: only categories that were looked for in an image count in it.

    Raises:
        UserError: pycocotools is not installed.
    """
    if lvis:
        # One category after the other: pycocotools keeps something for every pair of image and category.
        parts = [
            _judged(part, _as_dicts(dataset, rows), FIXED, loose)
            for part, rows, loose in _by_category(dataset, results)
        ]
        precision = np.concatenate([np.zeros((len(THRESHOLDS), 101, 0, 4)), *parts], axis=2)
    else:
        precision = _judged(dataset.content, _as_dicts(dataset, results), MOST)
    ious: dict[str, Any] = {'AP': slice(None), 'AP50': 0, 'AP75': 5}
    out = {name: _valid(precision[which, ..., 0]) for name, which in ious.items()}
    return out | {f'AP {size}': _valid(precision[..., i + 1]) for i, size in enumerate(('small', 'medium', 'large'))}


def _by_category(dataset: Dataset, results: Rows) -> Iterator[tuple[dict[str, Any], Rows, set[int]]]:
    """Each labelled category's images, annotations and detections, where it is known to be or not to be in the image.

    The third are the ids of images in which it is not exhaustively labelled.
    """
    annotations, images = defaultdict(list), defaultdict(set)
    for a in dataset.content['annotations']:
        annotations[a['category_id']].append(a)
        images[a['category_id']].add(a['image_id'])
    loose = defaultdict(set)
    for e in dataset.content['images']:
        for category in e.get('not_exhaustive_category_ids', ()):
            loose[category].add(e['id'])
        for category in (*e.get('neg_category_ids', ()), *e.get('not_exhaustive_category_ids', ())):
            images[category].add(e['id'])
    entries = {e['id']: e for e in dataset.content['images']}
    places = {image: place for place, image in enumerate(dataset.names)}
    results = results[np.argsort(results['category'], kind='stable')]
    counts = np.bincount(results['category'], minlength=len(dataset.categories))
    for category, rows in zip(dataset.categories, np.split(results, np.cumsum(counts)), strict=False):
        if category in annotations:  # what is nowhere has no precision
            known = images[category]
            part = {
                'images': [entries[i] for i in known],
                'categories': [{'id': category}],
                'annotations': annotations[category],
            }
            yield part, rows[np.isin(rows['image'], [places[i] for i in known])], loose[category]


def _as_dicts(dataset: Dataset, results: Rows) -> list[dict[str, Any]]:
    """As pycocotools takes them."""
    images, categories = list(dataset.names), list(dataset.categories)
    columns = (results[name].tolist() for name in ('image', 'category', 'bbox', 'score'))
    return [
        {'image_id': images[image], 'category_id': categories[category], 'bbox': box, 'score': score}
        for image, category, box, score in zip(*columns, strict=True)
    ]


def _judged(
    content: dict[str, Any], results: list[dict[str, Any]], most: int, loose: Container[int] = ()
) -> NDArray[np.float64]:
    """Precision (10 IoUs, 101 recalls, categories, 4 areas), -1 where there is nothing to find."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise UserError(f'this needs pycocotools ({error}); run: pip install "embedder_ros[objembed]"') from error
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        judge = COCOeval(truth, _loaded(truth, results), 'bbox')
        judge.params.maxDets = [1, 10, most]
        judge.evaluate()
        for entry in judge.evalImgs:  # what matches nothing is no mistake where not all are labelled
            if entry is not None and entry['image_id'] in loose:
                entry['dtIgnore'] = np.logical_or(entry['dtIgnore'], np.asarray(entry['dtMatches']) == 0)
        judge.accumulate()
    precision: NDArray[np.float64] = judge.eval['precision'][..., -1]
    return precision


def _loaded(truth: Any, results: list[dict[str, Any]]) -> Any:
    if results:
        return truth.loadRes(results)
    empty = type(truth)()
    empty.dataset = {**truth.dataset, 'annotations': []}
    empty.createIndex()
    return empty


def _valid(precision: np.ndarray) -> float:
    counted = precision[precision > -1]
    return float(counted.mean()) if counted.size else float('nan')


def average_recall(proposals: Mapping[int, FloatArray], truth: Mapping[int, FloatArray]) -> float:
    """AR(.5:.95): share of labelled boxes that the first RECALL_AT proposals cover, averaged over ten overlaps."""
    covered, count = 0.0, 0
    for image, boxes in truth.items():
        best = box_iou(boxes, proposals[image][:RECALL_AT]).max(axis=1, initial=0.0)
        covered += float((best[:, None] >= THRESHOLDS - 1e-6).mean(axis=1).sum())
        count += len(boxes)
    return covered / count if count else float('nan')

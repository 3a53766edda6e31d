# SPDX-License-Identifier: Apache-2.0
"""COCO- and LVIS-style detection from a list of names, judged by pycocotools (MODELS.md 1.9).

The annotations are COCO's JSON: images (id, file_name), categories (id, name), annotations (image_id, category_id,
bbox x y width height). LVIS adds to its images which categories were looked for: only those count, up to 10 000
detections of a category over the whole set and none cut per image ("fixed AP").
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedder_ros.evaluation.images import observe, read_json, take, xyxy
from embedder_ros.grounding.detect import MOST, detect
from embedder_ros.pipeline import Pipeline
from embedder_ros.types import FloatArray, UserError, box_iou

FIXED = 10_000  # detections of a category that count in LVIS' fixed AP
RECALL_AT = 100  # proposals that recall is measured at
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
    ids = list(dataset.categories)
    words = pipeline.embedder.embed_text(list(dataset.categories.values()))
    calibration = pipeline.embedder.info.calibration
    most = FIXED if lvis else MOST
    results = []
    for image, (_, observation) in zip(
        dataset.names, observe(pipeline, folder, dataset.names.values(), quiet=quiet), strict=True
    ):
        pairs = observation.boxes.shape[0] * len(ids) if lvis else 1000
        found = detect(observation, words, calibration, pairs=pairs, most=max(pairs, 1) if lvis else most)
        results += [
            {'image_id': image, 'category_id': ids[label], 'bbox': _xywh(box), 'score': float(score)}
            for label, box, score in zip(found.labels, found.boxes, found.scores, strict=True)
        ]
    return average_precision(dataset, _fixed(results) if lvis else results, lvis=lvis)


def average_precision(
    dataset: Dataset, results: Sequence[Mapping[str, Any]], *, lvis: bool = False
) -> dict[str, float]:
    """AP by pycocotools, in 0..1; NaN where there is nothing to find.

    Args:
        dataset: the truth.
        results: image_id, category_id, bbox (x y width height), score.
        lvis: only categories that were looked for in an image count in it.

    Raises:
        UserError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise UserError(f'this needs pycocotools ({error}); run: pip install "embedder_ros[objembed]"') from error
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset.content
        truth.createIndex()
        judge = COCOeval(truth, _loaded(truth, _looked_for(dataset, results) if lvis else list(results)), 'bbox')
        judge.params.imgIds = list(dataset.names)
        judge.params.maxDets = [1, 10, FIXED if lvis else MOST]
        judge.evaluate()
        if lvis:
            _forgive_unlisted(dataset, judge)
        judge.accumulate()
    precision = judge.eval['precision'][:, :, :, :, -1]  # (IoU, recall, category, area)
    ious = {'AP': slice(None), 'AP50': 0, 'AP75': 5}
    out = {name: _valid(precision[which, ..., 0]) for name, which in ious.items()}
    return out | {f'AP {size}': _valid(precision[..., i + 1]) for i, size in enumerate(('small', 'medium', 'large'))}


def _loaded(truth: Any, results: list[Mapping[str, Any]]) -> Any:
    if results:
        return truth.loadRes([dict(r) for r in results])
    empty = type(truth)()
    empty.dataset = {**truth.dataset, 'annotations': []}
    empty.createIndex()
    return empty


def _valid(precision: np.ndarray) -> float:
    counted = precision[precision > -1]
    return float(counted.mean()) if counted.size else float('nan')


def _xywh(box: FloatArray) -> list[float]:
    return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]


def _fixed(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best FIXED of each category over all images."""
    by_category: dict[int, list[dict[str, Any]]] = {}
    for r in results:
        by_category.setdefault(r['category_id'], []).append(r)
    return [r for rows in by_category.values() for r in sorted(rows, key=lambda r: -r['score'])[:FIXED]]


def _looked_for(dataset: Dataset, results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Detections of categories that are known to be, or not to be, in their image."""
    known = {
        e['id']: {*e.get('neg_category_ids', ()), *e.get('not_exhaustive_category_ids', ())} for e in _images(dataset)
    }
    for annotation in dataset.content['annotations']:
        known[annotation['image_id']].add(annotation['category_id'])
    return [r for r in results if r['category_id'] in known[r['image_id']]]


def _forgive_unlisted(dataset: Dataset, judge: Any) -> None:
    """What matches nothing is no mistake where a category is not exhaustively labelled."""
    loose = {(e['id'], c) for e in _images(dataset) for c in e.get('not_exhaustive_category_ids', ())}
    for entry in judge.evalImgs:
        if entry is not None and (entry['image_id'], entry['category_id']) in loose:
            entry['dtIgnore'] = np.logical_or(entry['dtIgnore'], np.asarray(entry['dtMatches']) == 0)


def _images(dataset: Dataset) -> Iterator[dict[str, Any]]:
    return iter(dataset.content['images'])


def average_recall(proposals: Mapping[int, FloatArray], truth: Mapping[int, FloatArray]) -> float:
    """AR(.5:.95): share of labelled boxes that the first RECALL_AT proposals cover, averaged over ten overlaps."""
    covered, count = 0.0, 0
    for image, boxes in truth.items():
        best = box_iou(boxes, proposals[image][:RECALL_AT]).max(axis=1, initial=0.0)
        covered += float((best[:, None] >= THRESHOLDS - 1e-6).mean(axis=1).sum())
        count += len(boxes)
    return covered / count if count else float('nan')

# SPDX-License-Identifier: Apache-2.0
"""RefCOCO-style referring expressions: is the box that an expression means first, or among the first five or ten.

Two layouts: a list of {"image", "box": [x0, y0, x1, y1], "expressions": [...]}; or COCO's, as widely used for RefCOCO,
with one image entry per expression: images (id, file_name, caption), annotations (image_id, bbox x y width height).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedder_ros.evaluation.images import observe, read_json, take, xyxy
from embedder_ros.pipeline import Pipeline
from embedder_ros.types import FloatArray, UserError, box_iou

TOPS = (1, 5, 10)
RIGHT_IOU = 0.5
KEPT = 20  # boxes that are looked at, without suppression


@dataclass(frozen=True, slots=True, eq=False)
class Expression:
    """A phrase and the (4,) box in an image that it means."""

    image: str
    text: str
    box: FloatArray


def read_expressions(path: Path, limit: int = 0) -> list[Expression]:
    """Read either layout; `limit` keeps the first. Raises UserError that names entry and field."""
    content = read_json(path)
    found = _listed(path, content) if isinstance(content, list) else _coco(path, content)
    if not found:
        raise UserError(f'{path} holds no expressions; see `embedder-ros evaluate refcoco --help` for the layout')
    return found[: limit or None]


def _listed(path: Path, content: list[Any]) -> list[Expression]:
    found = []
    for i, entry in enumerate(content):
        image, box, texts = take(path, entry, i, 'image', 'box', 'expressions')
        found += [Expression(str(image), str(text), xyxy(path, box, i)) for text in texts]
    return found


def _coco(path: Path, content: Any) -> list[Expression]:
    images, annotations = take(path, content, 'top', 'images', 'annotations')
    entries = [take(path, e, f'images[{i}]', 'id', 'file_name', 'caption') for i, e in enumerate(images)]
    boxes: dict[Any, FloatArray] = {}
    for i, a in enumerate(annotations):
        image, box = take(path, a, f'annotations[{i}]', 'image_id', 'bbox')
        boxes[image] = xyxy(path, box, f'annotations[{i}]', width_height=True)
    if missing := [image for image, _, _ in entries if image not in boxes]:
        raise UserError(f'{path}: image {missing[0]} has no annotation; every expression needs a box')
    return [Expression(str(name), str(text), boxes[image]) for image, name, text in entries]


def accuracy(pipeline: Pipeline, expressions: list[Expression], folder: Path, *, quiet: bool = True) -> dict[str, int]:
    """Number of expressions, and of those that a box of IoU 0.5 answers among the first 1, 5 and 10."""
    counts = {'expressions': len(expressions)} | {f'top {n}': 0 for n in TOPS}
    by_image: dict[str, list[Expression]] = {}
    for expression in expressions:
        by_image.setdefault(expression.image, []).append(expression)
    for frame, observation in observe(pipeline, folder, by_image, quiet=quiet):
        asked = by_image[frame.camera]
        words = pipeline.embedder.embed_text([e.text for e in asked])
        semantic = pipeline.embedder.info.calibration.semantic(observation.embeddings @ words.T)
        order = np.argsort(-(semantic * observation.iou[:, None]), axis=0, kind='stable')[:KEPT]
        for column, expression in enumerate(asked):
            right = box_iou(observation.boxes[order[:, column]], expression.box[None])[:, 0] >= RIGHT_IOU
            for n in TOPS:
                counts[f'top {n}'] += bool(right[:n].any())
    return counts

# SPDX-License-Identifier: Apache-2.0
"""Photos with named boxes: is the thing that a name means first, with own boxes and with the given ones?

Two layouts: a list of {"image", "objects": [{"name", "box": [x0, y0, x1, y1] pixels}]}; or a list of {"image",
"objects": [{"box_frac": [x0, y0, x1, y1] as shares of width and height, "queries": [text, ...]}]}.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from embedder_ros.evaluation.images import interval, load, read_json, take, xyxy
from embedder_ros.grounding.ground import ground
from embedder_ros.pipeline import Pipeline
from embedder_ros.types import Calibration, FloatArray, Frame, Observation, Outcome, UserError, box_iou

RIGHT_IOU = 0.5
DISTRACTORS = 10  # random boxes put beside the given ones


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """A photo's (K, 4) boxes, in pixels or as shares of its size, and for each box what it is asked by."""

    image: str
    boxes: FloatArray
    queries: tuple[tuple[str, ...], ...]
    shares: bool = False

    def pixels(self, frame: Frame) -> FloatArray:
        """(K, 4) boxes in pixels of the photo, cut at its edges."""
        size = np.array([frame.width, frame.height] * 2, np.float32)
        return np.clip(self.boxes * size if self.shares else self.boxes, 0, size)


@dataclass
class Tally:
    """Right answers among questions."""

    right: int = 0
    count: int = 0

    def add(self, right: bool) -> None:
        """One more question."""
        self.right += right
        self.count += 1

    def as_dict(self) -> dict[str, Any]:
        """Share with its 95 % interval."""
        low, high = interval(self.right, self.count)
        share = self.right / self.count if self.count else 0.0
        return {'right': self.right, 'of': self.count, 'share': share, 'interval': [low, high]}


@dataclass
class Result:
    """What was asked and answered.

    Attributes:
        first: own boxes, thresholds aside: the first candidate covers the thing by IoU 0.5.
        found: own boxes: answered FOUND, and right.
        boxed: any own box covers the thing.
        given: the right one of the given boxes is first.
        distracted: the same with random boxes among them.
        wrong: own boxes: answered FOUND, and wrong.
    """

    first: Tally = field(default_factory=Tally)
    found: Tally = field(default_factory=Tally)
    boxed: Tally = field(default_factory=Tally)
    given: Tally = field(default_factory=Tally)
    distracted: Tally = field(default_factory=Tally)
    wrong: Tally = field(default_factory=Tally)


def read_photos(path: Path, limit: int = 0) -> list[Photo]:
    """Read either layout; `limit` keeps the first. Raises UserError that names entry and field."""
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise UserError(f'{path} is no list of photos with objects')
    return [_photo(path, entry, i) for i, entry in enumerate(content[: limit or None])]


def _photo(path: Path, entry: Any, index: int) -> Photo:
    image, objects = take(path, entry, index, 'image', 'objects')
    shares = any(isinstance(o, dict) and 'box_frac' in o for o in objects)
    boxes, queries = [], []
    for o in objects:
        box, asked = take(path, o, index, *(('box_frac', 'queries') if shares else ('box', 'name')))
        boxes.append(xyxy(path, box, index))
        queries.append((asked,) if isinstance(asked, str) else tuple(map(str, asked)))
    return Photo(str(image), np.asarray(boxes, np.float32).reshape(-1, 4), tuple(queries), shares)


def evaluate(pipeline: Pipeline, photos: Sequence[Photo], folder: Path, *, seed: int = 0, quiet: bool = True) -> Result:
    """Ask for everything that is labelled."""
    result, random = Result(), np.random.default_rng(seed)
    calibration = pipeline.embedder.info.calibration
    for photo in tqdm(photos, unit=' photos', leave=False, disable=quiet):
        frame = load(folder, photo.image)
        truth = photo.pixels(frame)
        own, given = pipeline.observe([frame])[0], pipeline.embed_boxes(frame, truth)
        more = pipeline.embed_boxes(frame, np.concatenate([truth, _distractors(frame, truth, random)]))
        for text, meant in asked(photo):
            query, boxes = pipeline.embedder.embed_text([text])[0], truth[meant]
            _own(result, query, own, boxes, calibration)
            semantic = calibration.semantic(given.embeddings @ query)
            result.given.add(int(semantic.argmax()) in meant)
            score = calibration.semantic(more.embeddings @ query) * more.iou
            result.distracted.add(int(score.argmax()) in meant)
    return result


def asked(photo: Photo) -> Iterator[tuple[str, list[int]]]:
    """Every text with the places of all boxes that it is true of."""
    for text in dict.fromkeys(t for texts in photo.queries for t in texts):
        yield text, [i for i, texts in enumerate(photo.queries) if text in texts]


def _own(result: Result, query: FloatArray, own: Observation, boxes: FloatArray, calibration: Calibration) -> None:
    answer = ground(query, [own], calibration)
    covers = box_iou(own.boxes, boxes).max(axis=1, initial=0.0) >= RIGHT_IOU
    right = bool(answer.candidates) and bool(covers[answer.candidates[0].row])
    found = answer.outcome is Outcome.FOUND
    result.boxed.add(bool(covers.any()))
    result.first.add(right)
    result.found.add(found and right)
    result.wrong.add(found and not right)


def _distractors(frame: Frame, truth: FloatArray, random: np.random.Generator) -> FloatArray:
    """(DISTRACTORS, 4) random boxes that cover no labelled thing by half; fewer where there is no room."""
    size = np.array([frame.width, frame.height], np.float32)
    side = random.uniform(0.08, 0.5, (20 * DISTRACTORS, 2)) * size
    low = random.uniform(0, 1, side.shape) * (size - side)
    boxes = np.concatenate([low, low + side], axis=1).astype(np.float32)
    free = box_iou(boxes, truth).max(axis=1, initial=0.0) < RIGHT_IOU
    return boxes[free][:DISTRACTORS]

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

from embedder_ros.evaluation.estimates import share
from embedder_ros.evaluation.grounding import ON_IOU, RIGHT_IOU, first_row, overlap
from embedder_ros.evaluation.images import load, read_json, take, xyxy
from embedder_ros.evaluation.looks import look, strays
from embedder_ros.grounding.ground import ground
from embedder_ros.pipeline import Pipeline
from embedder_ros.types import Calibration, FloatArray, Frame, Observation, Outcome, UserError, box_iou


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
    """Answers to questions, and the photo of each: those of one photo are not independent."""

    answers: list[bool] = field(default_factory=list)
    photos: list[str] = field(default_factory=list)

    def add(self, right: bool, photo: str) -> None:
        """One more question."""
        self.answers.append(right)
        self.photos.append(photo)

    @property
    def right(self) -> int:
        """How many are right."""
        return sum(self.answers)

    @property
    def count(self) -> int:
        """How many were asked."""
        return len(self.answers)

    def as_dict(self) -> dict[str, Any]:
        """Share with its 95 % interval; None where nothing was asked."""
        found = share(self.answers, self.photos).as_dict()
        numbers = {'share': found['value'], 'interval': [found['low'], found['high']], 'interval_by': found['by']}
        return {'right': self.right, 'of': self.count, **numbers}


@dataclass
class Result:
    """What was asked and answered.

    Attributes:
        first: own boxes, thresholds aside: the first candidate covers the thing by IoU 0.5.
        found: own boxes: answered FOUND, and right.
        loose: own boxes: answered FOUND on the thing, by a box that covers it by less than IoU 0.5.
        wrong: own boxes: answered FOUND on something else.
        ambiguous: own boxes: answered AMBIGUOUS.
        boxed: any own box covers the thing.
        given: the right one of the given boxes is first, where there are at least two.
        distracted: the same with random boxes among them.
    """

    first: Tally = field(default_factory=Tally)
    found: Tally = field(default_factory=Tally)
    loose: Tally = field(default_factory=Tally)
    wrong: Tally = field(default_factory=Tally)
    ambiguous: Tally = field(default_factory=Tally)
    boxed: Tally = field(default_factory=Tally)
    given: Tally = field(default_factory=Tally)
    distracted: Tally = field(default_factory=Tally)


def read_photos(path: Path, limit: int = 0, videos: Sequence[str] = ()) -> list[Photo]:
    """Read either layout; `limit` keeps the first, `videos` those whose "video" begins with one of them.

    Raises:
        UserError: the file is no such list (the message names entry and field), or no photo is of these videos.
    """
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise UserError(f'{path} is no list of photos with objects')
    if videos:
        named = [str(take(path, entry, i, 'video')[0]) for i, entry in enumerate(content)]
        content = [entry for entry, name in zip(content, named, strict=True) if name.startswith(tuple(videos))]
        if not content:
            raise UserError(
                f'{path}: no video begins with {" or ".join(videos)}; there are {", ".join(sorted(set(named)))}'
            )
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
        truth, seen = photo.pixels(frame), look(pipeline, frame)
        given, more = seen.given(truth), seen.given(np.concatenate([truth, strays(frame, truth, random)]))
        for text, meant in asked(photo):
            query = pipeline.embedder.embed_text([text])[0]
            _own(result, query, seen.own, truth[meant], calibration)
            if len(truth) > 1:
                result.given.add(int(calibration.semantic(given.embeddings @ query).argmax()) in meant, photo.image)
            result.distracted.add(first_row(query, more, calibration) in meant, photo.image)
    return result


def asked(photo: Photo) -> Iterator[tuple[str, list[int]]]:
    """Every text with the places of all boxes that it is true of."""
    for text in dict.fromkeys(t for texts in photo.queries for t in texts):
        yield text, [i for i, texts in enumerate(photo.queries) if text in texts]


def _own(result: Result, query: FloatArray, own: Observation, boxes: FloatArray, calibration: Calibration) -> None:
    answer = ground(query, [own], calibration)
    covers = box_iou(own.boxes, boxes).max(axis=1, initial=0.0) >= RIGHT_IOU
    iou = overlap(answer.candidates[0].box, boxes) if answer.candidates else 0.0
    right = iou >= RIGHT_IOU
    found = answer.outcome is Outcome.FOUND
    result.boxed.add(bool(covers.any()), own.camera)
    result.first.add(right, own.camera)
    result.found.add(found and right, own.camera)
    result.loose.add(found and ON_IOU <= iou < RIGHT_IOU, own.camera)
    result.wrong.add(found and iou < ON_IOU, own.camera)
    result.ambiguous.add(answer.outcome is Outcome.AMBIGUOUS, own.camera)

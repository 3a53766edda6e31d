# SPDX-License-Identifier: Apache-2.0
"""Labelled frames to what one training step compares: boxes, texts, and which text is true of which box.

Every random choice comes from the seed, the epoch and the record, so a run that is resumed makes the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from embedder_ros.bags.source import read_photo
from embedder_ros.models.objembed import prompts
from embedder_ros.training.objembed.data import Record, Vocabulary
from embedder_ros.training.objembed.labels import Labels, assign, with_truth
from embedder_ros.types import FloatArray, UserError

TEXTS = 10  # per image; raising it costs memory and compares with more wrong answers


class Task(Enum):
    """Which pool of task prompts a data set's images are read with."""

    REC = prompts.REC_POOL
    DET = prompts.DET_POOL
    HUMANREF = prompts.HUMANREF_POOL
    NONE = (prompts.GENERAL,)


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """Labelled images of one source.

    Attributes:
        records: of the images.
        images: their folder. A photo is turned upright as its EXIF data says, and boxes are in pixels of that.
        proposals: boxes (N, 4) per image, best first.
        vocabulary: names to draw wrong answers from.
        task: pool of task prompts. HUMANREF also keeps equal texts of a batch apart, since the same words may mean
            another person in another image.
        max_objects: most proposals per image.
    """

    records: Sequence[Record]
    images: Path
    proposals: Mapping[str, FloatArray]
    vocabulary: Vocabulary
    task: Task = Task.REC
    max_objects: int = 100

    def check(self) -> None:
        """Look at every image, once, before training.

        Raises:
            UserError: an image is missing or has no proposals, or a box is not in it.
        """
        for record in tqdm(self.records, desc='check', unit=' images', leave=False, disable=None):
            self._check(record)

    def _check(self, record: Record) -> None:
        path = self.images / record.image
        if not path.is_file():
            raise UserError(f'{record.where}: {path} is missing; correct the record, or --images')
        if record.image not in self.proposals:
            raise UserError(
                f'{record.where}: the proposals have no {record.image!r}; make them again, or leave --proposals out'
            )
        if not len(record.boxes):
            return
        height, width = read_photo(path).shape[:2]
        if (record.boxes[:, :2] >= [width, height]).any() or (record.boxes[:, 2:] <= 0).any():
            raise UserError(
                f'{record.where}: a bbox is outside the image, which is {width} x {height}; give pixels of that image'
            )

    def example(self, index: int, *, extra: int, rng: np.random.Generator) -> Example:
        """Record `index` with freshly drawn order, texts and task prompt; `extra` texts to replace doubles with."""
        record = self.records[index]
        image = read_photo(self.images / record.image)
        height, width = image.shape[:2]
        texts = _texts_of(record, self.vocabulary, extra, rng)
        kept = [k for k, label in enumerate(record.labels) if label in texts.asked]
        truth = np.clip(record.boxes[kept], 0, [width, height] * 2)
        proposals = self.proposals[record.image][: self.max_objects]
        boxes = with_truth(proposals, truth, width=width, height=height, rng=rng)
        names = tuple(record.labels[k] for k in kept)
        prompt = self.task.value[rng.integers(len(self.task.value))]
        return Example(image, boxes, assign(boxes, truth), names, texts, prompt, record.captions)


@dataclass(frozen=True, slots=True)
class Texts:
    """What one image is asked: its labels first, then what it does not show; and further wrong answers."""

    asked: tuple[str, ...]
    extra: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One image of a batch: (H, W, 3) uint8, (N, 4) boxes, what they are, K names, texts, prompt, two captions."""

    image: NDArray[np.uint8]
    boxes: FloatArray
    labels: Labels
    names: tuple[str, ...]
    texts: Texts
    prompt: str
    captions: tuple[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What a step compares.

    Attributes:
        examples: B images; their N boxes make up the rows, R in all.
        texts: L of them, the columns.
        targets: (R, L) float32, 1 where a text is true of a box.
        mask: (R, L) float32, 0 where nothing is said.
        iou: (R,) float32, 0 where nothing is said.
        apart: whether equal texts of different images are different columns.
        first: columns of each image's first name.
    """

    examples: Sequence[Example]
    texts: Sequence[str]
    targets: Tensor
    mask: Tensor
    iou: Tensor
    apart: bool
    first: Sequence[int]


def collate(examples: Sequence[Example], *, apart: bool = False) -> Batch:
    """Put images and their texts together; equal texts become one column, and further wrong answers fill the gaps.

    Args:
        examples: of one data set.
        apart: keep equal texts apart, and do not compare an image with the first names of others (HumanRef).
    """
    bank, columns = _apart(examples) if apart else _shared(examples)
    first = [own[e.names[0]] for own, e in zip(columns, examples, strict=True) if e.names]
    targets, masks = [], []
    for example, own in zip(examples, columns, strict=True):
        target = np.zeros((len(example.boxes), len(bank)), np.float32)
        for name, row in zip(example.names, example.labels.row, strict=True):
            if row >= 0:
                target[row, own[name]] = 1
        mask = np.repeat(example.labels.said[:, None], len(bank), axis=1).astype(np.float32)
        if apart:
            mask[:, [column for column in first if not example.names or column != own[example.names[0]]]] = 0
        targets.append(torch.from_numpy(target))
        masks.append(torch.from_numpy(mask))
    iou = np.concatenate([e.labels.iou for e in examples])
    return Batch(examples, bank, torch.cat(targets), torch.cat(masks), torch.from_numpy(iou), apart, first)


def _texts_of(record: Record, vocabulary: Vocabulary, extra: int, rng: np.random.Generator) -> Texts:
    own = list(dict.fromkeys((*record.labels, *record.negatives)))
    if len(own) > TEXTS:
        own = [own[place] for place in sorted(rng.choice(len(own), TEXTS, replace=False))]
    present = {*record.labels, *own}
    drawn = vocabulary.draw(TEXTS - len(own) + extra, present, rng)
    fill = TEXTS - len(own)
    return Texts((*own, *drawn[:fill]), tuple(drawn[fill:]))


def _shared(examples: Sequence[Example]) -> tuple[list[str], list[dict[str, int]]]:
    """All texts once, and for every image the column of each."""
    columns = dict.fromkeys(text for e in examples for text in e.texts.asked)
    wanted = sum(len(e.texts.asked) for e in examples)
    for example in examples:
        free = [text for text in example.texts.extra if text not in columns]
        columns |= dict.fromkeys(free[: wanted - len(columns)])
    bank = list(columns)
    places = {text: place for place, text in enumerate(bank)}
    return bank, [places for _ in examples]


def _apart(examples: Sequence[Example]) -> tuple[list[str], list[dict[str, int]]]:
    bank: list[str] = []
    columns = []
    for example in examples:
        columns.append({text: len(bank) + place for place, text in enumerate(example.texts.asked)})
        bank += example.texts.asked
    return bank, columns

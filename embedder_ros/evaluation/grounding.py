# SPDX-License-Identifier: Apache-2.0
"""How one question 'find the ...' to a labelled frame ends, from the model's own boxes and thresholds aside.

measures.py counts; not asked: tracking and memory, which only ever see what this sees.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from embedder_ros.grounding.ground import ground
from embedder_ros.types import Calibration, FloatArray, Observation, box_iou

RIGHT_IOU = 0.5  # overlap with a labelled box that counts as found
ON_IOU = 0.2  # overlap with a labelled box from which an answer is on the thing, however loosely


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A query on one frame.

    Attributes:
        observation: what the model saw.
        query: (D,) unit text vector.
        boxes: (K, 4) every box the phrase is true of; K = 0 when it is not there.
        kind: what the question tests, to report apart.
        unit: answers of one unit (a frame, a scene) are not independent.
    """

    observation: Observation
    query: FloatArray
    boxes: FloatArray
    kind: str = ''
    unit: str = ''


@dataclass(frozen=True, slots=True)
class Result:
    """How one question ended before any threshold.

    Attributes:
        kind: the question's.
        present: whether something it is true of is in the frame.
        right: whether the best candidate covers such a thing.
        boxed: whether any candidate does.
        score: of the best candidate.
        margin: its lead over the best rival.
        unit: the question's.
        iou: of the best candidate's box with such a thing.
        several: whether it is true of several things, so that AMBIGUOUS is the right answer.
    """

    kind: str
    present: bool
    right: bool
    boxed: bool
    score: float
    margin: float
    unit: str = ''
    iou: float = 0.0
    several: bool = False

    def found(self, calibration: Calibration) -> bool:
        """Whether it is answered FOUND, rightly or not."""
        return self.score >= calibration.found and self.margin >= calibration.margin

    def ambiguous(self, calibration: Calibration) -> bool:
        """Whether it is answered AMBIGUOUS."""
        return self.score >= calibration.found and self.margin < calibration.margin


def answer(question: Question, calibration: Calibration) -> Result:
    """Ground one question as the package does, thresholds aside."""
    seen, kind, present = question.observation, question.kind, bool(len(question.boxes))
    covers = box_iou(seen.boxes, question.boxes).max(axis=1, initial=0.0) >= RIGHT_IOU
    given = ground(question.query, [seen], replace(calibration, found=0.0, margin=-1.0))
    if not given.candidates:
        return Result(kind, present, False, False, 0.0, 0.0, question.unit)
    best = given.candidates[0]
    iou = overlap(best.box, question.boxes)
    return Result(
        kind, present, iou >= RIGHT_IOU, bool(covers.any()), best.score, given.margin, question.unit, iou,
        several=len(question.boxes) > 1,
    )  # fmt: skip


def overlap(box: FloatArray, boxes: FloatArray) -> float:
    """Best IoU of an answer's box, which is no row's (ground votes on it), with boxes (K, 4)."""
    return float(box_iou(box[None], boxes).max(initial=0.0))


def first_row(query: FloatArray, seen: Observation, calibration: Calibration) -> int:
    """Row of the box that ranks first, thresholds aside; -1 for none."""
    candidates = ground(query, [seen], calibration).candidates
    return candidates[0].row if candidates else -1

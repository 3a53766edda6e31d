# SPDX-License-Identifier: Apache-2.0
"""How well a model answers 'find the ...' on labelled frames, from its own boxes: the numbers docs/nano.md reports.

Not measured here: tracking and memory, which only ever see what this sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from embedder_ros.grounding.ground import ground
from embedder_ros.types import Calibration, FloatArray, Observation, box_iou

RIGHT_IOU = 0.5  # overlap with a labelled box that counts as found


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
    """

    kind: str
    present: bool
    right: bool
    boxed: bool
    score: float
    margin: float
    unit: str = ''

    def found(self, calibration: Calibration) -> bool:
        """Whether it is answered FOUND, rightly or not."""
        return self.score >= calibration.found and self.margin >= calibration.margin

    def ambiguous(self, calibration: Calibration) -> bool:
        """Whether it is answered AMBIGUOUS."""
        return self.score >= calibration.found and self.margin < calibration.margin


@dataclass(frozen=True, slots=True)
class Report:
    """Shares of questions, each in 0..1; counts beside them.

    Attributes:
        present, absent: number of questions about things that are there and that are not.
        boxed: present things that some box covers.
        first: present things ranked first, thresholds aside.
        found: present things answered FOUND and right.
        wrong: present things answered FOUND on something else.
        ambiguous: present things answered AMBIGUOUS.
        false_found: absent things answered FOUND.
    """

    present: int
    absent: int
    boxed: float
    first: float
    found: float
    wrong: float
    ambiguous: float
    false_found: float


def answer(question: Question, calibration: Calibration) -> Result:
    """Ground one question as the package does, thresholds aside."""
    seen, kind, present = question.observation, question.kind, bool(len(question.boxes))
    covers = box_iou(seen.boxes, question.boxes).max(axis=1, initial=0.0) >= RIGHT_IOU
    given = ground(question.query, [seen], replace(calibration, found=0.0, margin=-1.0))
    if not given.candidates:
        return Result(kind, present, False, False, 0.0, 0.0, question.unit)
    best = given.candidates[0]
    right = covered(best.box, question.boxes)
    return Result(kind, present, right, bool(covers.any()), best.score, given.margin, question.unit)


def covered(box: FloatArray, boxes: FloatArray) -> bool:
    """Whether an answer's box, which is no row's (ground votes on it), lies on one of the boxes (K, 4)."""
    return bool(box_iou(box[None], boxes).max(initial=0.0) >= RIGHT_IOU)


def first_row(query: FloatArray, seen: Observation, calibration: Calibration) -> int:
    """Row of the box that ranks first, thresholds aside; -1 for none."""
    candidates = ground(query, [seen], calibration).candidates
    return candidates[0].row if candidates else -1


def report(results: Sequence[Result], calibration: Calibration) -> Report:
    """Apply the abstention rule and count."""
    present, absent = [r for r in results if r.present], [r for r in results if not r.present]

    def share(rows: Iterable[bool], count: int) -> float:
        return sum(rows) / count if count else 0.0

    n = len(present)
    return Report(
        present=n,
        absent=len(absent),
        boxed=share((r.boxed for r in present), n),
        first=share((r.right for r in present), n),
        found=share((r.found(calibration) and r.right for r in present), n),
        wrong=share((r.found(calibration) and not r.right for r in present), n),
        ambiguous=share((r.ambiguous(calibration) for r in present), n),
        false_found=share((r.found(calibration) for r in absent), len(absent)),
    )


def by_kind(results: Sequence[Result], calibration: Calibration) -> dict[str, Report]:
    """One report for each kind of question, and 'all'."""
    kinds = sorted({r.kind for r in results})
    return {'all': report(results, calibration)} | {
        kind: report([r for r in results if r.kind == kind], calibration) for kind in kinds
    }

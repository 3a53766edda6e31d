# SPDX-License-Identifier: Apache-2.0
"""What each frame of a split tells about a model, and the numbers with intervals that all of them make.

A frame is encoded once. It is asked with the model's own boxes, with the labelled ones, and with these among random
ones; its predicted IoU is compared with the true one on own boxes and on shaken copies of labelled ones. Only small
rows are kept, so that memory stays that of the model. Not measured: tracking and memory, which only see what this sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from embedder_ros.evaluation.estimates import Estimate, auroc, bootstrap, mean, rank_correlation, share
from embedder_ros.evaluation.grounding import ON_IOU, RIGHT_IOU, Question, Result, answer, first_row
from embedder_ros.evaluation.looks import PROPOSED, Look, look, shaken, strays
from embedder_ros.evaluation.questions import Asked
from embedder_ros.evaluation.sightings import View
from embedder_ros.evaluation.splits import Item
from embedder_ros.pipeline import Pipeline
from embedder_ros.types import Calibration, FloatArray, Observation, box_iou

POWERS = (0.0, 0.5, 1.0, 2.0)  # of iou in semantic * iou ** power
RIVAL_IOU = 0.3  # overlap from which a box is a candidate of a thing, good or bad
TOUCHES = 0.1  # overlap from which the true IoU of a box is known where not everything is labelled
RECALL_AT = (30, 64, PROPOSED)
ENOUGH = 10  # questions about one part that are worth a row
HANDLES = ('handle', 'knob')
WIDTHS = (12, 24)  # pixels of the source image between which parts are thin, medium or wide
Row = TypeVar('Row')


@dataclass(frozen=True, slots=True)
class Choice:
    """A question about something that is there, asked of given boxes.

    Attributes:
        unit, kind: the question's.
        given: whether the right one of the labelled boxes is first, by meaning alone.
        chance: of that by guessing.
        distracted: the same by score, random boxes among them.
    """

    unit: str
    kind: str
    given: bool
    chance: float
    distracted: bool


@dataclass(frozen=True, slots=True)
class Fit:
    """True IoU of the box that semantic * iou ** power picks, one for each of POWERS.

    Attributes:
        unit: the question's.
        boxes: which boxes it picks among: 'own boxes of the thing', 'shaken boxes of the thing' or 'all own boxes'.
        picked: true IoU for each power.
        best, average: of all that it picks among.
    """

    unit: str
    boxes: str
    picked: tuple[float, ...]
    best: float
    average: float


@dataclass(frozen=True, slots=True)
class Boxed:
    """A labelled thing and the place of the first own box that covers it, PROPOSED when none does."""

    unit: str
    group: str
    place: int


@dataclass
class Rows:
    """All that the frames of one split told."""

    results: list[Result] = field(default_factory=list)
    words: list[str] = field(default_factory=list)  # of each result, the part it asks for
    widths: list[float] = field(default_factory=list)  # of each result, pixels: the shorter side of the widest it means
    choices: list[Choice] = field(default_factory=list)
    ious: list[tuple[str, str, FloatArray, FloatArray]] = field(default_factory=list)  # unit, boxes, predicted, true
    fits: list[Fit] = field(default_factory=list)
    boxed: list[Boxed] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    seconds: list[dict[str, float]] = field(default_factory=list)


def observe(pipeline: Pipeline, item: Item, rows: Rows) -> None:
    """Measure one frame."""
    seen, info = look(pipeline, item.frame), pipeline.embedder.info
    random = np.random.default_rng(sum(item.sample.key.encode()))
    truth = _inside(np.array([t.box for t in item.sample.things], np.float32), item)
    given, others = seen.given(truth), strays(item.frame, truth, random)
    among, loose = seen.given(np.concatenate([truth, others])), seen.given(shaken(item.frame, truth, random))
    queries = pipeline.embedder.embed_text([a.text for a in item.asked])
    for asked, query in zip(item.asked, queries, strict=True):
        boxes = truth[list(asked.meant)]
        rows.results.append(answer(Question(seen.own, query, boxes, asked.kind, item.unit), info.calibration))
        rows.words.append(asked.word if asked.kind.endswith('part') else '')
        rows.widths.append(float((boxes[:, 2:] - boxes[:, :2]).min(axis=1).max(initial=0.0)))
        if asked.meant:
            rows.choices.append(_choice(item.unit, asked, query, given, among, info.calibration))
            rows.fits += _fits(item.unit, query, boxes, seen.own, loose, info.calibration)
    rows.ious += _ious(item, truth, seen.own, loose)
    rows.boxed += _boxed(item, truth, seen)
    rows.seconds.append(seen.seconds)
    if item.sample.group:
        whole = [i for i, t in enumerate(item.sample.things) if t.instance and not t.part]
        names = tuple(item.sample.things[i].instance for i in whole)
        looks = info.identity(given.embeddings[whole])
        rows.views.append(View(item.unit, item.sample.group, item.frame.stamp, names, looks))


def _inside(boxes: FloatArray, item: Item) -> FloatArray:
    """Labelled boxes cut at the frame's edges, at least a pixel wide."""
    size = np.array([item.frame.width, item.frame.height], np.float32)
    boxes = boxes.reshape(-1, 4)
    low = np.clip(boxes[:, :2], 0, size - 1)
    return np.concatenate([low, np.clip(boxes[:, 2:], low + 1, size)], axis=1).astype(np.float32)


def _choice(
    unit: str, asked: Asked, query: FloatArray, given: Observation, among: Observation, calibration: Calibration
) -> Choice:
    semantic = calibration.semantic(given.embeddings @ query)
    chance = len(asked.meant) / len(given)
    first, distracted = int(semantic.argmax()), first_row(query, among, calibration)
    return Choice(unit, asked.kind, first in asked.meant, chance, distracted in asked.meant)


def _fits(
    unit: str, query: FloatArray, boxes: FloatArray, own: Observation, loose: Observation, calibration: Calibration
) -> Iterable[Fit]:
    """What score picks among several candidates of the meant things, and among all own boxes."""
    for name, seen, least in (
        ('own boxes of the thing', own, RIVAL_IOU),
        ('shaken boxes of the thing', loose, RIVAL_IOU),
        ('all own boxes', own, -1.0),
    ):
        true = box_iou(seen.boxes, boxes).max(axis=1, initial=0.0)
        rows = np.flatnonzero(true >= least)
        if len(rows) < 2 or true.max() < RIVAL_IOU:
            continue
        semantic = calibration.semantic(seen.embeddings[rows] @ query)
        picked = tuple(float(true[rows][(semantic * seen.iou[rows] ** power).argmax()]) for power in POWERS)
        yield Fit(unit, name, picked, float(true[rows].max()), float(true[rows].mean()))


def _ious(
    item: Item, truth: FloatArray, own: Observation, loose: Observation
) -> Iterable[tuple[str, str, FloatArray, FloatArray]]:
    for name, seen in (('own boxes', own), ('shaken boxes', loose)):
        true = box_iou(seen.boxes, truth).max(axis=1, initial=0.0)
        known = slice(None) if item.sample.complete else true >= TOUCHES
        yield item.unit, name, seen.iou[known], true[known]


def _boxed(item: Item, truth: FloatArray, seen: Look) -> Iterable[Boxed]:
    covers = box_iou(truth, seen.proposed) >= RIGHT_IOU
    for thing, row in zip(item.sample.things, covers, strict=True):
        place = int(row.argmax()) if row.any() else PROPOSED
        yield Boxed(item.unit, 'parts' if thing.part else 'things', place)
        if thing.part and thing.names[0] in HANDLES:
            yield Boxed(item.unit, 'handles and knobs', place)


def summary(rows: Rows, calibration: Calibration) -> dict[str, Any]:
    """All numbers of one split but those of re-identification, whose pool is larger than a split."""
    return {
        'grounding': _by_kind(rows.results, lambda kept: grounding(kept, calibration)),
        'parts': _by_word(rows, calibration),
        'parts by width': _by_width(rows, calibration),
        'given boxes': _by_kind(rows.choices, choices),
        'not there': refusal(rows.results, calibration),
        'iou head': {name: iou_head(rows.ious, name) for name in ('own boxes', 'shaken boxes')},
        'score * iou ** a': {name: curve(kept) for name, kept in _grouped(rows.fits, lambda f: f.boxes).items()},
        'proposal recall': {name: recall(kept) for name, kept in _grouped(rows.boxed, lambda b: b.group).items()},
    }


def _grouped(rows: Iterable[Row], name: Callable[[Row], str]) -> dict[str, list[Row]]:
    out: dict[str, list[Row]] = {}
    for row in rows:
        out.setdefault(name(row), []).append(row)
    return dict(sorted(out.items()))


def _by_kind(rows: Sequence[Any], measured: Callable[[Sequence[Any]], dict[str, Estimate]]) -> dict[str, Any]:
    """'all' that is there, then each kind."""
    present = [r for r in rows if getattr(r, 'present', True)]
    groups = {'all': present, **_grouped(present, lambda r: r.kind)}
    return {name: measured(kept) for name, kept in groups.items() if kept}


def _by_word(rows: Rows, calibration: Calibration) -> dict[str, Any]:
    """Questions about parts by kind and part: 'colour part: handle' holds "the red handle"."""
    asked = [(f'{r.kind}: {word}', r) for r, word in zip(rows.results, rows.words, strict=True) if word]
    groups = _grouped(asked, lambda pair: pair[0])
    return {name: grounding([r for _, r in kept], calibration) for name, kept in groups.items() if len(kept) >= ENOUGH}


def _by_width(rows: Rows, calibration: Calibration) -> dict[str, Any]:
    """Questions about parts by how wide they are in the image."""
    names = (f'under {WIDTHS[0]} pixels', f'{WIDTHS[0]} to {WIDTHS[1]} pixels', f'from {WIDTHS[1]} pixels')
    parts = [(w, r) for r, word, w in zip(rows.results, rows.words, rows.widths, strict=True) if word]
    groups = _grouped(parts, lambda pair: names[np.searchsorted(WIDTHS, pair[0], 'right')])
    return {name: grounding([r for _, r in groups[name]], calibration) for name in names if name in groups}


def grounding(results: Sequence[Result], calibration: Calibration) -> dict[str, Estimate]:
    """How questions about what is there end, as shares of them, and how well the first candidate's box fits.

    boxed: some own box covers the thing. first: it is ranked first, thresholds aside. found: answered FOUND and right.
    loose: answered FOUND on the thing, with a box that fits it too badly to count. wrong: answered FOUND on something
    else. ambiguous: answered AMBIGUOUS. The rest is NOT_FOUND.
    """
    units = [r.unit for r in results]
    missed = [r.found(calibration) and not r.right for r in results]
    on_it = [r.iou >= ON_IOU for r in results]
    return {
        'boxed': share([r.boxed for r in results], units),
        'first': share([r.right for r in results], units),
        'found': share([r.found(calibration) and r.right for r in results], units),
        'loose': share([miss and on for miss, on in zip(missed, on_it, strict=True)], units),
        'wrong': share([miss and not on for miss, on in zip(missed, on_it, strict=True)], units),
        'ambiguous': share([r.ambiguous(calibration) for r in results], units),
        'iou of first': mean([r.iou for r in results], units),
    }


def choices(rows: Sequence[Choice]) -> dict[str, Estimate]:
    """Whether the right one of given boxes is first; the labelled ones alone count where there are at least two."""
    several = [c for c in rows if c.chance < 1]
    return {
        'annotated only': share([c.given for c in several], [c.unit for c in several]),
        'chance': mean([c.chance for c in several], [c.unit for c in several]),
        'with distractors': share([c.distracted for c in rows], [c.unit for c in rows]),
    }


def refusal(results: Sequence[Result], calibration: Calibration) -> dict[str, Any]:
    """Is the best score higher where the thing is there, and how often is an absent one FOUND?"""
    out: dict[str, Any] = {'found threshold': calibration.found, 'margin': calibration.margin}
    for kind in sorted({r.kind for r in results if not r.present}):
        absent = [r for r in results if r.kind == kind]
        rows = [r for r in results if r.present] + absent
        scores, present = np.array([r.score for r in rows]), np.array([r.present for r in rows])
        units = [r.unit for r in absent]
        out[kind] = {
            'auroc': bootstrap(lambda i, s=scores, p=present: auroc(s[i], p[i]), [r.unit for r in rows]),  # type: ignore[misc]
            'false found': share([r.found(calibration) for r in absent], units),
            'ambiguous': share([r.ambiguous(calibration) for r in absent], units),
        }
    return out


def iou_head(ious: Sequence[tuple[str, str, FloatArray, FloatArray]], name: str) -> Estimate:
    """Spearman's correlation of predicted and true IoU over the boxes of one kind."""
    kept = [row for row in ious if row[1] == name]
    predicted, true = (np.concatenate([r[i] for r in kept] or [np.zeros(0, np.float32)]) for i in (2, 3))
    units = [row[0] for row in kept for _ in row[2]]
    return bootstrap(lambda i: rank_correlation(predicted[i], true[i]), units)


def curve(fits: Sequence[Fit]) -> dict[str, Estimate]:
    """Mean true IoU of the picked box for each power, what picking could reach, and what iou gains at power 1.

    Boxes are as proposed; an answer's box is voted on besides ('iou of first').
    """
    units = [f.unit for f in fits]
    picked = np.array([f.picked for f in fits])
    out = {f'a = {power:g}': mean(picked[:, i], units) for i, power in enumerate(POWERS)}
    gain = picked[:, POWERS.index(1.0)] - picked[:, POWERS.index(0.0)]
    return out | {
        'gain of a = 1': mean(gain, units),
        'best': mean([f.best for f in fits], units),
        'any': mean([f.average for f in fits], units),
    }


def recall(boxed: Sequence[Boxed]) -> dict[str, Estimate]:
    """Share of labelled things that one of the first boxes covers by IoU 0.5."""
    return {str(n): share([b.place < n for b in boxed], [b.unit for b in boxed]) for n in RECALL_AT}

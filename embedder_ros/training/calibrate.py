# SPDX-License-Identifier: Apache-2.0
"""Stage 5: fit how nano's cosines are read, and the thresholds of its answers, on validation frames.

    python -m embedder_ros.training.calibrate --model WEIGHTS SPLIT [SPLIT ...] [--photos DIR --classes FILE]

Splits are those of `embedder-ros evaluate splits`, which reports what comes of it; boxes are the model's own. Writes
scale, bias, `found`, `margin` and those of frames and identity into nano.json; `evaluation.reid_fit` refines the last
on sequences.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from embedder_ros.evaluation.grounding import ON_IOU, Question, Result, answer
from embedder_ros.evaluation.sightings import Return, View, returns
from embedder_ros.evaluation.splits import SPLITS, Item, open_split
from embedder_ros.models.registry import load_model
from embedder_ros.pipeline import Pipeline
from embedder_ros.types import Calibration, FloatArray, box_iou

WRONG = 1.5  # right answers that one wrong FOUND costs; raising it makes the robot ask more often
PICKED = 0.5  # worth of picking one of several things that are meant, a right answer being 1
ASKED = 0.25  # worth of AMBIGUOUS where one thing is meant and first: its user is asked, NOT_FOUND sends him away
# Share of absent things, and of colours that a thing does not have, that may be FOUND in each split, and of both that
# may be AMBIGUOUS; scenes not fitted on have up to twice as much.
FALSE, UNSURE = {'absent': 0.02, 'absent colour': 0.05}, 0.05
FOUND, MARGIN = np.linspace(0.02, 0.6, 59), np.linspace(0.0, 0.4, 41)  # thresholds that are tried
SHOWS = 0.6  # IoU from which a box shows the thing; below ON_IOU it does not

Pair = tuple[np.ndarray, np.ndarray]  # cosines and whether they are of what is meant


def main() -> None:
    """Command line of this stage."""
    parser = argparse.ArgumentParser(
        description=f'{__doc__}\nSplits:\n{SPLITS}', formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('split', metavar='SPLIT', nargs='+')
    parser.add_argument('--model', type=Path, required=True)
    parser.add_argument('--photos', type=Path)
    parser.add_argument('--classes', type=Path)
    parser.add_argument('--frames', type=int, default=150, help='most frames of each split')
    args = parser.parse_args()
    model = load_model(str(args.model), threads=2)
    pipeline = Pipeline(model.embedder, model.proposer)
    groups, views = [], []
    for spec in args.split:
        split = open_split(spec, photo_folder=args.photos, classes=args.classes, frames=args.frames)
        asked: list[Question] = []
        for item in tqdm(split.items(), desc=split.name, total=split.frames):
            asked += questions(pipeline, item)
            views += [view(pipeline, item)] if item.sample.group else []
        groups.append(asked)
    calibration = fit(groups, returns(views)[0], model.embedder.info.calibration)
    store(args.model, calibration)
    print(calibration)


def questions(pipeline: Pipeline, item: Item) -> Iterator[Question]:
    """What one frame is asked, with what the model sees there."""
    seen = pipeline.observe([item.frame])[0]
    boxes = np.array([t.box for t in item.sample.things], np.float32).reshape(-1, 4)
    queries = pipeline.embedder.embed_text([a.text for a in item.asked])
    for asked, query in zip(item.asked, queries, strict=True):
        yield Question(seen, query, boxes[list(asked.meant)], asked.kind, item.unit)


def view(pipeline: Pipeline, item: Item) -> View:
    """The whole things of one frame, in their labelled boxes."""
    whole = [t for t in item.sample.things if t.instance and not t.part]
    boxes = np.array([t.box for t in whole], np.float32).reshape(-1, 4)
    looks = pipeline.embedder.info.identity(pipeline.embed_boxes(item.frame, boxes).embeddings)
    return View(item.unit, item.sample.group, item.frame.stamp, tuple(t.instance for t in whole), looks)


def fit(groups: Sequence[Sequence[Question]], again: Sequence[Return], start: Calibration) -> Calibration:
    """Scales and biases by logistic regression, then `found` and `margin` on the answers.

    Args:
        groups: the questions of each split; each split counts the same for the thresholds.
        again: things seen again; none leaves identity as it is.
        start: what is not fitted here.
    """
    every = [q for group in groups for q in group]
    scale, bias = logistic(*object_pairs(every))
    image_scale, image_bias = logistic(*image_pairs(every))
    fitted = replace(start, scale=scale, bias=bias, image_scale=image_scale, image_bias=image_bias)
    if again:
        same, others = np.array([r.same for r in again]), np.concatenate([r.others for r in again])
        cosine = np.concatenate([same, others])
        identity = logistic(cosine, np.arange(len(cosine)) < len(same))
        fitted = replace(fitted, identity_scale=identity[0], identity_bias=identity[1])
    found, margin = thresholds([[answer(q, fitted) for q in group] for group in groups])
    return replace(fitted, found=found, margin=margin)


def object_pairs(questions: Sequence[Question]) -> Pair:
    """Boxes with queries, and whether the phrase is true of the box; boxes in between are left out."""
    cosine, right = [], []
    for q in questions:
        if not len(q.observation):
            continue
        overlap = box_iou(q.observation.boxes, q.boxes).max(axis=1, initial=0.0)
        clear = (overlap > SHOWS) | (overlap < ON_IOU)
        cosine.append((q.observation.embeddings @ q.query)[clear])
        right.append(overlap[clear] > SHOWS)
    return np.concatenate(cosine), np.concatenate(right)


def image_pairs(questions: Sequence[Question]) -> Pair:
    """Coarse frame embeddings with queries, and whether the frame shows the thing."""
    cosine = np.array([q.observation.frame_embeddings[0] @ q.query for q in questions])
    return cosine, np.array([len(q.boxes) > 0 for q in questions])


def logistic(cosine: FloatArray, right: np.ndarray, steps: int = 60) -> tuple[float, float]:
    """Scale and bias that make sigmoid(scale * cosine + bias) the chance of being right (Newton's method)."""
    inputs = np.column_stack([cosine, np.ones_like(cosine)]).astype(np.float64)
    weights = np.array([10.0, -4.0])
    for _ in range(steps):
        chance = 1 / (1 + np.exp(-inputs @ weights))
        curve = (inputs * (chance * (1 - chance))[:, None]).T @ inputs + 1e-3 * np.eye(2)
        step = np.linalg.solve(curve, inputs.T @ (right - chance) - 1e-3 * weights)
        weights += np.clip(step, -2.0, 2.0)
    return float(weights[0]), float(weights[1])


def thresholds(groups: Sequence[Sequence[Result]]) -> tuple[float, float]:
    """`found` and `margin` of the best answers over all splits, where few absent things are answered (FALSE, UNSURE).

    One thing that is meant should be FOUND; asking back (AMBIGUOUS) is worth ASKED of that. Of several, asking is right
    and picking one worth PICKED. A wrong FOUND costs WRONG right ones.
    """
    worth, best = [_worth(results) for results in groups], (-np.inf, 1.0, 1.0)
    for margin in MARGIN:
        for found in FOUND:
            mean = float(np.mean([of_split(found, margin) for of_split in worth]))
            best = max(best, (mean, float(found), float(margin)))
    return best[1], best[2]


def _worth(results: Sequence[Result]) -> Callable[[float, float], float]:
    """By `found` and `margin` the mean worth of answers, -inf where too much that is not there is answered."""
    scores, margins = np.array([r.score for r in results]), np.array([r.margin for r in results])
    present, right = np.array([r.present for r in results]), np.array([r.right for r in results])
    several = np.array([r.several for r in results])
    kinds = np.array([r.kind for r in results])
    absent = {kind: ~present & (kinds == kind) for kind in set(kinds[~present])}

    def worth(found: float, margin: float) -> float:
        enough, clear = scores >= found, margins >= margin
        if any((enough & clear)[rows].mean() > FALSE[kind] for kind, rows in absent.items()):
            return -np.inf
        if not present.all() and (enough & ~clear)[~present].mean() > UNSURE:
            return -np.inf
        good = np.where(clear, np.where(several, PICKED, 1.0), np.where(several, 1.0, ASKED)) * (enough & right)
        wrong = enough & clear & present & ~right
        return float((good.sum() - WRONG * wrong.sum()) / max(1, present.sum()))

    return worth


def store(folder: Path, calibration: Calibration) -> None:
    """Write the calibration into nano.json; the weights and so the model id stay as they are."""
    path = folder / 'nano.json'
    described = json.loads(path.read_text())
    described['calibration'] = {name: round(value, 5) for name, value in asdict(calibration).items()}
    path.write_text(json.dumps(described, indent=2) + '\n')


if __name__ == '__main__':
    main()

# SPDX-License-Identifier: Apache-2.0
"""Stage 5: ask a model questions about labelled frames, fit its calibration, and report the numbers of docs/nano.md.

    python -m embedder_ros.training.evaluate --model WEIGHTS --source render:FOLDER [...] [--fit] [--report FILE]

Every frame is asked for each kind of thing in it, by noun and by colour and noun, and for as many things that are not
there. Boxes are the model's own. Sources are those of stage 1. With --fit, scale, bias, `found` and `margin` in
nano.json are fitted to these frames: so give it validation frames, never the ones that are reported.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from scipy.optimize import brentq
from tqdm import tqdm

from embedder_ros.evaluation.grounding import Question, Report, Result, answer, by_kind, report
from embedder_ros.models.registry import Model, load_model
from embedder_ros.pipeline import Pipeline
from embedder_ros.training.extract import samples
from embedder_ros.training.photos import Sample
from embedder_ros.types import Calibration, Frame, box_iou

WRONG = 1.5  # right answers that one wrong FOUND costs; raising it makes the robot ask more often
FALSE_FOUND = 0.05  # share of absent things that may be FOUND when the threshold is fitted
SOFTER = (1.0, 0.7, 0.5, 0.35, 0.25)  # of the logistic scale, tried when fitting
ABSENT = (
    'banana', 'teddy bear', 'cat', 'bicycle', 'guitar', 'umbrella', 'shoe', 'clock', 'elephant', 'pizza', 'car',
    'dog', 'hammer', 'tie', 'keyboard', 'flower', 'backpack', 'ladder', 'airplane', 'violin',
)  # fmt: skip
# Harder to refuse: things that could well be there. Asked where everything in view is labelled.
HOUSEHOLD = (
    'mug', 'bottle', 'bowl', 'plate', 'kettle', 'frying pan', 'book', 'can', 'drawer', 'microwave', 'toaster', 'knife',
    'spoon', 'sponge', 'lamp', 'vase', 'apple', 'chair', 'scissors', 'phone',
)  # fmt: skip


def main() -> None:
    """Command line of this stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', required=True)
    parser.add_argument('--source', nargs='+', required=True)
    parser.add_argument('--photos', type=Path)
    parser.add_argument('--classes', type=Path)
    parser.add_argument('--frames', type=int, default=150, help='most frames of each source')
    parser.add_argument('--fit', action='store_true')
    parser.add_argument('--report', type=Path)
    args = parser.parse_args()
    model = load_model(args.model, threads=2)
    frames = {source: chosen(source, args) for source in args.source}
    questions = {
        source: [q for sample in tqdm(group, desc=source) for q in ask(model, sample)]
        for source, group in frames.items()
    }
    sightings = [pair for group in frames.values() for pair in same_and_other(model, group)]
    calibration = model.embedder.info.calibration
    if args.fit:
        calibration = fit(list(questions.values()), sightings, calibration)
        store(Path(args.model), calibration)
    report_sightings(sightings, calibration)
    for source, group in questions.items():
        results = [answer(q, calibration) for q in group]
        reports = by_kind(results, calibration)
        show(source, reports)
        if args.report:
            save(args.report, source, reports)


def chosen(source: str, args: argparse.Namespace) -> list[Sample]:
    """Frames spread evenly over a source, whole groups of views where it has them."""
    every = list(samples(source, args.photos, args.classes))
    groups = sorted({s.group for s in every})
    if len(groups) > 1:
        wanted = max(1, round(args.frames * len(groups) / len(every)))
        kept = set(groups[:: max(1, len(groups) // wanted)][:wanted])
        return [s for s in every if s.group in kept]
    return every[:: max(1, len(every) // args.frames)][: args.frames]


def ask(model: Model, sample: Sample) -> list[Question]:
    """Run the model on one frame and pose its questions."""
    seen = Pipeline(model.embedder, model.proposer).observe([Frame(sample.image, 0, '')])[0]
    texts = questions(sample)
    queries = model.embedder.embed_text([text for text, _, _ in texts])
    return [Question(seen, query, boxes, kind) for query, (_, boxes, kind) in zip(queries, texts, strict=True)]


def questions(sample: Sample) -> list[tuple[str, np.ndarray, str]]:
    """(text, boxes it is true of, kind) for one frame; as many absent things as present ones."""
    asked: dict[str, str] = {}
    for thing in sample.things:
        asked.setdefault(f'the {thing.names[0]}', 'part' if thing.part else 'noun')
        if len(thing.colours) == 1:
            asked.setdefault(f'the {thing.colours[0]} {thing.names[0]}', 'colour part' if thing.part else 'colour noun')
    out = [(text, _true_boxes(text, sample), kind) for text, kind in asked.items()]
    rng = np.random.default_rng(len(sample.key) + sum(sample.key.encode()))
    names = {n for t in sample.things for n in t.names}
    count = max(1, len(out) // 2)
    absent = [word for word in rng.permutation(ABSENT) if word not in names][:count]
    if sample.complete:
        absent += [word for word in rng.permutation(HOUSEHOLD) if word not in names][:count]
    out += [(f'the {word}', np.zeros((0, 4), np.float32), 'absent') for word in absent]
    return out + _wrong_colours(sample, rng)


def _wrong_colours(sample: Sample, rng: np.random.Generator) -> list[tuple[str, np.ndarray, str]]:
    """A thing that is there, in a colour that none of its kind has."""
    out = []
    for name in {t.names[0] for t in sample.things if t.colours}:
        have = {c for t in sample.things for c in t.colours if name in t.names}
        free = [c for c in ('red', 'green', 'blue', 'yellow', 'purple') if c not in have]
        if free:
            out.append((f'the {rng.choice(free)} {name}', np.zeros((0, 4), np.float32), 'absent colour'))
    return out[:2]


def _true_boxes(text: str, sample: Sample) -> np.ndarray:
    words = text.removeprefix('the ')
    true = [
        t.box
        for t in sample.things
        if words in t.names or any(f'{colour} {name}' == words for colour in t.colours for name in t.names)
    ]
    return np.array(true, np.float32).reshape(-1, 4)


def fit(
    groups: Sequence[Sequence[Question]], sightings: Sequence[tuple[np.ndarray, np.ndarray]], start: Calibration
) -> Calibration:
    """Scales and biases by logistic regression over all boxes, then `found` and `margin` on the answers.

    `groups` are the questions of each source: each counts the same for the weight between name and fit.
    """
    questions = [q for group in groups for q in group]
    cosine, right = pairs(questions)
    fitted = softened(groups, replace(start, found=0.0, margin=0.0), cosine, right)
    image = image_pairs(questions)
    image_scale, image_bias = logistic(*image)
    if sightings:
        identity = logistic(*(np.concatenate(column) for column in zip(*sightings, strict=True)))
        fitted = replace(fitted, identity_scale=identity[0], identity_bias=identity[1])
    found, margin = thresholds([answer(q, fitted) for q in questions], fitted)
    return replace(fitted, found=found, margin=margin, image_scale=image_scale, image_bias=image_bias)


def softened(
    groups: Sequence[Sequence[Question]], start: Calibration, cosine: np.ndarray, right: np.ndarray
) -> Calibration:
    """The logistic scale, or as much less as ranks most right things first.

    In score = sigmoid(scale * cosine + bias) * iou a smaller scale gives the fit of the box more weight.
    """
    scale = logistic(cosine, right)[0]
    tried = [replace(start, scale=s, bias=level(cosine, right, s)) for s in scale * np.array(SOFTER)]
    return max(tried, key=lambda c: np.mean([_first(group, c) for group in groups]))


def _first(questions: Sequence[Question], calibration: Calibration) -> float:
    right = [answer(q, calibration).right for q in questions if len(q.boxes)]
    return float(np.mean(right)) if right else 0.0


def level(cosine: np.ndarray, right: np.ndarray, scale: float) -> float:
    """The bias with which sigmoid(scale * cosine + bias) is right on average."""
    return float(brentq(lambda bias: (1 / (1 + np.exp(-scale * cosine - bias)) - right).mean(), -60.0, 60.0))


def pairs(questions: Sequence[Question]) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of boxes with queries and whether the phrase is true of the box; boxes in between are left out."""
    cosine, right = [], []
    for q in questions:
        if not len(q.observation):
            continue
        overlap = box_iou(q.observation.boxes, q.boxes).max(axis=1, initial=0.0)
        clear = (overlap > 0.6) | (overlap < 0.2)
        cosine.append((q.observation.embeddings @ q.query)[clear])
        right.append(overlap[clear] > 0.6)
    return np.concatenate(cosine), np.concatenate(right)


def image_pairs(questions: Sequence[Question]) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of coarse frame embeddings with queries and whether the frame shows the thing."""
    cosine = np.array([q.observation.frame_embeddings[0] @ q.query for q in questions])
    return cosine, np.array([len(q.boxes) > 0 for q in questions])


def same_and_other(model: Model, frames: Sequence[Sample]) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each thing seen again in the next view of its group: cosines with all things there, and which is it."""
    pipeline = Pipeline(model.embedder, model.proposer)
    out = []
    for before, after in zip(frames, frames[1:], strict=False):
        if not before.group or before.group != after.group or not before.things or not after.things:
            continue
        rows = [
            model.embedder.info.identity(
                pipeline.embed_boxes(Frame(s.image, 0, ''), np.array([t.box for t in s.things])).embeddings
            )
            for s in (before, after)
        ]
        for row, thing in zip(rows[0], before.things, strict=True):
            same = np.array([t.instance == thing.instance for t in after.things])
            if same.any() and not thing.part:
                out.append((rows[1] @ row, same))
    return out


def report_sightings(sightings: Sequence[tuple[np.ndarray, np.ndarray]], calibration: Calibration) -> None:
    """Print how often the same individual is first among the things of another view."""
    if not sightings:
        return
    first = np.mean([same[cosine.argmax()] for cosine, same in sightings])
    sure = [(calibration.same(cosine) > 0.5, same) for cosine, same in sightings]
    missed = np.mean([not claimed[same].any() for claimed, same in sure])
    wrong = np.concatenate([claimed[~same] for claimed, same in sure]).mean()
    print(
        f'\nre-identification: n {len(sightings)} first {first:.2f} missed at 0.5 {missed:.2f} others taken {wrong:.3f}'
    )


def logistic(cosine: np.ndarray, right: np.ndarray, steps: int = 60) -> tuple[float, float]:
    """Scale and bias that make sigmoid(scale * cosine + bias) the chance of being right (Newton's method)."""
    inputs = np.column_stack([cosine, np.ones_like(cosine)]).astype(np.float64)
    weights = np.array([10.0, -4.0])
    for _ in range(steps):
        chance = 1 / (1 + np.exp(-inputs @ weights))
        curve = (inputs * (chance * (1 - chance))[:, None]).T @ inputs + 1e-3 * np.eye(2)
        step = np.linalg.solve(curve, inputs.T @ (right - chance) - 1e-3 * weights)
        weights += np.clip(step, -2.0, 2.0)
    return float(weights[0]), float(weights[1])


def thresholds(results: Sequence[Result], calibration: Calibration) -> tuple[float, float]:
    """`found` and `margin` with the most right answers, a wrong FOUND costing WRONG of them, absent things refused."""
    best = (-np.inf, 1.0, 1.0)
    for margin in np.linspace(0.0, 0.2, 21):
        for found in np.linspace(0.02, 0.6, 59):
            outcome = report(results, replace(calibration, found=float(found), margin=float(margin)))
            if outcome.false_found <= FALSE_FOUND:
                best = max(best, (outcome.found - WRONG * outcome.wrong, float(found), float(margin)))
    return best[1], best[2]


def store(folder: Path, calibration: Calibration) -> None:
    """Write the calibration into nano.json; the weights and so the model id stay as they are."""
    path = folder / 'nano.json'
    described = json.loads(path.read_text())
    described['calibration'] = {name: round(value, 5) for name, value in asdict(calibration).items()}
    path.write_text(json.dumps(described, indent=2) + '\n')


def show(source: str, reports: dict[str, Report]) -> None:
    """Print one source's table."""
    print(f'\n{source}\n{"kind":14} {"n":>5} boxed first found wrong ambig  absent false-found')
    for kind, r in reports.items():
        shares = f'{r.boxed:5.2f} {r.first:5.2f} {r.found:5.2f} {r.wrong:5.2f} {r.ambiguous:5.2f}'
        print(f'{kind:14} {r.present:5} {shares} {r.absent:7} {r.false_found:11.2f}')


def save(path: Path, source: str, reports: dict[str, Report]) -> None:
    """Add one source's numbers to a JSON file."""
    known = json.loads(path.read_text()) if path.exists() else {}
    known[source] = {kind: asdict(r) for kind, r in reports.items()}
    path.write_text(json.dumps(known, indent=2) + '\n')


if __name__ == '__main__':
    main()

# SPDX-License-Identifier: Apache-2.0
"""Stage 2: train the ObjEmbed head and the text maps on extracted frames.

    python -m embedder_ros.training.train --data FOLDER [...] --vocabulary FILE --classes FILE --coco FILE --out OUT

Losses (MODELS.md 1.10, smaller): sigmoid-focal region loss, softmax over objects and over phrases, IoU loss on every
box, InfoNCE between two views of one individual, and the whole image against what it shows. Writes head.pt, texts.pt
and known.json; stopped and started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from embedder_ros.models.nano.colour import COLOURS
from embedder_ros.models.nano.layout import CLASSES_DIM
from embedder_ros.training import loop
from embedder_ros.training.extract import overlaps
from embedder_ros.training.loop import Kept
from embedder_ros.training.losses import focal_terms
from embedder_ros.training.network import Head, Texts, bounded
from embedder_ros.training.photos import owners, spoken_names
from embedder_ros.training.phrases import GENERIC, Asked, Bank, ask, truth

INPUTS = ('features', 'pooled', 'classes', 'coco', 'look', 'geometry')
ROWS = 40  # boxes of one frame in a step
TRUE_ROWS = 14  # of them labelled ones
RATE = 8e-4  # highest step size
PAIRS, SINGLES = 4, 10  # groups seen from two views, and frames alone, in a step
LOOSE = 0.45  # IoU up to which a box on the right thing is no answer
IS_OBJECT, IS_BACKGROUND = 0.55, 0.25  # IoU with a labelled box; between the two nothing is said
UNKNOWN_WORD = 0.3  # share of phrases whose learned part is switched off, as for words never trained on
FADED = 0.15
SPREAD = 0.15  # MiniLM distance over which two class names share their code
OFTEN = 12  # things that must carry a name before the learned meaning counts in full for it


@dataclass(slots=True)
class Example:
    """One extracted frame."""

    arrays: dict[str, np.ndarray]
    iou: np.ndarray
    owner: np.ndarray
    labelled: int
    things: list[dict[str, Any]]
    complete: bool
    group: str


@dataclass(slots=True)
class Batch:
    """Padded rows of several frames; the last row of each is the whole image."""

    inputs: dict[str, Tensor]
    padding: Tensor
    iou: np.ndarray
    owner: np.ndarray
    examples: list[Example]


def main() -> None:
    """Command line of this stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, nargs='+', required=True)
    parser.add_argument('--vocabulary', type=Path, required=True)
    parser.add_argument('--classes', type=Path, required=True)
    parser.add_argument('--coco', type=Path, required=True)
    parser.add_argument('--steps', type=int, default=700)
    parser.add_argument('--start', type=Path, help='continue from head.pt and texts.pt in this folder')
    parser.add_argument('--rate', type=float, default=RATE, help='highest step size; half of it to go on')
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    examples = [load(path) for folder in args.data for path in tqdm(sorted(folder.glob('*.json')), desc=str(folder))]
    bank = Bank(args.vocabulary, spoken_names(args.classes, args.coco), args.out / 'phrases.npz')
    run = {'data': [str(d) for d in args.data], 'frames': len(examples), 'steps': args.steps, 'rate': args.rate}
    kept = Kept(args.out / 'head.part', run | {'start': str(args.start)})
    head, texts = fit(examples, bank, args.steps, args.start, args.rate, kept)
    bank.save()
    torch.save(head.state_dict(), args.out / 'head.pt')
    torch.save(texts.state_dict(), args.out / 'texts.pt')
    (args.out / 'known.json').write_text(json.dumps(often(examples)))


def load(label: Path, *more: str) -> Example:
    """One frame that stage 1 wrote, with `more` of its arrays than this stage needs."""
    with np.load(label.with_suffix('.npz')) as stored:
        arrays = {name: stored[name] for name in (*INPUTS, 'tokens', *more)}
        iou, owner = overlaps(stored['boxes'], stored['truth'])
        labelled = len(stored['truth'])
    labels = json.loads(label.read_text())
    named = {thing['instance']: thing['names'] for thing in labels['things']}
    for thing in labels['things']:
        thing['owned'] = [f'{owner} {name}' for owner in owners(thing['instance'], named) for name in thing['names']]
    return Example(arrays, iou, owner, labelled, **labels)


def nouns(examples: list[Example]) -> list[str]:
    """Every name in the training data."""
    return sorted({n for e in examples for t in e.things for n in t['names']})


def often(examples: list[Example]) -> list[str]:
    """Names of enough things for the learned meaning to be trusted; copies and views of one thing count once."""
    things: dict[str, set[str]] = {}
    for number, example in enumerate(examples):
        for row, thing in enumerate(example.things):
            for name in (*thing['names'], *thing['owned'][:1]):
                things.setdefault(name, set()).add(thing['instance'] or f'{number} {row}')
    return sorted(name for name, found in things.items() if len(found) >= OFTEN)


def fit(
    examples: list[Example],
    bank: Bank,
    steps: int,
    start: Path | None = None,
    rate: float = RATE,
    kept: Kept | None = None,
) -> tuple[Head, Texts]:
    """Train both sides for `steps` steps, from nothing or from the files in folder `start`."""
    head, texts = Head(), Texts(int(bank.class_rows.max()) + 1)
    start_from_names(head, texts, bank)
    if start:
        head.load_state_dict(torch.load(start / 'head.pt'))
        texts.load_state_dict(torch.load(start / 'texts.pt'))
    groups: dict[str, list[Example]] = {}
    for example in examples:
        if example.group:
            groups.setdefault(example.group, []).append(example)
    pairs = [g for g in groups.values() if len(g) > 1]
    singles = [e for e in examples if not e.group]
    vocabulary, rng = nouns(examples), np.random.default_rng(0)

    def losses(_: int) -> dict[str, Tensor]:
        return step_losses(head, texts, pack(draw(pairs, singles, rng), rng), bank, vocabulary, rng)

    both = nn.ModuleList([head, texts]).train()
    loop.fit(both, losses, steps, rate, rng, decay=0.05, rise=0.1, clip=1.0, kept=kept)
    return head.eval(), texts.eval()


def start_from_names(head: Head, texts: Texts, bank: Bank) -> None:
    """Begin the class mixture where both sides agree on every class name, and near names on each other a little."""
    rows = torch.from_numpy(bank.class_rows)
    count = int(rows.max()) + 1
    mean = torch.zeros(count, bank.class_names.shape[1]).index_add(0, rows, torch.from_numpy(bank.class_names))
    unit = F.normalize(mean, dim=1)
    kernel = torch.exp((unit @ unit.T - 1) / SPREAD)
    values, vectors = torch.linalg.eigh(kernel)
    codes = F.normalize(vectors[:, -CLASSES_DIM:] * values[-CLASSES_DIM:].clamp(min=0).sqrt(), dim=1)
    with torch.no_grad():
        head.classes.weight.copy_(2 * codes.T)
        texts.classes.weight.copy_(2 * codes.T)


def draw(pairs: list[list[Example]], singles: list[Example], rng: np.random.Generator) -> list[Example]:
    """Two views each of PAIRS groups, and SINGLES frames alone; where one kind is missing the other stands in."""
    wanted = PAIRS if pairs else 0
    chosen: list[Example] = []
    for index in rng.integers(0, len(pairs), wanted) if wanted else ():
        chosen += [pairs[index][i] for i in rng.choice(len(pairs[index]), 2, replace=False)]
    if singles:
        chosen += [singles[i] for i in rng.integers(0, len(singles), SINGLES + 2 * (PAIRS - wanted))]
    return chosen


def pack(examples: list[Example], rng: np.random.Generator) -> Batch:
    """Draw at most ROWS boxes of each frame, labelled ones first, and pad."""
    rows = [pick(e, rng) for e in examples]
    size = max(len(r) for r in rows) + 1
    inputs = {}
    for name in INPUTS:
        width = examples[0].arrays[name].shape[1]
        padded = np.zeros((len(examples), size, width), np.float32)
        for index, (example, row) in enumerate(zip(examples, rows, strict=True)):
            padded[index, : len(row)] = example.arrays[name][row]
            padded[index, -1] = example.arrays[name][-1]
        inputs[name] = torch.from_numpy(padded)
    inputs['tokens'] = torch.from_numpy(np.concatenate([e.arrays['tokens'] for e in examples]).astype(np.float32))
    padding = np.ones((len(examples), size), bool)
    padding[:, -1] = False
    iou, owner = np.zeros((len(examples), size), np.float32), np.full((len(examples), size), -1)
    for index, (example, row) in enumerate(zip(examples, rows, strict=True)):
        padding[index, : len(row)] = False
        iou[index, : len(row)], owner[index, : len(row)] = example.iou[row], example.owner[row]
    return Batch(inputs, torch.from_numpy(padding), iou, owner, examples)


def pack_all(example: Example) -> dict[str, Tensor]:
    """Every box of one frame, the whole image last, as a batch of one."""
    inputs = {name: torch.from_numpy(example.arrays[name].astype(np.float32))[None] for name in INPUTS}
    return inputs | {'tokens': torch.from_numpy(example.arrays['tokens'].astype(np.float32))}


def pick(example: Example, rng: np.random.Generator) -> np.ndarray:
    """Rows of one frame for a step."""
    true = rng.permutation(example.labelled)[:TRUE_ROWS]
    others = rng.permutation(np.arange(example.labelled, len(example.iou)))
    return np.concatenate([true, others])[:ROWS].astype(int)


def step_losses(
    head: Head, texts: Texts, batch: Batch, bank: Bank, vocabulary: list[str], rng: np.random.Generator
) -> dict[str, Tensor]:
    """All losses of one step by name."""
    parts = head(batch.inputs, batch.padding)
    things = [t for e in batch.examples for t in e.things]
    asked = ask(things, vocabulary, list(COLOURS), rng)
    query = {name: torch.from_numpy(value) for name, value in bank.batch(asked).items()}
    fade = torch.from_numpy(np.where(rng.random(len(asked)) < UNKNOWN_WORD, FADED, 1.0).astype(np.float32))
    used = ~batch.padding.clone()
    used[:, -1] = False
    where = used.nonzero(as_tuple=True)
    objects = {name: value[where] for name, value in parts.items()}
    iou, owner = batch.iou[where[0], where[1]], batch.owner[where[0], where[1]]
    frame = where[0].numpy()
    right, worth = targets(asked, batch.examples, frame, iou, owner, bank)
    logits = score(head, texts, objects, query, fade)
    losses = matching(logits, right, worth, torch.from_numpy(iou))
    rank = F.logsigmoid(logits) + F.logsigmoid(objects['iou'])[:, None]
    losses['first'] = 2.0 * first(rank, right, worth, iou, frame)
    measured = has_true_box(batch.examples, frame, iou)
    losses['iou'] = 2.0 * iou_loss(objects['iou'][measured], torch.from_numpy(iou)[measured])
    losses['individual'] = individual(objects['individual'], batch.examples, frame, iou, owner)
    wholes = {name: value[:, -1] for name, value in parts.items()}
    losses['image'] = 0.25 * image_loss(score(head, texts, wholes, query, fade), asked, batch.examples)
    return losses


def score(head: Head, texts: Texts, objects: dict[str, Tensor], query: dict[str, Tensor], fade: Tensor) -> Tensor:
    """(R, P) logits: the sum that the exported vectors' cosine reproduces."""
    theirs = F.normalize(texts.shares.abs(), dim=0)
    meaning = objects['meaning'] @ F.normalize(texts.meaning(query['full']), dim=-1).T * fade
    classes = objects['classes'] @ bounded(texts.classes(query['classes'])).T
    colours = torch.tanh(objects['colour']) / len(COLOURS) ** 0.5 @ query['colours'].T
    offset = torch.tanh(query['hints'] @ texts.offset)
    share = head.weights() * theirs
    cosine = share[0] * meaning + share[1] * classes + share[2] * colours + share[3] * offset
    return texts.scale.exp() * cosine + texts.bias


def targets(
    asked: list[Asked], examples: list[Example], frame: np.ndarray, iou: np.ndarray, owner: np.ndarray, bank: Bank
) -> tuple[Tensor, Tensor]:
    """(R, P) 1 where a phrase is true of a box, and what that label is worth."""
    right, worth = np.zeros((len(iou), len(asked)), np.float32), np.zeros((len(iou), len(asked)), np.float32)
    known: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
    for row in range(len(iou)):
        example = examples[frame[row]]
        if iou[row] >= IS_OBJECT:
            key = int(frame[row]), int(owner[row])
            if key not in known:
                known[key] = truth(asked, example.things[key[1]], bank)
            right[row], worth[row] = known[key]
        elif iou[row] < IS_BACKGROUND:
            worth[row] = background_worth(asked, example)
    return torch.from_numpy(right), torch.from_numpy(worth)


def background_worth(asked: list[Asked], example: Example) -> np.ndarray | float:
    """How surely an unlabelled box is not what a phrase says: where labels are few, only for the labelled name."""
    if example.complete:
        return 0.3
    mine = {n for t in example.things for n in t['names']}
    return np.array([0.4 if a.noun in mine else 0.03 for a in asked], np.float32)


def matching(logits: Tensor, right: Tensor, worth: Tensor, iou: Tensor) -> dict[str, Tensor]:
    """Focal loss on every pair, softmax over objects for each phrase and over phrases for each object."""
    focal = focal_terms(logits, right, worth).sum() / (right.sum() + 1)
    masked = logits.masked_fill(worth == 0, -30.0)
    good = right * worth * (iou[:, None] > 0.7)
    over_objects = masked.log_softmax(0)
    over_phrases = masked.log_softmax(1)
    return {
        'focal': 0.5 * focal,
        'objects': -_mean_over_positives(over_objects, good, 0),
        'phrases': -0.5 * _mean_over_positives(over_phrases, good, 1),
    }


def first(rank: Tensor, right: Tensor, worth: Tensor, iou: np.ndarray, frame: np.ndarray) -> Tensor:
    """For each phrase and frame it is true in, a softmax over the frame's boxes of the shipped score.

    Loose boxes on the right thing count as wrong here: ranking the tight one first is what a user sees.
    """
    good = right * torch.from_numpy(np.maximum(iou - LOOSE, 0))[:, None]
    unsaid = (right == 0) & (worth == 0) & torch.from_numpy(iou >= IS_OBJECT)[:, None]
    rank, terms = rank.masked_fill(unsaid, -30.0), []
    for one in np.unique(frame):
        rows = torch.from_numpy(frame == one)
        wanted = good[rows]
        asked = wanted.sum(0) > 0
        share = wanted[:, asked] / wanted[:, asked].sum(0)
        terms.append(-(share * rank[rows][:, asked].log_softmax(0)).sum(0))
    found = torch.cat(terms)
    return found.mean() if len(found) else rank.sum() * 0


def _mean_over_positives(value: Tensor, positive: Tensor, axis: int) -> Tensor:
    count = positive.sum(axis)
    mean = (value * positive).sum(axis) / count.clamp(min=1)
    return mean[count > 0].mean() if bool((count > 0).any()) else value.sum() * 0


def has_true_box(examples: list[Example], frame: np.ndarray, iou: np.ndarray) -> Tensor:
    """Rows (R,) whose IoU is known: all where everything is labelled, else those on a labelled box."""
    known = [examples[f].complete or i > 0.3 for f, i in zip(frame, iou, strict=True)]
    return torch.tensor(known)


def iou_loss(logit: Tensor, iou: Tensor) -> Tensor:
    """Cross entropy with the true IoU as soft target, weighted by how far off the prediction is."""
    error = F.binary_cross_entropy_with_logits(logit, iou, reduction='none')
    return 2 * ((torch.sigmoid(logit) - iou).abs() * error).sum() / max(1, len(iou))


def individual(rows: Tensor, examples: list[Example], frame: np.ndarray, iou: np.ndarray, owner: np.ndarray) -> Tensor:
    """InfoNCE: one individual in two views against everything else."""
    name = [
        examples[f].things[o]['instance'] if i > 0.7 and o >= 0 and examples[f].group else ''
        for f, i, o in zip(frame, iou, owner, strict=True)
    ]
    kept = [index for index, value in enumerate(name) if value]
    if len(kept) < 4:
        return rows.sum() * 0
    labels = np.unique([name[i] for i in kept], return_inverse=True)[1]
    same = torch.from_numpy(labels[:, None] == labels[None])
    other_frame = torch.from_numpy(frame[kept][:, None] != frame[kept][None])
    similar = rows[kept] @ rows[kept].T / 0.07
    similar = similar.masked_fill(same & ~other_frame, -1e4)  # itself, and its copies in the same frame
    return -0.7 * _mean_over_positives(similar.log_softmax(1), (same & other_frame).float(), 1)


def image_loss(logits: Tensor, asked: list[Asked], examples: list[Example]) -> Tensor:
    """Whole image against phrases: true when one is true of something in it; other frames say only what is there."""
    right, worth = torch.zeros_like(logits), torch.ones_like(logits)
    for row, example in enumerate(examples):
        names = [(t, n) for t in example.things for n in (*t['names'], *t['owned'], *GENERIC)]
        said = {(colour, n) for t, n in names for colour in ('', *t['colours'])}
        unsaid = {n for t, n in names if not t['colours']}
        for column, phrase in enumerate(asked):
            right[row, column] = float((phrase.colour, phrase.noun) in said)
            if right[row, column]:
                continue
            if phrase.colour and (phrase.noun in unsaid or not example.complete):
                worth[row, column] = 0.0
            elif not example.complete:
                worth[row, column] = 0.1
    error = F.binary_cross_entropy_with_logits(logits, right, reduction='none')
    return (worth * error).sum() / (right.sum() + 1)


if __name__ == '__main__':
    main()

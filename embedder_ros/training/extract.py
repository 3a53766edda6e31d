# SPDX-License-Identifier: Apache-2.0
"""Stage 1: run the frozen networks over labelled frames once and keep what the head trains on.

    python -m embedder_ros.training.extract --weights WEIGHTS --source render:FOLDER --out OUT

Sources: render:FOLDER, recoloured:FOLDER, bag:FOLDER, kitchen:FOLDER, kitchen-held:FOLDER, and alone:COUNT:SEED,
mosaic:COUNT:SEED and mosaic-held:COUNT:SEED (these need --photos and --classes).
One .npz and .json a frame; frames already there are skipped, so a stopped run continues.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from embedder_ros.models.nano.image import Encoded, ImageEncoder
from embedder_ros.models.nano.proposer import MAPS as PROPOSAL_MAPS
from embedder_ros.models.nano.proposer import NanoProposer, distinct
from embedder_ros.training.photos import (
    Sample,
    Thing,
    alone,
    class_names,
    coco_names,
    hash_of,
    kitchen,
    mosaics,
    recoloured,
    recorded,
    rendered,
    single_things,
    things,
)
from embedder_ros.types import FloatArray, Frame, box_iou

BOXES = 100  # most boxes kept per frame
PROPOSED = 48  # of the model's own boxes
JITTER = (0.04, 0.25)  # range of the relative noise of the copy of each labelled box
SURE = 0.45  # detector score that makes its box and class a label
STRAY = 6  # boxes at random


def main() -> None:
    """Command line of this stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights', type=Path, required=True)
    parser.add_argument('--source', required=True)
    parser.add_argument('--photos', type=Path)
    parser.add_argument('--classes', type=Path, help="ImageNet names, one class a line (Debian opencv-doc's file)")
    parser.add_argument(
        '--coco', type=Path, help='COCO names, one a line, to name what the detector is sure of on photos'
    )
    parser.add_argument('--copies', type=int, default=0, help='altered copies of each kitchen photo')
    parser.add_argument(
        '--maps', action='store_true', help='also keep the image and feature maps, for the proposal head'
    )
    parser.add_argument('--frames', type=int, help='most frames; all')
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()
    encoder = ImageEncoder(args.weights, device='cpu', threads=2)
    has_head = (args.weights / 'proposals.onnx').exists()
    proposer = NanoProposer(args.weights, device='cpu', threads=2) if has_head else None
    coco = coco_names(args.coco) if args.coco else []
    args.out.mkdir(parents=True, exist_ok=True)
    found = islice(samples(args.source, args.photos, args.classes, args.copies), args.frames)
    for sample in tqdm(found, desc=args.source):
        if not (args.out / f'{sample.key}.json').exists():
            keep(sample, encoder, proposer, args.out, coco=coco, maps=args.maps)


def samples(source: str, photos: Path | None, classes: Path | None, copies: int = 0) -> Iterator[Sample]:
    """The frames a --source names."""
    kind, _, rest = source.partition(':')
    if kind == 'render':
        return rendered(Path(rest))
    if kind == 'recoloured':
        return recoloured(rendered(Path(rest)))
    if kind == 'bag':
        return recorded(Path(rest))
    if kind in ('kitchen', 'kitchen-held'):
        return kitchen(Path(rest), held_back=kind == 'kitchen-held', copies=copies)
    if kind in ('alone', 'mosaic', 'mosaic-held') and photos and classes:
        count, seed = (int(value) for value in rest.split(':'))
        if kind == 'alone':
            return alone(things(photos, class_names(classes), held_back=False), count, seed)
        return mosaics(single_things(photos, class_names(classes), held_back=kind == 'mosaic-held'), count, seed)
    raise SystemExit(f'unknown source {source}, or --photos and --classes are missing')


def keep(
    sample: Sample,
    encoder: ImageEncoder,
    proposer: NanoProposer | None,
    out: Path,
    *,
    coco: list[tuple[str, ...]],
    maps: bool,
) -> None:
    """Write one frame's regions, and its labels last, so that a label file means the frame is whole."""
    encoded = encoder.encode(Frame(sample.image, 0, ''))
    if coco and not sample.group:
        taught(sample, encoded, coco)
    truth = np.array([t.box for t in sample.things], np.float32).reshape(-1, 4) * np.tile(encoded.scale, 2)
    truth = _clipped(truth, encoded)
    rng = np.random.default_rng(hash_of(sample.key))
    boxes = candidate_boxes(truth, proposed(encoded, proposer), encoded, rng)
    regions = encoder.read(encoded, boxes)
    arrays = {name: getattr(regions, name) for name in regions.__slots__}
    arrays = {name: value.astype(np.float16) if value.dtype.kind == 'f' else value for name, value in arrays.items()}
    if maps:
        arrays |= {'image': encoded.image} | {f'map_{n}': encoded.maps[n].astype(np.float16) for n in PROPOSAL_MAPS}
    size = encoded.whole[0, 2:]
    np.savez(out / f'{sample.key}.npz', boxes=boxes, truth=truth, size=size, **arrays)
    things = [{'names': t.names, 'colours': t.colours, 'instance': t.instance, 'part': t.part} for t in sample.things]
    label = {'things': things, 'complete': sample.complete, 'group': sample.group}
    (out / f'{sample.key}.json').write_text(json.dumps(label))


def taught(sample: Sample, encoded: Encoded, coco: list[tuple[str, ...]]) -> None:
    """Add what the detector is sure of on a photo: its name to the thing labelled there, or a new thing."""
    scores = encoded.scores.max(axis=1)
    rows = distinct(encoded.boxes, scores, PROPOSED)
    for row in rows[scores[rows] > SURE]:
        box, name = encoded.boxes[row] / np.tile(encoded.scale, 2), coco[int(encoded.scores[row].argmax())][0]
        overlap = box_iou(box[None], np.array([t.box for t in sample.things], np.float32))[0]
        if overlap.max(initial=0.0) < 0.5:
            sample.things.append(Thing(box, (name,)))
        elif name not in sample.things[int(overlap.argmax())].names:
            sample.things[int(overlap.argmax())].names += (name,)


def proposed(encoded: Encoded, proposer: NanoProposer | None) -> FloatArray:
    """The boxes the model itself would choose; before there is a proposal head, the detector's."""
    if proposer:
        return proposer.choose(encoded, PROPOSED)[0]
    return encoded.boxes[distinct(encoded.boxes, encoded.scores.max(axis=1), PROPOSED)]


def candidate_boxes(truth: FloatArray, proposed: FloatArray, encoded: Encoded, rng: np.random.Generator) -> FloatArray:
    """The labelled boxes, then proposed and stray ones and shaken copies; at most BOXES."""
    low, size = truth[:, :2], truth[:, 2:] - truth[:, :2]
    noise = np.exp(rng.uniform(*np.log(JITTER), (len(truth), 1)))
    shaken = np.concatenate([low, low + size], 1) + rng.normal(0, 1, truth.shape) * noise * np.tile(size, 2)
    sides = np.exp(rng.uniform(np.log(20), np.log(260), (STRAY, 2)))
    start = rng.uniform(0, 1, (STRAY, 2)) * (encoded.whole[0, 2:] - np.minimum(sides, encoded.whole[0, 2:] - 1))
    others = np.concatenate([proposed, np.concatenate([start, start + sides], 1), shaken])
    if len(truth) + len(others) > BOXES:
        others = others[rng.permutation(len(others))[: max(0, BOXES - len(truth))]]
    return _clipped(np.concatenate([truth, others]).astype(np.float32), encoded)


def overlaps(boxes: FloatArray, truth: FloatArray) -> tuple[FloatArray, np.ndarray]:
    """Best IoU with a labelled box and which one, for each box; (0, -1) where nothing is labelled."""
    if not len(truth):
        return np.zeros(len(boxes), np.float32), np.full(len(boxes), -1)
    overlap = box_iou(boxes, truth)
    owner = overlap.argmax(axis=1)
    owner[: len(truth)] = np.arange(len(truth))  # the labelled boxes come first and own themselves
    return overlap.max(axis=1), owner


def _clipped(boxes: FloatArray, encoded: Encoded) -> FloatArray:
    size = encoded.whole[0, 2:]
    low = np.clip(boxes[:, :2], 0, size - 4)
    return np.concatenate([low, np.clip(np.maximum(boxes[:, 2:], low + 3), 0, size)], axis=1).astype(np.float32)


if __name__ == '__main__':
    main()

# SPDX-License-Identifier: Apache-2.0
"""Stage 0 for photos: where in a photo of one thing the thing is, without labels.

    python -m embedder_ros.training.localise --weights WEIGHTS --photos PHOTOS

The class of each photo in PHOTOS/things is known, so its thing is in the box where the ImageNet classifier is surest of
that class, among the boxes that look like things; needs a first proposal head. Writes things.json beside this file.
Looked at: 66 drawn at random, of which about 9 in 10 were tight.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from embedder_ros.models.nano.image import ImageEncoder
from embedder_ros.models.nano.proposer import NanoProposer, distinct
from embedder_ros.training.photos import THINGS, read_image
from embedder_ros.types import FloatArray, Frame

BOXES = 40  # looked at in each photo
SURE, THERE = 0.1, 0.5  # class probability and objectness from which a photo is used
LARGE = 0.15  # power of the area's share; raising it prefers wholes to parts that are as typical


def main() -> None:
    """Command line of this stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights', type=Path, required=True)
    parser.add_argument('--photos', type=Path, required=True)
    parser.add_argument('--out', type=Path, default=THINGS)
    args = parser.parse_args()
    encoder = ImageEncoder(args.weights, device='cpu', threads=2)
    proposer = NanoProposer(args.weights, device='cpu', threads=2)
    photos = sorted((args.photos / 'things').glob('*.jpg'))  # one for each class, in the classes' order
    located = {path.name: locate(path, row, encoder, proposer) for row, path in enumerate(tqdm(photos, desc='things'))}
    kept = {name: [round(float(v), 3) for v in box] for name, box in located.items() if box is not None}
    lines = ',\n'.join(f'{json.dumps(name)}: {json.dumps(box)}' for name, box in kept.items())
    args.out.write_text(f'{{\n{lines}\n}}\n')
    print(f'{len(kept)} of {len(located)} things are located')


def locate(path: Path, row: int, encoder: ImageEncoder, proposer: NanoProposer) -> FloatArray | None:
    """(4,) the box of class `row` as shares of width and height; None where no box is sure."""
    encoded = encoder.encode(Frame(read_image(path), 0, ''))
    boxes, there = proposer.candidates(encoded)
    kept = distinct(boxes, there, BOXES)
    boxes, there = boxes[kept].astype(np.float32), there[kept]
    sure = np.exp(encoder.read(encoded, boxes).classes[:-1, row])
    shares = boxes / np.tile(encoded.whole[0, 2:], 2)
    area = (shares[:, 2:] - shares[:, :2]).prod(axis=1)
    best = int((there * np.sqrt(sure) * area**LARGE).argmax())
    return shares[best] if sure[best] >= SURE and there[best] >= THERE else None


if __name__ == '__main__':
    main()

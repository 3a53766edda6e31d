# SPDX-License-Identifier: Apache-2.0
"""Stage 3: train what moves the edges of thin boxes, on labelled boxes that were shaken.

    python -m embedder_ros.training.train_refiner --data FOLDER [FOLDER ...] --out OUT

Frames need `--maps` in stage 1; all are kept in memory, 3 MB each. It learns from no proposals, so it need not be
trained again after them. Writes refiner.pt; stopped and started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from embedder_ros.models.nano.proposer import MAPS, REFINED_MAPS, THIN
from embedder_ros.training import loop
from embedder_ros.training.loop import Kept
from embedder_ros.training.network import CELLS, Refiner, centred, enlarged
from embedder_ros.training.train_proposals import Labelled, agreement, load_all
from embedder_ros.types import UserError, box_iou

BEYOND = 1.2  # times the thickness up to which boxes are refined that is learned from
LEAST = 4.0  # pixels; a thing thinner than this has no edges to be seen
FRAMES, COPIES = 10, 40  # in a step, and shaken boxes of each
NOISE = (0.08, 0.4)  # range of how far edges are shaken, in sides of the box
NEAR = 0.3  # IoU with its thing that a shaken box keeps; what is farther may be anything's
RATE = 2e-3  # highest step size
BRIGHTER, LIGHTER = 0.15, 0.3  # most that the contrast and the brightness of what is seen are changed
EXACT = 0.05  # share of a side from which an edge's error counts in full


def main() -> None:
    """Command line of this stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, nargs='+', required=True)
    parser.add_argument('--steps', type=int, default=2400, help='half a second each')
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(2)
    frames = load_all(args.data)
    run = {'data': [str(d) for d in args.data], 'frames': len(frames), 'steps': args.steps}
    network = fit(frames, args.steps, Kept(args.out / 'refiner.part', run))
    torch.save(network.state_dict(), args.out / 'refiner.pt')


def fit(frames: Sequence[Labelled], steps: int, kept: Kept | None = None) -> Refiner:
    """Train for `steps` steps. Raises UserError when there is nothing to learn from."""
    frames = [frame for frame in frames if len(refinable(frame))]
    if not frames:
        raise UserError(f'no frame has a labelled thing that is {LEAST:.0f} to {BEYOND * THIN:.0f} pixels thick')
    torch.manual_seed(0)
    network, rng = Refiner(), np.random.default_rng(0)

    def of_step(step: int) -> dict[str, Tensor]:
        chosen = [frames[i] for i in rng.integers(0, len(frames), FRAMES)]
        pairs = [shaken(frame, rng) for frame in chosen]
        seen = [enlargements(network, frame, boxes) for frame, (boxes, _) in zip(chosen, pairs, strict=True)]
        shown = [torch.cat(level) for level in zip(*seen, strict=True)]
        boxes, goals = (torch.from_numpy(np.concatenate(part)) for part in zip(*pairs, strict=True))
        light = 2 * torch.rand(2, len(boxes), 1, 1, 1) - 1
        shown[0] = shown[0] * (1 + BRIGHTER * light[0]) + LIGHTER * light[1]
        if step % 2:  # mirrored: a window has its box in its middle
            shown, goals = [level.flip(3) for level in shown], mirrored(goals, boxes)
        return losses(network(shown, boxes), boxes, goals)

    loop.fit(network.train(), of_step, steps, RATE, rng, decay=0.01, rise=0.1, clip=5.0, kept=kept)
    return network.eval()


def refinable(frame: Labelled) -> np.ndarray:
    """Rows of the labelled boxes that a refiner can learn from."""
    sides = (frame.boxes[:, 2:] - frame.boxes[:, :2]).min(axis=1)
    return np.flatnonzero((sides >= LEAST) & (sides <= BEYOND * THIN))


def shaken(frame: Labelled, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (K, 4), each near one labelled box and nearer to it than to others, and those (K, 4)."""
    rows = rng.choice(refinable(frame), COPIES)
    goals = frame.boxes[rows]
    spread = np.exp(rng.uniform(*np.log(NOISE), (COPIES, 1))) * np.tile(goals[:, 2:] - goals[:, :2], 2)
    size = np.tile(frame.image.shape[1::-1], 2)
    boxes = np.clip(goals + spread * rng.normal(size=goals.shape), 0, size).astype(np.float32)
    overlap = box_iou(boxes, frame.boxes)
    kept = ((boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= LEAST) & (overlap.argmax(axis=1) == rows)
    kept &= overlap.max(axis=1) >= NEAR
    return boxes[kept], goals[kept]


def enlargements(network: Refiner, frame: Labelled, boxes: np.ndarray) -> list[Tensor]:
    """What `Refiner` is shown of boxes (K, 4) of a frame: the pixels, then the maps."""
    windows = network.windows(torch.from_numpy(boxes))
    maps = dict(zip(MAPS, frame.maps, strict=True))
    pixels = enlarged(centred(torch.from_numpy(frame.image)[None]), windows, 1, 2 * CELLS)
    return [pixels, *(
        enlarged(torch.from_numpy(maps[name].astype(np.float32)), windows, int(name[1:]), CELLS)
        for name in REFINED_MAPS
    )]  # fmt: skip


def mirrored(goals: Tensor, boxes: Tensor) -> Tensor:
    """Goals (K, 4), left and right exchanged about the middles of boxes (K, 4)."""
    about = boxes[:, 0] + boxes[:, 2]
    return torch.stack([about - goals[:, 2], goals[:, 1], about - goals[:, 0], goals[:, 3]], 1)


def losses(found: Tensor, boxes: Tensor, goals: Tensor) -> dict[str, Tensor]:
    """Generalised IoU, and each edge's error in sides of the goal."""
    middle = ((boxes[:, :2] + boxes[:, 2:]) / 2).repeat(1, 2)
    signs = torch.tensor([-1.0, -1.0, 1.0, 1.0])
    generalised, _ = agreement(signs * (found - middle), signs * (goals - middle))
    sides = (goals[:, 2:] - goals[:, :2]).repeat(1, 2)
    edges = F.smooth_l1_loss(found / sides, goals / sides, beta=EXACT)
    return {'boxes': (1 - generalised).mean(), 'edges': edges}


if __name__ == '__main__':
    main()

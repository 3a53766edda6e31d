# SPDX-License-Identifier: Apache-2.0
"""Stage 3: train the class-agnostic proposal head on the frozen feature maps.

    python -m embedder_ros.training.train_proposals --data FOLDER [FOLDER ...] --out OUT

Frames need `--maps` in stage 1; all are kept in memory, 3 MB each. Labels are the rendered objects and parts; on
photos, where only some things are labelled, the detector's confident boxes are added as a teacher's. Writes
proposals.pt; stopped and started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from embedder_ros.models.nano.proposer import MAPS
from embedder_ros.training import loop
from embedder_ros.training.loop import Kept
from embedder_ros.training.network import Proposals, settle

STRIDES = tuple(int(name[1:]) for name in MAPS)
# Longest side of the boxes each level answers for, pixels; the ranges overlap so that no size falls between two.
RANGES = ((0, 200), (0, 96), (48, 260), (180, 1e9))
THIN = 24  # pixels; shorter side up to which the finest level answers for a box
UNLABELLED = (0.5, 0.15, 0.15, 0.15)  # weight of what is labelled nothing where not all is labelled, by level
RATE = 2e-3  # highest step size
BATCH = 8  # whole frames
SETTLED = 32  # of those from which batch norms take their mean and spread
WINDOW = (256, 192)  # pixels, width and height, of what the finest level is shown when it is trained alone
WINDOWS = 16  # of those to a batch
AROUND = 0.75  # share of windows around a thin thing; few cells of a whole frame are near one


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """A frame, or a window of one.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        maps: the backbone's, (1, C, h, w) float16 each, in the order of STRIDES.
        boxes: (K, 4) labelled boxes in pixels of the image.
        complete: whether all is labelled.
    """

    image: np.ndarray
    maps: tuple[np.ndarray, ...]
    boxes: np.ndarray
    complete: bool


def main() -> None:
    """Command line of this stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, nargs='+', required=True)
    parser.add_argument('--steps', type=int, default=600)
    parser.add_argument('--start', type=Path, help='continue from proposals.pt in this folder')
    parser.add_argument('--rate', type=float, default=RATE, help='highest step size')
    parser.add_argument('--only-fine', action='store_true', help='leave all but the finest level as they are')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(2)
    frames = load_all(args.data)
    asked = {name: str(value) for name, value in vars(args).items() if name != 'out'}
    kept = Kept(args.out / 'proposals.part', asked | {'frames': len(frames)})
    network = fit(frames, args.steps, args.start, rate=args.rate, only_fine=args.only_fine, seed=args.seed, kept=kept)
    torch.save(network.state_dict(), args.out / 'proposals.pt')


def load_all(folders: Sequence[Path]) -> list[Labelled]:
    """All frames of these that can be trained on."""
    labels = [path for folder in folders for path in sorted(folder.glob('*.json'))]
    return [frame for frame in (load(path) for path in tqdm(labels, desc='frames')) if frame is not None]


def load(label: Path) -> Labelled | None:
    """What stage 1 kept of a frame; None without maps or of another size."""
    with np.load(label.with_suffix('.npz')) as stored:
        if 'map_s4' not in stored or stored['map_s8'].shape[-2:] != (60, 80):
            return None
        maps = tuple(stored[f'map_s{stride}'] for stride in STRIDES)
        return Labelled(stored['image'], maps, stored['truth'], json.loads(label.read_text())['complete'])


def window(frame: Labelled, rng: np.random.Generator) -> Labelled:
    """A part of a frame, WINDOW large, mostly one with a thin thing in it."""
    whole, size = np.array(frame.image.shape[1::-1]), np.array(WINDOW)
    thin = thinner(frame.boxes, THIN)
    if len(thin) and rng.random() < AROUND:
        middle = rng.choice(thin).reshape(2, 2).mean(axis=0)
    else:
        middle = rng.uniform(0, whole)
    low = np.clip(middle - rng.uniform(0.2, 0.8, 2) * size, 0, whole - size)
    x, y = (STRIDES[-1] * np.round(low / STRIDES[-1])).astype(int)  # where every map has a cell's corner
    cut = [(slice(y // s, (y + WINDOW[1]) // s), slice(x // s, (x + WINDOW[0]) // s)) for s in (1, *STRIDES)]
    maps = tuple(m[..., rows, columns] for m, (rows, columns) in zip(frame.maps, cut[1:], strict=True))
    return Labelled(frame.image[cut[0]], maps, frame.boxes - np.tile([x, y], 2), frame.complete)


def fit(
    frames: list[Labelled],
    steps: int,
    start: Path | None = None,
    *,
    rate: float = RATE,
    only_fine: bool = False,
    seed: int = 0,
    kept: Kept | None = None,
) -> Proposals:
    """Train for `steps` steps, up to step size `rate`, from nothing or from another run's or `restore`'s file.

    The finest level alone is shown windows.
    """
    torch.manual_seed(seed)
    network, rng = Proposals().eval().requires_grad_(False), np.random.default_rng(seed)
    part = network.fine if only_fine else network
    if start:
        network.load_state_dict(torch.load(start / 'proposals.pt'))
        shown = inputs([frames[i] for i in rng.integers(0, len(frames), SETTLED)])
        settle(part, lambda: network(*shown))

    def of_step(_: int) -> dict[str, Tensor]:
        chosen = [frames[i] for i in rng.integers(0, len(frames), WINDOWS if only_fine else BATCH)]
        if only_fine:
            chosen = [window(frame, rng) for frame in chosen]
        out = network(*inputs(chosen))
        return {'boxes': losses(out, [f.boxes for f in chosen], [f.complete for f in chosen])}

    loop.fit(part.train().requires_grad_(True), of_step, steps, rate, rng, decay=0.01, clip=5.0, kept=kept)
    return network.eval()


def inputs(frames: list[Labelled]) -> list[Tensor]:
    """What `Proposals` reads of these."""
    levels = zip(*(f.maps for f in frames), strict=True)
    maps = [torch.from_numpy(np.concatenate(level).astype(np.float32)) for level in levels]
    return [torch.from_numpy(np.stack([f.image for f in frames])), *maps]


def losses(out: tuple[list[Tensor], list[Tensor]], truth: list[np.ndarray], complete: list[bool]) -> Tensor:
    """Score: cross entropy with the IoU the box reaches. Edges: generalised IoU on cells in a labelled box's middle."""
    total = torch.zeros(())
    for level, (scores, edges) in enumerate(zip(*out, strict=True)):
        shape, stride = scores.shape[1:], STRIDES[level]
        limit = THIN if level == 0 else np.inf
        assigned = [assign(thinner(boxes, limit), shape, stride, RANGES[level]) for boxes in truth]
        positive = torch.from_numpy(np.stack([a[0] for a in assigned]))
        wanted = torch.from_numpy(np.stack([a[1] for a in assigned]))
        count = positive.sum().clamp(min=1)
        generalised, iou = agreement(edges[positive], wanted[positive])
        goal = torch.zeros_like(scores)
        goal[positive] = iou.detach().clamp(0.1, 1)
        sure = torch.tensor([1.0 if whole else UNLABELLED[level] for whole in complete])[:, None, None]
        weight = torch.where(positive, 1.0, 0.75 * torch.sigmoid(scores.detach()) ** 2 * sure)
        total = total + (weight * F.binary_cross_entropy_with_logits(scores, goal, reduction='none')).sum() / count
        total = total + 1.5 * (1 - generalised).sum() / count
    return total


def assign(
    boxes: np.ndarray, shape: tuple[int, ...], stride: int, sizes: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) bool cells that answer for a box, (h, w, 4) distances to its edges; the smaller box wins a shared cell."""
    row, column = np.mgrid[: shape[0], : shape[1]]
    x, y = (column + 0.5) * stride, (row + 0.5) * stride
    positive, wanted = np.zeros(shape, bool), np.ones((*shape, 4), np.float32)
    for box in sorted(boxes, key=lambda b: -(b[2] - b[0]) * (b[3] - b[1])):
        sides = box[2:] - box[:2]
        if not sizes[0] <= sides.max() < sizes[1]:
            continue
        reach = np.maximum(0.75 * stride, 0.15 * sides)
        centre = (box[:2] + box[2:]) / 2
        near = (np.abs(x - centre[0]) <= reach[0]) & (np.abs(y - centre[1]) <= reach[1])
        distance = np.stack([x - box[0], y - box[1], box[2] - x, box[3] - y], -1)
        positive |= near
        wanted[near] = np.maximum(distance, 0.5)[near]
    return positive, wanted


def thinner(boxes: np.ndarray, limit: float) -> np.ndarray:
    """Those of boxes (K, 4) whose shorter side is below `limit` pixels."""
    return boxes[(boxes[:, 2:] - boxes[:, :2]).min(axis=1) < limit]


def agreement(edges: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Generalised IoU and IoU (K,) of boxes given as distances (K, 4) from the same cell."""

    def area(d: Tensor) -> Tensor:
        return (d[:, 0] + d[:, 2]) * (d[:, 1] + d[:, 3])

    shared = area(torch.minimum(edges, wanted))
    union = area(edges) + area(wanted) - shared
    around = area(torch.maximum(edges, wanted))
    iou = shared / union.clamp(min=1e-6)
    return iou - (around - union) / around.clamp(min=1e-6), iou


if __name__ == '__main__':
    main()

# SPDX-License-Identifier: Apache-2.0
"""Stage 3: train what tells individuals apart, on the frozen head of stage 2.

    python -m embedder_ros.training.train_identity --data FOLDER [...] --trained OUT

As VisME does (MODELS.md 4), an individual is at most once in a batch, as two views from different frames. Negatives are
structured: whole scenes enter a batch together, and each scene holds the same kind in another colour and other kinds in
the same colour. Only the layer `individual` changes, so batches are large and a step takes milliseconds. Rewrites
OUT/head.pt.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm, trange

from embedder_ros.training.export import HISTOGRAM_SHARE, INDIVIDUAL_SHARE
from embedder_ros.training.network import Head
from embedder_ros.training.train import Example, load, pack_all

SCENES = 24  # in a batch
GOOD_BOX = 0.55  # IoU with a labelled box from which a box shows its thing
SHARPNESS = 0.07  # temperature of the softmax; raising it lets near look-alikes count less
DROPPED = 0.1  # share of inputs that are hidden in a step


@dataclass(frozen=True)
class Views:
    """What the head knows of each box that shows a thing, before the last layer.

    Attributes:
        inputs: (V, C) of layer `individual`.
        histogram: (V, 64) unit rows.
        frame: (V,) number of the frame.
        scenes: for each scene its individuals, each with its rows.
        alike: (individuals,) number of name and colours: equal ones in a scene cannot be told apart.
    """

    inputs: Tensor
    histogram: Tensor
    frame: np.ndarray
    scenes: list[list[np.ndarray]]
    alike: list[list[int]]


def main() -> None:
    """Command line of this stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, nargs='+', required=True)
    parser.add_argument('--steps', type=int, default=1500)
    parser.add_argument('--trained', type=Path, required=True, help='folder of head.pt')
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    head = Head()
    head.load_state_dict(torch.load(args.trained / 'head.pt'))
    labels = [path for folder in args.data for path in sorted(folder.glob('*.json'))]
    fit(head, gather(head.eval(), [load(path) for path in tqdm(labels, desc='frames')]), args.steps)
    torch.save(head.state_dict(), args.trained / 'head.pt')


def gather(head: Head, examples: list[Example]) -> Views:
    """Run the head over every frame whose individuals are known and keep the boxes that show one."""
    inputs: list[Tensor] = []
    found: list[Tensor] = []
    hook = head.individual.register_forward_pre_hook(lambda _, given: found.append(given[0][0]))
    histograms, frames = [], []
    rows: dict[str, dict[str, list[int]]] = {}
    looks: dict[str, int] = {}
    kinds: dict[tuple[object, ...], int] = {}
    count = 0
    with torch.no_grad():
        for number, example in enumerate(tqdm([e for e in examples if e.group], desc='views')):
            parts = head(pack_all(example))
            shown = np.flatnonzero((example.iou >= GOOD_BOX) & (example.owner >= 0))
            inputs.append(found.pop()[shown])
            histograms.append(parts['histogram'][0, shown])
            for row in shown:
                thing = example.things[example.owner[row]]
                rows.setdefault(example.group, {}).setdefault(thing['instance'], []).append(count)
                twin = thing['instance'].partition('~')[2]  # with another surface, see scenes/reid_bags.py
                look = (thing['names'][0], *thing['colours'], twin)
                looks[thing['instance']] = kinds.setdefault(look, len(kinds))
                frames.append(number)
                count += 1
    hook.remove()
    scenes = [[np.array(r) for r in things.values()] for things in rows.values()]
    alike = [[looks[name] for name in things] for things in rows.values()]
    return Views(torch.cat(inputs), torch.cat(histograms), np.array(frames), scenes, alike)


def fit(head: Head, views: Views, steps: int) -> None:
    """Train layer `individual` for `steps` steps."""
    layer, rng = head.individual.train(), np.random.default_rng(0)
    optimiser = torch.optim.AdamW(layer.parameters(), 1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps + 1, pct_start=0.1)
    progress, mean = trange(steps, desc='identity'), 0.0
    for step in progress:
        first, second, same_look = pairs(views, rng)
        loss = contrast(layer, views, first, second, same_look)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        mean = 0.98 * mean + 0.02 * float(loss.detach()) if step else float(loss.detach())
        if step % 250 == 249:
            progress.write(f'identity {mean:.3f}')
    head.individual.eval()


def pairs(views: Views, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Rows of two views of every individual of some scenes that is seen in two frames.

    Returns:
        (P,) and (P,) rows, and (P, P) whether two are others of one look in one scene.
    """
    first, second, look = [], [], []
    for scene in rng.choice(len(views.scenes), min(SCENES, len(views.scenes)), replace=False):
        for rows, alike in zip(views.scenes[scene], views.alike[scene], strict=True):
            one = rng.choice(rows)
            others = rows[views.frame[rows] != views.frame[one]]
            if len(others):
                first.append(one)
                second.append(rng.choice(others))
                look.append((scene, alike))
    number = np.unique(look, axis=0, return_inverse=True)[1].reshape(-1)
    twins = (number[:, None] == number[None]) & ~np.eye(len(number), dtype=bool)
    return np.array(first), np.array(second), torch.from_numpy(twins)


def contrast(layer: torch.nn.Module, views: Views, first: np.ndarray, second: np.ndarray, twins: Tensor) -> Tensor:
    """InfoNCE both ways on the cosine that the identity view will have."""
    looks = [
        torch.cat(
            [
                INDIVIDUAL_SHARE * F.normalize(layer(F.dropout(views.inputs[rows], DROPPED, layer.training)), dim=1),
                HISTOGRAM_SHARE * views.histogram[rows],
            ],
            dim=1,
        )
        for rows in (first, second)
    ]
    logits = (looks[0] @ looks[1].T / SHARPNESS).masked_fill(twins, -1e4)
    goal = torch.arange(len(first))
    return (F.cross_entropy(logits, goal) + F.cross_entropy(logits.T, goal)) / 2


if __name__ == '__main__':
    main()

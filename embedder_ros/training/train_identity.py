# SPDX-License-Identifier: Apache-2.0
"""Stage 3: train what tells individuals apart: a layer on the frozen head of stage 2, and a network on pixels.

    python -m embedder_ros.training.train_identity --data FOLDER [...] --trained OUT

As VisME does (MODELS.md 4), an individual is at most once in a batch, as two views from different frames. Negatives are
structured: whole scenes enter a batch together, and each scene holds the same kind in another colour and other kinds in
the same colour. The two are trained apart: each errs in its own way, and together they tell new individuals apart
better than one network on both. Rewrites OUT/head.pt and OUT/crops.pt and goes on from them; a quarter of an hour.
Stopped and started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from embedder_ros.models.nano.colour import HISTOGRAM
from embedder_ros.training import loop
from embedder_ros.training.export import HISTOGRAM_SHARE, INDIVIDUAL_SHARE
from embedder_ros.training.loop import Kept
from embedder_ros.training.network import Crops, Head, settle, shades
from embedder_ros.training.photos import shared_look
from embedder_ros.training.train import Example, load, pack_all

INDIVIDUALS = 320  # in a batch, and those that belong to the last scene
GOOD_BOX = 0.55  # IoU with a labelled box from which a box shows its thing
SHARPNESS = 0.07  # temperature of the softmax; raising it lets near look-alikes count less
SETTLED = 1500  # views from which batch norms take their mean and spread
DROPPED = 0.1  # share of the layer's inputs that are hidden in a step
# How far copies of a crop differ: place and size in it, brightness and its curve, each colour, noise.
SHIFT, BRIGHTNESS, TINT, NOISE = 0.06, 0.12, 0.03, 0.02


@dataclass(frozen=True)
class Views:
    """What is known of each box that shows a thing.

    Attributes:
        inputs: (V, C) of layer `individual`; the appearance histogram is last.
        crops: (V, CROP, CROP, 3) uint8.
        shades: (V, SHADES).
        geometry: (V, 6).
        frame: (V,) number of the frame.
        scenes: for each scene its individuals, each with its rows.
        alike: (individuals,) number of name and colours: equal ones in a scene cannot be told apart; a negative one
            is that of a look which comes back in other scenes, and can be told apart nowhere.
    """

    inputs: Tensor
    crops: Tensor
    shades: Tensor
    geometry: Tensor
    frame: np.ndarray
    scenes: list[list[np.ndarray]]
    alike: list[list[int]]


def main() -> None:
    """Command line of this stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, nargs='+', required=True, help='each takes the same share of the steps')
    parser.add_argument('--steps', type=int, default=1500, help='of the layer')
    parser.add_argument('--crop-steps', type=int, default=800, help='of the network on pixels, a second each')
    parser.add_argument('--trained', type=Path, required=True, help='folder of head.pt')
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    head, crops = Head(), Crops()
    head.load_state_dict(torch.load(args.trained / 'head.pt'))
    sources = []
    for folder in args.data:
        labels = tqdm(sorted(folder.glob('*.json')), desc=str(folder))
        sources.append(gather(head.eval(), (load(path, 'crops') for path in labels)))
    run = {'data': [str(d) for d in args.data], 'views': [len(s.frame) for s in sources]}
    pixels = Kept(args.trained / 'crops.part', run | {'steps': args.crop_steps})
    if not pixels.path.exists():
        meaning = Kept(args.trained / 'individual.part', run | {'steps': args.steps})
        fit(head.individual, by_meaning, sources, args.steps, 1e-3, meaning)
        torch.save(head.state_dict(), args.trained / 'head.pt')
    if (args.trained / 'crops.pt').exists():
        crops.load_state_dict(torch.load(args.trained / 'crops.pt'))
        rows = np.random.default_rng(0).permutation(len(sources[0].frame))[:SETTLED]
        settle(crops, lambda: by_pixels(crops, sources[0], rows))
    fit(crops, by_pixels, sources, args.crop_steps, 2e-3, pixels)
    torch.save(crops.state_dict(), args.trained / 'crops.pt')


def gather(head: Head, examples: Iterable[Example]) -> Views:
    """Run the head over every frame whose individuals are known and keep the boxes that show one."""
    parts: list[tuple[Tensor, ...]] = []
    found: list[Tensor] = []
    hook = head.individual.register_forward_pre_hook(lambda _, given: found.append(given[0][0]))
    frames = []
    rows: dict[str, dict[str, list[int]]] = {}
    looks: dict[str, int] = {}
    kinds: dict[tuple[object, ...], int] = {}
    count = 0
    with torch.no_grad():
        for number, example in enumerate(e for e in examples if e.group):
            batch = pack_all(example)
            head(batch)
            shown = np.flatnonzero((example.iou >= GOOD_BOX) & (example.owner >= 0))
            crops, look, geometry = torch.from_numpy(example.arrays['crops']), batch['look'][0], batch['geometry'][0]
            parts.append(tuple(value[shown] for value in (found.pop(), crops, shades(look), geometry)))
            for row in shown:
                thing = example.things[example.owner[row]]
                rows.setdefault(example.group, {}).setdefault(thing['instance'], []).append(count)
                twin = thing['instance'].partition('~')[2].partition('#')[0]  # another surface, see scenes/reid_bags.py
                shared = shared_look(thing['instance'])
                look_alike = (thing['names'][0], *thing['colours'], twin, shared)
                number_of_look = kinds.setdefault(look_alike, len(kinds) + 1)
                looks[thing['instance']] = -number_of_look if shared else number_of_look
                frames.append(number)
                count += 1
    hook.remove()
    scenes = [[np.array(r) for r in things.values()] for things in rows.values()]
    alike = [[looks[name] for name in things] for things in rows.values()]
    return Views(*(torch.cat(values) for values in zip(*parts, strict=True)), np.array(frames), scenes, alike)


Looks = Callable[[nn.Module, Views, np.ndarray], Tensor]


def by_meaning(layer: nn.Module, views: Views, rows: np.ndarray) -> Tensor:
    """(R, C) unit rows of what layer `individual` makes of these views, with the histogram that joins it."""
    inputs = views.inputs[rows]
    learned = F.normalize(layer(F.dropout(inputs, DROPPED, layer.training)), dim=1)
    return F.normalize(torch.cat([INDIVIDUAL_SHARE * learned, HISTOGRAM_SHARE * inputs[:, -HISTOGRAM:]], dim=1), dim=1)


def by_pixels(crops: nn.Module, views: Views, rows: np.ndarray) -> Tensor:
    """(R, C) unit rows of what `Crops` makes of these views."""
    pixels = altered(views.crops[rows]) if crops.training else views.crops[rows]
    return crops(pixels, views.shades[rows], views.geometry[rows])


def fit(
    network: nn.Module, looks: Looks, sources: Sequence[Views], steps: int, rate: float, kept: Kept | None = None
) -> None:
    """Train for `steps` steps, up to step size `rate`, on each source in turn."""
    rng = np.random.default_rng(0)

    def losses(step: int) -> dict[str, Tensor]:
        views = sources[step % len(sources)]
        first, second, twins = pairs(views, rng)
        return {'identity': contrast(looks(network, views, np.concatenate([first, second])), twins)}

    loop.fit(network.train(), losses, steps, rate, rng, decay=0.02, rise=0.1, kept=kept)
    network.eval()


def pairs(views: Views, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Rows of two views of every individual of some scenes that is seen in two frames.

    Returns:
        (P,) and (P,) rows, and (P, P) whether two are others of one look in one scene.
    """
    first, second, look = [], [], []
    for scene in rng.permutation(len(views.scenes)):
        if len(first) >= INDIVIDUALS:
            break
        for rows, alike in zip(views.scenes[scene], views.alike[scene], strict=True):
            one = rng.choice(rows)
            others = rows[views.frame[rows] != views.frame[one]]
            if len(others):
                first.append(one)
                second.append(rng.choice(others))
                look.append((scene if alike > 0 else -1, alike))
    number = np.unique(look, axis=0, return_inverse=True)[1].reshape(-1)
    twins = (number[:, None] == number[None]) & ~np.eye(len(number), dtype=bool)
    return np.array(first), np.array(second), torch.from_numpy(twins)


def contrast(looks: Tensor, twins: Tensor) -> Tensor:
    """InfoNCE both ways between first views, the upper half of (2 P, C), and second views."""
    first, second = looks.chunk(2)
    logits = (first @ second.T / SHARPNESS).masked_fill(twins, -1e4)
    goal = torch.arange(len(first))
    return (F.cross_entropy(logits, goal) + F.cross_entropy(logits.T, goal)) / 2


def altered(crops: Tensor) -> Tensor:
    """Crops (K, S, S, 3) as another box and another exposure might have drawn them, 0..255."""

    def about(*shape: int) -> Tensor:
        return 2 * torch.rand(len(crops), *shape) - 1

    place = torch.cat([torch.diag_embed(1 + SHIFT * about(2)), SHIFT * about(2, 1)], 2)
    planes = crops.permute(0, 3, 1, 2).float() / 255
    if torch.rand(()) < 0.5:  # all of them: a mirrored individual is another one
        planes = planes.flip(3)
    grid = F.affine_grid(place, list(planes.shape), align_corners=False)
    planes = F.grid_sample(planes, grid, padding_mode='border', align_corners=False).clamp(1e-3, 1)
    planes = (
        planes ** (1 + BRIGHTNESS * about(1, 1, 1)) * (1 + BRIGHTNESS * about(1, 1, 1)) * (1 + TINT * about(3, 1, 1))
    )
    noisy = planes + NOISE * torch.rand(len(crops), 1, 1, 1) * torch.randn_like(planes)
    return 255 * noisy.clamp(0, 1).permute(0, 2, 3, 1)


if __name__ == '__main__':
    main()

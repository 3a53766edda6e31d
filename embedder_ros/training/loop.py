# SPDX-License-Identifier: Apache-2.0
"""The loop of every training stage. A run that was stopped goes on where it was when it is started again."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import trange

from embedder_ros.types import UserError

KEEP = 100  # steps that a stopped run loses at most
SHOWN = 50  # steps between two lines of losses


@dataclass(frozen=True)
class Kept:
    """Where a run is kept while it lasts.

    Attributes:
        path: the file; gone when the run is through.
        settings: what makes it this run; another run's file is refused.
    """

    path: Path
    settings: Mapping[str, Any] = field(default_factory=dict)

    def write(self, state: Mapping[str, Any]) -> None:
        """Replace what is kept, at once or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        half = self.path.with_suffix('.half')
        torch.save({**state, 'settings': dict(self.settings)}, half)
        os.replace(half, self.path)

    def read(self) -> dict[str, Any] | None:
        """What is kept, if anything. Raises UserError when it is another run's."""
        if not self.path.exists():
            return None
        state: dict[str, Any] = torch.load(self.path)
        if state['settings'] != dict(self.settings):
            raise UserError(
                f'{self.path} keeps a run with {state["settings"]}, this one has {dict(self.settings)}: '
                'go on with the same, or delete the file to begin anew'
            )
        return state


def fit(
    network: nn.Module,
    losses: Callable[[int], Mapping[str, Tensor]],
    steps: int,
    rate: float,
    rng: np.random.Generator,
    *,
    decay: float,
    rise: float = 0.3,
    clip: float = math.inf,
    kept: Kept | None = None,
) -> None:
    """Train `network` in place: AdamW on one cycle of step sizes up to `rate`.

    Args:
        network: in the mode it is trained in; only what it holds is trained and kept.
        losses: of a step, by name; their sum is minimised. Draws from `rng` and torch's generator alone.
        steps: how many.
        rate: highest step size.
        rng: what `losses` draws from.
        decay: weight decay.
        rise: share of the steps in which the step size rises.
        clip: longest gradient.
        kept: where to keep the run; None keeps nothing.

    Raises:
        UserError: `kept` holds another run.
    """
    parameters = list(network.parameters())
    optimiser = torch.optim.AdamW(parameters, rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps + 1, pct_start=rise)
    stateful = {'network': network, 'optimiser': optimiser, 'schedule': schedule}
    begin, mean = 0, dict[str, float]()
    state = kept.read() if kept else None
    if state:
        for name, part in stateful.items():
            part.load_state_dict(state[name])
        rng.bit_generator.state = state['numpy']
        torch.set_rng_state(state['torch'])
        begin, mean = state['step'], state['mean']
    progress = trange(begin, steps, initial=begin, total=steps, desc=kept.path.stem if kept else 'train')
    for step in progress:
        if kept and step % KEEP == 0:
            drawn = {'numpy': rng.bit_generator.state, 'torch': torch.get_rng_state()}
            parts = {name: part.state_dict() for name, part in stateful.items()}
            kept.write({**parts, **drawn, 'step': step, 'mean': mean})
        found = losses(step)
        optimiser.zero_grad()
        torch.stack(list(found.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimiser.step()
        schedule.step()
        for name, value in found.items():
            mean[name] = 0.97 * mean.get(name, float(value.detach())) + 0.03 * float(value.detach())
        if step % SHOWN == SHOWN - 1:
            progress.write(' '.join(f'{name} {value:.3f}' for name, value in mean.items()))
    if kept:
        kept.path.unlink(missing_ok=True)

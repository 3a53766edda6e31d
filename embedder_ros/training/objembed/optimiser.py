# SPDX-License-Identifier: Apache-2.0
"""What is trained how fast (MODELS.md 1.10): parameter groups by name, AdamW, warm-up and linear decay.

The forward and backward pass may run in bfloat16; the optimiser always moves float32 copies, because a step of 2e-5 is
lost in bfloat16's three digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from embedder_ros.training.objembed.processes import average_gradients

# Part of a parameter's name -> its share of the learning rate; the first that is found counts.
SHARES = {'visual': 0.1, 'logit': 10.0, '': 1.0}
WARM_UP = 0.05  # share of all steps; lowering it lets the first steps, made with cold statistics, do harm
MAX_NORM = 5.0  # of the gradient; raising it lets one odd batch move the weights further


def share_of(name: str) -> float:
    """How fast a parameter learns, relative to the learning rate."""
    return next(share for part, share in SHARES.items() if part in name)


def rate(step: int, steps: int) -> float:
    """Share of the learning rate at a step counted from 0: up over the first WARM_UP of `steps`, then down to 0."""
    warm = math.ceil(WARM_UP * steps)
    if step < warm:
        return step / max(1, warm)
    return max(0.0, (steps - step) / max(1, steps - warm))


class Trainer:
    """AdamW over float32 copies of the parameters that learn.

    Args:
        parameters: name and parameter; those that need no gradient are left out.
        lr: learning rate of a share of 1.
        steps: of the whole run.

    Attributes:
        weights: name -> float32 values as the optimiser has them; the parameter itself where that is float32.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], *, lr: float, steps: int) -> None:
        self._parameters = {name: p for name, p in parameters if p.requires_grad}
        self.weights = {
            n: p if p.dtype == torch.float32 else p.detach().float().clone() for n, p in self._parameters.items()
        }
        self._steps = steps
        groups = [
            {'params': [w for n, w in self.weights.items() if share_of(n) == share], 'lr': lr * share}
            for share in SHARES.values()
        ]
        self._optimiser = torch.optim.AdamW([g for g in groups if g['params']], weight_decay=0.0)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, lambda step: rate(step, steps))

    def collect(self) -> None:
        """Add the gradients of a part of a batch to what the optimiser will see."""
        for name, parameter in self._parameters.items():
            weight, gradient = self.weights[name], parameter.grad
            if weight is parameter or gradient is None:
                continue
            weight.grad = gradient.float() if weight.grad is None else weight.grad + gradient
            parameter.grad = None

    def cut(self) -> float:
        """Average the gradient over all processes and cut it to MAX_NORM; returns its norm before, equal in all."""
        average_gradients(self.weights.values())
        return float(nn.utils.clip_grad_norm_(self.weights.values(), MAX_NORM))

    def step(self) -> None:
        """Move the weights once along the gradient, which must be finite: nothing undoes a step."""
        self._optimiser.step()
        self._schedule.step()
        self._optimiser.zero_grad()
        self._publish()

    def state(self) -> dict[str, object]:
        """All that a resumed run needs."""
        weights = {name: weight.detach() for name, weight in self.weights.items()}
        return {'weights': weights, 'optimiser': self._optimiser.state_dict(), 'schedule': self._schedule.state_dict()}

    def resume(self, state: Mapping[str, dict]) -> None:
        """Continue from `state`."""
        stored: Mapping[str, Tensor] = state['weights']
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(stored[name])
        self._optimiser.load_state_dict(state['optimiser'])
        self._schedule.load_state_dict(state['schedule'])
        self._publish()

    def _publish(self) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                if self.weights[name] is not parameter:
                    parameter.copy_(self.weights[name])

# SPDX-License-Identifier: Apache-2.0
"""A training run that is stopped and started again makes what it would have made at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch')

from embedder_ros.training import loop  # noqa: E402
from embedder_ros.training.loop import Kept  # noqa: E402
from embedder_ros.types import UserError  # noqa: E402

STEPS = 9


class Killed(Exception):
    """As if the machine went off."""


def run(kept: Kept | None = None, killed_at: int = STEPS) -> dict[str, torch.Tensor]:
    """Train a small network that has dropout, batch norm and drawn inputs."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    parts = (torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    network = torch.nn.Sequential(*parts).train()

    def losses(step: int) -> dict[str, torch.Tensor]:
        if step == killed_at:
            raise Killed
        given = torch.from_numpy(rng.normal(size=(16, 4)).astype(np.float32))
        return {'square': ((network(given)[:, 0] - given.sum(1)) ** 2).mean(), 'bias': network[3].bias.square().sum()}

    loop.fit(network, losses, STEPS, 0.05, rng, decay=0.1, clip=1.0, kept=kept)
    return network.state_dict()


@pytest.mark.parametrize('killed_at', [0, 3, 4, 8])
def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int) -> None:
    monkeypatch.setattr(loop, 'KEEP', 2)
    at_once, kept = run(), Kept(tmp_path / 'new' / 'run.part', {'steps': STEPS})
    with pytest.raises(Killed):
        run(kept, killed_at)
    state = kept.read()
    assert state is not None and state['step'] == killed_at // 2 * 2
    torch.manual_seed(1)  # as a new process might have drawn by then
    again = run(kept)
    assert all(torch.equal(value, again[name]) for name, value in at_once.items())
    assert not list(kept.path.parent.iterdir()), 'nothing is left of a run that is through'


def test_a_run_with_other_settings_is_refused_and_kept(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(Kept(tmp_path / 'run.part', {'data': ['a'], 'steps': STEPS}), 1)
    with pytest.raises(UserError, match=r"run\.part keeps a run with .*'a'.*delete the file"):
        run(Kept(tmp_path / 'run.part', {'data': ['b'], 'steps': STEPS}))
    assert (tmp_path / 'run.part').exists()

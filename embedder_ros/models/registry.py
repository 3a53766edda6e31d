# SPDX-License-Identifier: Apache-2.0
"""Load a model by registered name or by folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embedder_ros.models.base import Embedder, Proposer
from embedder_ros.types import UserError


@dataclass(frozen=True, slots=True)
class Model:
    """An embedder and the proposer that goes with it."""

    embedder: Embedder
    proposer: Proposer


def load_model(name: str, *, device: str = 'auto', precision: str = 'auto', threads: int = 0) -> Model:
    """Load `name`: 'nano', or a folder that holds a model.

    Args:
        name: a registered name or a path.
        device: 'auto', 'cpu' or 'cuda'. Asking for a GPU that is not there is an error, never a silent CPU.
        precision: 'auto', 'fp32' or 'fp16'; a precision the model cannot run in is an error.
        threads: CPU threads of the inference session; 0 lets the runtime choose.

    Raises:
        UserError: unknown name, missing or damaged files, or a device that is not there; the message says what to do.
    """
    from embedder_ros.models import nano

    if name == 'nano' or (Path(name) / nano.MANIFEST).is_file():
        folder = nano.WEIGHTS if name == 'nano' else Path(name)
        return Model(*nano.load(folder, device=device, precision=precision, threads=threads))
    raise UserError(
        f"model '{name}' is neither 'nano' nor a folder with {nano.MANIFEST}; set parameter 'model' to one of them"
    )

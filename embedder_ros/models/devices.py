# SPDX-License-Identifier: Apache-2.0
"""Where torch networks run."""

from __future__ import annotations

import torch

from embedder_ros.types import UserError


def torch_device(name: str) -> torch.device:
    """Where to run. Raises UserError for a GPU that is not there."""
    if name not in ('auto', 'cpu', 'cuda'):
        raise UserError(f"device '{name}' is unknown; set parameter 'device' to one of auto, cpu, cuda")
    has_cuda = torch.cuda.is_available()
    if name == 'cuda' and not has_cuda:
        raise UserError(
            "device 'cuda' was asked for but torch cannot use CUDA here; install torch's CUDA build and the NVIDIA "
            "driver, or set parameter 'device' to 'auto' or 'cpu'"
        )
    return torch.device('cuda' if has_cuda and name != 'cpu' else 'cpu')

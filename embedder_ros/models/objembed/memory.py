# SPDX-License-Identifier: Apache-2.0
"""How much memory is free, said before a checkpoint is loaded: running out of it later ends the node, or the robot."""

from __future__ import annotations

from pathlib import Path

import torch

_MEMINFO, _CGROUP = Path('/proc/meminfo'), Path('/sys/fs/cgroup')


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be taken on a GPU or, under a container's limit, in main memory; None where unknown."""
    if device.type == 'cuda':
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    known = [free for free in (_machine(), _container()) if free is not None] if device.type == 'cpu' else []
    return min(known, default=None)


def frames_that_fit(free: int | None, most: int, *, each: int, once: int = 0) -> int:
    """How many frames `free` bytes do for at once, 1 to `most`, when a batch takes `once` and each frame `each`."""
    return most if free is None else max(1, min(most, (free - once) // each))


def _machine() -> int | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith('MemAvailable:')), None)


def _container() -> int | None:
    """What a control group's limit leaves; files it keeps in memory can be dropped."""
    try:
        limit, used, stat = ((_CGROUP / f'memory.{name}').read_text() for name in ('max', 'current', 'stat'))
        dropped = dict(line.split() for line in stat.splitlines()).get('inactive_file', '0')
        return None if limit.strip() == 'max' else int(limit) - int(used) + int(dropped)
    except (OSError, ValueError):
        return None

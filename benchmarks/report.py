# SPDX-License-Identifier: Apache-2.0
"""Measurements to benchmarks/results/<name>.json, together with all that is needed to judge or repeat them.

A number without its machine, versions and inputs is worth little; every benchmark writes through `write_result`.
Nothing here names the host, the user or a folder outside the repository.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from embedder_ros.inference.beside import processors

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / 'results'
PACKAGES = (
    'embedder_ros',
    'numpy',
    'opencv-python-headless',
    'onnxruntime',
    'torch',
    'transformers',
    'tensorrt',
    'ros-rclpy',
    'ros-fastdds',
)


def write_result(name: str, measurements: Mapping[str, Any], inputs: Sequence[Path] = ()) -> Path:
    """Write one benchmark's result.

    Args:
        name: file name without its suffix; an older result of this name is replaced.
        measurements: what was measured; keys carry the unit, as in `latency_ms`.
        inputs: files whose content decided the result (weights, images, profiles); listed with their sha256.

    Returns:
        The file that was written.
    """
    result = {
        'name': name,
        'date': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        'commit': commit(),
        'machine': machine(),
        'python': platform.python_version(),
        'packages': versions(),
        'inputs': {_label(p): hashlib.sha256(Path(p).read_bytes()).hexdigest() for p in inputs},
        'measurements': dict(measurements),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f'{name}.json'
    path.write_text(json.dumps(result, indent=2) + '\n')
    return path


def machine() -> dict[str, Any]:
    """Processor, cores, memory, load and GPU; load above the number of cores makes times an upper bound."""
    return {
        'system': f'{platform.system()} {platform.machine()}',
        'cpu': _cpu_model(),
        'cores': processors(),
        'memory_gib': round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30, 1),
        'load_average': [round(load, 2) for load in os.getloadavg()],
        'gpu': _output('nvidia-smi', '--query-gpu=name,driver_version', '--format=csv,noheader') or None,
    }


def versions() -> dict[str, str]:
    """Versions of the installed ones among PACKAGES."""
    installed = {d.metadata['Name'].lower().replace('_', '-'): d.version for d in metadata.distributions()}
    return {p: installed[p.replace('_', '-')] for p in PACKAGES if p.replace('_', '-') in installed}


def commit() -> str:
    """The git commit, with '+' when the working tree differs from it; '' outside a repository."""
    revision = _output('git', '-C', str(ROOT), 'rev-parse', 'HEAD')
    changed = revision and _output('git', '-C', str(ROOT), 'status', '--porcelain', '--untracked-files=no')
    return revision + '+' * bool(changed)


def percentiles(seconds: Sequence[float], unit: float = 1e6) -> dict[str, float]:
    """p50 and p95 of some durations; in microseconds unless `unit` (units per second) says otherwise."""
    p50, p95 = np.percentile(seconds, (50, 95)) * unit
    return {'p50': round(float(p50), 1), 'p95': round(float(p95), 1)}


def table(head: Sequence[str], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    rule = '|---' * len(head) + '|'
    first, *others = (f'| {" | ".join(map(str, cells))} |' for cells in (head, *rows))
    yield from (first, rule, *others)


def _label(path: Path) -> str:
    full = Path(path).resolve()
    return str(full.relative_to(ROOT)) if full.is_relative_to(ROOT) else full.name


def _cpu_model() -> str:
    lines = Path('/proc/cpuinfo').read_text().splitlines()
    named = [line.partition(':')[2].strip() for line in lines if line.startswith(('model name', 'Model'))]
    return named[0] if named else platform.processor()


def _output(*command: str) -> str:
    """What a command prints; '' when it is not there or fails."""
    if shutil.which(command[0]) is None:
        return ''
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return done.stdout.strip() if done.returncode == 0 else ''

# SPDX-License-Identifier: Apache-2.0
"""Run a network: arrays in by name, arrays out by name. The only module that imports onnxruntime.

Not measured here: speed on CUDA, and memory that onnxruntime's arena keeps after a large batch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from embedder_ros.types import UserError

Arrays = Mapping[str, np.ndarray]

DEVICES = ('auto', 'cpu', 'cuda')
_LFS_HEAD = b'version https://git-lfs'


class Session(Protocol):
    """A loaded network. Safe to call from several threads."""

    @property
    def device(self) -> str:
        """Where it runs: 'cpu' or 'cuda'."""

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """All outputs by name."""


class OnnxSession:
    """An ONNX file run by onnxruntime.

    Args:
        path: the .onnx file.
        device: 'auto' takes CUDA when onnxruntime has it and else the CPU; 'cuda' insists.
        threads: CPU threads of one call; 0 lets onnxruntime choose.

    Raises:
        UserError: unknown device, no CUDA, or a file that is missing, cut short or not ONNX.
    """

    def __init__(self, path: Path, *, device: str = 'auto', threads: int = 0) -> None:
        content = read_weights(path)
        providers = _providers(device)
        options = _runtime().SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Threads that spin while they wait take the cores from the rest of the robot.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        try:
            self._session = _runtime().InferenceSession(content, options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise UserError(f'{path} is damaged or not a model onnxruntime can read ({error}); {REMEDY}') from error
        self.device = 'cuda' if self._session.get_providers()[0].startswith('CUDA') else 'cpu'
        if device == 'cuda' and self.device != 'cuda':
            raise UserError(_NO_CUDA)
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """All outputs by name."""
        return dict(zip(self._names, self._session.run(None, dict(inputs)), strict=True))


REMEDY = 'install embedder_ros again, or run `git lfs pull` in a clone'
_NO_CUDA = (
    "device 'cuda' was asked for but onnxruntime cannot use CUDA here; install onnxruntime-gpu with its CUDA "
    "libraries, or set parameter 'device' to 'auto' or 'cpu'"
)


def read_weights(path: Path) -> bytes:
    """The file's content. Raises UserError when it is missing, empty or a Git LFS pointer."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f'cannot read the weights {path} ({error.strerror}); {REMEDY}') from error
    if content.startswith(_LFS_HEAD):
        raise UserError(f'{path} is a Git LFS pointer, not the weights; run `git lfs pull`')
    if not content:
        raise UserError(f'{path} is empty; {REMEDY}')
    return content


@cache
def _runtime() -> Any:
    """Import onnxruntime with its telemetry off; it is on by default and read at import (PARTS.md section 5)."""
    os.environ['ORT_DISABLE_TELEMETRY'] = '1'
    import onnxruntime

    return onnxruntime


def _providers(device: str) -> list[str]:
    if device not in DEVICES:
        raise UserError(f"device '{device}' is unknown; set parameter 'device' to one of {', '.join(DEVICES)}")
    has_cuda = 'CUDAExecutionProvider' in _runtime().get_available_providers()
    if device == 'cuda' and not has_cuda:
        raise UserError(_NO_CUDA)
    return (
        ['CUDAExecutionProvider', 'CPUExecutionProvider'] if has_cuda and device != 'cpu' else ['CPUExecutionProvider']
    )

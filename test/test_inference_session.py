# SPDX-License-Identifier: Apache-2.0
"""Files that are not weights, devices that are not there, and telemetry that stays off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embedder_ros.inference.session import OnnxSession
from embedder_ros.models.nano import WEIGHTS
from embedder_ros.types import UserError

NETWORK = WEIGHTS / 'proposals.onnx'


def seen(width: int = 64, height: int = 96) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = {'s4': (24, 4), 's8': (40, 8), 's16': (112, 16), 's32': (320, 32)}
    maps = {
        name: rng.normal(size=(1, channels, height // stride, width // stride)).astype(np.float32)
        for name, (channels, stride) in sizes.items()
    }
    return {'image': rng.integers(0, 256, (1, height, width, 3), np.uint8)} | maps


def test_runs_by_name_and_says_where() -> None:
    session = OnnxSession(NETWORK, device='cpu', threads=1)
    out = session.run(seen())
    assert session.device == 'cpu'
    assert out['boxes'].shape == (16 * 24 + 8 * 12 + 4 * 6 + 2 * 3, 4)
    assert out['objectness'].shape == (len(out['boxes']),)


@pytest.mark.parametrize(
    ('content', 'says'),
    [
        (None, 'cannot read'),
        (b'', 'is empty'),
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n', 'git lfs pull'),
        (b'not a network', 'is damaged'),
    ],
)
def test_refuses_what_is_not_a_network(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / 'net.onnx'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        OnnxSession(path)
    assert str(path) in str(error.value)


def test_refuses_a_file_cut_short(tmp_path: Path) -> None:
    path = tmp_path / 'net.onnx'
    whole = NETWORK.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match='damaged'):
        OnnxSession(path)


def test_refuses_an_unknown_device() -> None:
    with pytest.raises(UserError, match='auto, cpu, cuda'):
        OnnxSession(NETWORK, device='tpu')


def test_a_gpu_that_is_not_there_is_never_a_silent_cpu() -> None:
    import onnxruntime

    if 'CUDAExecutionProvider' in onnxruntime.get_available_providers():
        pytest.skip('this machine has CUDA')
    with pytest.raises(UserError, match='cuda'):
        OnnxSession(NETWORK, device='cuda')


def test_telemetry_is_off_before_onnxruntime_is_imported(tmp_path: Path) -> None:
    script = (
        'import os, sys\n'
        'from pathlib import Path\n'
        'from embedder_ros.inference.session import OnnxSession\n'
        "assert 'onnxruntime' not in sys.modules\n"
        'OnnxSession(Path(sys.argv[1]), device="cpu", threads=1)\n'
        "assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(('ORT_', '_ROS_WHEELS'))}
    environment = clean | {'HOME': str(tmp_path), 'XDG_CACHE_HOME': str(tmp_path / 'cache')}
    subprocess.run([sys.executable, '-c', script, str(NETWORK)], env=environment, check=True, cwd=tmp_path)
    assert not list(tmp_path.rglob('*onnxruntime*'))

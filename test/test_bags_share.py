# SPDX-License-Identifier: Apache-2.0
"""Our data files are found wherever the package is installed: without them bags cannot hold our messages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from embedder_ros.share import share_file
from embedder_ros.types import UserError

ROOT = Path(__file__).parents[1]


def test_in_a_checkout() -> None:
    """The definition beside the source."""
    assert 'float32[] boxes' in share_file('msg/ObjectEmbeddings.msg').read_text()


def test_what_is_not_there_is_told() -> None:
    """With the remedy."""
    with pytest.raises(UserError, match='install the package again'):
        share_file('msg/Nothing.msg')


@pytest.mark.parametrize(
    ('library', 'share', 'variable'),
    [
        ('lib/python3.12/site-packages', 'share', ''),  # colcon
        ('local/lib/python3.10/dist-packages', 'share', ''),  # colcon on Ubuntu
        ('site-packages', 'elsewhere/share', 'AMENT_PREFIX_PATH'),  # a sourced ROS and another Python path
    ],
)
def test_in_a_prefix(tmp_path: Path, library: str, share: str, variable: str) -> None:
    """The package alone, as it is installed, run by a Python that knows nothing of the checkout."""
    package = tmp_path / library / 'embedder_ros'
    package.mkdir(parents=True)
    for name in ('__init__.py', 'share.py', 'types.py'):
        shutil.copy(ROOT / 'embedder_ros' / name, package)
    folder = tmp_path / share / 'embedder_ros' / 'msg'
    folder.mkdir(parents=True)
    (folder / 'Query.msg').write_text('string text')
    environment = {**os.environ, 'PYTHONPATH': str(package.parent)}
    if variable:
        environment[variable] = os.pathsep.join(['/nowhere', str(tmp_path / 'elsewhere')])
    code = "from embedder_ros.share import share_file; print(share_file('msg/Query.msg'))"
    done = subprocess.run([sys.executable, '-c', code], env=environment, cwd='/', capture_output=True, text=True)
    assert done.stdout.strip() == str(folder / 'Query.msg'), done.stderr

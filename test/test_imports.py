# SPDX-License-Identifier: Apache-2.0
"""The import rule of the house: imports point one way, ROS stays in nodes/, heavy libraries wait until needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / 'embedder_ros'
GENERATED = {'msg', 'srv', 'action', '_lib'}
# A room may import from its own level or below.
LEVELS = {
    'types': 0, 'images': 1, 'positions': 1, 'suppress': 1, 'share': 1, 'draw': 1,
    'inference': 1, 'models': 2, 'proposals': 2,
    'pipeline': 3, 'tracking': 3, 'grounding': 4, 'memory': 4,
    'bags': 5, 'evaluation': 5, 'training': 5, 'nodes': 6, 'commands': 6, 'cli': 6,
}  # fmt: skip
MODULES = sorted(p for p in PACKAGE.rglob('*.py') if not GENERATED & set(p.relative_to(PACKAGE).parts))


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def room(dotted: str) -> str:
    return dotted.split('.')[1]


@pytest.mark.parametrize('path', MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way_and_ros_stays_in_nodes(path: Path) -> None:
    mine = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
    for name in imported(path):
        top = name.split('.')[0]
        if mine != 'nodes':
            assert top not in {'rclpy', 'rcl_interfaces'} and not top.endswith('_msgs'), f'{path} imports {name}'
        if top == 'embedder_ros' and mine != '__init__' and room(name) not in GENERATED | {'__version__'}:
            assert LEVELS[room(name)] <= LEVELS[mine], f'{mine} imports {name}'


def test_types_imports_numpy_and_nothing_else() -> None:
    tops = {name.split('.')[0] for name in imported(PACKAGE / 'types.py')}
    assert tops <= {'__future__', 'collections', 'dataclasses', 'enum', 'typing', 'numpy'}


def test_default_start_loads_no_heavy_library() -> None:
    code = (
        'import sys, embedder_ros.cli\n'
        'from embedder_ros.models.registry import load_model\n'
        "load_model('nano')\n"
        "print(*sorted({'torch', 'transformers', 'tensorrt', 'mujoco', 'onnx', 'rclpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd='/', check=True)
    assert done.stdout.strip() == ''

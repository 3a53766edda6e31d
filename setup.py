# SPDX-License-Identifier: Apache-2.0
"""pip's way: run the interface part of CMakeLists.txt into a stage and package the result; the rest is pyproject.toml.

A wheels-venv of ROS is the CMake prefix, and becomes the ROS prefix that the libraries and share/ are installed to.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from setuptools import Command, Distribution, setup
from setuptools.command.build import build

HERE = Path(__file__).resolve().parent
NAME = 'embedder_ros'


class BuildInterfaces(Command):
    """Generate and compile msg/, srv/ and action/."""

    description = 'generate and compile the ROS interfaces'
    user_options: list[tuple[str, str, str]] = []
    editable_mode = False  # set by setuptools for `pip install -e`

    def initialize_options(self) -> None:
        """Part of setuptools' protocol."""
        self.build_lib = self.build_temp = None

    def finalize_options(self) -> None:
        """Part of setuptools' protocol."""
        self.set_undefined_options('build', ('build_lib', 'build_lib'), ('build_temp', 'build_temp'))

    def get_source_files(self) -> list[str]:
        """Part of setuptools' protocol."""
        return []

    def get_outputs(self) -> list[str]:
        """Part of setuptools' protocol."""
        return []

    def get_output_mapping(self) -> dict[str, str]:
        """Part of setuptools' protocol."""
        return {}

    def run(self) -> None:
        """Build into a stage, then sort the staged files into the package and the prefix."""
        work = Path(self.build_temp).resolve() / 'interfaces'
        stage = work / 'stage'
        shutil.rmtree(stage, ignore_errors=True)
        cmake(work, stage)
        package = HERE / NAME if self.editable_mode else Path(self.build_lib) / NAME
        for source, relative in generated_python(stage):
            target = package / relative
            replace(source, target)
        if self.editable_mode:  # editable wheels have no data files: libraries go beside the source, git-ignored
            for library in (stage / 'lib').glob('*.so'):
                replace(library, package / '_lib' / library.name)
        else:
            self.distribution.data_files += prefix_files(stage)


def replace(source: Path, target: Path) -> None:
    """Copy as a new file: overwriting a library in place would crash nodes that have it loaded."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    shutil.copy2(source, target)


def cmake(work: Path, stage: Path) -> None:
    """Configure, build and install the interfaces with this interpreter's cmake."""
    env = environment()
    program = shutil.which('cmake', path=env['PATH'])
    if program is None:
        sys.exit('cmake is missing: pip install cmake ninja')
    generator = ['-G', 'Ninja'] if shutil.which('ninja', path=env['PATH']) else []
    options = [
        '-DBUILD_TESTING=OFF',
        '-DEMBEDDER_ROS_INTERFACES_ONLY=ON',
        f'-DPython3_EXECUTABLE={sys.executable}',
        f'-DCMAKE_INSTALL_PREFIX={stage}',
    ]
    jobs = os.environ.get('CMAKE_BUILD_PARALLEL_LEVEL', '2')
    for arguments in (
        ['-S', HERE, '-B', work, *generator, *options],
        ['--build', work, '--parallel', jobs],
        ['--install', work, '--strip'],
    ):
        done = subprocess.run([program, *map(str, arguments)], env=env)
        if done.returncode and (missing := not_found(work / 'CMakeCache.txt')):
            sys.exit(
                f'{missing} of ROS is not there, which builds msg/, srv/ and action/: source your ROS '
                '(/opt/ros/<distro>/setup.bash); without one, scripts/demo.sh makes a .venv with the wheels of '
                'scripts/requirements.txt'
            )
        done.check_returncode()


def not_found(cache: Path) -> str:
    """The CMake package whose search ended the configuring, or ''."""
    found = re.search(r'^(\w+)_DIR:PATH=\1_DIR-NOTFOUND$', cache.read_text() if cache.is_file() else '', re.M)
    return found[1] if found else ''


def environment() -> dict[str, str]:
    """The environment with this venv as a prefix, and without pip's isolation, which hides the wheels from cmake."""
    env = dict(os.environ)
    env.pop('PYTHONNOUSERSITE', None)
    paths = env.get('PYTHONPATH', '').split(os.pathsep)
    env['PYTHONPATH'] = os.pathsep.join(p for p in paths if p and 'pip-build-env' not in p)
    for variable in ('CMAKE_PREFIX_PATH', 'AMENT_PREFIX_PATH'):
        parts = [p for p in env.get(variable, '').split(os.pathsep) if p]
        if sys.prefix != sys.base_prefix and sys.prefix not in parts:
            parts.append(sys.prefix)
        env[variable] = os.pathsep.join(parts)
    env['PATH'] = os.path.dirname(sys.executable) + os.pathsep + env['PATH']
    env.setdefault('CMAKE_BUILD_TYPE', 'Release')
    return env


def generated_python(stage: Path) -> Iterator[tuple[Path, Path]]:
    """Generated modules and C extensions with their place in the package; our own __init__.py is not among them."""
    (root,) = stage.glob(f'lib/python3*/*-packages/{NAME}')
    for path in root.rglob('*'):
        relative = path.relative_to(root)
        if (
            path.is_file()
            and '__pycache__' not in relative.parts
            and path.suffix != '.c'
            and relative != Path('__init__.py')
        ):
            yield path, relative


def prefix_files(stage: Path) -> list[tuple[str, list[str]]]:
    """Libraries, ament index, interface files and CMake config as data files below the prefix."""
    ours = {f'share/{NAME}/package.xml', f'share/ament_index/resource_index/packages/{NAME}'}
    folders: dict[str, list[str]] = {}
    for path in [*(stage / 'lib').glob('*.so'), *(stage / 'share').rglob('*'), *(stage / 'include').rglob('*')]:
        relative = path.relative_to(stage)
        if path.is_file() and str(relative) not in ours:
            folders.setdefault(str(relative.parent), []).append(os.path.relpath(path, HERE))
    return sorted(folders.items())


class Build(build):
    """setuptools' build with the interfaces."""

    sub_commands = [*build.sub_commands, ('build_interfaces', None)]


class BinaryDistribution(Distribution):
    """The wheel holds compiled code."""

    def has_ext_modules(self) -> bool:
        """Always."""
        return True


setup(
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml']),
        (f'share/{NAME}/launch', [f'launch/{p.name}' for p in sorted((HERE / 'launch').iterdir())]),
        (f'share/{NAME}/config', [f'config/{p.name}' for p in sorted((HERE / 'config').iterdir())]),
        (f'lib/{NAME}', ['scripts/embedder', 'scripts/grounder', 'scripts/perception']),
    ],
    cmdclass={'build': Build, 'build_interfaces': BuildInterfaces},
    distclass=BinaryDistribution,
)

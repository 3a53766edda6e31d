# SPDX-License-Identifier: Apache-2.0
"""One tree for colcon and pip: both installs are made from the committed files and used from outside the tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import embedder_ros

ROOT = Path(__file__).resolve().parents[1]
PREFIX = Path(sys.prefix)
# What a user of an install does first; run from a foreign folder, so that the source tree is out of sight.
USE = """
import embedder_ros, pathlib, rclpy
from embedder_ros.action import Follow
from embedder_ros.msg import ObjectEmbeddings
from embedder_ros.srv import Find
from embedder_ros.models.nano import MANIFEST, WEIGHTS
assert (WEIGHTS / MANIFEST).is_file(), WEIGHTS
rclpy.init()
node = rclpy.create_node('user')
node.create_service(Find, 'find', lambda request, response: response)
node.create_publisher(ObjectEmbeddings, 'objects', 1).publish(ObjectEmbeddings(camera='front'))
print(pathlib.Path(embedder_ros.__file__).parent)
"""
# The compiled code is thrown away after one call: do not optimise it.
QUICK = {'CMAKE_BUILD_TYPE': 'Debug', 'CMAKE_BUILD_PARALLEL_LEVEL': '2'}


@pytest.fixture(scope='module')
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git tracks, with the working tree's content, and nothing that was generated."""
    copy = tmp_path_factory.mktemp('source') / 'embedder_ros'
    names = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split('\0')):
        if (ROOT / name).is_file() and not name.startswith('test/sample'):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


def environment(**more: str) -> dict[str, str]:
    """A plain user's environment in this venv, without what this test process was started with."""
    kept = {k: os.environ[k] for k in ('HOME', 'ROS_DOMAIN_ID', 'ROS_AUTOMATIC_DISCOVERY_RANGE') if k in os.environ}
    return {**kept, 'PATH': f'{PREFIX}/bin:/usr/bin:/bin', **QUICK, **more}


def output(command: list[str], cwd: Path, **more: str) -> str:
    done = subprocess.run(command, cwd=cwd, env=environment(**more), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_versions_are_in_step() -> None:
    in_package_xml = ElementTree.parse(ROOT / 'package.xml').findtext('version')
    assert in_package_xml == embedder_ros.__version__
    assert 'version = { attr = "embedder_ros.__version__" }' in (ROOT / 'pyproject.toml').read_text()


def test_pyproject_dependencies_are_all_pinned_for_the_scripts() -> None:
    project = re.search(r'^dependencies = \[(.*?)^\]', (ROOT / 'pyproject.toml').read_text(), re.S | re.M).group(1)
    pinned = {
        re.split('==| ;', line)[0].lower() for line in (ROOT / 'scripts/requirements.txt').read_text().split('\n')
    }
    wanted = {name.lower() for name in re.findall(r'"([A-Za-z0-9-]+)[><=]', project)}
    assert wanted and wanted <= pinned


def test_every_ros_package_that_is_imported_is_declared() -> None:
    """To rosdep, and in the extra of wheels those that exist as one."""
    sources = [*(ROOT / 'embedder_ros/nodes').glob('*.py'), *(ROOT / 'launch').glob('*.py')]
    names = re.compile(
        r'^\s*(?:from|import) (\w+_(?:msgs|interfaces)|rclpy|launch|launch_ros|ament_index_python)\b', re.M
    )
    used = {name for source in sources for name in names.findall(source.read_text())}
    declared = {e.text for e in ElementTree.parse(ROOT / 'package.xml').iter() if e.tag in ('depend', 'exec_depend')}
    assert {'rclpy', 'sensor_msgs', 'launch'} <= used <= declared
    extra = re.search(r'^ros = \[(.*?)^\]', (ROOT / 'pyproject.toml').read_text(), re.S | re.M).group(1)
    wheels = {name.replace('-', '_') for name in re.findall(r'"ros-([a-z-]+)"', extra)}
    assert used - wheels <= {'launch', 'launch_ros', 'ament_index_python', 'vision_msgs'}


def test_node_wrappers_are_the_same_everywhere() -> None:
    project = (ROOT / 'pyproject.toml').read_text()
    for name in ('embedder', 'grounder', 'perception'):
        script = ROOT / 'scripts' / name
        assert os.access(script, os.X_OK)
        assert f'from embedder_ros.nodes.{name} import main' in script.read_text()
        assert f'{name} = "embedder_ros.nodes.{name}:main"' in project


def test_launch_file_names_only_declared_parameters() -> None:
    """launch is not among the wheels, so the file is read, not run: its arguments must be parameters that exist."""
    from embedder_ros.nodes import parameters

    text = (ROOT / 'launch' / 'perception.launch.py').read_text()
    compile(text, 'perception.launch.py', 'exec')
    tables = re.findall(r'^(?:LISTS|TEXTS) = \{(.*?)^\}', text, re.S | re.M)
    named = {name for table in tables for name in re.findall(r"^    '(\w+)':", table, re.M)}
    assert len(named) >= 6
    declared = {p.name: p for p in (*parameters.EMBEDDER, *parameters.GROUNDER)}
    assert named <= set(declared)
    for name, sentence in re.findall(r"^    '(\w+)': '(.*)',$", text, re.M):
        choices = declared[name].choices
        assert not choices or re.split(', | or ', sentence) == list(choices), name


def test_pip_install_into_a_plain_venv(tree: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / 'venv', with_pip=False)
    (site,) = (tmp_path / 'venv').glob('lib/python3*/site-packages')
    (dependencies,) = PREFIX.glob('lib/python3*/site-packages')
    wheels = tmp_path / 'wheels'
    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
    output([*pip, 'wheel', '--no-build-isolation', '--no-deps', '--wheel-dir', str(wheels), str(tree)], tmp_path)
    (wheel,) = wheels.glob('embedder_ros-*.whl')
    output([*pip, '--python', str(tmp_path / 'venv/bin/python'), 'install', '--no-deps', str(wheel)], tmp_path)
    # the ROS wheels and the dependencies come from this venv, our package must not (its editable hook is a .pth file)
    (site / 'wheels.pth').write_text(f'import site; site.addsitedir({str(dependencies)!r})\n')
    (tmp_path / 'use.py').write_text(USE)
    # what the wheels' bootstrapper does for their own venv
    libraries = os.pathsep.join(map(str, [PREFIX / 'lib', *dependencies.glob('ros_*.libs')]))
    done = {'LD_LIBRARY_PATH': libraries, '_ROS_WHEELS_BOOTSTRAP_COMPLETE': '1'}
    where = output([str(tmp_path / 'venv/bin/python'), 'use.py'], tmp_path, **done)
    assert where.strip() == str(site / 'embedder_ros')
    share = tmp_path / 'venv/share/embedder_ros'
    for name in (
        'launch/perception.launch.py',
        'config/perception.yaml',
        'config/perception.rviz',
        'config/fastdds.xml',
        'msg/Tracks.msg',
    ):
        assert (share / name).is_file(), name
    assert os.access(tmp_path / 'venv/lib/embedder_ros/perception', os.X_OK)
    version = output([str(tmp_path / 'venv/bin/embedder-ros'), '--version'], tmp_path, **done)
    assert version.strip() == f'embedder-ros {embedder_ros.__version__}'


def test_an_install_without_ros_names_the_remedy(tree: Path, tmp_path: Path) -> None:
    """In a venv that has setuptools and cmake, but none of the ROS wheels."""
    venv.create(tmp_path / 'venv', with_pip=False)
    (site,) = (tmp_path / 'venv').glob('lib/python3*/site-packages')
    (dependencies,) = PREFIX.glob('lib/python3*/site-packages')
    (site / 'setuptools.pth').write_text(str(dependencies))
    # Linked, since cmake also searches the prefix of every folder in PATH.
    (tmp_path / 'venv/bin/cmake').symlink_to(shutil.which('cmake', path=f'{PREFIX}/bin:/usr/bin:/bin'))
    command = [str(tmp_path / 'venv/bin/python'), 'setup.py', 'build', '--build-base', str(tmp_path / 'build')]
    plain = environment(PATH='/usr/bin:/bin')
    done = subprocess.run(command, cwd=tree, env=plain, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith('ament_cmake of ROS is not there') and 'setup.bash' in last and 'scripts/demo.sh' in last


@pytest.mark.skipif(not shutil.which('colcon', path=f'{PREFIX}/bin'), reason='colcon is not installed in this venv')
def test_colcon_build_with_symlinks(tree: Path, tmp_path: Path) -> None:
    build = ['--base-paths', str(tree), '--symlink-install', '--cmake-args', '-DBUILD_TESTING=OFF']
    prefix = {'CMAKE_PREFIX_PATH': str(PREFIX), 'AMENT_PREFIX_PATH': str(PREFIX)}
    python = f'-DPython3_EXECUTABLE={sys.executable}'
    output([f'{PREFIX}/bin/colcon', 'build', *build, python], tmp_path, **prefix)
    (tmp_path / 'use').mkdir()
    (tmp_path / 'use/use.py').write_text(USE)
    run = '. install/setup.bash && cd use && python3 use.py && embedder-ros --version'
    where, version = output(['bash', '-c', run], tmp_path, **prefix).splitlines()
    assert where.startswith(str(tmp_path / 'install'))
    assert version == f'embedder-ros {embedder_ros.__version__}'
    installed = tmp_path / 'install/embedder_ros'
    assert os.access(installed / 'lib/embedder_ros/perception', os.X_OK)
    assert (installed / 'share/embedder_ros/launch/perception.launch.py').is_file()

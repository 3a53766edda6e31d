#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Pin scripts/*.in for every Python we support: scripts/pin.py python3.10 python3.11 python3.12 python3.13.

Each interpreter's own pip resolves the list; where they differ the lines get python_version markers.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
HEADERS = {
    'requirements': """# SPDX-License-Identifier: Apache-2.0
# Everything that demo.sh installs, and test.sh with extras.txt: ROS 2 Kilted as wheels, what builds interfaces, colcon,
# the package's dependencies and the test tools. Written by scripts/pin.py from scripts/requirements.in.
""",
    'extras': """# SPDX-License-Identifier: Apache-2.0
# What test.sh installs beside requirements.txt: torch, transformers, a PostgreSQL server.
# An index that serves torch's CPU build (PIP_EXTRA_INDEX_URL) saves gigabytes of CUDA.
# Written by scripts/pin.py from scripts/extras.in.
""",
}

FROM_TORCH = ('nvidia-', 'cuda-', 'triton')


def resolve(python: str, listed: str) -> tuple[str, dict[str, str]]:
    """The interpreter's version, and name -> version of all that the list needs there."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, '-m', 'venv', folder], check=True)
        pip = [f'{folder}/bin/python', '-m', 'pip', '--quiet', '--disable-pip-version-check', 'install']
        subprocess.run([*pip, '--upgrade', 'pip'], check=True)
        wanted = ['--dry-run', '--ignore-installed', '--report', '-', '-r', str(HERE / f'{listed}.in')]
        report = json.loads(subprocess.run([*pip, *wanted], check=True, stdout=subprocess.PIPE).stdout)
    version = '.'.join(report['environment']['python_version'].split('.')[:2])
    # A local version names a build (torch's +cpu), and what follows from the build is torch's to pin.
    found = {i['metadata']['name']: i['metadata']['version'].split('+')[0] for i in report['install']}
    return version, {name: pin for name, pin in found.items() if not name.startswith(FROM_TORCH)}


def marker(versions: list[str], everywhere: list[str]) -> str:
    """The environment marker for a subset of the supported versions."""
    if versions == everywhere:
        return ''
    return ' ; ' + ' or '.join(f'python_version == "{v}"' for v in versions)


def pin(listed: str, pythons: list[str], besides: set[str]) -> set[str]:
    """Write one list's pins, without those of another list; returns the lines."""
    found = [resolve(python, listed) for python in pythons]
    everywhere = [version for version, _ in found]
    pins: dict[tuple[str, str], list[str]] = {}
    for version, packages in found:
        for name, pin in packages.items():
            pins.setdefault((name, pin), []).append(version)
    lines = {f'{name}=={pin}{marker(versions, everywhere)}' for (name, pin), versions in pins.items()}
    (HERE / f'{listed}.txt').write_text(HEADERS[listed] + '\n'.join(sorted(lines - besides)) + '\n')
    return lines


def main() -> None:
    """Write requirements.txt and extras.txt."""
    pythons = sys.argv[1:] or sys.exit(__doc__)
    pin('extras', pythons, besides=pin('requirements', pythons, besides=set()))


if __name__ == '__main__':
    main()

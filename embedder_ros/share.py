# SPDX-License-Identifier: Apache-2.0
"""Where our own data files lie: beside the source, in a ROS prefix, or in a virtual environment.

In a wheels venv AMENT_PREFIX_PATH is unset and `get_package_share_directory` raises, so we look ourselves.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from embedder_ros.types import UserError


def share_file(relative: str) -> Path:
    """The file `relative` of this package, for example 'msg/Query.msg'.

    Raises:
        UserError: it is in none of the places.
    """
    for folder in _folders():
        if (folder / relative).is_file():
            return folder / relative
    raise UserError(f'{relative} is not installed with embedder_ros; install the package again')


def profile_variable() -> str:
    """The environment variable from which this ROS distribution's Fast DDS reads its profile."""
    before_kilted = os.environ.get('ROS_DISTRO') in ('humble', 'iron', 'jazzy')
    return 'FASTRTPS_DEFAULT_PROFILES_FILE' if before_kilted else 'FASTDDS_DEFAULT_PROFILES_FILE'


def _folders() -> Iterator[Path]:
    package = Path(__file__).resolve().parent
    yield package.parent  # a checkout
    # <prefix>/lib/python3.x/site-packages/embedder_ros, or with local/ before lib/ on Debian
    prefixes = [*package.parents[3:5], Path(sys.prefix)]
    prefixes += [Path(p) for p in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
    yield from (prefix / 'share' / 'embedder_ros' for prefix in prefixes)

# SPDX-License-Identifier: Apache-2.0
"""Which thing is meant: object embeddings, grounding and tracking for ROS 2."""

import ctypes as _ctypes
from pathlib import Path as _Path

__version__ = '0.1.0'


def _preload_type_supports() -> None:
    """Load our type supports by path, since rosidl looks them up by bare name.

    A sourced ROS with a foreign virtual environment does not have our library folder on LD_LIBRARY_PATH. Without ROS
    there is nothing to load, and the core works without it.
    """
    here = _Path(__file__).resolve().parent
    for folder in (here / '_lib', *here.parents[2:3]):  # editable install; <prefix>/lib of pip and colcon
        for kind in ('fastrtps_c', 'introspection_c'):
            library = folder / f'libembedder_ros__rosidl_typesupport_{kind}.so'
            if library.is_file():
                try:
                    _ctypes.CDLL(str(library))
                except OSError:  # no ROS beside us
                    return


_preload_type_supports()

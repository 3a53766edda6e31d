# SPDX-License-Identifier: Apache-2.0
"""Positions of boxes from depth images."""

import numpy as np
import pytest

from embedder_ros.positions import box_positions
from embedder_ros.types import Frame

K = np.array([[100.0, 0, 50.0], [0, 100.0, 40.0], [0, 0, 1]])


def frame(depth: np.ndarray | None, intrinsics: np.ndarray | None = K) -> Frame:
    return Frame(np.zeros((80, 100, 3), np.uint8), 1, 'camera', 'optical', depth, intrinsics)


def test_pinhole_model_at_image_size_and_at_half_size() -> None:
    boxes = np.array([[60, 40, 80, 60]], np.float32)  # centre 70, 50
    for shape in ((80, 100), (40, 50)):
        depth = np.full(shape, 2.0, np.float32)
        assert box_positions(frame(depth), boxes) == pytest.approx(np.array([[0.4, 0.2, 2.0]]), abs=1e-5)


def test_the_middle_of_the_box_counts_and_holes_do_not() -> None:
    depth = np.full((80, 100), 5.0, np.float32)
    depth[30:50, 30:70] = 1.0
    depth[30:50, 30:48] = np.nan
    boxes = np.array([[20, 20, 80, 60]], np.float32)
    assert box_positions(frame(depth), boxes)[0, 2] == 1.0


def test_nan_depth_gives_nan_and_never_raises() -> None:
    depth = np.full((80, 100), np.nan, np.float32)
    boxes = np.array([[0, 0, 100, 80], [99, 79, 100, 80]], np.float32)
    assert np.isnan(box_positions(frame(depth), boxes)).all()
    assert box_positions(frame(depth), np.zeros((0, 4), np.float32)).shape == (0, 3)


@pytest.mark.parametrize(('depth', 'intrinsics'), [(None, K), (np.ones((8, 8), np.float32), None)])
def test_without_depth_or_intrinsics_there_is_no_position(depth, intrinsics) -> None:
    assert box_positions(frame(depth, intrinsics), np.array([[0, 0, 10, 10]], np.float32)) is None

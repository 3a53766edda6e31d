# SPDX-License-Identifier: Apache-2.0
"""Which proposal counts as which labelled object, and which are compared with texts at all."""

from __future__ import annotations

import numpy as np
import pytest

from embedder_ros.training.objembed.labels import assign, with_truth
from embedder_ros.types import box_iou

TRUTH = np.array([[0, 0, 100, 100]], np.float32)


def wide(*iou: float) -> np.ndarray:
    """Boxes that cover the labelled one that much."""
    return np.array([[0, 0, 100 * value, 100] for value in iou], np.float32)


def test_one_object_and_four_proposals() -> None:
    """Conformance item 9."""
    labels = assign(wide(0.9, 0.7, 0.3, 0.1), TRUTH)
    assert labels.row.tolist() == [0]
    assert labels.said.tolist() == [True, False, False, True]
    np.testing.assert_allclose(labels.iou, [0.9, 0.7, 0, 0], atol=1e-6)


@pytest.mark.parametrize(
    ('iou', 'row', 'said'), [(0.5, 0, True), (0.49, -1, False), (0.21, -1, False), (0.19, -1, True)]
)
def test_limits(iou: float, row: int, said: bool) -> None:
    labels = assign(wide(iou), TRUTH)
    assert labels.row.tolist() == [row] and labels.said.tolist() == [said]


def test_two_names_of_one_object_share_a_proposal() -> None:
    labels = assign(wide(0.6, 0.9), np.concatenate([TRUTH, TRUTH]))
    assert labels.row.tolist() == [1, 1] and labels.said.tolist() == [False, True]


def test_a_background_of_one_object_may_be_another() -> None:
    truth = np.concatenate([TRUTH, TRUTH + 200])
    labels = assign(np.concatenate([TRUTH + 200, wide(0.8)]), truth)
    assert labels.row.tolist() == [1, 0] and labels.said.all()
    np.testing.assert_allclose(labels.iou, [1, 0.8], atol=1e-6)


def test_without_labelled_objects_nothing_is_said() -> None:
    labels = assign(wide(0.9, 0.1), np.zeros((0, 4), np.float32))
    assert not labels.said.any() and not labels.iou.any() and not len(labels.row)
    assert assign(np.zeros((0, 4), np.float32), TRUTH).row.tolist() == [-1]


def test_objects_that_no_proposal_shows_are_added_once() -> None:
    truth = np.concatenate([TRUTH, TRUTH + 150])
    proposals = np.array([[0, 0, 80, 100], [120, 120, 500, 500], [-50, -50, -10, -10]], np.float32)
    boxes = with_truth(proposals, truth, width=300, height=240, rng=np.random.default_rng(0))
    assert boxes.dtype == np.float32 and len(boxes) == 3  # one was outside, one was added
    assert (boxes >= 0).all() and (boxes <= [300, 240, 300, 240]).all()
    assert (assign(boxes, np.clip(truth, 0, [300, 240] * 2)).row >= 0).all()
    assert box_iou(boxes, TRUTH).max() == pytest.approx(0.8)  # shown by a proposal, so not added


def test_order_is_shuffled_and_follows_the_seed() -> None:
    proposals = np.array([[i, i, i + 10, i + 10] for i in range(30)], np.float32)
    nothing = np.zeros((0, 4), np.float32)
    one, again, other = (
        with_truth(proposals, nothing, width=300, height=300, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other) and not np.array_equal(one, proposals)
    np.testing.assert_array_equal(one[one[:, 0].argsort()], proposals)

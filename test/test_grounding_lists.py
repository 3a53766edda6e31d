# SPDX-License-Identifier: Apache-2.0
"""Detection over a list of names, and retrieval of frames."""

from __future__ import annotations

import time

import numpy as np
import pytest

from embedder_ros.grounding.detect import MOST, SAME, detect
from embedder_ros.grounding.retrieve import LONG, by_frame, by_objects
from embedder_ros.types import Calibration, Observation, UserError, box_iou, unit_rows

C = Calibration(scale=10.0, bias=0.0, found=0.5, margin=0.1, image_scale=4.0, image_bias=-1.0)


def observation(boxes: list[list[float]], embeddings: list[list[float]], iou: float | list[float] = 1.0) -> Observation:
    n = len(boxes)
    return Observation(
        1, 'front', '', 100, 100, np.array(boxes, np.float32).reshape(-1, 4), np.ones(n, np.float32),
        np.broadcast_to(np.float32(iou), (n,)).copy(), unit_rows(np.array(embeddings, np.float32).reshape(-1, 3)),
        unit_rows(np.array([[1, 0, 0], [0, 1, 0]])), 'm',
    )  # fmt: skip


NAMES = np.eye(3, dtype=np.float32)
BOX, NEAR, FAR = [0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]


def test_a_detection_is_semantic_times_iou() -> None:
    found = detect(observation([BOX], [[1, 0, 0]], 0.5), NAMES[:1], C)
    semantic = 1 / (1 + np.exp(-10))
    assert found.semantic[0] == pytest.approx(semantic) and found.scores[0] == pytest.approx(0.5 * semantic)
    assert found.boxes.tolist() == [BOX] and found.labels.tolist() == [0] and found.iou[0] == 0.5


def test_repeated_boxes_of_a_name_are_one_detection() -> None:
    seen = observation([BOX, NEAR, FAR], [[1, 0, 0]] * 3, [0.9, 0.8, 0.7])
    assert detect(seen, NAMES[:1], C).rows.tolist() == [0, 2]
    assert detect(seen, NAMES[:1], C, same=1.0).rows.tolist() == [0, 1, 2]
    both = detect(seen, NAMES[[0, 0]], C)  # two names: suppressed for each by itself
    assert sorted(zip(both.labels.tolist(), both.rows.tolist(), strict=True)) == [(0, 0), (0, 2), (1, 0), (1, 2)]


def test_a_thing_has_one_box_of_a_name_and_its_parts_have_theirs() -> None:
    drawer, shifted, handle = [0, 0, 20, 20], [0, 6, 20, 26], [8, 8, 12, 12]
    seen = observation(
        [drawer, shifted, handle, FAR], [[1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0]], [0.9, 0.8, 0.7, 0.6]
    )
    assert sorted(detect(seen, NAMES[:1], C).rows) == [0, 1, 2, 3]  # as benchmarks count
    assert sorted(detect(seen, NAMES[:1], C, things=True).rows) == [0, 3]
    both = detect(seen, NAMES[:2], C, floor=0.6, things=True)
    assert sorted(zip(both.labels.tolist(), both.rows.tolist(), strict=True)) == [(0, 0), (1, 2)]


def random_scene(boxes: int, names: int, seed: int) -> tuple[Observation, np.ndarray]:
    """Crowded boxes, of which some are equal, and names, of which some are equal, so that scores are equal, too."""
    random = np.random.default_rng(seed)
    corner = random.integers(0, 60, (boxes, 2))
    rows, words = (unit_rows(random.integers(-1, 2, (n, 3)) + 0.5) for n in (boxes, names))
    iou = random.choice([0.5, 0.7, 0.9], boxes)
    return observation(np.hstack([corner, corner + random.integers(20, 50, (boxes, 2))]), rows, iou), words


@pytest.mark.parametrize('limits', [{}, {'pairs': 40}, {'most': 9}, {'same': 0.3}, {'same': 1.0}, {'single': True}])
def test_suppression_is_what_its_definition_says(limits: dict[str, float]) -> None:
    for seed in range(5):
        seen, words = random_scene(30, 8, seed)
        found = detect(seen, words, C, **limits)
        ranked = detect(seen, words, C, **{**limits, 'same': 1.0, 'most': 10_000})
        overlap, kept = box_iou(ranked.boxes, ranked.boxes), []
        for i, label in enumerate(ranked.labels):
            if not any(ranked.labels[k] == label and overlap[i, k] > limits.get('same', SAME) for k in kept):
                kept.append(i)
        kept = kept[: limits.get('most', MOST)]
        assert (
            found.rows.tolist() == ranked.rows[kept].tolist() and found.labels.tolist() == ranked.labels[kept].tolist()
        )


def test_every_pair_of_box_and_name_of_lvis_takes_no_minutes() -> None:
    seen, words = random_scene(64, 1203, 0)
    start = time.monotonic()
    assert len(detect(seen, words, C, pairs=64 * 1203, most=64 * 1203)) > 20_000
    assert time.monotonic() - start < 20  # 0.1 s; compared with all names' boxes it is more than a minute


def test_single_gives_each_box_its_best_name() -> None:
    seen = observation([BOX, FAR], [[1, 0.5, 0], [0, 0, 1]])
    assert len(detect(seen, NAMES, C)) == 6
    found = detect(seen, NAMES, C, single=True)
    assert sorted(zip(found.rows.tolist(), found.labels.tolist(), strict=True)) == [(0, 0), (1, 2)]


def test_a_floor_and_both_limits() -> None:
    seen = observation([BOX, FAR], [[1, 0, 0], [0, 1, 0]])
    assert detect(seen, NAMES, C, floor=0.9).rows.tolist() == [0, 1]
    assert len(detect(seen, NAMES, C, pairs=3)) == 3 and len(detect(seen, NAMES, C, most=2)) == 2


def test_no_objects_and_no_names() -> None:
    assert len(detect(observation([], []), NAMES, C, single=True)) == 0
    assert len(detect(observation([BOX], [[1, 0, 0]]), NAMES[:0], C)) == 0
    with pytest.raises(UserError, match='embed them with that model'):
        detect(observation([BOX], [[1, 0, 0]]), np.eye(4, dtype=np.float32), C)


def test_a_frame_is_as_good_as_its_best_object_whatever_the_box() -> None:
    """The maximum is over the objects of a frame, whose number differs from frame to frame (MODELS.md 8)."""
    frames = [
        observation([], []),
        observation([BOX] * 3, [[0, 1, 0], [1, 0.2, 0], [0, 0, 1]], 0.01),
        observation([BOX], [[1, 1, 0]], 1.0),
    ]
    matches = by_objects(NAMES[0], frames, C)
    assert [(m.frame, m.row) for m in matches] == [(1, 1), (2, 0), (0, -1)]
    assert matches[0].score > matches[1].score > matches[2].score == 0.0


def test_frames_whose_scores_are_all_one_are_ordered_by_cosine() -> None:
    """An object's cosines to an example saturate the calibration for texts."""
    steep = Calibration(scale=100.0, bias=0.0, found=0.5, margin=0.1, identity_scale=10.0, identity_bias=-9.0)
    frames = [observation([BOX], [[1, x, 0]]) for x in (0.6, 0.0, 0.3)]
    matches = by_objects(NAMES[0], frames, steep)
    assert [m.frame for m in matches] == [1, 2, 0] and {m.score for m in matches} == {1.0}


def test_an_example_is_scored_as_an_individual() -> None:
    def look(rows: np.ndarray) -> np.ndarray:
        return unit_rows(rows[:, 1:])

    model = Calibration(scale=100.0, bias=0.0, found=0.5, margin=0.1, identity_scale=10.0, identity_bias=-9.0)
    frames = [
        observation([BOX, FAR], [[1, 0, 0.1], [1, 0.1, 0.1]]),
        observation([], []),
        observation([BOX], [[1, 1, 0]]),
    ]
    matches = by_objects(unit_rows(np.array([[1, 1, 0]]))[0], frames, model, identity=look)
    assert [(m.frame, m.row) for m in matches] == [(2, 0), (0, 1), (1, -1)]
    expected = [1 / (1 + np.exp(9 - 10 * cosine)) for cosine in (1, np.sqrt(0.5))]
    assert [m.score for m in matches] == pytest.approx([*expected, 0], abs=1e-6)


def test_whole_frames_use_their_own_calibration() -> None:
    frames = [observation([], []), observation([BOX], [[1, 0, 0]])]
    matches = by_frame(NAMES[0], frames, C)
    assert [m.frame for m in matches] == [0, 1] and matches[0].score == pytest.approx(1 / (1 + np.exp(-3)))
    assert by_frame(NAMES[0], frames, C, row=LONG)[0].score == pytest.approx(1 / (1 + np.exp(1)))
    with pytest.raises(UserError, match='2 numbers'):
        by_objects(np.ones(2, np.float32), frames, C)

# SPDX-License-Identifier: Apache-2.0
"""A question against observations: every outcome with its reason, and which objects count as rivals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from embedder_ros.grounding.ground import ground
from embedder_ros.types import Answer, Calibration, Observation, Outcome, Track, TrackStatus, UserError

CALIBRATION = Calibration(scale=20.0, bias=-10.0, found=0.3, margin=0.1, identity_scale=20.0, identity_bias=-16.0)
DIM = 8
QUERY = np.eye(DIM, dtype=np.float32)[0]
LEFT, RIGHT = (0, 0, 100, 100), (300, 0, 400, 100)

Thing = tuple[Sequence[float], float, float]  # box, cosine to QUERY, iou


def semantic(cosine: float) -> float:
    return float(1 / (1 + np.exp(10 - 20 * cosine)))


def observation(*things: Thing, camera: str = 'front', stamp: int = 5) -> Observation:
    """Things whose embeddings differ from one another in all that QUERY does not ask about."""
    n = len(things)
    embeddings = np.zeros((n, DIM), np.float32)
    for row, (_, cosine, _) in enumerate(things):
        embeddings[row, 0], embeddings[row, 1 + row % (DIM - 1)] = cosine, np.sqrt(1 - cosine**2)
    boxes = np.array([t[0] for t in things], np.float32).reshape(n, 4)
    iou = np.array([t[2] for t in things], np.float32)
    return Observation(
        stamp, camera, f'{camera}_optical', 640, 480, boxes, np.full(n, 0.8, np.float32), iou, embeddings,
        np.zeros((0, DIM), np.float32), 'm-1', np.arange(3 * n, dtype=np.float32).reshape(n, 3),
    )  # fmt: skip


def ask(*observations: Observation, **options: object) -> Answer:
    return ground(QUERY, observations, CALIBRATION, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ('things', 'outcome', 'reason', 'margin'),
    [
        ([(LEFT, 0.7, 0.9), (RIGHT, 0.2, 0.9)], Outcome.FOUND, 'found', 0.9 * (semantic(0.7) - semantic(0.2))),
        ([(LEFT, 0.7, 0.9)], Outcome.FOUND, 'found', 0.9 * semantic(0.7)),
        ([(LEFT, 0.7, 0.9), (RIGHT, 0.7, 0.85)], Outcome.AMBIGUOUS, 'small_margin', 0.05 * semantic(0.7)),
        ([(LEFT, 0.4, 0.9)], Outcome.NOT_FOUND, 'below_threshold', 0.9 * semantic(0.4)),
        ([(LEFT, 0.7, 0.3)], Outcome.NOT_FOUND, 'below_threshold', 0.3 * semantic(0.7)),  # the box does not fit
        ([], Outcome.NOT_FOUND, 'no_objects', 0.0),
    ],
)  # fmt: skip
def test_outcome_reason_and_margin(things: list[Thing], outcome: Outcome, reason: str, margin: float) -> None:
    answer = ask(observation(*things))
    assert (answer.outcome, answer.reason, answer.threshold) == (outcome, reason, 0.3)
    assert answer.margin == pytest.approx(margin, abs=1e-6)
    assert (answer.frames_searched, answer.objects_searched, answer.age) == (1, len(things), 0.0)
    assert len(answer.candidates) == len(things)


def test_the_thresholds_are_exact() -> None:
    """A score of just `found` is found; a margin of just `margin` is clear."""
    things = [(LEFT, 0.7, 0.9), (RIGHT, 0.7, 0.5)]
    best, second = 0.9 * semantic(0.7), 0.5 * semantic(0.7)
    for found, margin, outcome in (
        (best - 1e-5, best - second - 1e-5, Outcome.FOUND),
        (best + 1e-5, 0.0, Outcome.NOT_FOUND),
        (0.0, best - second + 1e-5, Outcome.AMBIGUOUS),
    ):
        calibration = Calibration(20.0, -10.0, found, margin)
        assert ground(QUERY, [observation(*things)], calibration).outcome is outcome


def test_no_frame_and_only_stale_frames() -> None:
    answer = ask()
    assert (answer.outcome, answer.reason, answer.age, answer.frames_searched) == (
        Outcome.NOT_FOUND,
        'no_frames',
        -1,
        0,
    )
    views = observation((LEFT, 0.9, 0.9)), observation((LEFT, 0.9, 0.9), camera='rear')
    answer = ask(*views, ages=[5.0, 3.0], max_age=2.0)
    assert (answer.outcome, answer.reason, answer.age) == (Outcome.NOT_FOUND, 'stale_frames', 3.0)
    assert answer.candidates == () and answer.objects_searched == 0
    answer = ask(*views, ages=[2.0, 3.0], max_age=2.0)
    assert (answer.outcome, answer.frames_searched, answer.age) == (Outcome.FOUND, 1, 2.0)
    assert [(c.camera, c.unseen) for c in answer.candidates] == [('front', 2.0)]


def test_boxes_on_the_answer_vote_on_where_it_is() -> None:
    tight, loose, beside = (100, 100, 200, 200), (100, 100, 200, 260), (300, 100, 400, 200)
    seen = observation((tight, 0.7, 0.9), (loose, 0.6, 0.6), (beside, 0.6, 0.9))
    best = ask(seen).candidates[0]
    weights = (0.9 * semantic(0.7)) ** 2, (0.6 * semantic(0.6)) ** 2
    edge = (200 * weights[0] + 260 * weights[1]) / sum(weights)
    assert best.row == 0 and best.box.tolist() == pytest.approx([100, 100, 200, edge], abs=1e-3)
    asked_by_look = ask(seen, identity=lambda rows: rows).candidates[0]
    assert asked_by_look.box.tolist() == list(tight), 'an object that is asked for by its look has a box'


def test_candidates_are_ranked_and_say_all_that_is_known() -> None:
    things = [(LEFT, 0.5, 0.9), ((150, 0, 250, 100), 0.9, 0.6), (RIGHT, 0.7, 0.8)]
    answer = ask(observation(*things, stamp=77))
    assert [c.row for c in answer.candidates] == [2, 1, 0]
    best = answer.candidates[0]
    assert (best.camera, best.frame_id, best.stamp, best.box.tolist()) == ('front', 'front_optical', 77, list(RIGHT))
    assert (best.semantic, best.iou) == (pytest.approx(semantic(0.7), rel=1e-4), pytest.approx(0.8))
    assert best.score == pytest.approx(best.semantic * best.iou)
    assert (best.objectness, best.position.tolist()) == (pytest.approx(0.8), [6, 7, 8])
    assert (best.track_id, best.object_id, best.status) == (0, '', None)


def test_at_most_max_candidates_but_the_margin_knows_them_all() -> None:
    things = [((60 * i, 0, 60 * i + 50, 50), 0.7, 0.9) for i in range(9)]
    answer = ask(observation(*things), max_candidates=1)
    assert (answer.outcome, len(answer.candidates), answer.objects_searched) == (Outcome.AMBIGUOUS, 1, 9)


def test_second_boxes_on_one_thing_are_not_rivals_and_not_listed() -> None:
    loose, shifted = (0, 0, 120, 110), (20, 0, 120, 100)
    answer = ask(observation((LEFT, 0.7, 0.9), (loose, 0.7, 0.88), (shifted, 0.7, 0.87), (RIGHT, 0.3, 0.9)))
    assert (answer.outcome, [c.row for c in answer.candidates]) == (Outcome.FOUND, [0, 3])


def test_a_nested_box_is_no_rival_but_listed() -> None:
    """A handle in its drawer: both may be meant, and they are the same place."""
    drawer, handle = (0, 0, 200, 200), (80, 90, 120, 110)
    answer = ask(observation((handle, 0.7, 0.9), (drawer, 0.7, 0.88)))
    assert (answer.outcome, [c.row for c in answer.candidates]) == (Outcome.FOUND, [0, 1])
    beside = (190, 90, 230, 110)
    assert ask(observation((drawer, 0.7, 0.9), (beside, 0.7, 0.88))).outcome is Outcome.AMBIGUOUS


def test_another_box_in_the_same_place_is_no_rival() -> None:
    """Half of a mug with what is beside it: IoU .33, and whoever goes there finds the mug."""
    beside = (50, 0, 150, 100)
    answer = ask(observation((LEFT, 0.7, 0.9), (beside, 0.7, 0.9)))
    assert (answer.outcome, [c.row for c in answer.candidates]) == (Outcome.FOUND, [0, 1])
    apart = (51, 0, 151, 100)
    assert ask(observation((LEFT, 0.7, 0.9), (apart, 0.7, 0.9))).outcome is Outcome.AMBIGUOUS


def test_a_neighbour_that_overlaps_a_little_is_a_rival() -> None:
    answer = ask(observation((LEFT, 0.7, 0.9), ((60, 0, 160, 100), 0.7, 0.9)))
    assert (answer.outcome, len(answer.candidates)) == (Outcome.AMBIGUOUS, 2)


def test_another_camera_is_listed_but_no_rival() -> None:
    answer = ask(observation((LEFT, 0.7, 0.9)), observation((LEFT, 0.7, 0.89), camera='rear'))
    assert (answer.outcome, [c.camera for c in answer.candidates]) == (Outcome.FOUND, ['front', 'rear'])
    assert answer.frames_searched == 2
    twins = observation((LEFT, 0.7, 0.88), (RIGHT, 0.7, 0.9), camera='rear')
    assert ask(observation((LEFT, 0.7, 0.8)), twins).outcome is Outcome.AMBIGUOUS


def test_a_question_about_an_individual_compares_the_identity_part() -> None:
    """Two of one kind: a text means both, the embedding of one of them means that one."""
    view = np.zeros((DIM, 4), np.float32)
    view[4:] = np.eye(4)
    kind, first, second = np.eye(DIM, dtype=np.float32)[[0, 5, 6]]
    rows = np.stack([kind + first, kind + second]) / np.sqrt(np.float32(2))
    twins = observation((LEFT, 0.7, 0.9), (RIGHT, 0.7, 0.9))
    twins.embeddings[:] = rows

    def identity(embeddings: np.ndarray) -> np.ndarray:
        part = embeddings @ view
        return part / np.linalg.norm(part, axis=1, keepdims=True)

    assert ground(kind, [twins], CALIBRATION).outcome is Outcome.AMBIGUOUS
    answer = ground(rows[1], [twins], CALIBRATION, identity=identity)
    assert (answer.outcome, answer.candidates[0].row) == (Outcome.FOUND, 1)
    assert answer.candidates[0].semantic == pytest.approx(1 / (1 + np.exp(16 - 20)), rel=1e-4)


@pytest.mark.parametrize('query', [np.ones(DIM + 1, np.float32), np.ones((1, DIM), np.float32), np.ones(0, np.float32)])
def test_a_vector_of_another_model_is_refused(query: np.ndarray) -> None:
    with pytest.raises(UserError, match='embed it with that model'):
        ground(query, [observation((LEFT, 0.7, 0.9))], CALIBRATION)


def test_candidates_are_named_by_the_tracks_of_their_own_frame() -> None:
    def track(track_id: int, camera: str, row: int, stamp: int) -> Track:
        box, embedding = np.zeros(4, np.float32), np.zeros(DIM, np.float32)
        return Track(
            track_id, camera, TrackStatus.TRACKED, row, box, embedding, 1, 1, 0, stamp, stamp, f'object-{track_id}'
        )

    tracks = [track(1, 'rear', 0, 5), track(2, 'front', 0, 4), track(3, 'front', 1, 5), track(4, 'front', 0, 5)]
    answer = ask(observation((LEFT, 0.7, 0.9), (RIGHT, 0.2, 0.9)), tracks=tracks)
    named = [(c.track_id, c.object_id, c.status) for c in answer.candidates]
    assert named == [(4, 'object-4', TrackStatus.TRACKED), (3, 'object-3', TrackStatus.TRACKED)]

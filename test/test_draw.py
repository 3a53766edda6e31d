# SPDX-License-Identifier: Apache-2.0
"""Pictures for people: what is drawn where, and that the frame itself is never touched."""

from __future__ import annotations

import numpy as np
import pytest

from embedder_ros.draw import contact_sheet, draw_answer, draw_observation
from embedder_ros.types import Candidate, Observation, Outcome

SIZES = [(48, 64), (480, 640), (2160, 3840)]


def frame(height: int, width: int) -> np.ndarray:
    """A read-only view with padded rows, as raw image messages give it."""
    image = np.full((height, width + 5, 3), 90, np.uint8)[:, :width]
    image.flags.writeable = False
    return image


def observation(boxes: np.ndarray, iou: list[float]) -> Observation:
    """An observation with these boxes."""
    n, unit = len(boxes), np.eye(max(len(boxes), 2), dtype=np.float32)
    values = np.asarray(iou, np.float32)
    return Observation(0, 'camera', '', 640, 480, boxes, values, values, unit[:n], unit[:2], 'model')


def candidate(box: tuple[float, ...], score: float) -> Candidate:
    """A candidate with this box and score."""
    return Candidate('camera', '', 0, np.asarray(box, np.float32), score, score, 1.0)


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_boxes_are_drawn_on_a_copy_at_any_size(height: int, width: int) -> None:
    """The edges are drawn, the inside and the far outside are not."""
    image = frame(height, width)
    box = np.array([[0.5, 0.5, 0.9, 0.9]], np.float32) * [width, height, width, height]
    drawn = draw_observation(image, observation(box.astype(np.float32), [0.8]))
    assert drawn.shape == image.shape and drawn.dtype == np.uint8 and not np.shares_memory(drawn, image)
    x0, y0, x1, y1 = np.rint(box[0]).astype(int)
    assert (drawn[(y0 + y1) // 2, x0] != 90).any() and (drawn[y1 - 1, (x0 + x1) // 2] != 90).any()
    assert (drawn[(y0 + y1) // 2, (x0 + x1) // 2] == 90).all() and (drawn[-1] == 90).all()


def test_colour_tells_a_good_box_from_a_bad_one() -> None:
    """Green for 1, red for 0."""
    boxes = np.array([[50, 200, 150, 300], [350, 200, 450, 300]], np.float32)
    drawn = draw_observation(frame(480, 640), observation(boxes, [1.0, 0.0])).astype(int)
    assert drawn[250, 50, 1] > drawn[250, 50, 0] + 100 and drawn[250, 350, 0] > drawn[250, 350, 1] + 100


def test_an_empty_observation_draws_nothing() -> None:
    """Zero boxes: the same pixels."""
    image = frame(48, 64)
    assert (draw_observation(image, observation(np.zeros((0, 4), np.float32), [])) == image).all()


@pytest.mark.parametrize(
    ('outcome', 'expected'),
    [(Outcome.FOUND, [True, False]), (Outcome.AMBIGUOUS, [True, True]), (Outcome.NOT_FOUND, [False, False])],
)
def test_an_answer_shows_what_is_meant_in_the_outcomes_colour(outcome: Outcome, expected: list[bool]) -> None:
    """The first of FOUND, all of AMBIGUOUS, none of NOT_FOUND; the others are grey."""
    candidates = [candidate((100, 200, 200, 300), 0.9), candidate((400, 200, 500, 300), 0.8)]
    drawn = draw_answer(frame(480, 640), 'the red handle', outcome, candidates).astype(int)
    coloured = [bool(np.ptp(drawn[250, x]) > 50) for x in (100, 400)]
    assert coloured == expected
    assert np.ptp(drawn[1, 1]) > 50, 'the title has the colour of the outcome'


@pytest.mark.parametrize('text', ['', 'ein sehr langer Text ' * 40, 'größer 赤い取っ手', 'x' * 1000, '%s\n\t{}'])
def test_any_text_and_any_box_can_be_drawn(text: str) -> None:
    """Boxes at and over the edges, letters the font does not have, titles longer than the image."""
    candidates = [candidate((-5, -5, 70, 60), 0.5), candidate((0, 0, 0.4, 0.4), 0.1), candidate((63, 47, 64, 48), 0.1)]
    assert draw_answer(frame(48, 64), text, Outcome.AMBIGUOUS, candidates).shape == (48, 64, 3)


def test_a_contact_sheet_holds_every_image() -> None:
    """Five images of different sizes in three columns; the empty cell is white."""
    images = [np.full((20 + 10 * i, 40, 3), 10 * i, np.uint8) for i in range(4)] + [np.full((10, 80, 3), 77, np.uint8)]
    sheet = contact_sheet(images, 3)
    assert sheet.shape == (40 + 50, 120, 3)
    assert [int(sheet[0, x, 0]) for x in (0, 40, 80)] == [0, 10, 20]
    assert [int(sheet[40, x, 0]) for x in (0, 40, 80)] == [30, 77, 255]


def test_a_contact_sheet_of_one_is_that_image() -> None:
    """No empty cells are added to a single row."""
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert (contact_sheet([image], 4) == image).all()

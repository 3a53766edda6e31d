# SPDX-License-Identifier: Apache-2.0
"""Pictures for people: boxes on a frame, an answer on a frame, many frames on one sheet. OpenCV only.

Line widths and letters grow with the image, so that a 160x120 and a 4K frame are both readable.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from embedder_ros.types import Candidate, FloatArray, Observation, Outcome

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK, _WHITE, _GREY = (20, 20, 20), (255, 255, 255), (170, 170, 170)
_OUTCOME = {Outcome.FOUND: (40, 200, 80), Outcome.AMBIGUOUS: (255, 180, 0), Outcome.NOT_FOUND: (230, 60, 60)}


def draw_observation(image: Pixels, observation: Observation) -> Pixels:
    """Every box with its predicted IoU, red (0) over yellow to green (1), the surest drawn last.

    Args:
        image: (H, W, 3) uint8 RGB; never changed.
        observation: what that image showed.

    Returns:
        (H, W, 3) uint8 RGB, a new array.
    """
    canvas = _copy(image)
    for row in np.argsort(observation.iou):
        _box(canvas, observation.boxes[row], _ramp(float(observation.iou[row])), f'{observation.iou[row]:.2f}')
    return canvas


def draw_answer(image: Pixels, query_text: str, outcome: Outcome, candidates: Sequence[Candidate]) -> Pixels:
    """The candidates of this image under a title: the answer in the outcome's colour, what did not win in grey.

    Args:
        image: (H, W, 3) uint8 RGB; never changed.
        query_text: what was asked.
        outcome: FOUND is green, AMBIGUOUS orange, NOT_FOUND red.
        candidates: best first, in this image's pixels.

    Returns:
        (H, W, 3) uint8 RGB, a new array.
    """
    canvas = _copy(image)
    meant = {Outcome.FOUND: 1, Outcome.AMBIGUOUS: len(candidates), Outcome.NOT_FOUND: 0}[outcome]
    for rank, candidate in reversed(list(enumerate(candidates))):
        _box(canvas, candidate.box, _OUTCOME[outcome] if rank < meant else _GREY, f'{candidate.score:.2f}')
    _title(canvas, f'{query_text}: {outcome.name.replace("_", " ")}', _OUTCOME[outcome])
    return canvas


def draw_labels(image: Pixels, boxes: FloatArray, scores: FloatArray, labels: Sequence[str]) -> Pixels:
    """Boxes with a label and a score each, the best on top. (H, W, 3) uint8 RGB, a new array."""
    canvas = _copy(image)
    for box, score, label in reversed(list(zip(boxes, scores, labels, strict=True))):
        _box(canvas, box, _ramp(float(score)), f'{label} {score:.2f}'.encode('ascii', 'replace').decode())
    return canvas


def contact_sheet(images: Sequence[Pixels], columns: int) -> Pixels:
    """Images side by side, row by row, each scaled to the first one's width; short cells are filled with white.

    Args:
        images: at least one (H, W, 3) uint8 RGB, of any sizes.
        columns: images per row.

    Returns:
        (H, W, 3) uint8 RGB, a new array.
    """
    width = images[0].shape[1]
    cells = [_fit(image, width) for image in images]
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    blank = np.full((1, width, 3), 255, np.uint8)
    sheet = []
    for row in rows:
        height = max(cell.shape[0] for cell in row)
        row = row + [blank] * (min(columns, len(cells)) - len(row))
        padded = [cv2.copyMakeBorder(c, 0, height - len(c), 0, 0, cv2.BORDER_CONSTANT, value=_WHITE) for c in row]
        sheet.append(np.hstack(padded))
    return np.vstack(sheet)


def _copy(image: Pixels) -> Pixels:
    """A copy that OpenCV may draw on; an image may be a read-only view with padded rows."""
    return np.array(image, np.uint8, order='C')


def _ramp(value: float) -> Colour:
    value = min(max(value, 0.0), 1.0)
    return int(255 * min(1.0, 2 - 2 * value)), int(220 * min(1.0, 2 * value)), 40


def _scale(canvas: Pixels) -> float:
    """1.0 at VGA."""
    return max(0.5, min(canvas.shape[:2]) / 480)


def _box(canvas: Pixels, box: FloatArray, colour: Colour, label: str) -> None:
    x0, y0, x1, y1 = (int(round(float(v))) for v in box)
    cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), colour, max(1, round(2 * _scale(canvas))))
    width, height, _ = _extent(label, canvas)
    left = min(max(0, x0), max(0, canvas.shape[1] - width))
    _label(canvas, label, left, y0 - height if y0 >= height else max(0, y0), colour)


def _extent(text: str, canvas: Pixels) -> tuple[int, int, int]:
    """Width and height of a label in pixels, and the distance of its baseline from its lower edge."""
    scale = 0.45 * _scale(canvas)
    (width, height), below = cv2.getTextSize(text, _FONT, scale, max(1, round(scale * 2)))
    return width + 4, height + below + 4, below + 2


def _label(canvas: Pixels, text: str, left: int, top: int, colour: Colour) -> None:
    scale = 0.45 * _scale(canvas)
    width, height, below = _extent(text, canvas)
    cv2.rectangle(canvas, (left, top), (left + width, top + height), colour, cv2.FILLED)
    ink, thickness = _INK if sum(colour) > 300 else _WHITE, max(1, round(scale * 2))
    cv2.putText(canvas, text, (left + 2, top + height - below), _FONT, scale, ink, thickness, cv2.LINE_AA)


def _title(canvas: Pixels, text: str, colour: Colour) -> None:
    """The text along the top, in as many lines as it needs. The font has ASCII only: other letters become '?'."""
    plain = text.encode('ascii', 'replace').decode()
    letters = max(8, canvas.shape[1] * 20 // max(1, _extent('n' * 20, canvas)[0]))
    top = 0
    for line in textwrap.wrap(plain, letters):
        _label(canvas, line, 0, top, colour)
        top += _extent(line, canvas)[1]


def _fit(image: Pixels, width: int) -> Pixels:
    if image.shape[1] == width:
        return image
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)

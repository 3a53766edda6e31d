# SPDX-License-Identifier: Apache-2.0
"""Fitting how nano's cosines are read: on questions whose right answers are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from embedder_ros.evaluation.grounding import Question, Result
from embedder_ros.evaluation.sightings import Return
from embedder_ros.training import calibrate
from embedder_ros.types import Calibration, Observation

QUERY = np.array([1.0, 0.0, 0.0], np.float32)
START = Calibration(scale=1.0, bias=0.0, found=0.9, margin=0.9)
MEANT, OTHER = (0, 0, 100, 100), (200, 0, 300, 100)


def question(*things: tuple[tuple[int, ...], float, float], there: bool = True) -> Question:
    """Boxes with the cosine to the query and the predicted IoU; MEANT is what the query is true of."""
    cosine = np.array([c for _, c, _ in things], np.float32)
    rows = np.column_stack([cosine, np.sqrt(1 - cosine**2), 0 * cosine]).astype(np.float32)
    boxes, iou = np.array([b for b, _, _ in things], np.float32), np.array([i for _, _, i in things], np.float32)
    seen = Observation(0, 'front', '', 640, 480, boxes, iou, iou, rows, rows[:1], 'm')
    meant = np.array([MEANT] if there else [], np.float32).reshape(-1, 4)
    return Question(seen, QUERY, meant, 'noun' if there else 'absent')


def test_the_logistic_curve_is_found_again() -> None:
    random = np.random.default_rng(0)
    cosine = random.uniform(-1, 1, 40_000)
    right = random.random(40_000) < 1 / (1 + np.exp(-(8 * cosine - 3)))
    assert calibrate.logistic(cosine, right) == (pytest.approx(8, abs=0.3), pytest.approx(-3, abs=0.15))


def test_thresholds_refuse_what_is_absent_and_keep_what_is_right() -> None:
    right = [Result('noun', True, True, True, 0.5, 0.3)] * 50
    wrong = [Result('noun', True, False, True, 0.4, 0.04)] * 20
    absent = [Result('absent', False, False, False, 0.2, 0.2)] * 30
    found, margin = calibrate.thresholds([[*right, *wrong, *absent]])
    assert 0.2 < found <= 0.5 and margin <= 0.3
    assert found > 0.4 or margin > 0.04, 'wrong ones are answered FOUND'


def test_absent_colours_are_refused_however_many_absent_things_are() -> None:
    right = [Result('noun', True, True, True, 0.5, 0.3)] * 50
    things = [Result('absent', False, False, False, 0.05, 0.3)] * 950
    colours = [Result('absent colour', False, False, False, 0.4, 0.3)] * 10
    found, _ = calibrate.thresholds([[*right, *things, *colours]])
    assert 0.4 < found <= 0.5


def test_the_margin_asks_back_where_several_things_are_meant() -> None:
    one = [Result('noun', True, True, True, 0.5, 0.15)] * 50
    twins = [Result('noun', True, True, True, 0.5, 0.05, several=True)] * 50
    found, margin = calibrate.thresholds([[*one, *twins]])
    assert 0.05 < margin <= 0.15 and found <= 0.5


def test_what_is_there_without_a_lead_is_asked_about_and_not_denied() -> None:
    sure = [Result('noun', True, True, True, 0.5, 0.3)] * 50
    unsure = [Result('noun', True, True, True, 0.2, 0.05)] * 20
    wrong = [Result('noun', True, False, True, 0.3, 0.05)] * 20
    found, margin = calibrate.thresholds([[*sure, *unsure, *wrong]])
    assert found <= 0.2 and 0.05 < margin <= 0.3


def test_all_is_fitted_and_stored(tmp_path: Path) -> None:
    asked = [question((MEANT, 0.6, 0.9), (OTHER, 0.1, 0.9)), question((OTHER, 0.1, 0.9), there=False)] * 10
    again = [Return('u', 0.9, np.array([0.1, 0.2], np.float32))] * 10
    fitted = calibrate.fit([asked], again, START)
    assert fitted.same(np.array([0.9]))[0] > 0.9 > 0.1 > fitted.same(np.array([0.2]))[0]
    assert fitted.semantic(np.array([0.6]))[0] > 0.5 > fitted.semantic(np.array([0.1]))[0]
    (tmp_path / 'nano.json').write_text(json.dumps({'format': 1, 'calibration': {}}))
    calibrate.store(tmp_path, fitted)
    stored = json.loads((tmp_path / 'nano.json').read_text())
    assert stored['format'] == 1 and Calibration(**stored['calibration']).found == pytest.approx(fitted.found)

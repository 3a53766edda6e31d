# SPDX-License-Identifier: Apache-2.0
"""WeDetect-Uni against another implementation's numbers, on weights that are made by rule from the tensors' names."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedder_ros.evaluation.parity import Difference
from embedder_ros.types import FloatArray, UserError

if TYPE_CHECKING:
    from torch import Tensor

SHAPES, EXPECTED = 'checkpoint_shapes.json', 'expected.safetensors'
BOX_TOLERANCE = 1e-3  # pixels, times the box's longer side where that is above 1
SCORE_TOLERANCE = 1e-5
TIE = 1e-6  # scores that close may change places
SPARE = 8  # more of our proposals than theirs, since the last ones may tie with those that follow
NO_MATCH = 1e9


def check_wedetect(folder: Path, salt: str = 'a') -> list[Difference]:
    """Compare a folder laid out like test/data/wedetect_uni_base.

    Args:
        folder: checkpoint_shapes.json (name -> shape, names as released) and expected.safetensors.
        salt: what the names are salted with when the weights are drawn.

    Raises:
        UserError: a file is missing or is not what it should be.
    """
    import torch

    from embedder_ros.models.wedetect.checkpoint import from_tensors
    from embedder_ros.models.wedetect.image import letterbox
    from embedder_ros.models.wedetect.select import select

    shapes, expected = _read(folder)
    network = from_tensors({key: made(key, shape, salt) for key, shape in shapes.items()}, str(folder / SHAPES))
    square, place = letterbox(expected['image_rgb'], network.shape.pixels)
    most = len(expected['proposal_scores'])
    with torch.inference_mode():
        raw = network(torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255)
        boxes, scores = select(raw.boxes[0], raw.logits[0], most + SPARE)
        each = raw.logits[0].sigmoid().numpy()
    proposals = place.undo(boxes)
    wanted = expected['raw_boxes_letterboxed']
    return [
        _difference('raw_boxes_letterboxed', _raw_error(raw.boxes[0].numpy(), wanted), BOX_TOLERANCE),
        _difference('raw_best_score', _error(each.max(1), expected['raw_best_score']), SCORE_TOLERANCE),
        _difference('raw_best_prompt', _prompt_error(each, expected['raw_best_prompt']), SCORE_TOLERANCE),
        _difference('proposal_scores', _error(scores[:most], expected['proposal_scores']), SCORE_TOLERANCE),
        _difference('proposals_xyxy', _proposal_error(proposals, scores, expected), BOX_TOLERANCE),
    ]


def made(key: str, shape: list[int], salt: str) -> Tensor:
    """The tensor that the fixtures' rule draws for a name (shared/fixtures: wedetect_uni_base)."""
    import torch

    end = key.rpartition('.')[2]
    if end == 'num_batches_tracked':
        return torch.zeros(shape, dtype=torch.int64)
    if end == 'proj':
        return torch.arange(shape[0], dtype=torch.float32)
    seed = zlib.crc32((salt + key).encode()) & 0xFFFFFFFF
    n = np.asarray(np.random.RandomState(seed).standard_normal(shape), np.float32)
    if end == 'running_var':
        n = 1 + np.float32(0.1) * np.abs(n)
    elif key == 'embeddings':
        n = n / np.linalg.norm(n, axis=1, keepdims=True)
    elif end == 'logit_scale':
        n = np.ones_like(n)
    elif end == 'bias' and 'cls_contrasts' in key and key.split('.')[-3] == 'cls_contrasts':
        n = np.full_like(n, -3.0)
    elif len(shape) >= 2:
        n = n / np.sqrt(np.prod(shape[1:], dtype=np.float32))
    elif end in ('gamma', 'weight'):
        n = 1 + np.float32(0.1) * n
    else:
        n = np.float32(0.05) * n
    return torch.from_numpy(np.asarray(n, np.float32))


def _read(folder: Path) -> tuple[dict[str, list[int]], dict[str, np.ndarray]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        shapes = {str(key): [int(n) for n in shape] for key, shape in json.loads((folder / SHAPES).read_text()).items()}
        expected = load_file(folder / EXPECTED)
    except (OSError, ValueError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(f'{folder}: {SHAPES} or {EXPECTED} cannot be read ({error}); fetch both again') from error
    names = ('image_rgb', 'raw_boxes_letterboxed', 'raw_best_score', 'raw_best_prompt', 'proposal_scores')
    if missing := [name for name in (*names, 'proposals_xyxy') if name not in expected]:
        raise UserError(f'{folder / EXPECTED} lacks {missing[0]}; it has to hold {", ".join(names)}, proposals_xyxy')
    return shapes, expected


def _difference(name: str, largest: float, tolerance: float) -> Difference:
    return Difference(name, largest, tolerance, note='other shape' if np.isinf(largest) else '')


def _error(ours: FloatArray, theirs: FloatArray) -> float:
    return float(np.abs(ours - theirs).max(initial=0)) if ours.shape == theirs.shape else float('inf')


def _box_error(ours: FloatArray, theirs: FloatArray) -> FloatArray:
    """(...) the largest difference of a coordinate, relative to the box's longer side where that is above a pixel."""
    side = np.abs(theirs[..., 2:] - theirs[..., :2]).max(axis=-1)
    return np.abs(ours - theirs).max(axis=-1) / np.maximum(1, side)


def _raw_error(ours: FloatArray, theirs: FloatArray) -> float:
    return float(_box_error(ours, theirs).max(initial=0)) if ours.shape == theirs.shape else float('inf')


def _prompt_error(scores: FloatArray, theirs: np.ndarray) -> float:
    """By how much a prompt that is best elsewhere is not best here."""
    if len(scores) != len(theirs):
        return float('inf')
    return float((scores.max(1) - scores[np.arange(len(scores)), theirs]).max(initial=0))


def _proposal_error(ours: FloatArray, scores: FloatArray, expected: dict[str, np.ndarray]) -> float:
    """Each of their boxes against one of ours that has the same score, which is the same place but for ties."""
    from scipy.optimize import linear_sum_assignment

    theirs, their_scores = expected['proposals_xyxy'], expected['proposal_scores']
    if len(ours) < len(theirs) or theirs.shape != (len(their_scores), 4):
        return float('inf')
    tie = TIE + _error(scores[: len(theirs)], their_scores)
    error = _box_error(ours[None], theirs[:, None])  # (theirs, ours)
    error[np.abs(their_scores[:, None] - scores) > tie] = NO_MATCH
    worst = float(error[linear_sum_assignment(error)].max(initial=0))
    return worst if worst < NO_MATCH else float('inf')

# SPDX-License-Identifier: Apache-2.0
"""Ground truth of a rendered recording: what is where in every frame, and which of it each question means."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embedder_ros.types import FloatArray, Outcome, UserError, box_iou

RIGHT_IOU = 0.5  # overlap with a labelled box that counts as found
IN_VIEW = (
    0.5  # visible share of a thing below which it may be found or not: it is at the frame's edge, or behind things
)


class Truth:
    """Reads `{"frames": [{"stamp", "objects": [{"box", "instance", "visible"}]}], "queries": [{"text", "instances"}]}`.

    `visible` is the share of the thing that the frame shows, 0..1; a thing without it is wholly in view.

    Attributes:
        questions: the texts, in the file's order.

    Raises:
        UserError: the file is no such truth.
    """

    def __init__(self, path: Path) -> None:
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
            self._frames = {int(frame['stamp']): frame['objects'] for frame in content['frames']}
            self._instances = {query['text']: set(query['instances']) for query in content['queries']}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f'{path} is no ground truth ({type(error).__name__}: {error}); render it again') from error
        self.questions = list(self._instances)

    def agrees(self, text: str, stamp: int, outcome: Outcome, candidates: Sequence[FloatArray]) -> bool | None:
        """Whether an answer is right; None when the truth does not say.

        FOUND is right on any of the meant things, AMBIGUOUS when several are in view and the best candidate is one of
        them, NOT_FOUND when none is in view by at least half.

        Args:
            text: the question.
            stamp: of the frame the answer is about.
            outcome: the answer.
            candidates: its (4,) boxes, best first.
        """
        if text not in self._instances or stamp not in self._frames:
            return None
        meant = [o for o in self._frames[stamp] if o['instance'] in self._instances[text]]
        if outcome is Outcome.NOT_FOUND:
            return not any(o.get('visible', 1.0) >= IN_VIEW for o in meant)
        boxes = np.asarray([o['box'] for o in meant], np.float32).reshape(-1, 4)
        hit = bool(len(candidates)) and bool((box_iou(candidates[0], boxes) >= RIGHT_IOU).any())
        return hit and (outcome is Outcome.FOUND or len(boxes) > 1)

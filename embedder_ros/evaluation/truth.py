# SPDX-License-Identifier: Apache-2.0
"""Ground truth of a rendered recording: what is where in every frame, and which of it each question means."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedder_ros.bags.source import camera_names
from embedder_ros.types import FloatArray, Outcome, UserError, box_iou

RIGHT_IOU = 0.5  # overlap with a labelled box that counts as found
IN_VIEW = (
    0.5  # visible share of a thing below which it may be found or not: it is at the frame's edge, or behind things
)


class Truth:
    """Reads `{"frames": [{"stamp", "objects": [{"box", "instance", "visible"}]}], "queries": [{"text", "instances"}]}`.

    `visible` is the share of the thing that the frame shows, 0..1; a thing without it is wholly in view. A frame may
    say its `topic`, when there are several cameras. Without any queries, "the <colour> <name>" of everything is asked;
    objects then have `name`, `synonyms` and `colours`.

    Attributes:
        path: the file.
        questions: the texts, in the file's order.
        meant: text -> the instances it means; also texts with synonyms and second colours, which are not asked.

    Raises:
        UserError: the file is no such truth.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
            self._frames = by_frame(content)
            cameras = {camera for _, camera in self._frames}
            self._camera = cameras.pop() if len(cameras) == 1 else ''
            self.meant = {q['text']: set(q['instances']) for q in content['queries']}
            self.questions = list(self.meant)
            if not self.meant:
                self.questions, self.meant = _described(content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f'{path} is no ground truth ({type(error).__name__}: {error}); render it again') from error

    def agrees(self, text: str, stamp: int, outcome: Outcome, candidates: Sequence[FloatArray]) -> bool | None:
        """Whether an answer is right; None when the truth does not say, as of a frame of one of several cameras.

        FOUND is right on any of the meant things, AMBIGUOUS when several are in view and the best candidate is one of
        them, NOT_FOUND when none is in view by at least half.

        Args:
            text: the question.
            stamp: of the frame the answer is about.
            outcome: the answer.
            candidates: its (4,) boxes, best first.
        """
        shown = self.shown(self._camera, stamp)
        if text not in self.meant or shown is None:
            return None
        meant = [o for o in shown if o['instance'] in self.meant[text]]
        if outcome is Outcome.NOT_FOUND:
            return not any(in_view(o) for o in meant)
        boxes = np.asarray([o['box'] for o in meant], np.float32).reshape(-1, 4)
        hit = bool(len(candidates)) and bool((box_iou(candidates[0], boxes) >= RIGHT_IOU).any())
        return hit and (outcome is Outcome.FOUND or len(boxes) > 1)

    def shown(self, camera: str, stamp: int) -> list[dict[str, Any]] | None:
        """The objects of a camera's frame; None when the truth does not have it."""
        frame = frame_of(self._frames, camera, stamp)
        return None if frame is None else list(frame['objects'])


def in_view(shown: dict[str, Any]) -> bool:
    """Whether enough of a thing is in view for it to be found."""
    return bool(shown.get('visible', 1.0) >= IN_VIEW)


def by_frame(content: dict[str, Any]) -> dict[tuple[int, str], dict[str, Any]]:
    """A truth's entries by stamp and camera; the camera is '' where the file names no topic for the frame."""
    topics = {entry['topic'] for entry in content['frames'] if 'topic' in entry}
    cameras = camera_names(sorted(topics))
    return {(int(e['stamp']), cameras.get(e.get('topic', ''), '')): e for e in content['frames']}


def frame_of(frames: dict[tuple[int, str], dict[str, Any]], camera: str, stamp: int) -> dict[str, Any] | None:
    """What a frame shows, by `by_frame`; None when the truth does not have it."""
    return frames.get((stamp, camera)) or frames.get((stamp, ''))


def _described(content: dict[str, Any]) -> tuple[list[str], dict[str, set[str]]]:
    """What everything is called, colour and name, and all things that each such text describes."""
    asked, meant = set(), defaultdict[str, set[str]](set)
    for thing in (o for entry in content['frames'] for o in entry['objects']):
        texts = [f'the {c} {n}' for c in thing['colours'] for n in (thing['name'], *thing['synonyms'])]
        asked.update(texts[:1])
        for text in texts:
            meant[text].add(thing['instance'])
    return sorted(asked), dict(meant)

# SPDX-License-Identifier: Apache-2.0
"""Is what a recording showed found in memory afterwards, where it was last seen?

A memory sees the whole recording, is opened again as after a restart, and is asked once for everything that has a name
and for what the other recordings showed and this one did not. Not measured: positions, and how answers change while
things come and go; `evaluate reid` measures whether a thing keeps its id.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedder_ros.evaluation.estimates import Estimate, share
from embedder_ros.evaluation.grounding import ON_IOU, RIGHT_IOU
from embedder_ros.evaluation.reid_clips import Clip, unlabelled
from embedder_ros.evaluation.reid_methods import Remembering, identify, track
from embedder_ros.evaluation.truth import Truth, in_view
from embedder_ros.types import NANOSECONDS, Answer, FloatArray, ModelInfo, Observation, Outcome, UserError, box_iou

LATE = 1.0  # seconds that a thing was still in view after the frame that the answer names, from which it is late


@dataclass(frozen=True, slots=True)
class Asked:
    """One question and its answer.

    Attributes:
        recording: number of the recording.
        text: the question.
        seen: how many things that it means were in view.
        outcome: of the answer.
        best: where the best candidate is, in the frame that it was last seen in: 'right' (on a thing that is meant, IoU
            0.5), 'loose' (IoU 0.2), 'wrong', or '' when there is none.
        late: seconds that a thing that is meant was still in view after that frame.
        score, margin: of the best candidate, and its lead.
    """

    recording: int
    text: str
    seen: int
    outcome: str
    best: str
    late: float
    score: float
    margin: float


def ask(
    recording: int,
    observations: Sequence[Observation],
    truth: Truth,
    model: ModelInfo,
    words: Mapping[str, FloatArray],
    person: FloatArray | None = None,
) -> list[Asked]:
    """The answers about one recording.

    Args:
        recording: its number.
        observations: what was seen, of one or several cameras.
        truth: what was there.
        model: how embeddings are compared.
        words: text -> (D,) its vector: everything that is asked.
        person: (D,) text vector of a person; None remembers people like things.

    Raises:
        UserError: the truth is another recording's.
    """
    seen = _last_seen(observations, truth)
    clip = Clip(unlabelled(observations), lambda a, b: True)
    now = clip.shown[-1].observation.stamp
    with tempfile.TemporaryDirectory(prefix='recall') as folder:
        with contextlib.closing(Remembering(model, Path(folder) / 'memory.db', person=person)) as one:
            identify(clip, track(clip, model), one)
            one.restart()
            answers = {text: one.memory.find(vector, now=now) for text, vector in words.items()}
    return [_judged(recording, text, answer, truth, seen) for text, answer in answers.items()]


def _last_seen(observations: Sequence[Observation], truth: Truth) -> dict[str, int]:
    """Instance -> stamp of the last frame that it was in view in."""
    frames = [(o.stamp, shown) for o in observations if (shown := truth.shown(o.camera, o.stamp)) is not None]
    if not frames:
        raise UserError(f'{truth.path} has no stamp of this recording; give the truth that belongs to it')
    return {o['instance']: stamp for stamp, shown in sorted(frames, key=lambda f: f[0]) for o in shown if in_view(o)}


def _judged(recording: int, text: str, answer: Answer, truth: Truth, seen: Mapping[str, int]) -> Asked:
    meant = truth.meant.get(text, set()) & seen.keys()
    best, late, score = '', 0.0, 0.0
    if answer.candidates:
        c = answer.candidates[0]
        score = c.score
        there = [o for o in truth.shown(c.camera, c.stamp) or () if o['instance'] in meant]
        overlap = box_iou(c.box[None], np.array([o['box'] for o in there], np.float32).reshape(-1, 4))[0]
        on = float(overlap.max(initial=0.0))
        best = 'right' if on >= RIGHT_IOU else 'loose' if on >= ON_IOU else 'wrong'
        if best != 'wrong':
            late = max(0.0, (seen[there[int(overlap.argmax())]['instance']] - c.stamp) / NANOSECONDS)
    return Asked(
        recording, text, len(meant), answer.outcome.name, best, round(late, 3), round(score, 4), round(answer.margin, 4)
    )


def shares(asked: Sequence[Asked]) -> dict[str, dict[str, Estimate]]:
    """By how many things were meant, the share of each kind of answer; intervals over recordings or questions."""
    groups = {
        'one': [a for a in asked if a.seen == 1],
        'several': [a for a in asked if a.seen > 1],
        'none': [a for a in asked if not a.seen],
    }
    alone = len({a.recording for a in asked}) == 1
    return {
        name: _shares(group, [a.text if alone else str(a.recording) for a in group]) for name, group in groups.items()
    }


def _shares(asked: Sequence[Asked], units: Sequence[str]) -> dict[str, Estimate]:
    def of(told: Callable[[Asked], bool]) -> Estimate:
        return share([told(a) for a in asked], units)

    found, ambiguous, not_found = Outcome.FOUND.name, Outcome.AMBIGUOUS.name, Outcome.NOT_FOUND.name
    return {
        'first': of(lambda a: a.best == 'right'),
        'found': of(lambda a: a.outcome == found and a.best == 'right'),
        'loose': of(lambda a: a.outcome == found and a.best == 'loose'),
        'wrong': of(lambda a: a.outcome == found and a.best == 'wrong'),
        'late': of(lambda a: a.outcome == found and a.late > LATE),
        'ambiguous': of(lambda a: a.outcome == ambiguous),
        'not found': of(lambda a: a.outcome == not_found),
    }


def lines(measured: Mapping[str, Mapping[str, Estimate]]) -> Iterator[str]:
    """The shares for people, as a Markdown table."""
    told = {'one': 'one thing seen', 'several': 'several things seen', 'none': 'nothing seen'}
    columns = list(measured['one'])
    yield f'| what is meant | n | {" | ".join(columns)} |'
    yield f'|---|{"---|" * (len(columns) + 1)}'
    for group, kinds in measured.items():
        yield f'| {told[group]} | {kinds["found"].count} | {" | ".join(str(kinds[name]) for name in columns)} |'

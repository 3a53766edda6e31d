# SPDX-License-Identifier: Apache-2.0
"""Which of many frames shows it: by the best object in each, or by the frame as a whole (MODELS.md 1.8).

The box's fit does not count here: what matters is whether the thing is in the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedder_ros.grounding.ground import Identity
from embedder_ros.types import Calibration, FloatArray, Observation, UserError

SHORT, LONG = 0, 1  # row of frame_embeddings: coarse for short captions, detailed for long ones


@dataclass(frozen=True, slots=True)
class Match:
    """A frame's place in the sequence, its score 0..1, and the row of its best object, -1 when none counted."""

    frame: int
    score: float
    row: int = -1


def by_objects(
    query: FloatArray,
    observations: Sequence[Observation],
    calibration: Calibration,
    *,
    identity: Identity | None = None,
) -> list[Match]:
    """Frames by the cosine of their best object, best first; frames without objects come last with score 0.

    They are ordered by cosine, since scores near 1 are equal. Without `identity` a score is read as an object's to a
    text; an exemplar's cosines lie so far above those that all its scores are 1, and only the order tells anything.

    Args:
        query: (D,) unit embedding of a text about an object, or of an exemplar.
        observations: of one model; any number of objects each.
        calibration: how cosines are read.
        identity: given with an exemplar to find the same individual: the map to the part that compares individuals.
    """
    scored = []
    for i, observation in enumerate(observations):
        embeddings = _checked(observation, query).embeddings
        if not len(embeddings):
            scored.append((-np.inf, Match(i, 0.0)))
            continue
        cosine = embeddings @ query if identity is None else identity(embeddings) @ identity(query[None])[0]
        best = int(cosine.argmax())
        score = (calibration.semantic if identity is None else calibration.same)(cosine[best])
        scored.append((float(cosine[best]), Match(i, float(score), best)))
    return [match for _, match in sorted(scored, key=lambda one: -one[0])]


def by_frame(
    query: FloatArray, observations: Sequence[Observation], calibration: Calibration, *, row: int = SHORT
) -> list[Match]:
    """Frames by their embedding as a whole, best first.

    Args:
        query: (D,) unit embedding of a caption.
        observations: of one model.
        calibration: how cosines between frames and captions are read.
        row: SHORT or LONG.

    Raises:
        UserError: the model has no frame embeddings.
    """
    if any(not len(o.frame_embeddings) for o in observations):
        raise UserError(f'model {observations[0].model_id} embeds no whole frames; search by objects')
    cosine = np.array([_checked(o, query).frame_embeddings[row] @ query for o in observations], np.float32)
    scores = calibration.whole(cosine)
    return [Match(int(i), float(scores[i])) for i in np.argsort(-cosine, kind='stable')]


def _checked(observation: Observation, query: FloatArray) -> Observation:
    if query.shape != (observation.dim,):
        raise UserError(
            f'the query has {query.shape[-1]} numbers and model {observation.model_id} has {observation.dim}: '
            'embed it with that model'
        )
    return observation

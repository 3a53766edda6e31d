# SPDX-License-Identifier: Apache-2.0
"""One frame as the memory sees it: which rows can be trusted, how they look, where they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedder_ros.memory.views import Gallery, observation_weights, view_of
from embedder_ros.types import FloatArray, ModelInfo, Observation

# Length that a unit vector may differ from 1 by.
UNIT = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One frame, with what is computed once for all its rows.

    Attributes:
        observation: the frame's.
        looks: (N, K) float32 identity views.
        weights: (N,) float32, see views.weights.
        places: (N, 3) float64 metres in `frame`, NaN where unknown; None without depth.
        frame: frame of the places.
        now: the node's clock, nanoseconds.
    """

    observation: Observation
    looks: FloatArray
    weights: FloatArray
    places: NDArray[np.float64] | None
    frame: str
    now: int

    def place(self, row: int) -> NDArray[np.float64] | None:
        """(3,) where the row is; None when unknown."""
        if self.places is None or not np.isfinite(self.places[row]).all():
            return None
        return self.places[row]


def observed(
    observation: Observation,
    model: ModelInfo,
    pose: NDArray[np.float64] | None,
    map_frame: str,
    now: int,
    *,
    min_iou: float,
) -> Seen:
    """The frame with what is computed once for all its rows.

    Positions are in the map when the pose is known. Rows that fit nothing, or whose vector is broken, weigh nothing.
    """
    places = None if observation.positions is None else observation.positions.astype(np.float64)
    frame = observation.frame_id
    if places is not None and pose is not None:
        places, frame = places @ pose[:3, :3].T + pose[:3, 3], map_frame
    weights = np.where((observation.iou >= min_iou) & sound(observation), observation_weights(observation), 0)
    return Seen(observation, model.identity(observation.embeddings), weights, places, frame, now)


def sound(observation: Observation) -> NDArray[np.bool_]:
    """(N,) whether a row has a finite unit vector; one that has not would be refused by the store."""
    return np.abs(np.linalg.norm(observation.embeddings, axis=1) - 1) <= UNIT


def offer(gallery: Gallery, seen: Seen, row: int, *, retake: bool = False) -> bool:
    """Keep the row's view if it adds something, or, with `retake`, if it repeats one whose picture is not at hand."""
    look, weight = seen.looks[row], float(seen.weights[row])
    place = gallery.place_for(look, weight) if weight > 0 else None
    if place is None and retake:
        place = gallery.retake(look, weight)
    if place is None:
        return False
    gallery.put(place, view_of(seen.observation, row), look, weight)
    return True

# SPDX-License-Identifier: Apache-2.0
"""Which views of a thing are kept: few, from different sides, each the best of its kind.

A box that is small, cut by the frame or badly fitting looks like many things; it counts less in every comparison and
gives way to a better view. The weight is a product of what is known before any comparison; its parts are not fitted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedder_ros.memory.products import products
from embedder_ros.types import FloatArray, Observation, View, unit_rows

# Side of a box, as a share of the image's, from which size no longer counts.
LARGE = 0.1
# Factor for a box that touches the frame: part of the thing is missing.
CUT = 0.5
# Weight, relative to the nearest kept view, with which a view replaces it. Lowering it writes more often.
BETTER = 1.25
# The same for a view whose picture is at hand. Raising it leaves objects without a thumbnail.
PICTURE = 0.8
# Share of the smaller box inside the other from which two boxes may be of one thing.
INSIDE = 0.5
# Share of a box inside another from which it is a part of it.
PART = 0.8


def weights(boxes: FloatArray, size: FloatArray, objectness: FloatArray, iou: FloatArray) -> FloatArray:
    """How much the look of each box can be trusted: iou, objectness, size, whole or cut by the frame.

    Args:
        boxes: (N, 4) float32 xyxy pixels.
        size: (2,) or (N, 2) float32 width and height of the image, pixels.
        objectness: (N,) float32 in 0..1.
        iou: (N,) float32 in 0..1.

    Returns:
        (N,) float32 in 0..1; 0 where something is not finite.
    """
    side = np.sqrt(np.clip((boxes[:, 2:] - boxes[:, :2]) / size, 0, None).prod(axis=1))
    cut = (boxes[:, :2] <= 1).any(axis=1) | (boxes[:, 2:] >= size - 1).any(axis=1)
    trust = np.clip(iou, 0, 1) * np.sqrt(np.clip(objectness, 0, 1)) * np.minimum(side / LARGE, 1)
    return np.nan_to_num(trust * np.where(cut, CUT, 1)).astype(np.float32)


def observation_weights(observation: Observation) -> FloatArray:
    """(N,) float32 `weights` of an observation's rows."""
    o = observation
    return weights(o.boxes, np.array([o.width, o.height], np.float32), o.objectness, o.iou)


def view_weights(views: Sequence[View]) -> FloatArray:
    """(n,) float32 `weights` of stored views."""
    if not views:
        return np.zeros(0, np.float32)
    size = np.array([(v.width, v.height) for v in views], np.float32)
    sure = np.array([(v.objectness, v.iou) for v in views], np.float32)
    return weights(np.stack([v.box for v in views]), size, sure[:, 0], sure[:, 1])


def apart(boxes: FloatArray) -> NDArray[np.bool_]:
    """(N, N) whether two of (N, 4) boxes of a frame are surely two things: neither is mostly inside the other."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return shared < INSIDE * np.minimum(area[:, None], area[None])


def within(boxes: FloatArray, larger: FloatArray) -> NDArray[np.bool_]:
    """(N,) whether a box of (N, 4) is almost entirely inside one of (M, 4)."""
    low = np.maximum(boxes[:, None, :2], larger[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], larger[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.any(shared >= PART * area[:, None], axis=1)


def view_of(observation: Observation, row: int) -> View:
    """The row as a view of its own, which does not keep the observation alive."""
    o = observation
    return View(
        embedding=o.embeddings[row].copy(),
        stamp=o.stamp,
        camera=o.camera,
        box=o.boxes[row].copy(),
        width=o.width,
        height=o.height,
        iou=float(o.iou[row]),
        objectness=float(o.objectness[row]),
    )


class Gallery:
    """Diverse views of one thing.

    Attributes:
        views: up to `most` views, in no order.
        looks: (n, K) float32, their identity views.
        weights: (n,) float32.
    """

    __slots__ = ('views', 'looks', 'weights', '_most', '_diverse')

    def __init__(self, most: int, diverse: float) -> None:
        self.views: list[View] = []
        self.looks: FloatArray = np.zeros((0, 0), np.float32)
        self.weights: FloatArray = np.zeros(0, np.float32)
        self._most, self._diverse = most, diverse

    def place_for(self, look: FloatArray, weight: float) -> int | None:
        """Where a view with this identity (K,) and weight would go; None when it adds nothing."""
        if not self.views:
            return 0
        cosines = self.looks @ look
        nearest = int(cosines.argmax())
        if cosines[nearest] < self._diverse:
            if len(self.views) < self._most:
                return len(self.views)
            nearest = int(self.weights.argmin())
        return nearest if weight > BETTER * self.weights[nearest] else None

    def retake(self, look: FloatArray, weight: float) -> int | None:
        """The place of the same view, if this one is about as good; None when there is none."""
        cosines = self.looks @ look
        nearest = int(cosines.argmax())
        same = cosines[nearest] >= self._diverse and weight >= PICTURE * self.weights[nearest]
        return nearest if same else None

    def put(self, place: int, view: View, look: FloatArray, weight: float) -> None:
        """Store a view at a place that `place_for` gave."""
        if place == len(self.views):
            self.views.append(view)
            self.looks = np.concatenate([self.looks.reshape(-1, len(look)), look[None]])
            self.weights = np.append(self.weights, np.float32(weight))
        else:
            self.views[place] = view
            self.looks, self.weights = self.looks.copy(), self.weights.copy()
            self.looks[place], self.weights[place] = look, weight

    def take(self, other: Gallery) -> bool:
        """Offer all views of another gallery; whether any was taken."""
        changed = False
        for view, look, weight in zip(other.views, other.looks, other.weights, strict=True):
            place = self.place_for(look, float(weight))
            if place is not None:
                self.put(place, view, look, float(weight))
                changed = True
        return changed

    @property
    def best_first(self) -> tuple[View, ...]:
        """The views by falling weight."""
        return tuple(self.views[i] for i in np.argsort(-self.weights, kind='stable'))

    @property
    def mean(self) -> FloatArray:
        """(D,) float32 unit: the embedding of a typical view."""
        return unit_rows(self.weights @ np.stack([v.embedding for v in self.views]))

    @property
    def best(self) -> float:
        """Weight of the best view; 0 without one."""
        return float(self.weights.max(initial=0.0))


def similarities(tracks: Sequence[Gallery], objects: Sequence[Gallery]) -> FloatArray:
    """(T, C) float32 identity cosine of every track with every object; none of them without a view.

    For each view of the track the nearest of the object, weighted by how good the track's view is.
    """
    if not tracks or not objects:
        return np.zeros((len(tracks), len(objects)), np.float32)
    cosines = products(np.concatenate([t.looks for t in tracks]), np.concatenate([o.looks for o in objects]))
    nearest = np.maximum.reduceat(cosines, _starts(objects), axis=1)
    weight = np.concatenate([t.weights for t in tracks])[:, None]
    starts = _starts(tracks)
    total = np.maximum(np.add.reduceat(weight, starts), 1e-9)
    return np.asarray(np.add.reduceat(nearest * weight, starts) / total, np.float32)


def _starts(galleries: Sequence[Gallery]) -> NDArray[np.intp]:
    return np.cumsum([0, *(len(g.views) for g in galleries[:-1])])

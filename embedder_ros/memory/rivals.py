# SPDX-License-Identifier: Apache-2.0
"""Which remembered objects are rivals: a thing that was remembered twice must not be refused because of itself.

One thing becomes two objects when proposals box it differently, or when it comes back in a light or from a side that
was not known. A lead of one over the other means nothing then, and asking for it would leave the thing without an id
for ever. Not measured: look-alikes that are never seen beside each other *and* were remembered apart; the nearest wins.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedder_ros.memory.known import Known
from embedder_ros.memory.reid import Bools
from embedder_ros.memory.views import apart, similarities
from embedder_ros.types import NANOSECONDS, Object, box_iou

# Nanoseconds and overlap within which two objects were last seen as boxes of one thing. Raising the first or lowering
# the second takes neighbours for one thing, and so lets a look-alike that stood close by be merged.
ONE_TIME, ONE_THING = NANOSECONDS // 2, 0.2


def rivals(known: Sequence[Known], same: float, open_pairs: Bools | None = None) -> Bools:
    """(C, C) False where two objects may be one thing remembered twice.

    Args:
        known: the objects, each with a view.
        same: identity cosine from which two that were never seen together may be one. Lowering it lets a thing that
            was never seen beside its look-alike be merged with it.
        open_pairs: (T, C) which tracks may be which objects. Objects that compete for no track count as rivals unseen,
            which spares time.
    """
    which = np.arange(len(known))
    if open_pairs is not None:
        which = np.flatnonzero(open_pairs[open_pairs.sum(axis=1) > 1].any(axis=0))
    some = [known[i] for i in which.tolist()]
    distinct = np.ones((len(known), len(known)), bool)
    distinct[np.ix_(which, which)] = _two_boxes([k.object for k in some]) & ~_halves(some, same)
    return distinct


def _two_boxes(objects: Sequence[Object]) -> Bools:
    """(C, C) False where two objects, when last seen, were overlapping boxes of one camera's view."""
    if not objects:
        return np.zeros((0, 0), bool)
    boxes, stamps = np.stack([o.box for o in objects]), np.array([o.last_seen for o in objects])
    cameras = np.array([o.camera for o in objects])
    at_once = (cameras[:, None] == cameras[None]) & (np.abs(stamps[:, None] - stamps[None]) <= ONE_TIME)
    return np.asarray(~at_once | ((box_iou(boxes, boxes) < ONE_THING) & apart(boxes)))


def _halves(known: Sequence[Known], same: float) -> Bools:
    """(C, C) True where two objects look alike from some side and no camera saw both at once."""
    galleries = [k.gallery for k in known]
    cosines = similarities(galleries, galleries)
    alike = np.maximum(cosines, cosines.T) >= same
    twins = np.flatnonzero(alike.sum(axis=1) > 1)  # each is like itself
    pairs = np.ix_(twins, twins)
    alike[pairs] &= ~seen_at_once([known[i].object for i in twins.tolist()])
    return np.asarray(alike)


def seen_at_once(objects: Sequence[Object]) -> Bools:
    """(C, C) whether one camera saw two objects at one time, as far as their sightings are kept; True for itself."""
    numbers: dict[tuple[str, str], int] = {}
    seen = [
        (owner, numbers.setdefault((s.run, s.camera), len(numbers)), s.first, s.last)
        for owner, thing in enumerate(objects)
        for s in thing.sightings
    ]
    owner, camera, first, last = np.array(seen, np.int64).reshape(-1, 4).T
    meet = (camera[:, None] == camera) & (first[:, None] <= last) & (first <= last[:, None])
    together = np.eye(len(objects), dtype=bool)
    a, b = np.nonzero(meet)
    together[owner[a], owner[b]] = True
    return together

# SPDX-License-Identifier: Apache-2.0
"""Evidence of absence: an object loses belief only where its place was looked through and it was not seen.

Not being detected is no evidence: it may be hidden, or missed. With a camera pose and depth, a remembered place falls
into the image; when a box around it shows something clearly farther away, and nothing nearer or of unknown depth covers
it, the line of sight went through the place. Several such looks, some time apart, are needed before an object counts as
gone. Without poses or depth nothing is decided. Not seen: an object in front of something that gets no box of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from embedder_ros.memory.known import Known, Working
from embedder_ros.memory.policy import Settings
from embedder_ros.memory.report import Report
from embedder_ros.memory.seen import Seen
from embedder_ros.memory.store import Store
from embedder_ros.positions import MIDDLE
from embedder_ros.types import NANOSECONDS, FloatArray, Observation

Doubles = NDArray[np.float64]

# Metres in front of the camera from which a place is looked at.
NEAREST = 0.2
# Share of the image's sides that is too near to the rim to expect a whole thing.
RIM = 0.05
# Share of the distance by which depth and pose may be off.
RELATIVE = 0.1
# Objects that lose belief per look; the others do in the next. Raising it costs time per frame.
MOST = 8
# Presence below which more evidence changes nothing.
SURE = 0.05
# Pixels by which boxes may disagree with a camera matrix before it is fitted anew.
RESIDUAL = 2.0


@dataclass(frozen=True, slots=True)
class Pinhole:
    """Focal lengths and centre, pixels."""

    fx: float
    fy: float
    cx: float
    cy: float


class Intrinsics:
    """One camera's matrix, which is not on the wire, from the positions of its boxes, which were made with it."""

    def __init__(self) -> None:
        self._size = (0, 0)
        self._rays: Doubles = np.zeros((0, 2))
        self._pixels: Doubles = np.zeros((0, 2))
        self._fit: Pinhole | None = None

    def update(self, observation: Observation) -> Pinhole | None:
        """Take a frame's boxes and positions; None until two boxes lie apart in both directions."""
        o = observation
        assert o.positions is not None
        good = np.isfinite(o.positions).all(axis=1) & (o.positions[:, 2] > 0)
        rays = (o.positions[good, :2] / o.positions[good, 2:]).astype(np.float64)
        pixels = ((o.boxes[good, :2] + o.boxes[good, 2:]) / 2).astype(np.float64)
        if self._size != (o.width, o.height) or self._disagrees(rays, pixels):
            self._size, self._fit = (o.width, o.height), None
            self._rays, self._pixels = np.zeros((0, 2)), np.zeros((0, 2))
        if self._fit is None and len(rays):
            self._rays, self._pixels = np.concatenate([self._rays, rays]), np.concatenate([self._pixels, pixels])
            self._fit = _fitted(self._rays, self._pixels)
        return self._fit

    def _disagrees(self, rays: Doubles, pixels: Doubles) -> bool:
        if self._fit is None or not len(rays):
            return False
        f = self._fit
        return bool(np.median(np.abs(rays * (f.fx, f.fy) + (f.cx, f.cy) - pixels)) > RESIDUAL)


def _fitted(rays: Doubles, pixels: Doubles) -> Pinhole | None:
    """Least squares of pixel = f * ray + c, for x and y."""
    lines = []
    for ray, pixel in zip(rays.T, pixels.T, strict=True):
        if np.ptp(ray) < 1e-2:
            return None
        lines.append(np.polyfit(ray, pixel, 1))
    (fx, cx), (fy, cy) = lines
    return Pinhole(float(fx), float(fy), float(cx), float(cy)) if fx > 0 and fy > 0 else None


class _Index:
    """Where all objects of the map are."""

    def __init__(self, store: Store, frame: str) -> None:
        places = store.places()
        self._frame = frame
        rows = [i for i, name in enumerate(places.frames) if name == frame]
        self.ids: list[str] = [places.object_ids[i] for i in rows]
        self.positions: Doubles = places.positions[rows].reshape(-1, 3)
        self.last_seen: NDArray[np.int64] = places.last_seen[rows]
        self.presence: FloatArray = places.presence[rows]
        self._row = {object_id: i for i, object_id in enumerate(self.ids)}

    def take(self, touched: dict[str, Known | None]) -> None:
        """Bring changed objects up to date; a removed one becomes a row that is nowhere."""
        new = [i for i, k in touched.items() if i not in self._row and k is not None]
        if new:
            self._row.update({object_id: len(self.ids) + n for n, object_id in enumerate(new)})
            self.ids += new
            self.positions = np.concatenate([self.positions, np.full((len(new), 3), np.nan)])
            self.last_seen = np.concatenate([self.last_seen, np.zeros(len(new), np.int64)])
            self.presence = np.concatenate([self.presence, np.ones(len(new), np.float32)])
        for object_id, known in touched.items():
            row = self._row.get(object_id)
            if row is None:
                continue
            here = known is not None and known.object.position is not None
            if known is None or not here or known.object.position_frame != self._frame:
                self.positions[row] = np.nan
                continue
            self.positions[row] = known.object.position
            self.last_seen[row], self.presence[row] = known.object.last_seen, known.object.presence


class Absence:
    """Lowers the presence of objects whose place was seen empty.

    Args:
        store, working, settings, report: of the memory.
        map_frame: frame of the places that count.
    """

    def __init__(self, store: Store, working: Working, settings: Settings, report: Report, map_frame: str) -> None:
        self._store, self._working, self._settings = store, working, settings
        self._counts, self._map_frame = report.counts, map_frame
        self._index: _Index | None = None
        self._cameras: dict[str, Intrinsics] = {}
        self._looked: dict[str, int] = {}

    def look(self, seen: Seen, pose: Doubles | None) -> None:
        """Take one frame, after its tracks were recognised. Raises UserError when the store refuses."""
        o = seen.observation
        if pose is None or o.positions is None:
            self._counts['no pose'] += 1
            self._index = None  # read again when poses come, rather than kept up to date for nothing
            self._working.touched.clear()
            return
        camera = self._cameras.setdefault(o.camera, Intrinsics()).update(o)
        if camera is None or not self._due(o):
            return
        if self._index is None:
            self._working.flush()
            self._index = _Index(self._store, self._map_frame)
        self._index.take(self._working.touched)
        self._working.touched.clear()
        for row in self._empty(o, camera, pose):
            self._lower(self._index.ids[row], seen.now)

    def _due(self, observation: Observation) -> bool:
        last = self._looked.get(observation.camera)
        if last is not None and 0 <= observation.stamp - last < self._settings.look_interval * NANOSECONDS:
            return False
        self._looked[observation.camera] = observation.stamp
        return True

    def _empty(self, observation: Observation, camera: Pinhole, pose: Doubles) -> list[int]:
        """Rows of the index whose place this frame looked through; at most MOST, those most believed in first."""
        index, o = self._index, observation
        assert index is not None and o.positions is not None
        local = (index.positions - pose[:3, 3]) @ pose[:3, :3]
        x, y, z = local.T
        with np.errstate(divide='ignore', invalid='ignore'):
            u, v = camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy
            inside = (z > NEAREST) & (np.abs(u / o.width - 0.5) < 0.5 - RIM) & (np.abs(v / o.height - 0.5) < 0.5 - RIM)
        fresh = np.abs(index.last_seen - o.stamp) < 2 * self._settings.look_interval * NANOSECONDS
        rows = np.flatnonzero(inside & ~fresh & (index.presence > SURE))
        if not len(rows):
            return []
        through = _through(o, np.stack([u[rows], v[rows]], axis=1), z[rows], self._settings.behind)
        rows = rows[through]
        return rows[np.argsort(-index.presence[rows], kind='stable')[:MOST]].tolist()

    def _lower(self, object_id: str, now: int) -> None:
        known = self._working.get(object_id)
        if known is None:
            return
        before = known.object.presence
        known.object = replace(known.object, presence=before * self._settings.absent)
        self._counts['looks'] += 1
        self._counts['gone'] += before >= self._settings.gone > known.object.presence
        self._working.changed(known, now)


def _through(observation: Observation, points: Doubles, depth: Doubles, behind: float) -> NDArray[np.bool_]:
    """(n,) whether the line of sight to each of (n, 2) pixels at (n,) metres went on beyond it."""
    o = observation
    assert o.positions is not None
    far = np.maximum(behind, RELATIVE * depth)[:, None]
    beyond = o.positions[None, :, 2] > depth[:, None] + far  # False where depth is unknown
    centre, half = (o.boxes[:, :2] + o.boxes[:, 2:]) / 2, (o.boxes[:, 2:] - o.boxes[:, :2]) / 2
    away = np.abs(points[:, None] - centre[None]) / np.maximum(half[None], 1e-6)
    covered = (away <= 1).all(axis=2)
    middle = (away <= MIDDLE).all(axis=2)  # where the box's depth was measured
    return np.any(middle & beyond, axis=1) & ~np.any(covered & ~beyond, axis=1)

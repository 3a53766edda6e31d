# SPDX-License-Identifier: Apache-2.0
"""Boxes, names and colours of what a rendered view shows.

A colour is a claim about pixels: a thing is called by a colour only if that covers much of what is seen of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray

from embedder_ros.training.scenes.kinds import PART_SYNONYMS
from embedder_ros.training.scenes.meshes import Array, merge, scattered
from embedder_ros.training.scenes.stage import Camera, Pose, Shot, Stage

# Below these a person could not tell what it is. Raising them leaves distant handles unlabelled.
MIN_PIXELS = 40
MIN_SIDE = 6
MIN_VISIBLE = 0.08
COLOUR_SHARE = 0.35  # of the pixels with a named paint; raising it drops the second colour of two-coloured things
CLOUD = 1500  # points per thing or part
CELL = 4  # pixels; grid on which outlines are compared


class Labelled(TypedDict):
    """One labelled object of one view; see `embedder_ros.training.scenes.dataset` for the fields."""

    box: list[int]
    name: str
    synonyms: list[str]
    colours: list[str]
    part_of: str | None
    instance: str
    visible: float


@dataclass(frozen=True, slots=True)
class _Group:
    """A thing or one of its parts: the surfaces that make it up (a drawer includes its handle) and points on them."""

    owner: int
    part: str
    surfaces: list[int]
    cloud: Array


class Labeller:
    """Labels the views of one stage.

    Args:
        stage: whose shots will be labelled.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._groups = [group for owner in range(len(stage.things)) for group in self._of(owner)]

    def _of(self, owner: int) -> list[_Group]:
        own = [i for i, s in enumerate(self._stage.surfaces) if s.owner == owner]
        groups = []
        for part in sorted({self._stage.surfaces[i].part for i in own} | {''}):
            members = [i for i in own if not part or (self._stage.surfaces[i].part + '/').startswith(part + '/')]
            meshes = [
                p.mesh for p in self._stage.things[owner].pieces if not part or (p.part + '/').startswith(part + '/')
            ]
            groups.append(_Group(owner, part, members, scattered(merge(meshes), CLOUD)))
        return groups

    def label(self, shot: Shot, camera: Camera, poses: Sequence[Pose | None]) -> list[Labelled]:
        """Everything in the shot that is visible enough to be named, parts included."""
        pixels = np.bincount(shot.surface.ravel() + 1, minlength=len(self._stage.surfaces) + 1)[1:]
        found = []
        for group in self._groups:
            pose = poses[group.owner]
            if pose is None or pixels[group.surfaces].sum() < MIN_PIXELS:
                continue
            belongs = np.zeros(len(self._stage.surfaces) + 1, dtype=np.bool_)
            belongs[group.surfaces] = True
            mask = belongs[shot.surface]  # -1, the scenery, falls on the last entry
            box, visible = _box(mask), _visible(mask, camera, group.cloud @ pose.rotation.T + pose.position)
            if min(box[2] - box[0], box[3] - box[1]) >= MIN_SIDE and visible >= MIN_VISIBLE:
                found.append(self._entry(group, box, visible, pixels))
        return found

    def _entry(self, group: _Group, box: list[int], visible: float, pixels: NDArray[np.int64]) -> Labelled:
        thing, part = self._stage.things[group.owner], group.part
        name = re.sub(r'\d', '', part.split('/')[-1]) or thing.kind.name
        parent = '/'.join(part.split('/')[:-1])
        return Labelled(
            box=box,
            name=name,
            synonyms=list(PART_SYNONYMS[name] if part else thing.kind.synonyms),
            colours=self._colours(group.surfaces, pixels),
            part_of=(f'{thing.instance}#{parent}' if parent else thing.instance) if part else None,
            instance=f'{thing.instance}#{part}' if part else thing.instance,
            visible=round(visible, 3),
        )

    def _colours(self, members: list[int], pixels: NDArray[np.int64]) -> list[str]:
        seen: dict[str, int] = {}
        for i in members:
            for colour in self._stage.surfaces[i].colours[:1]:
                seen[colour] = seen.get(colour, 0) + int(pixels[i])
        total = sum(seen.values())
        return [c for c, n in sorted(seen.items(), key=lambda item: -item[1]) if total and n >= COLOUR_SHARE * total]


def _box(mask: NDArray[np.bool_]) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def _visible(mask: NDArray[np.bool_], camera: Camera, cloud: Array) -> float:
    """Seen share of the outline that would show unoccluded and uncut, compared on a grid of cells."""
    height, width = mask.shape
    pixel = camera.project(cloud, width, height)
    pixel = np.clip(pixel[np.isfinite(pixel).all(axis=1)], -4096, 4096).astype(np.int64)
    column, row = (pixel // CELL).T
    _, first = np.unique(column * 4096 + row, return_index=True)
    x, y = pixel[first].T
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    near = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0  # the edge's own pixels may round outwards
    hits = near[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)] & inside
    return float(hits.sum() / max(len(first), 1))

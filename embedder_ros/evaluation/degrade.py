# SPDX-License-Identifier: Apache-2.0
"""How much worse boxes cost: proposals dropped, shaken or replaced by the truth; recall beside accuracy.

ObjEmbed's paper varies only the last (its Table 10); what a robot's own proposals lose lies in the first two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedder_ros.evaluation.detection import Dataset, average_recall, run_detection
from embedder_ros.models.base import Proposer
from embedder_ros.pipeline import Pipeline
from embedder_ros.types import Boxes, FloatArray, Frame


@dataclass(frozen=True, slots=True)
class Damage:
    """What is done to the proposals.

    Attributes:
        drop: share of the proposals that is left out.
        jitter: standard deviation of every edge, as a share of the box's side.
        truth: put every labelled box first.
    """

    drop: float = 0.0
    jitter: float = 0.0
    truth: bool = False

    def __str__(self) -> str:
        parts = [f'drop {self.drop:.0%}'] * bool(self.drop) + [f'jitter {self.jitter:.2f}'] * bool(self.jitter)
        return ', '.join(parts + ['truth'] * self.truth) or 'as they are'


STUDY = (
    Damage(),
    Damage(0.25),
    Damage(0.5),
    Damage(jitter=0.05),
    Damage(jitter=0.1),
    Damage(jitter=0.2),
    Damage(truth=True),
)


class Degraded:
    """A Proposer whose boxes are damaged; what it gave last is kept by camera for recall.

    Args:
        source: where boxes come from.
        damage: what is done to them.
        truth: (G, 4) labelled boxes by camera.
        seed: of what is dropped and shaken.
    """

    def __init__(self, source: Proposer, damage: Damage, truth: dict[str, FloatArray], seed: int = 0) -> None:
        self._source, self._damage, self._truth = source, damage, truth
        self._random = np.random.default_rng(seed)
        self.given: dict[str, FloatArray] = {}

    def propose(self, frames: Sequence[Frame], encoded: Sequence[Any], max_objects: int) -> list[Boxes]:
        """See Proposer."""
        found = self._source.propose(frames, encoded, max_objects)
        out = [self._damaged(frame, boxes, max_objects) for frame, boxes in zip(frames, found, strict=True)]
        self.given.update({frame.camera: boxes.xyxy for frame, boxes in zip(frames, out, strict=True)})
        return out

    def _damaged(self, frame: Frame, boxes: Boxes, most: int) -> Boxes:
        xyxy, objectness = boxes.xyxy, boxes.objectness
        kept = self._random.random(len(xyxy)) >= self._damage.drop
        xyxy, objectness = xyxy[kept], objectness[kept]
        side = np.tile(xyxy[:, 2:] - xyxy[:, :2], 2)
        xyxy = xyxy + self._random.normal(0, 1, xyxy.shape).astype(np.float32) * self._damage.jitter * side
        if self._damage.truth:
            own = self._truth.get(frame.camera, np.zeros((0, 4), np.float32))
            xyxy, objectness = np.concatenate([own, xyxy]), np.concatenate([np.ones(len(own), np.float32), objectness])
        xyxy = np.clip(xyxy, 0, [frame.width, frame.height] * 2).astype(np.float32)
        whole = (xyxy[:, 2:] - xyxy[:, :2] >= 1).all(axis=1)
        return Boxes(xyxy[whole][:most], objectness[whole][:most])


def study(
    pipeline: Pipeline, dataset: Dataset, folder: Path, damages: Sequence[Damage] = STUDY, *, quiet: bool = True
) -> Iterator[dict[str, Any]]:
    """One row per damage: {'proposals', 'AR', 'AP', 'AP50'}."""
    labelled = dataset.boxes()
    truth = {name: labelled[image] for image, name in dataset.names.items()}
    for damage in damages:
        source = Degraded(pipeline.proposer, damage, truth)
        worse = Pipeline(pipeline.embedder, source, max_objects=pipeline.max_objects)
        precision = run_detection(worse, dataset, folder, quiet=quiet)
        given = {image: source.given[name] for image, name in dataset.names.items()}
        yield {
            'proposals': str(damage),
            'AR': average_recall(given, labelled),
            'AP': precision['AP'],
            'AP50': precision['AP50'],
        }

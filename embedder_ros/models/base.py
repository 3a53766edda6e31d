# SPDX-License-Identifier: Apache-2.0
"""What every model gives the rest of the package: boxes to embeddings, texts to embeddings, and how to read them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Protocol

from embedder_ros.types import Boxes, FloatArray, Frame, ModelInfo, Observation


class TextKind(IntEnum):
    """What a text will be compared with; the values are those of srv/EmbedText.srv."""

    OBJECT = 0
    IMAGE = 1


class Embedder(Protocol):
    """A network that turns boxes and texts into comparable vectors (ObjEmbed, MODELS.md section 1).

    One instance is used from one inference thread; `embed_text` may be called from any thread.
    """

    @property
    def info(self) -> ModelInfo:
        """Model id, dimension, calibration and identity view."""

    def encode(self, frames: Sequence[Frame]) -> Sequence[Any]:
        """What is computed once per frame and shared by proposals and embedding; opaque to callers, one per frame."""

    def embed(self, frames: Sequence[Frame], encoded: Sequence[Any], boxes: Sequence[Boxes]) -> list[Observation]:
        """Embed the given boxes of each frame; rows keep their order. Zero boxes give an Observation with zero rows."""

    def embed_text(self, texts: Sequence[str], kind: TextKind = TextKind.OBJECT) -> FloatArray:
        """(T, D) float32 unit rows. Raises UserError for an empty text or one of more than 1000 characters."""

    def embed_exemplar(self, frames: Sequence[Frame]) -> FloatArray:
        """(F, D) float32 unit rows: each image as a question, to be compared with object embeddings of other frames."""


class Proposer(Protocol):
    """Where boxes come from (WeDetect-Uni, MODELS.md section 2, or a model's own head)."""

    def propose(self, frames: Sequence[Frame], encoded: Sequence[Any], max_objects: int) -> list[Boxes]:
        """At most `max_objects` boxes per frame, best first, inside the image. `encoded` is Embedder.encode's."""

# SPDX-License-Identifier: Apache-2.0
"""What flows through the package. numpy only; no ROS, no model library.

An `Observation` is what one frame showed, a `Track` is one camera's continuous chain of observations, an `Object` is a
remembered individual. The three are never mixed: feeding remembered things back as if they were seen is what fills
other systems' maps with ghosts. Time is always a stamp in nanoseconds, never a count of frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

NANOSECONDS = 1_000_000_000


class UserError(ValueError):
    """Input or set-up that the user can correct; the message names the remedy and is shown without a traceback."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One camera image.

    Attributes:
        image: (H, W, 3) uint8 RGB. May be a view into a message: never written to, never resized in place.
        stamp: time of exposure in nanoseconds.
        camera: name of the camera.
        frame_id: optical frame of the camera (REP-103), '' when unknown.
        depth: (h, w) float32 metres along the optical axis, registered to the image (same field of view, any size),
            NaN where unknown, or None.
        intrinsics: (3, 3) float64 camera matrix K, or None.
    """

    image: NDArray[np.uint8]
    stamp: int
    camera: str
    frame_id: str = ''
    depth: FloatArray | None = None
    intrinsics: NDArray[np.float64] | None = None

    @property
    def width(self) -> int:
        """Image width in pixels."""
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        """Image height in pixels."""
        return int(self.image.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Proposals for one frame, best first.

    Attributes:
        xyxy: (N, 4) float32 x0 y0 x1 y1 in source pixels, continuous edges, inside the image, x1 > x0 and y1 > y0.
        objectness: (N,) float32 in 0..1, the source's own confidence.
    """

    xyxy: FloatArray
    objectness: FloatArray

    def __len__(self) -> int:
        return len(self.xyxy)


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What one frame showed. Never changed after it was made.

    Attributes:
        stamp: the source image's stamp, nanoseconds.
        camera: name of the camera.
        frame_id: the source image's frame_id.
        width, height: source image size in pixels.
        boxes: (N, 4) float32 xyxy in source pixels.
        objectness: (N,) float32 in 0..1.
        iou: (N,) float32 in 0..1, predicted IoU of each box with the object it covers.
        embeddings: (N, D) float32, unit rows.
        frame_embeddings: (2, D) float32 unit rows, coarse then detailed; (0, D) when the model has none.
        model_id: what made it; observations with different ids are never compared.
        positions: (N, 3) float32 metres in the optical frame `frame_id`, NaN where depth was unknown; None without
            depth.
    """

    stamp: int
    camera: str
    frame_id: str
    width: int
    height: int
    boxes: FloatArray
    objectness: FloatArray
    iou: FloatArray
    embeddings: FloatArray
    frame_embeddings: FloatArray
    model_id: str
    positions: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def dim(self) -> int:
        """Length D of one embedding."""
        return int(self.embeddings.shape[1])

    def row(self, index: int) -> Observation:
        """The same observation with this row alone."""
        rows = slice(index, index + 1)
        per_object = {name: getattr(self, name)[rows] for name in ('boxes', 'objectness', 'iou', 'embeddings')}
        return replace(self, **per_object, positions=None if self.positions is None else self.positions[rows])


class TrackStatus(IntEnum):
    """State of a track; the values are those of msg/Tracks.msg."""

    NEW = 1
    TRACKED = 2
    LOST = 3
    REMOVED = 4


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """One camera's continuous chain of observations of one thing, as it stands after one frame.

    Attributes:
        track_id: from 1, unique in the run over all cameras.
        camera: name of the camera.
        status: NEW, TRACKED, LOST or REMOVED.
        row: row in the Observation it was last updated from, -1 when this frame did not show it.
        box: (4,) float32 xyxy pixels, where it was last seen.
        embedding: (D,) float32 unit, running appearance.
        iou, objectness: of the last sighting.
        first_stamp, last_stamp: first and last sighting, nanoseconds.
        stamp: stamp of the frame this state is for, nanoseconds.
        object_id: remembered object it was recognised as, '' when none.
    """

    track_id: int
    camera: str
    status: TrackStatus
    row: int
    box: FloatArray
    embedding: FloatArray
    iou: float
    objectness: float
    first_stamp: int
    last_stamp: int
    stamp: int
    object_id: str = ''

    @property
    def age(self) -> float:
        """Seconds since the first sighting."""
        return (self.stamp - self.first_stamp) / NANOSECONDS

    @property
    def unseen(self) -> float:
        """Seconds since the last sighting."""
        return (self.stamp - self.last_stamp) / NANOSECONDS


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One stored appearance of a remembered object.

    Attributes:
        embedding: (D,) float32 unit.
        stamp: of the frame that showed it, nanoseconds.
        camera: name of the camera.
        box: (4,) float32 xyxy in that frame's pixels.
        width, height: of that frame, pixels.
        iou, objectness: of the box, 0..1.
        thumbnail: JPEG of the box, b'' when there is none.
    """

    embedding: FloatArray
    stamp: int
    camera: str
    box: FloatArray
    width: int
    height: int
    iou: float
    objectness: float
    thumbnail: bytes = b''


@dataclass(frozen=True, slots=True)
class Sighting:
    """One track that a remembered object was seen as.

    Attributes:
        run: which run of the package gave the track its id; ids repeat in other runs.
        camera, track_id: the track.
        first, last: stamps of the track's first and last sighting, nanoseconds.
    """

    run: str
    camera: str
    track_id: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, eq=False)
class Object:
    """A remembered individual. Refreshed only by a sighting, never by being remembered.

    Attributes:
        object_id: stable across restarts, never given to another object.
        map_id: map that positions and comparisons belong to; '' when no map was named.
        model_id: what embedded its views.
        views: diverse appearances, best first.
        sightings: the newest tracks it was seen as, oldest first; bounded, `sighting_count` counts all of them.
        first_seen, last_seen: stamps, nanoseconds.
        camera, box, width, height, frame_id: where it was last seen; box (4,) float32 xyxy pixels.
        position: (3,) float64 metres in `position_frame` at the last sighting with a position, or None.
        presence: belief that it is still there, 0..1; lowered only by evidence of absence.
        name, labels: given with Remember; texts it was found by.
        pinned: kept by Remember, never dropped by the retention policy.
    """

    object_id: str
    map_id: str
    model_id: str
    views: tuple[View, ...]
    sightings: tuple[Sighting, ...]
    sighting_count: int
    first_seen: int
    last_seen: int
    camera: str
    box: FloatArray
    width: int
    height: int
    frame_id: str = ''
    position: NDArray[np.float64] | None = None
    position_frame: str = ''
    presence: float = 1.0
    name: str = ''
    labels: tuple[str, ...] = ()
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Calibration:
    """How a model's cosines are read. Fitted on validation data and stored with the model.

    Attributes:
        scale, bias: semantic = sigmoid(scale * cosine + bias) for object embeddings (MODELS.md 1.8).
        found: score = semantic * iou that an answer needs. Raising it turns weak true answers into NOT_FOUND.
        margin: score by which the first candidate must beat the second distinct object. Raising it turns
            right answers into AMBIGUOUS.
        image_scale, image_bias: the same for frame embeddings.
        identity_scale, identity_bias: sigmoid(scale * cosine + bias) of two identity views is the probability that they
            show the same individual.
    """

    scale: float
    bias: float
    found: float
    margin: float
    image_scale: float = 1.0
    image_bias: float = 0.0
    identity_scale: float = 10.0
    identity_bias: float = -7.0

    def semantic(self, cosine: FloatArray) -> FloatArray:
        """How probable it is that an object with this cosine to a text matches it; elementwise, float32."""
        return _sigmoid(self.scale * np.asarray(cosine, np.float32) + self.bias)

    def whole(self, cosine: FloatArray) -> FloatArray:
        """How probable it is that a frame with this cosine to a caption matches it; elementwise, float32."""
        return _sigmoid(self.image_scale * np.asarray(cosine, np.float32) + self.image_bias)

    def same(self, cosine: FloatArray) -> FloatArray:
        """How probable it is that two identity views with this cosine show one individual; elementwise, float32."""
        return _sigmoid(self.identity_scale * np.asarray(cosine, np.float32) + self.identity_bias)


@dataclass(frozen=True, slots=True, eq=False)
class ModelInfo:
    """All that is needed to read a model's embeddings without having the model.

    Attributes:
        model_id: name, weights hash and prompt, for example 'nano-3f2a91c0'.
        dim: D, length of an embedding.
        calibration: how its cosines are read.
        identity_view: (D, K) float32 linear map to the part that compares individuals rather than kinds; None means
            the whole embedding.
        identity_dims: numbers of an embedding that the view picks; None if it does more than that, or is None.
    """

    model_id: str
    dim: int
    calibration: Calibration
    identity_view: FloatArray | None = None
    identity_dims: slice | NDArray[np.intp] | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        if self.identity_view is not None:
            object.__setattr__(self, 'identity_dims', _picked_by(self.identity_view))

    def identity(self, embeddings: FloatArray) -> FloatArray:
        """(N, D) embeddings to (N, K) unit rows whose cosine compares individuals."""
        if self.identity_view is None:
            return embeddings
        if self.identity_dims is not None:
            return unit_rows(embeddings[:, self.identity_dims])
        return unit_rows(embeddings @ self.identity_view)


def _picked_by(view: FloatArray) -> slice | NDArray[np.intp] | None:
    """Which numbers of an embedding the map picks, if it does only that: a product costs much more on a busy robot."""
    rows, columns = np.nonzero(view.T)
    if not len(rows) or not np.array_equal(rows, np.arange(view.shape[1])) or (view[columns, rows] != 1).any():
        return None
    together = np.array_equal(columns, np.arange(columns[0], columns[0] + len(columns)))
    return slice(int(columns[0]), int(columns[0]) + len(columns)) if together else columns


class Outcome(Enum):
    """How a question ended; the values are those of srv/Find.srv."""

    NOT_FOUND = 0
    FOUND = 1
    AMBIGUOUS = 2


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One object that may be meant: where it was last seen, and how well it matches.

    score = semantic * iou. `track_id` 0 and `object_id` '' mean none. `position` is (3,) metres in `position_frame`,
    which is `frame_id` when '', or None. `unseen` is seconds since that sighting.
    """

    camera: str
    frame_id: str
    stamp: int
    box: FloatArray
    score: float
    semantic: float
    iou: float
    objectness: float = 0.0
    track_id: int = 0
    object_id: str = ''
    status: TrackStatus | None = None
    row: int = -1
    position: FloatArray | None = None
    unseen: float = 0.0
    position_frame: str = ''


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The answer to a query. An answer always has a reason.

    Attributes:
        outcome: FOUND, AMBIGUOUS or NOT_FOUND.
        reason: found, below_threshold, small_margin, no_objects, no_frames or stale_frames.
        candidates: best first; on NOT_FOUND the best that fell short.
        margin: score of the first minus score of the second distinct object.
        threshold: the score that FOUND needs.
        frames_searched, objects_searched: how much was looked at.
        age: seconds since the newest frame that was searched, -1 when none.
    """

    outcome: Outcome
    reason: str
    candidates: Sequence[Candidate] = field(default_factory=tuple)
    margin: float = 0.0
    threshold: float = 0.0
    frames_searched: int = 0
    objects_searched: int = 0
    age: float = -1.0


def _sigmoid(logit: FloatArray) -> FloatArray:
    return (1.0 / (1.0 + np.exp(-logit))).astype(np.float32)


def unit_rows(rows: Any) -> FloatArray:
    """Return (N, D) float32 rows scaled to length 1; a zero row stays zero."""
    array = np.asarray(rows, np.float32)
    norm = np.linalg.norm(array, axis=-1, keepdims=True)
    return np.divide(array, norm, out=np.zeros_like(array), where=norm > 0)


def highest(scores: FloatArray, most: int) -> NDArray[np.intp]:
    """Where the `most` highest of (N,) scores are, in no order; quicker than sorting all of them."""
    others = len(scores) - most
    return np.argpartition(scores, others)[others:] if others > 0 else np.arange(len(scores))


def box_iou(a: FloatArray, b: FloatArray) -> FloatArray:
    """IoU of every box in a (N, 4) with every box in b (M, 4), xyxy; (N, M) float32, 0 for empty boxes."""
    a, b = np.asarray(a, np.float32).reshape(-1, 4), np.asarray(b, np.float32).reshape(-1, 4)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    width, height = np.maximum(high - low, 0).transpose(2, 0, 1)
    shared = width * height
    area_a = np.clip(a[:, 2:] - a[:, :2], 0, None).prod(axis=1)
    area_b = np.clip(b[:, 2:] - b[:, :2], 0, None).prod(axis=1)
    union = area_a[:, None] + area_b[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)

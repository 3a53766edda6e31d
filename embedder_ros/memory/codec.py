# SPDX-License-Identifier: Apache-2.0
"""Objects and frames as columns, the same for every database; and what is refused before it gets there.

Vectors are kept as float16: half the disk, and a cosine that differs by less than 5e-4. Reading and writing them again
changes nothing. Everything that is only read together with its object is one JSON text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder_ros.memory.store import StoredFrame
from embedder_ros.types import FloatArray, ModelInfo, Object, Sighting, UserError, View

# How far from 1 the length of a vector may be. Raising it lets vectors in that were never normalised.
UNIT = 1e-2

_HALF = np.dtype('<f2')
_SINGLE = np.dtype('<f4')
_NO_COPIES, _SCALE = np.int32(~0x70000000), np.float32(2**112)  # of the sign; of float16's exponents
_sighting = attrgetter(*(f.name for f in fields(Sighting)))
_dumps = json.JSONEncoder(separators=(',', ':'), default=int).encode  # json.dumps would make one each time


@dataclass(frozen=True, slots=True)
class ViewRow:
    """A view as columns.

    Attributes:
        mark: tells whether it is the same view; of all its content.
        body: JSON of all but the vector and the thumbnail.
        vector: float16.
        thumbnail: JPEG.
    """

    mark: int
    body: str
    vector: bytes
    thumbnail: bytes


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """An object as columns: what is asked for by itself, and `body`, the rest as JSON. `words` is what text finds."""

    object_id: str
    last_seen: int
    camera: str
    words: str
    position_frame: str
    position: tuple[float, float, float] | None
    presence: float
    body: str
    views: tuple[ViewRow, ...]


@dataclass(frozen=True, slots=True)
class FrameRow:
    """A frame as columns: `whole` its frame embeddings, `vectors` and `boxes` of its rows (x0 y0 x1 y1 iou)."""

    camera: str
    stamp: int
    body: str
    whole: bytes
    vectors: bytes
    boxes: bytes
    object_ids: tuple[str, ...]
    thumbnail: bytes


def checked_vectors(rows: Any, dim: int, what: str) -> FloatArray:
    """(N, D) float32 copy of the rows. Raises UserError for another length, NaN, or rows that are not unit."""
    array = np.asarray(rows, np.float32)
    if array.ndim != 2 or array.shape[1] != dim:
        raise UserError(f'{what} has shape {array.shape}; the model of this memory gives vectors of {dim} numbers')
    if not np.isfinite(array).all():
        raise UserError(f'{what} is not finite; drop observations with NaN before they are remembered')
    lengths = np.linalg.norm(array, axis=1)
    if len(array) and np.abs(lengths - 1).max() > UNIT:
        wrong = lengths[np.abs(lengths - 1).argmax()]
        raise UserError(f'{what} has length {wrong:.3g} instead of 1; normalise it with embedder_ros.types.unit_rows')
    return array


def pack_vectors(rows: FloatArray) -> bytes:
    """(N, D) float32 to bytes."""
    return rows.astype(_HALF).tobytes()


def unpack_vectors(data: bytes, dim: int) -> FloatArray:
    """Bytes to (N, D) float32 unit rows."""
    rows = _singles(np.frombuffer(data, '<i2').reshape(-1, dim))
    lengths = np.sqrt(np.einsum('ij,ij->i', rows, rows))
    rows /= np.where(lengths > 0, lengths, 1)[:, None]  # in place, which is most of the time when a file is opened
    return rows


def _singles(halves: NDArray[np.int16]) -> FloatArray:
    """float32 of the bits of finite float16: sign, exponent and fraction are moved, and the exponent begins elsewhere.

    numpy's own conversion takes five times as long, a fifth of a second for 100 000 vectors.
    """
    bits = halves.astype(np.int32)
    bits <<= 13
    bits &= _NO_COPIES
    rows = bits.view(np.float32)
    rows *= _SCALE
    return rows


def object_rows(objects: Sequence[Object], map_id: str, model: ModelInfo) -> list[ObjectRow]:
    """Objects as columns. Raises UserError for what does not belong into this memory."""
    for o in objects:
        _check_owner(o, map_id, model)
    views = [view.embedding for o in objects for view in o.views]
    try:
        packed = pack_vectors(checked_vectors(_stacked(views, model.dim), model.dim, 'a view'))
    except (UserError, ValueError):
        for o in objects:
            for view in o.views:
                checked_vectors(np.asarray(view.embedding)[None], model.dim, f"a view of object '{o.object_id}'")
        raise
    size = 2 * model.dim
    vectors = iter([packed[start : start + size] for start in range(0, len(packed), size)])
    return [_object_row(o, {row.mark: row for row in (_view_row(v, next(vectors)) for v in o.views)}) for o in objects]


def read_objects(rows: Sequence[ObjectRow], map_id: str, model: ModelInfo) -> list[Object]:
    """The objects that these columns are; all at once, because what is called for each adds up."""
    stored = [view for row in rows for view in row.views]
    vectors = unpack_vectors(b''.join(view.vector for view in stored), model.dim)
    bodies = iter(json.loads(f'[{",".join([view.body for view in stored] + [row.body for row in rows])}]'))
    # Copied, so that one view in use does not keep the vectors of all.
    views = [_read_view(view, next(bodies), vector.copy()) for view, vector in zip(stored, vectors, strict=True)]
    ends = np.cumsum([len(row.views) for row in rows]).tolist()
    return [
        _read_object(row, body, tuple(views[end - len(row.views) : end]), map_id, model)
        for row, body, end in zip(rows, bodies, ends, strict=True)
    ]


def _read_object(row: ObjectRow, body: Any, views: tuple[View, ...], map_id: str, model: ModelInfo) -> Object:
    return Object(
        object_id=row.object_id,
        map_id=map_id,
        model_id=model.model_id,
        views=views,
        sightings=tuple(Sighting(*s) for s in body['sightings']),
        sighting_count=body['sighting_count'],
        first_seen=body['first_seen'],
        last_seen=row.last_seen,
        camera=row.camera,
        box=np.array(body['box'], np.float32),
        width=body['size'][0],
        height=body['size'][1],
        frame_id=body['frame_id'],
        position=None if row.position is None else np.array(row.position, np.float64),
        position_frame=row.position_frame,
        presence=row.presence,
        name=body['name'],
        labels=tuple(body['labels']),
        pinned=body['pinned'],
    )


def frame_row(frame: StoredFrame, dim: int) -> FrameRow:
    """A frame as columns. Raises UserError for vectors, boxes or ids that do not fit together."""
    what = f"frame {frame.stamp} of camera '{frame.camera}'"
    vectors = checked_vectors(frame.embeddings, dim, f'an object in {what}')
    whole = checked_vectors(frame.frame_embeddings, dim, f'the frame embedding of {what}')
    boxes, iou = np.asarray(frame.boxes, _SINGLE), np.asarray(frame.iou, _SINGLE)
    if not (boxes.shape == (len(vectors), 4) and iou.shape == (len(vectors),) == (len(frame.object_ids),)):
        raise UserError(f'{what} has {len(vectors)} embeddings; give as many boxes (N, 4), iou (N,) and object ids')
    return FrameRow(
        camera=text(frame.camera, 'a camera name'),
        stamp=int(frame.stamp),
        body=_dumps({'frame_id': frame.frame_id, 'size': [int(frame.width), int(frame.height)]}),
        whole=pack_vectors(whole),
        vectors=pack_vectors(vectors),
        boxes=np.column_stack([boxes, iou]).astype(_SINGLE).tobytes(),
        object_ids=tuple(text(i, 'an object id') for i in frame.object_ids),
        thumbnail=bytes(frame.thumbnail),
    )


def read_frame(row: FrameRow, dim: int) -> StoredFrame:
    """The frame that these columns are."""
    body = json.loads(row.body)
    boxes = np.frombuffer(row.boxes, _SINGLE).reshape(-1, 5)
    return StoredFrame(
        stamp=row.stamp,
        camera=row.camera,
        frame_id=body['frame_id'],
        width=body['size'][0],
        height=body['size'][1],
        frame_embeddings=unpack_vectors(row.whole, dim),
        embeddings=unpack_vectors(row.vectors, dim),
        boxes=boxes[:, :4].copy(),
        iou=boxes[:, 4].copy(),
        object_ids=row.object_ids,
        thumbnail=row.thumbnail,
    )


def without_rows(data: bytes, rows: Sequence[int], size: int) -> bytes:
    """A packed array of `size` bytes a row without some of them."""
    return np.delete(np.frombuffer(data, np.uint8).reshape(-1, size), list(rows), axis=0).tobytes()


def words(texts: Sequence[str]) -> str:
    """What `Filter.text` is looked for in: all texts, without case."""
    return '\n'.join(t.casefold() for t in texts if t).replace('\0', '').encode(errors='replace').decode()


def text(value: str, what: str) -> str:
    """The text. Raises UserError for characters that no database keeps."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f'{what} is not valid Unicode: {value!r}; give text without lone surrogates') from None
    if '\0' in value:
        raise UserError(f'{what} contains a NUL character: {value!r}; leave it out')
    return value


def storable(texts: Iterable[str]) -> list[str]:
    """Those of the texts that a database can hold; it is no use to ask for others."""
    return [t for t in texts if '\0' not in t and t.encode(errors='ignore').decode() == t]


def _check_owner(o: Object, map_id: str, model: ModelInfo) -> None:
    if not o.object_id:
        raise UserError('an object without an id cannot be remembered; give it one that no other object ever had')
    if o.model_id != model.model_id:
        raise UserError(
            f"object '{o.object_id}' was embedded by model '{o.model_id}' and this memory compares '{model.model_id}': "
            'their vectors mean different things; open the memory with that model, or embed the object again'
        )
    if o.map_id != map_id:
        raise UserError(
            f"object '{o.object_id}' belongs to map '{o.map_id}' and this memory to '{map_id}'; open that map's memory"
        )


def _object_row(o: Object, views: dict[int, ViewRow]) -> ObjectRow:
    what = f"object '{o.object_id}'"
    body = {
        'sightings': [_sighting(s) for s in o.sightings],
        'sighting_count': int(o.sighting_count),
        'first_seen': int(o.first_seen),
        'box': _box(o.box, what),
        'size': [int(o.width), int(o.height)],
        'frame_id': o.frame_id,
        'name': o.name,
        'labels': list(o.labels),
        'pinned': bool(o.pinned),
    }
    return ObjectRow(
        object_id=text(o.object_id, 'an object id'),
        last_seen=int(o.last_seen),
        camera=text(o.camera, 'a camera name'),
        words=words([o.name, *o.labels]),
        position_frame=text(o.position_frame, 'a position frame'),
        position=None if o.position is None else _position(o.position, what),
        presence=float(o.presence),
        body=_dumps(body),
        views=tuple(views.values()),
    )


def _view_row(view: View, packed: bytes) -> ViewRow:
    body = _dumps(
        {
            'stamp': int(view.stamp),
            'camera': view.camera,
            'box': _box(view.box, 'a view'),
            'size': [int(view.width), int(view.height)],
            'iou': float(view.iou),
            'objectness': float(view.objectness),
        }
    )
    thumbnail = bytes(view.thumbnail)
    digest = blake2b(body.encode(), digest_size=8)
    digest.update(packed)
    digest.update(thumbnail)
    return ViewRow(int.from_bytes(digest.digest(), 'little', signed=True), body, packed, thumbnail)


def _read_view(row: ViewRow, body: Any, vector: FloatArray) -> View:
    return View(
        embedding=vector,
        stamp=body['stamp'],
        camera=body['camera'],
        box=np.array(body['box'], np.float32),
        width=body['size'][0],
        height=body['size'][1],
        iou=body['iou'],
        objectness=body['objectness'],
        thumbnail=row.thumbnail,
    )


def _box(box: Any, what: str) -> list[float]:
    array = np.asarray(box, np.float32)
    numbers: list[float] = array.tolist()
    if array.shape != (4,) or not all(map(math.isfinite, numbers)):
        raise UserError(f'{what} has the box {numbers}; give four finite numbers x0 y0 x1 y1 in pixels')
    return numbers


def _position(position: Any, what: str) -> tuple[float, float, float]:
    array = np.asarray(position, np.float64)
    if array.shape != (3,) or not np.isfinite(array).all():
        raise UserError(f'{what} has the position {array.tolist()}; give three finite metres, or None when unknown')
    return float(array[0]), float(array[1]), float(array[2])


def _stacked(vectors: Sequence[Any], dim: int) -> FloatArray:
    return np.stack([np.asarray(v, np.float32) for v in vectors]) if vectors else np.zeros((0, dim), np.float32)

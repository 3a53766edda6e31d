# SPDX-License-Identifier: Apache-2.0
"""What every model refuses in its inputs and files, and the cache of text embeddings."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from pathlib import Path
from threading import Lock

import numpy as np

from embedder_ros.types import Boxes, FloatArray, Frame, UserError

MAX_CHARACTERS = 1000
CACHE = 1024  # texts remembered


def checked_frames(frames: Sequence[Frame]) -> Sequence[Frame]:
    """The frames. Raises UserError for an image that is not (H, W, 3) uint8."""
    for frame in frames:
        image = frame.image
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise UserError(
                f"camera '{frame.camera}': the image is {image.shape} {image.dtype}; "
                'convert it to (height, width, 3) uint8 RGB'
            )
    return frames


def checked_boxes(frame: Frame, boxes: Boxes) -> FloatArray:
    """(N, 4) the boxes clipped to the image. Raises UserError for one that is not finite or does not overlap it."""
    camera = frame.camera
    if not np.isfinite(boxes.xyxy).all():
        raise UserError(f"camera '{camera}': a box has a coordinate that is not a number; give x0 y0 x1 y1 in pixels")
    inside = np.clip(boxes.xyxy, 0, [frame.width, frame.height] * 2).astype(np.float32)
    if (inside[:, 2:] <= inside[:, :2]).any():
        raise UserError(f"camera '{camera}': a box is empty or outside the image; give x0 < x1 and y0 < y1 inside it")
    return inside


def checked_texts(texts: Sequence[str], most: int = MAX_CHARACTERS) -> list[str]:
    """The texts trimmed. Raises UserError for an empty one or one of more than `most` characters."""
    trimmed = [text.strip() for text in texts]
    for text in trimmed:
        if not text:
            raise UserError('the text is empty; say what to look for, for example "the red handle"')
        if len(text) > most:
            raise UserError(f'the text has {len(text)} characters; at most {most} are read, shorten it')
    return trimmed


def check_pointer(path: Path) -> None:
    """Raise UserError for what git leaves in place of a large file that it did not fetch."""
    with path.open('rb') as file:
        start = file.read(64)
    if start.startswith(b'version ') and b'git-lfs' in start:
        raise UserError(f'{path} is a git-LFS pointer, not the file; run `git lfs pull` in {path.parent}')


class LastUsed:
    """A small thread-safe cache of text embeddings."""

    def __init__(self, size: int = CACHE) -> None:
        self._size = size
        self._lock = Lock()
        self._held: OrderedDict[Hashable, FloatArray] = OrderedDict()

    def get(self, key: Hashable) -> FloatArray | None:
        """The vector kept for this text, or None."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: Hashable, value: FloatArray) -> None:
        """Keep a vector; the one unused for longest goes when the cache is full."""
        with self._lock:
            self._held[key] = value
            self._held.move_to_end(key)
            if len(self._held) > self._size:
                self._held.popitem(last=False)

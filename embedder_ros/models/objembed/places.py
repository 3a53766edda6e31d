# SPDX-License-Identifier: Apache-2.0
"""Where in a batch of token rows the image, the boxes and the readings stand; they must be as many as they are said.

A scatter of the wrong number of vectors misaligns silently, so everything is counted here, on the CPU, before the
device gets any work. Positions are Qwen3-VL's: one counter for text, three for the cells of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from embedder_ros.types import UserError

TOKENS_PER_BOX = 2

Grid = tuple[int, int]  # rows and columns of image tokens


@dataclass(frozen=True, slots=True)
class Places:
    """Indices into the flattened (B * L) batch, in row order.

    Attributes:
        image: (T,) image tokens of all frames.
        objects: (2 * sum of N,) two per box.
        frames: (B * G,) tokens whose hidden states are the frame's embeddings.
    """

    image: Tensor
    objects: Tensor
    frames: Tensor


def checked_rows(input_ids: Tensor, attention_mask: Tensor, vocabulary: int) -> Tensor:
    """The ids (B, L) on the CPU, padding replaced by -1.

    Raises:
        UserError: padding on the left, or ids the network has no vector for.
    """
    ids, mask = input_ids.cpu(), attention_mask.cpu().bool()
    if ids.shape != mask.shape or ids.ndim != 2:
        raise UserError(f'input_ids {tuple(ids.shape)} and attention_mask {tuple(mask.shape)} must be the same (B, L)')
    if (mask[:, 1:] & ~mask[:, :-1]).any():
        raise UserError('rows must be padded on the right; set padding_side of the tokenizer')
    ids = ids.masked_fill(~mask, -1)
    if ids.numel() and int(ids.max()) >= vocabulary:
        raise UserError(
            f"token {int(ids.max())} is outside the vocabulary of {vocabulary}; use the model's own tokenizer"
        )
    return ids


def find(
    rows: Tensor, grids: Sequence[Grid], boxes: Sequence[int], *, image: int, box: int, frame: int | None
) -> Places:
    """Places of a batch.

    Args:
        rows: (B, L) from `checked_rows`.
        grids: per row, rows and columns of image tokens.
        boxes: per row, number of boxes.
        image: id of image tokens.
        box: id of the tokens of boxes.
        frame: id of the tokens a frame is read at; None reads none.

    Raises:
        UserError: a row has other numbers of tokens, or they are not side by side.
    """
    wanted = torch.tensor([h * w for h, w in grids])
    images = _counted(rows == image, wanted, 'image')
    ends = wanted.cumsum(0)
    if (images[ends - 1] - images[ends - wanted] != wanted - 1).any():
        raise UserError("an image's tokens must stand side by side, one image per row")
    objects = _counted(rows == box, torch.tensor(boxes) * TOKENS_PER_BOX, '<object>')
    if (objects[1::2] - objects[::2] != 1).any():
        raise UserError('the two <object> tokens of a box must stand side by side')
    reads = torch.zeros_like(rows, dtype=torch.bool) if frame is None else rows == frame
    frames = _counted(reads, reads.sum(1)[:1].expand(len(rows)), '<global>')
    return Places(images, objects, frames)


def find_texts(rows: Tensor, ids: Sequence[int]) -> Tensor:
    """(T,) index into the flattened rows of the one token of `ids` in each. Raises UserError for none or several."""
    return _counted(torch.isin(rows, torch.tensor(ids)), torch.ones(len(rows), dtype=torch.int64), 'text-reading')


def position_ids_of(rows: Tensor, grids: Sequence[Grid], image: int) -> Tensor:
    """(3, B, L) time, row and column of every token: a counter, except that an image's cells share one time.

    Args:
        rows: (B, L) ids; what they are after the image does not matter.
        grids: per row, rows and columns of image tokens.
        image: id of image tokens, one run of them per row.
    """
    batch, length = rows.shape
    out = torch.arange(length).expand(3, batch, length).clone()
    for row, (height, width) in enumerate(grids):
        start, end = (first := int((rows[row] == image).int().argmax())), first + height * width
        cell = torch.arange(height * width)
        out[:, row, start:end] = start + torch.stack([cell * 0, cell // width, cell % width])
        out[:, row, end:] += max(height, width) - height * width
    return out


def _counted(found: Tensor, wanted: Tensor, name: str) -> Tensor:
    counts = found.sum(1)
    if not torch.equal(counts, wanted):
        row = int((counts != wanted).nonzero()[0, 0])
        raise UserError(
            f'row {row} has {int(counts[row])} {name} tokens where {int(wanted[row])} belong; '
            "keep special tokens out of users' texts"
        )
    return found.flatten().nonzero()[:, 0]

# SPDX-License-Identifier: Apache-2.0
"""What a forward pass needs besides pixels and boxes, made once per image grid and number of objects, then kept.

Token ids, attention mask and M-RoPE positions do not depend on the frame's content: a frame of a known shape costs no
tokenisation. Ids stay on the CPU, where the network counts them; positions lie on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from embedder_ros.models.objembed import prompts
from embedder_ros.models.objembed.places import position_ids_of

KEPT = 256  # batches of layouts; 100 objects on 900 cells take 60 kB


@dataclass(frozen=True, slots=True)
class Turn:
    """Shape of one image's prompt: merged rows and columns, number of objects, whether the image is the question."""

    rows: int
    columns: int
    count: int
    exemplar: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Inputs of a batch, right padded.

    Attributes:
        input_ids: (B, L) int64 on the CPU.
        attention_mask: (B, L) int64 on the CPU, 0 at padding.
        position_ids: (3, B, L) int64 on the device, time, row and column of M-RoPE.
        lengths: tokens of each prompt.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    lengths: tuple[int, ...]


class Layouts:
    """Layouts of one checkpoint and task prompt.

    Args:
        tokenizer: the checkpoint's.
        task: key of prompts.TASKS.
        use_two_tokens: the checkpoint's flag.
        device: where the network runs.
    """

    def __init__(
        self, tokenizer: prompts.PromptTokenizer, *, task: str, use_two_tokens: int, device: torch.device
    ) -> None:
        self._tokenizer = tokenizer
        self._task = prompts.TASKS[task]
        self._use_two_tokens = use_two_tokens
        self._device = device
        self.images = lru_cache(KEPT)(self._images)

    def _images(self, turns: tuple[Turn, ...]) -> Layout:
        """The layout of a batch of images; call `images`, which keeps the newest."""
        ids = [self._tokenizer.image(self._text(turn), turn.rows * turn.columns) for turn in turns]
        input_ids, mask = padded(ids, self._tokenizer.padding)
        positions = position_ids_of(input_ids, [(t.rows, t.columns) for t in turns], self._tokenizer.image_pad)
        return Layout(input_ids, mask, positions.to(self._device), tuple(map(len, ids)))

    def _text(self, turn: Turn) -> str:
        if turn.exemplar:
            return prompts.exemplar_text(self._use_two_tokens)
        return self._task + prompts.objects_text(turn.count, self._use_two_tokens)


def padded(rows: Sequence[Sequence[int]], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both (B, L) int64, of prompts of different lengths; padding is on the right."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask

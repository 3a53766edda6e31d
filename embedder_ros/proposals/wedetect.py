# SPDX-License-Identifier: Apache-2.0
"""WeDetect-Uni's boxes: what ObjEmbed was trained and measured with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedder_ros.types import Boxes, Frame, UserError


class WeDetectProposals:
    """Class-agnostic boxes, best first.

    Args:
        path: a wedetect_*_uni.pth.
        device: 'auto', 'cpu' or 'cuda'. Computed in float32, as the authors do.

    Raises:
        UserError: torch is not installed, no such device, or the file is not what it should be.
    """

    def __init__(self, path: Path, *, device: str = 'auto') -> None:
        try:
            import torch

            from embedder_ros.models.devices import torch_device
            from embedder_ros.models.wedetect.checkpoint import load_wedetect
        except ImportError as error:
            raise UserError(
                f'WeDetect-Uni needs torch and pillow ({error}); run: pip install "embedder_ros[objembed]"'
            ) from error
        self._device = torch_device(device)
        self._network = load_wedetect(path, device=self._device).to(memory_format=torch.channels_last)

    def propose(self, frames: Sequence[Frame], encoded: Sequence[Any], max_objects: int) -> list[Boxes]:
        """See Proposer; `encoded` is not looked at."""
        import torch

        from embedder_ros.models.wedetect.image import letterbox
        from embedder_ros.models.wedetect.select import select

        squares, places = zip(*(letterbox(f.image, self._network.shape.pixels) for f in frames), strict=True)
        pixels = torch.from_numpy(np.stack(squares)).to(self._device).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            raw = self._network(pixels.contiguous(memory_format=torch.channels_last))
            found = [select(b, s, max_objects) for b, s in zip(raw.boxes, raw.logits, strict=True)]
        return [_inside(place.undo(boxes), scores) for place, (boxes, scores) in zip(places, found, strict=True)]


def _inside(boxes: np.ndarray, scores: np.ndarray) -> Boxes:
    whole = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)  # what lay in the padding has no area in the image
    return Boxes(boxes[whole], scores[whole])

# SPDX-License-Identifier: Apache-2.0
"""WeDetect-Uni's boxes: what ObjEmbed was trained and measured with (MODELS.md section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedder_ros.models.inputs import checked_frames
from embedder_ros.types import Boxes, FloatArray, Frame, UserError

if TYPE_CHECKING:
    from torch import Tensor

PRECISIONS = {'auto': 'float32', 'fp32': 'float32', 'bf16': 'bfloat16', 'fp16': 'float16'}
# Frames that a GPU sees at once; more take memory in proportion. A CPU sees one: two at once were measured 10 % slower.
BATCH = 4


class WeDetectProposals:
    """Class-agnostic boxes, best first.

    Args:
        path: a wedetect_*_uni.pth.
        device: 'auto', 'cpu' or 'cuda'.
        precision: 'auto' or 'fp32', as the authors compute; 'bf16', or 'fp16' on a GPU, are not measured on released
            weights.
        threads: CPU threads of the whole process; 0 leaves torch's choice.
        batch: frames that go through the network at once; 0 is 4 on a GPU and 1 on a CPU, where more gain nothing.

    Raises:
        UserError: torch or pillow is not installed, an option does not exist, no such device, or the file is not what
            it should be.
    """

    def __init__(
        self, path: Path, *, device: str = 'auto', precision: str = 'auto', threads: int = 0, batch: int = 0
    ) -> None:
        try:
            import PIL  # noqa: F401
            import torch

            from embedder_ros.models.devices import torch_device
            from embedder_ros.models.wedetect.checkpoint import frames_that_fit, load_wedetect
        except ImportError as error:
            raise UserError(
                f'WeDetect-Uni needs torch and pillow ({error}); run: pip install "embedder_ros[objembed]"'
            ) from error
        self._device = torch_device(device)
        self._dtype = getattr(torch, _dtype_name(precision, self._device.type))
        if threads:
            torch.set_num_threads(threads)
        self.network = load_wedetect(path, device=self._device, dtype=self._dtype)
        self._batch = batch or (1 if self._device.type == 'cpu' else frames_that_fit(self.network, self._device, BATCH))
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def propose(self, frames: Sequence[Frame], encoded: Sequence[Any], max_objects: int) -> list[Boxes]:
        """See Proposer; `encoded` is not looked at. Raises UserError for an image that is not (H, W, 3) uint8."""
        frames = checked_frames(frames)
        parts = [frames[start : start + self._batch] for start in range(0, len(frames), self._batch)]
        return [boxes for part in parts for boxes in self._propose(part, max_objects)]

    def pixels(self, squares: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Letterboxed images (S, S, 3) to what the network reads, (B, 3, S, S) in 0..1 on its device."""
        import torch

        # permuted, not copied: the network's own memory layout has the channels last
        return torch.from_numpy(np.stack(squares)).to(self._device).permute(0, 3, 1, 2).float().div(255).to(self._dtype)

    def _propose(self, frames: Sequence[Frame], max_objects: int) -> list[Boxes]:
        import torch

        from embedder_ros.models.wedetect.image import letterbox
        from embedder_ros.models.wedetect.select import select

        squares, places = zip(*(letterbox(f.image, self.network.shape.pixels) for f in frames), strict=True)
        with torch.inference_mode():
            raw = self.network(self.pixels(squares))
            found = [select(b, s, max_objects) for b, s in zip(raw.boxes, raw.logits, strict=True)]
        return [_with_area(place.undo(boxes), scores) for place, (boxes, scores) in zip(places, found, strict=True)]


def _dtype_name(precision: str, device: str) -> str:
    if precision not in PRECISIONS:
        raise UserError(f"precision '{precision}' is unknown; set parameter 'precision' to {', '.join(PRECISIONS)}")
    if precision == 'fp16' and device == 'cpu':
        raise UserError("WeDetect-Uni runs in fp16 only on a GPU; set parameter 'precision' to 'auto' or 'fp32'")
    return PRECISIONS[precision]


def _with_area(boxes: FloatArray, scores: FloatArray) -> Boxes:
    whole = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)  # what lay in the padding has no area in the image
    return Boxes(boxes[whole], scores[whole])

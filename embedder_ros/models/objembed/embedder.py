# SPDX-License-Identifier: Apache-2.0
"""ObjEmbed as an `Embedder`: frames and boxes in, observations out, with all that can be kept between frames kept.

Not measured: accuracy, which needs released weights, and the two thresholds below, which need a user's own data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from embedder_ros.models.base import TextKind
from embedder_ros.models.inputs import MAX_CHARACTERS, LastUsed, checked_boxes, checked_frames, checked_texts
from embedder_ros.models.objembed import image, prompts
from embedder_ros.models.objembed.checkpoint import frames_that_fit
from embedder_ros.models.objembed.layout import Layouts, Turn, padded
from embedder_ros.models.objembed.network import ObjEmbed, Vision
from embedder_ros.types import Boxes, Calibration, FloatArray, Frame, ModelInfo, Observation, UserError, unit_rows

# The authors publish no thresholds. Raising FOUND turns weak true answers into NOT_FOUND, raising MARGIN turns right
# answers into AMBIGUOUS; both should be fitted on the user's site.
FOUND, MARGIN = 0.3, 0.05
TEXTS = 64  # encoded at once
FRAMES = 8  # embedded at once on a GPU; a CPU gains nothing from a batch and loses what is padded
NO_BOXES = np.zeros((0, 4), np.float32)


@dataclass(frozen=True, slots=True)
class Pixels:
    """How an image becomes patches: token budget, and normalisation from the checkpoint's preprocessor file."""

    min_tokens: int = image.MIN_TOKENS
    max_tokens: int = image.MAX_TOKENS
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One frame after the vision tower, on the model's device.

    Attributes:
        rows: image tokens from top to bottom.
        columns: image tokens from left to right.
        vision: the tower's output for this frame alone.
    """

    rows: int
    columns: int
    vision: Vision


class ObjEmbedEmbedder:
    """A loaded checkpoint with one task prompt.

    Args:
        network: the loaded network, on its device and in its precision.
        tokenizer: the checkpoint's.
        weights: hash of the weights, for the model id.
        prompt: task prompt, a key of prompts.TASKS; embeddings made with different ones are not compared.
        pixels: token budget and normalisation.
        batch: frames embedded at once; 0 means 1 on a CPU, and on a GPU as many as fit into its memory, up to FRAMES.
        max_characters: longest text. Raising it lets a user's text cost more time.
    """

    def __init__(
        self,
        network: ObjEmbed,
        tokenizer: prompts.PromptTokenizer,
        *,
        weights: str,
        prompt: str = 'rec',
        pixels: Pixels | None = None,
        batch: int = 0,
        max_characters: int = MAX_CHARACTERS,
    ) -> None:
        self.network = network.eval()
        self.device = network.device.type
        self.pixels = pixels or Pixels()
        self.max_characters = max_characters
        self._batch = batch or (1 if self.device == 'cpu' else frames_that_fit(network, FRAMES))
        self._merge = network.model.merge_size
        self._tokenizer = tokenizer
        self._layouts = Layouts(
            tokenizer, task=prompt, use_two_tokens=network.config.use_two_tokens, device=network.device
        )
        self._texts = LastUsed()
        self._info = ModelInfo(f'objembed-{weights}-{prompt}', network.config.hidden, _calibration(network))

    @property
    def info(self) -> ModelInfo:
        """Model id, dimension and calibration."""
        return self._info

    def encode(self, frames: Sequence[Frame]) -> list[Encoded]:
        """The vision tower, once per frame.

        Raises:
            UserError: an image that is not (H, W, 3) uint8, or one more than 200 times as long as wide.
        """
        checked_frames(frames)
        return [one for chunk in self._chunks(len(frames)) for one in self._encode(frames[chunk])]

    def embed(self, frames: Sequence[Frame], encoded: Sequence[Encoded], boxes: Sequence[Boxes]) -> list[Observation]:
        """One Observation per frame, rows in the boxes' order and boxes as they were given.

        Objects see those before them: the same box may differ a little after other boxes.

        Raises:
            UserError: a box that is not finite or does not overlap the image.
        """
        inside = [checked_boxes(frame, b) for frame, b in zip(frames, boxes, strict=True)]
        parts = [self._embed(frames[c], encoded[c], inside[c]) for c in self._chunks(len(frames))]
        rows = [row for part in parts for row in part]
        return [
            Observation(
                frame.stamp, frame.camera, frame.frame_id, frame.width, frame.height,
                given.xyxy, given.objectness, iou, objects, whole, self._info.model_id,
            )
            for frame, given, (objects, iou, whole) in zip(frames, boxes, rows, strict=True)
        ]  # fmt: skip

    def embed_text(
        self, texts: Sequence[str], kind: TextKind = TextKind.OBJECT, *, template: str | None = None
    ) -> FloatArray:
        """(T, D) float32 unit rows, those asked for lately from a cache.

        Args:
            texts: captions; what they contain of the model's special tokens is read as letters.
            kind: what the text will be compared with.
            template: another wording, such as prompts.IMAGE_WORDED_OBJECT_TEXT, for parity with a benchmark.

        Raises:
            UserError: an empty text, or one that is too long.
        """
        wording = template or (prompts.OBJECT_TEXT if kind is TextKind.OBJECT else prompts.IMAGE_TEXT)
        keys = [(wording, text) for text in checked_texts(texts, self.max_characters)]
        rows = {key: self._texts.get(key) for key in keys}
        new = [key for key, row in rows.items() if row is None]
        for start in range(0, len(new), TEXTS):
            some = new[start : start + TEXTS]
            for key, row in zip(some, self._embed_texts(some), strict=True):
                rows[key] = row
                self._texts.put(key, row)
        return np.array([rows[key] for key in keys], np.float32).reshape(-1, self._info.dim)

    def embed_exemplar(self, frames: Sequence[Frame]) -> FloatArray:
        """(F, D) float32 unit rows: each image as a question (its coarse embedding, read without a task prompt).

        Raises:
            UserError: as `encode`, or a checkpoint that was trained without image embeddings.
        """
        if not self.network.config.use_global_caption:
            raise UserError('this checkpoint embeds no whole images; remember a box of the image instead')
        encoded = self.encode(frames)
        chunks = self._chunks(len(frames))
        parts = [self._embed(frames[c], encoded[c], [NO_BOXES] * len(frames[c]), exemplar=True) for c in chunks]
        rows = [whole[0] for part in parts for _, _, whole in part]
        return np.array(rows, np.float32).reshape(-1, self._info.dim)

    def _chunks(self, count: int) -> list[slice]:
        return [slice(start, start + self._batch) for start in range(0, count, self._batch)]

    @torch.inference_mode()
    def _encode(self, frames: Sequence[Frame]) -> list[Encoded]:
        pixels = [self._patches(frame) for frame in frames]
        grids = torch.tensor([[1, rows, columns] for _, rows, columns in pixels])
        vision = self.network.encode_image(torch.cat([p for p, _, _ in pixels]), grids)
        shapes = [(rows // self._merge, columns // self._merge) for _, rows, columns in pixels]
        return [Encoded(*shape, one) for shape, one in zip(shapes, _split(vision, shapes), strict=True)]

    def _patches(self, frame: Frame) -> tuple[torch.Tensor, int, int]:
        """Patches of one frame, and how many rows and columns of them."""
        config: Any = self.network.config.qwen.vision_config
        p, side = self.pixels, config.patch_size
        width, height = image.resized_size(frame.width, frame.height, p.min_tokens, p.max_tokens)
        pixels = image.resize(torch.tensor(frame.image, device=self.network.device), width, height)
        frames = config.temporal_patch_size
        cut = image.patches(pixels, mean=p.mean, std=p.std, patch=side, merge=self._merge, frames=frames)
        return cut, height // side, width // side

    @torch.inference_mode()
    def _embed(
        self, frames: Sequence[Frame], encoded: Sequence[Encoded], boxes: Sequence[FloatArray], exemplar: bool = False
    ) -> list[tuple[FloatArray, FloatArray, FloatArray]]:
        """Unit object rows, IoU and unit frame rows of each frame."""
        layout = self._layouts.images(
            tuple(Turn(e.rows, e.columns, len(b), exemplar) for e, b in zip(encoded, boxes, strict=True))
        )
        out = self.network(
            layout.input_ids,
            layout.attention_mask,
            None,
            torch.tensor([[1, e.rows * self._merge, e.columns * self._merge] for e in encoded]),
            [torch.from_numpy(b) for b in boxes],
            torch.tensor([[frame.width, frame.height] for frame in frames]),
            position_ids=layout.position_ids,
            vision=_joined([e.vision for e in encoded]),
        )
        ends = np.cumsum([len(b) for b in boxes])[:-1]
        objects, iou = self._unit(out.object_embeddings), out.iou_logits[:, 0].float().sigmoid().cpu().numpy()
        whole = self._unit(out.global_embeddings)
        if whole.shape[1] == 1:  # one token stands for coarse and detailed
            whole = np.repeat(whole, 2, axis=1)
        return list(zip(np.split(objects, ends), np.split(iou, ends), whole, strict=True))

    @torch.inference_mode()
    def _embed_texts(self, keys: Sequence[tuple[str, str]]) -> FloatArray:
        ids = [self._tokenizer.text(template, text) for template, text in keys]
        return self._unit(self.network.embed_text(*padded(ids, self._tokenizer.padding)))

    def _unit(self, rows: torch.Tensor) -> FloatArray:
        values = rows.float().cpu().numpy()
        if not np.isfinite(values).all():
            raise UserError(
                f"the network overflowed in {self.network.dtype}; set parameter 'precision' to 'bf16' or 'fp32'"
            )
        return unit_rows(values)


def _calibration(network: ObjEmbed) -> Calibration:
    scale, bias, image_scale, image_bias = network.calibration()
    if image_scale is None or image_bias is None:
        return Calibration(scale, bias, FOUND, MARGIN)
    return Calibration(scale, bias, FOUND, MARGIN, image_scale, image_bias)


def _split(vision: Vision, shapes: Sequence[tuple[int, int]]) -> list[Vision]:
    counts = [rows * columns for rows, columns in shapes]
    parts = [vision.tokens.split(counts), *(layer.split(counts) for layer in vision.deepstack)]
    return [Vision(tokens, tuple(deepstack)) for tokens, *deepstack in zip(*parts, strict=True)]


def _joined(visions: Sequence[Vision]) -> Vision:
    """One frame's as it is, so that its feature maps are kept for further boxes; several as one batch."""
    if len(visions) == 1:
        return visions[0]
    layers = zip(*(v.deepstack for v in visions), strict=True)
    return Vision(torch.cat([v.tokens for v in visions]), tuple(torch.cat(layer) for layer in layers))

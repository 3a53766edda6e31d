# SPDX-License-Identifier: Apache-2.0
"""ObjEmbed on top of transformers' Qwen3-VL (MODELS.md sections 1.1 to 1.6).

Every box is two tokens of one causal forward pass: the first becomes its embedding, the second its IoU logit. Vision
runs once per frame and may be shared by several passes over it; no vocabulary head and no cache exist. Rows are padded
on the right: a causal network never looks there, so no mask is built and attention takes the library's fastest path.
Token ids, grids and boxes are best given on the CPU: what depends on them alone never waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3VLTextModel, Qwen3VLVisionModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionPatchEmbed
from transformers.utils.generic import is_flash_attention_requested
from transformers.vision_utils import (
    get_vision_attention_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from embedder_ros.models.objembed.config import ObjEmbedConfig
from embedder_ros.models.objembed.places import TOKENS_PER_BOX, Grid, checked_rows, find, find_texts, position_ids_of
from embedder_ros.models.objembed.roi_align import BINS, most_samples, roi_align
from embedder_ros.models.objembed.sine import cells, centred, sine
from embedder_ros.types import UserError

LOG_SCALE, BIAS = math.log(20.0), -3.0 * math.log(99.0)  # calibration that training starts from (MODELS.md 1.10)


@dataclass(slots=True)
class Vision:
    """What the vision tower made of the frames of a batch, one after the other.

    Attributes:
        tokens: (T, H) one row per 2 x 2 patches, raster order.
        deepstack: three of (T, H), from earlier layers.
        maps: per frame the feature maps that regions are cut from, finest first; made when first needed.
    """

    tokens: Tensor
    deepstack: tuple[Tensor, ...]
    maps: list[tuple[Tensor, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """What one pass gives, none of it normalised.

    Attributes:
        object_embeddings: (sum of N, H) all frames' boxes in order.
        iou_logits: (sum of N, 1).
        global_embeddings: (B, G, H) one row per `<global>` token, in their order; G is 0 without global captions.
    """

    object_embeddings: Tensor
    iou_logits: Tensor
    global_embeddings: Tensor


class ObjEmbed(nn.Module):
    """The network with the keys of a released checkpoint (MODELS.md 1.3), freshly initialised."""

    def __init__(
        self,
        config: ObjEmbedConfig,
        *,
        object_token_id: int,
        global_token_id: int,
        local_text_token_id: int,
        global_text_token_id: int,
    ) -> None:
        super().__init__()
        self.config, hidden = config, config.hidden
        self.object_token_id, self.global_token_id = object_token_id, global_token_id
        self.text_token_ids = (local_text_token_id, global_text_token_id)
        self.model = _Body(config)
        self.logit_log_scale, self.logit_bias = _parameter(LOG_SCALE), _parameter(BIAS)
        if config.use_global_caption:
            self.logit_image_log_scale, self.logit_image_bias = _parameter(LOG_SCALE), _parameter(BIAS)
        self.logit_iou_proj = _mlp(hidden, hidden // 2, 1)
        self.logit_pos_embedding = nn.Embedding(1, hidden)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.logit_pos_embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type the network computes in; regions and places are float32 all the same."""
        return self.logit_pos_embedding.weight.dtype

    def calibration(self) -> tuple[float, float, float | None, float | None]:
        """Scale and bias of object scores, then of frame scores (None without global captions): sigmoid(s cos + b)."""
        scale, bias = self.logit_log_scale.exp().item(), self.logit_bias.item()
        if not self.config.use_global_caption:
            return scale, bias, None, None
        return scale, bias, self.logit_image_log_scale.exp().item(), self.logit_image_bias.item()

    def rebuild_buffers(self, device: torch.device) -> None:
        """Compute anew what no checkpoint holds, after building on 'meta': the frequencies of rotary positions."""
        for part, name in ((self.model.visual, 'rotary_pos_emb'), (self.model.language_model, 'rotary_emb')):
            setattr(part, name, type(getattr(part, name))(part.config).to(device))

    def encode_image(self, pixel_values: Tensor, image_grid_thw: Tensor) -> Vision:
        """The vision tower, once per frame.

        Args:
            pixel_values: (P, 1536) patches of all frames, one after the other.
            image_grid_thw: (B, 3) int, 1 and the rows and columns of patches of each frame.

        Raises:
            UserError: the grids do not describe that many patches.
        """
        return self.model.encode(pixel_values, _thw(image_grid_thw))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor | None,
        image_grid_thw: Tensor,
        boxes: Sequence[Tensor],
        image_sizes_wh: Tensor,
        *,
        position_ids: Tensor | None = None,
        vision: Vision | None = None,
    ) -> Output:
        """Embed the boxes of a batch of frames, and the frames.

        Args:
            input_ids: (B, L) int64, padded on the right.
            attention_mask: (B, L), 1 on tokens and 0 on padding.
            pixel_values: (P, 1536) as in `encode_image`; not read when `vision` is given.
            image_grid_thw: (B, 3) int.
            boxes: per frame (N, 4) float32 x0 y0 x1 y1 in pixels of the original image, in the order of their tokens;
                N may be 0.
            image_sizes_wh: (B, 2) width and height of the original images in pixels.
            position_ids: (3, B, L) if known: they depend on grids and prompt alone (`places.position_ids_of`).
            vision: `encode_image` of the same frames.

        Raises:
            UserError: tokens, boxes and frames do not agree.
        """
        grids = _merged(_thw(image_grid_thw), self.model.merge_size)
        image = self.config.qwen.image_token_id
        rows = checked_rows(input_ids, attention_mask, self.model.language_model.vocab_size)
        if not len(rows) == len(grids) == len(boxes) == len(image_sizes_wh):
            raise UserError('give one row of tokens, one grid, one array of boxes and one image size per frame')
        reads = self.global_token_id if self.config.use_global_caption else None
        places = find(rows, grids, [len(b) for b in boxes], image=image, box=self.object_token_id, frame=reads)
        if position_ids is None:
            position_ids = position_ids_of(rows, grids, image)
        if vision is None:
            if pixel_values is None:
                raise UserError('give pixel_values, or what encode_image made of them')
            vision = self.encode_image(pixel_values, image_grid_thw)
        on = self.device
        pictures, objects, frames = (i.to(on, non_blocking=True) for i in (places.image, places.objects, places.frames))
        inputs = self.model.language_model.embed_tokens(rows.clamp(min=0).to(on, non_blocking=True))
        flat = inputs.flatten(0, 1).index_copy(0, pictures, self.model.image_tokens(vision, grids))
        if len(objects):
            tokens = self.model.box_tokens(vision, grids, boxes, image_sizes_wh, self.logit_pos_embedding.weight)
            flat = flat.index_copy(0, objects, tokens)
        hidden = self.model.language_model(
            inputs_embeds=flat.view_as(inputs),
            position_ids=position_ids.to(on, non_blocking=True),
            visual_pos_masks=pictures,
            deepstack_visual_embeds=list(vision.deepstack),
            use_cache=False,
        ).last_hidden_state.flatten(0, 1)
        return Output(
            hidden[objects[::TOKENS_PER_BOX]],
            self.logit_iou_proj(hidden[objects[1::TOKENS_PER_BOX]]),
            hidden[frames].view(len(rows), len(frames) // len(rows), self.config.hidden),
        )

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Texts (T, L), padded on the right, to (T, H), not normalised, read at their one text token.

        Raises:
            UserError: a row has no `<local_text>` or `<global_text>` token, or more than one.
        """
        rows = checked_rows(input_ids, attention_mask, self.model.language_model.vocab_size)
        at = find_texts(rows, self.text_token_ids).to(self.device)
        positions = torch.arange(rows.shape[1], device=self.device).expand(3, *rows.shape)
        inputs = self.model.language_model.embed_tokens(rows.clamp(min=0).to(self.device))
        out = self.model.language_model(inputs_embeds=inputs, position_ids=positions, use_cache=False)
        return out.last_hidden_state.flatten(0, 1)[at]


class _PatchEmbed(Qwen3VLVisionPatchEmbed):
    def forward(self, hidden_states: Tensor) -> Tensor:
        """The library convolves patches with kernels of their own size: one matrix product, in half of the time."""
        return F.linear(hidden_states.to(self.proj.weight.dtype), self.proj.weight.flatten(1), self.proj.bias)


class _TextModel(Qwen3VLTextModel):
    def _deepstack_process(self, hidden_states: Tensor, visual_pos_masks: Tensor, visual_embeds: Tensor) -> Tensor:
        """The library takes a mask, which makes the host wait for the device; this takes flat indices."""
        flat = hidden_states.flatten(0, 1).index_add(0, visual_pos_masks, visual_embeds.to(hidden_states.dtype))
        return flat.view_as(hidden_states)


class _Body(nn.Module):
    """Qwen3-VL's two parts and what makes tokens of cells, boxes and regions."""

    def __init__(self, config: ObjEmbedConfig) -> None:
        super().__init__()
        qwen, hidden = config.qwen, config.hidden
        dtype = torch.get_default_dtype()  # of all parts, whatever the checkpoint was saved in
        self.visual = Qwen3VLVisionModel._from_config(qwen.vision_config, dtype=dtype)
        self.visual.patch_embed = _PatchEmbed(qwen.vision_config)
        self.language_model = _TextModel._from_config(qwen.text_config, dtype=dtype)
        self.image_pos_projector = _mlp(hidden, hidden, hidden, zero=True)
        self.object_pos_projector = _mlp(hidden, hidden, hidden, zero=True)
        self.pools_cells = config.pools_cells
        self.object_vision_projector = _mlp(hidden if self.pools_cells else BINS**2 * hidden, hidden, hidden)
        self.second_scale_conv = nn.ConvTranspose2d(hidden, hidden // 2, 2, 2)
        self.first_scale_conv1 = nn.ConvTranspose2d(hidden, hidden // 2, 2, 2)
        self.first_scale_norm = nn.LayerNorm(hidden // 2)
        self.first_scale_conv2 = nn.ConvTranspose2d(hidden // 2, hidden // 4, 2, 2)
        self.merge = nn.Linear(7 * hidden // 4, hidden)
        self.merge_size = qwen.vision_config.spatial_merge_size
        self.cell = qwen.vision_config.patch_size * self.merge_size  # pixels per side of one image token

    def encode(self, pixel_values: Tensor, thw: tuple[tuple[int, ...], ...]) -> Vision:
        """The vision tower; what depends on the grids alone is kept from frame to frame."""
        if (patches := sum(math.prod(grid) for grid in thw)) != len(pixel_values):
            raise UserError(f'the grids describe {patches} patches, the frames have {len(pixel_values)}')
        weight = self.visual.pos_embed.weight
        places = dict(_vision_places(thw, self.visual.num_grid_per_side, self.merge_size, weight.device))
        grids = torch.tensor(thw)
        segments, longest = get_vision_attention_seqlens(grids, self.visual.config)
        # elsewhere the library splits by these numbers on the host, once per layer
        flash = is_flash_attention_requested(self.visual.config)
        places |= {'cu_seqlens': segments.to(weight.device) if flash else segments, 'max_seqlen': longest}
        pixels = pixel_values.to(weight.device, weight.dtype, non_blocking=True)
        out = self.visual(pixels, grid_thw=grids, return_dict=True, **places)
        return Vision(out.pooler_output, tuple(out.deepstack_features))

    def image_tokens(self, vision: Vision, grids: Sequence[Grid]) -> Tensor:
        """(T, H) what the language model sees of the frames."""
        width, dtype = vision.tokens.shape[1], vision.tokens.dtype
        places = torch.cat([_cell_sines(*grid, width, vision.tokens.device) for grid in grids])
        return vision.tokens + self.image_pos_projector(places.to(dtype))

    def box_tokens(
        self, vision: Vision, grids: Sequence[Grid], boxes: Sequence[Tensor], sizes: Tensor, iou_base: Tensor
    ) -> Tensor:
        """(2 * sum of N, H) two tokens per box: what is there, and the IoU token; both say where it is."""
        if vision.maps is None:
            vision.maps = self._maps(vision, grids)
        device, dtype = vision.tokens.device, vision.tokens.dtype
        regions, places = [], []
        for maps, (rows, columns), original, size in zip(vision.maps, grids, boxes, sizes.tolist(), strict=True):
            if not len(original):
                continue
            if not original.isfinite().all():
                raise UserError('boxes must be finite numbers of pixels')
            resized = torch.tensor([columns * self.cell, rows * self.cell] * 2, dtype=torch.float32)
            pixels = original.float() * (resized / torch.tensor(size * 2)).to(original.device)
            regions.append(self._regions(maps, pixels, device).to(dtype))
            places.append(centred(pixels / resized.to(pixels.device)).to(device, non_blocking=True))
        seen = self.merge(torch.cat(regions))  # (sum of N, 7, 7, H)
        seen = self.object_vision_projector(seen.mean((1, 2)) if self.pools_cells else seen.flatten(1))
        place = self.object_pos_projector(sine(torch.cat(places), seen.shape[1]).to(dtype))
        return torch.stack([seen + place, iou_base + place], 1).flatten(0, 1)

    def _regions(self, maps: tuple[Tensor, ...], boxes: Tensor, device: torch.device) -> Tensor:
        """(N, 7, 7, 7 H / 4) float32 of one frame; boxes in resized pixels."""
        scales = [2**level / self.cell for level in (2, 1, 0)]
        samples = [most_samples(boxes, scale) for scale in scales]
        boxes = boxes.to(device, non_blocking=True)
        cut = [roi_align(m.float(), boxes, s, samples=n) for m, s, n in zip(maps, scales, samples, strict=True)]
        return torch.cat(cut, -1)

    def _maps(self, vision: Vision, grids: Sequence[Grid]) -> list[tuple[Tensor, ...]]:
        """Per frame (rows, columns, channels) at a quarter, half and all of a token's side."""
        fine = F.gelu(self.first_scale_norm(_double(self.first_scale_conv1, vision.deepstack[1])))  # (T, 4, H / 2)
        fine = _double(self.first_scale_conv2, fine)  # (T, 4, 4, H / 4)
        middle = _double(self.second_scale_conv, vision.deepstack[2])  # (T, 4, H / 2)
        counts = [rows * columns for rows, columns in grids]
        levels = zip(fine.split(counts), middle.split(counts), vision.tokens.split(counts), grids, strict=True)
        return [(_raster(f, grid), _raster(m, grid), t.unflatten(0, grid)) for f, m, t, grid in levels]


def _double(conv: nn.ConvTranspose2d, values: Tensor) -> Tensor:
    """A 2 x 2 transposed convolution of stride 2 as one matrix product: (..., C) to (..., 4, C'), raster order."""
    out = (values @ conv.weight.flatten(1)).unflatten(-1, (-1, 4)).transpose(-1, -2)
    return out + conv.bias


def _raster(values: Tensor, grid: Grid) -> Tensor:
    """Cells (T, 4, ..., 4, C) of ever finer 2 x 2 blocks to a map (rows, columns, C)."""
    levels = values.ndim - 2
    split = values.unflatten(0, grid)
    for level in range(levels):
        split = split.unflatten(2 + 2 * level, (2, 2))
    order = [0, *range(2, 2 + 2 * levels, 2), 1, *range(3, 3 + 2 * levels, 2), 2 + 2 * levels]
    return split.permute(order).reshape(grid[0] << levels, grid[1] << levels, -1)


def _thw(image_grid_thw: Tensor) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(grid) for grid in image_grid_thw.tolist())


def _merged(thw: Sequence[Sequence[int]], merge: int) -> list[Grid]:
    """Rows and columns of image tokens."""
    if any(len(g) != 3 or g[0] != 1 or g[1] < 1 or g[2] < 1 or g[1] % merge or g[2] % merge for g in thw):
        raise UserError(f'image_grid_thw must be 1 and multiples of {merge} per frame, not {list(thw)}')
    return [(rows // merge, columns // merge) for _, rows, columns in thw]


@lru_cache(maxsize=64)
def _vision_places(thw: tuple[tuple[int, ...], ...], side: int, merge: int, device: torch.device) -> dict[str, Any]:
    with torch.inference_mode(False):  # kept, and may be needed by a pass with gradients
        grids = torch.tensor(thw)
        taps, weights = get_vision_interpolation_indices_and_weights(
            grids, num_grid_per_side=side, mode='bilinear', align_corners=True, spatial_merge_size=merge
        )
        rotary = get_vision_position_ids(grids, merge)
        return {
            'interp_indices': taps.to(device),
            'interp_weights': weights.to(device),
            'position_ids': rotary.to(device),
        }


@lru_cache(maxsize=64)
def _cell_sines(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return sine(cells(rows, columns, device=device), width)


def _mlp(inputs: int, width: int, outputs: int, *, zero: bool = False) -> nn.Sequential:
    last = nn.Linear(width, outputs)
    if zero:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), last)


def _parameter(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor([value], dtype=torch.float32))

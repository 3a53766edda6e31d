# SPDX-License-Identifier: Apache-2.0
"""How much a frame costs and how much the device gives: the estimate a user sees before waiting, and the benchmark's.

Counted are the matrix products alone, a causal attention at half; they are nearly all of a frame.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from embedder_ros.models.objembed.config import ObjEmbedConfig

CELLS_PER_BOX = 49  # of a region, 7 x 7
TOKENS_PER_BOX = 8  # of 'Object 12: <object><object>. '
TEXT_TOKENS = 50  # of the rest of the prompt


def frame_tflop(config: ObjEmbedConfig, cells: int, boxes: int, prompt: int | None = None) -> float:
    """10**12 floating-point operations of one frame.

    Args:
        config: the checkpoint's.
        cells: image tokens.
        boxes: objects.
        prompt: tokens of the whole prompt; estimated when None.
    """
    length = cells + TOKENS_PER_BOX * boxes + TEXT_TOKENS if prompt is None else prompt
    return (_vision(config, cells) + _language(config, length) + _regions(config, cells, boxes)) / 1e12


def matmul_tflops(
    device: torch.device | str,
    dtype: torch.dtype,
    size: int = 1024,
    repeats: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """10**12 operations a second of the fastest of a few square matrix products."""
    a = torch.ones(size, size, device=device, dtype=dtype)
    best = float('inf')
    for _ in range(repeats + 1):  # the first one warms up
        begin = clock()
        (a @ a)[0, 0].item()  # waits for the device
        best = min(best, clock() - begin)
    return 2 * size**3 / best / 1e12


def _vision(config: ObjEmbedConfig, cells: int) -> float:
    v: Any = config.qwen.vision_config
    width, merged = v.hidden_size, v.hidden_size * v.spatial_merge_size**2
    patches = cells * v.spatial_merge_size**2
    pixels = v.in_channels * v.temporal_patch_size * v.patch_size**2
    layer = 2 * patches * (4 * width**2 + 2 * width * v.intermediate_size) + 4 * patches**2 * width
    mergers = (1 + len(v.deepstack_visual_indexes)) * 2 * cells * (merged**2 + merged * v.out_hidden_size)
    return v.depth * layer + mergers + 2 * patches * pixels * width


def _language(config: ObjEmbedConfig, length: int) -> float:
    t: Any = config.qwen.text_config
    queries, keys = t.num_attention_heads * t.head_dim, t.num_key_value_heads * t.head_dim
    weights = t.hidden_size * (2 * queries + 2 * keys + 3 * t.intermediate_size)
    return t.num_hidden_layers * (2 * length * weights + 2 * length**2 * queries)


def _regions(config: ObjEmbedConfig, cells: int, boxes: int) -> float:
    h = config.hidden
    pooled = 1 if config.pools_cells else CELLS_PER_BOX
    scales = 2 * cells * 4 * (h * h // 2) * 2 + 2 * 4 * cells * 4 * (h // 2) * (h // 4)
    places = 2 * (cells + boxes) * 2 * h**2
    return scales + places + 2 * boxes * (CELLS_PER_BOX * h * 7 * h // 4 + pooled * h**2 + h**2)

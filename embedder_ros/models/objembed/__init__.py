# SPDX-License-Identifier: Apache-2.0
"""ObjEmbed (MODELS.md section 1): a Qwen3-VL that embeds every proposed box of a frame in one forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from embedder_ros.types import UserError

if TYPE_CHECKING:
    from embedder_ros.models.objembed.embedder import ObjEmbedEmbedder


def load(
    folder: Path,
    *,
    device: str = 'auto',
    precision: str = 'auto',
    threads: int = 0,
    prompt: str = 'rec',
    min_tokens: int = 900,
    max_tokens: int = 1200,
) -> ObjEmbedEmbedder:
    """Load the checkpoint in `folder` as it was released: config.json, safetensors, tokenizer and preprocessor files.

    Args:
        folder: of the checkpoint.
        device: 'auto', 'cpu' or 'cuda'.
        precision: 'auto', 'fp32', 'bf16' or 'fp16'.
        threads: CPU threads of the whole process; 0 leaves torch's choice.
        prompt: task prompt: 'rec' for referring expressions, 'det' for lists of classes, 'none'.
        min_tokens: fewest image tokens; the authors' 900. Fewer are faster and outside what the model was trained on.
        max_tokens: most image tokens; the authors' 1200.

    Raises:
        UserError: torch or transformers is not installed, an option does not exist, files are missing or damaged, there
            is too little memory, or no such device; the message says what to do.
    """
    try:
        from embedder_ros.models.objembed import runtime
        from embedder_ros.models.objembed.checkpoint import load_objembed
        from embedder_ros.models.objembed.embedder import ObjEmbedEmbedder
        from embedder_ros.models.objembed.prompts import PromptTokenizer
    except ImportError as error:
        raise UserError(
            f'ObjEmbed needs torch and transformers ({error}); run: pip install "embedder_ros[objembed]"'
        ) from error
    runtime.check_options(prompt, min_tokens, max_tokens)
    where = runtime.torch_device(device)
    dtype = runtime.torch_dtype(precision, where)
    runtime.use_threads(threads)
    tokenizer = PromptTokenizer(folder)
    pixels = runtime.read_pixels(folder, min_tokens, max_tokens)
    network = load_objembed(folder, device=where, dtype=dtype, tokens=tokenizer.special)
    runtime.check_tokens(network.config, tokenizer)
    if where.type == 'cpu':
        runtime.warn_of_cpu(network.config, max_tokens, dtype)
    return ObjEmbedEmbedder(network, tokenizer, weights=runtime.weights_hash(folder), prompt=prompt, pixels=pixels)

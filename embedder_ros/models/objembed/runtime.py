# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint runs on and with: device, precision, normalisation, the name of its weights, what a frame costs."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import torch

from embedder_ros.models.devices import torch_device as torch_device
from embedder_ros.models.objembed.config import ObjEmbedConfig
from embedder_ros.models.objembed.cost import frame_tflop, matmul_tflops
from embedder_ros.models.objembed.embedder import Pixels
from embedder_ros.models.objembed.prompts import IMAGE_PAD, TASKS, PromptTokenizer
from embedder_ros.types import UserError

_log = logging.getLogger(__name__)

DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
TYPICAL_BOXES = 64  # of the estimate that a CPU's user sees
# A CPU takes bf16 when it is that much faster at it; those without the instructions are a hundred times slower.
WORTH_BF16 = 1.5


def check_options(prompt: str, min_tokens: int, max_tokens: int) -> None:
    """Raise UserError for a prompt that does not exist or a token budget that holds nothing."""
    if prompt not in TASKS:
        raise UserError(f"prompt '{prompt}' is unknown; set parameter 'prompt' to one of {', '.join(TASKS)}")
    if not 1 <= min_tokens <= max_tokens:
        raise UserError(
            f"min_tokens {min_tokens} and max_tokens {max_tokens}: set parameter 'min_tokens' to at least 1 and "
            'at most max_tokens'
        )


def torch_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Precision of the weights; 'auto' is bf16, as the authors', where the device is fast at it, else fp32.

    Raises:
        UserError: an unknown precision, or fp16 on a CPU.
    """
    if precision not in ('auto', *DTYPES):
        raise UserError(f"precision '{precision}' is unknown; set parameter 'precision' to auto, {', '.join(DTYPES)}")
    if precision == 'fp16' and device.type == 'cpu':
        raise UserError("ObjEmbed runs in fp16 only on a GPU; set parameter 'precision' to 'auto', 'fp32' or 'bf16'")
    if precision != 'auto':
        return DTYPES[precision]
    if device.type == 'cuda':
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    bf16, fp32 = (matmul_tflops(device, dtype, size=256) for dtype in (torch.bfloat16, torch.float32))
    return torch.bfloat16 if bf16 > WORTH_BF16 * fp32 else torch.float32


def use_threads(threads: int) -> None:
    """CPU threads of torch, in the whole process; 0 leaves its choice."""
    if threads:
        torch.set_num_threads(threads)


def read_pixels(folder: Path, min_tokens: int, max_tokens: int) -> Pixels:
    """Token budget, and the normalisation that the checkpoint's preprocessor file gives; without a file, 0.5 and 0.5.

    Raises:
        UserError: the file is damaged.
    """
    for name, inner in (('preprocessor_config.json', ''), ('processor_config.json', 'image_processor')):
        path = folder / name
        if not path.is_file():
            continue
        try:
            values = json.loads(path.read_text(encoding='utf-8'))
            values = values.get(inner, values) if inner else values
            mean, std = (
                tuple(float(v) for v in values.get(key, (0.5, 0.5, 0.5))) for key in ('image_mean', 'image_std')
            )
            return Pixels(min_tokens, max_tokens, mean, std)
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(f'{path} is damaged ({error}); fetch it again') from error
    return Pixels(min_tokens, max_tokens)


def check_tokens(config: ObjEmbedConfig, tokenizer: PromptTokenizer) -> None:
    """Raise UserError when the tokenizer in the folder is not the one the network was trained with."""
    if config.qwen.image_token_id != tokenizer.image_pad:
        raise UserError(
            f'config.json says {IMAGE_PAD} is token {config.qwen.image_token_id}, tokenizer.json says '
            f'{tokenizer.image_pad}; fetch both again from the same checkpoint'
        )


def weights_hash(folder: Path) -> str:
    """8 hex digits of SHA-256 over the folder's weight files, by name; a fine-tuned copy has others."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob('model*.safetensors')):
        digest.update(path.name.encode())
        with path.open('rb') as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:8]


def warn_of_cpu(config: ObjEmbedConfig, tokens: int, dtype: torch.dtype) -> None:
    """Say once how long a frame will take without a GPU."""
    tflop = frame_tflop(config, tokens, TYPICAL_BOXES)
    seconds = tflop / matmul_tflops('cpu', dtype, size=512)
    _log.warning(
        f'no GPU: ObjEmbed on this CPU takes about {seconds:.2g} s per frame ({tflop:.2g} TFLOP with {TYPICAL_BOXES} '
        "objects); use a GPU, lower max_objects, or take model 'nano'"
    )

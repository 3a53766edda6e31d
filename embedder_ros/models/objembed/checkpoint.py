# SPDX-License-Identifier: Apache-2.0
"""Strict loading of a released checkpoint's weights.

Headers are read first: whether the folder is complete, every key and shape fits, and memory suffices is known before a
byte of weights is loaded. The network is built without memory and takes over each tensor as it is read, so that the
peak is the weights plus one tensor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from embedder_ros.models.inputs import check_pointer
from embedder_ros.models.objembed import memory
from embedder_ros.models.objembed.config import ObjEmbedConfig, SpecialTokens
from embedder_ros.models.objembed.memory import free_bytes
from embedder_ros.models.objembed.network import ObjEmbed
from embedder_ros.types import UserError

WEIGHTS, INDEX = 'model.safetensors', 'model.safetensors.index.json'
UNUSED = {'lm_head.weight'}  # the vocabulary head: tied or not, nothing reads it
# Bytes per unit of width that a batch of frames of 1200 cells and 100 boxes takes at its peak: once, and per frame.
# On a CPU 300 to 430 thousand were measured for one, 1.5 million for eight in bf16 and 1.7 in fp32; not measured on a
# GPU. Too high refuses to load, or batches less, where it would work; too low fails at the first frames.
WORK, FRAME_WORK = 250_000, 200_000
# Calibration stays in float32: bfloat16 would round a bias of -13.8 to a sixteenth.
_EXACT = {'logit_log_scale', 'logit_bias', 'logit_image_log_scale', 'logit_image_bias'}
_DTYPES = {'F32': torch.float32, 'F16': torch.float16, 'BF16': torch.bfloat16}


@dataclass(frozen=True, slots=True)
class _Entry:
    """One tensor of a file, from its header."""

    path: Path
    shape: tuple[int, ...]
    dtype: str


def load_objembed(
    folder: str | Path,
    *,
    tokens: SpecialTokens,
    device: str | torch.device = 'cpu',
    dtype: torch.dtype | None = None,
) -> ObjEmbed:
    """The network with the weights of `folder`, ready for inference.

    Args:
        folder: with config.json and model.safetensors, or shards of it with their index.
        tokens: ids from the checkpoint's tokenizer.
        device: where to put it.
        dtype: type to compute in; None is the weights' own.

    Raises:
        UserError: the folder is none of ObjEmbed, incomplete or damaged, a key is missing or unexpected, a shape
            disagrees with config.json, or there is too little memory. The message names it and the remedy.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f'{folder} is no folder; give the one that holds config.json and {WEIGHTS}')
    config = ObjEmbedConfig.from_folder(folder)
    entries = _entries(folder)
    device = torch.device(device)
    _check_tokens(config, tokens)
    with torch.device('meta'):
        network = ObjEmbed(config, **asdict(tokens))
    _check_keys(network, entries, folder)
    dtype = dtype or _own_dtype(entries)
    _check_memory(network, dtype, device, folder)
    network.load_state_dict(_read(entries, device, dtype), assign=True)
    network.rebuild_buffers(device)
    return network.eval()


def _entries(folder: Path) -> dict[str, _Entry]:
    """Every tensor of the checkpoint by key, without those that are not needed."""
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        found = _header(folder / WEIGHTS)
    else:
        found = _indexed(folder)
    return {key: entry for key, entry in found.items() if key not in UNUSED}


def _indexed(folder: Path) -> dict[str, _Entry]:
    try:
        places = json.loads((folder / INDEX).read_text(encoding='utf-8'))['weight_map']
        files = sorted(set(places.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{folder / INDEX} cannot be read ({error}); fetch it again') from error
    headers = {name: _header(folder / Path(name).name) for name in files}
    if lost := [(key, name) for key, name in places.items() if key not in headers[name]]:
        key, name = lost[0]
        raise UserError(f'{folder / name} does not hold {key}, though {INDEX} says so; fetch both again')
    return {key: entry for header in headers.values() for key, entry in header.items()}


def _header(path: Path) -> dict[str, _Entry]:
    """Keys, shapes and types in one file."""
    if not path.exists():
        raise UserError(f'{path} is missing; {_hint(path.parent)}')
    try:
        check_pointer(path)
        with safe_open(path, 'pt') as file:
            slices = {key: file.get_slice(key) for key in file.keys()}
            return {key: _Entry(path, tuple(s.get_shape()), s.get_dtype()) for key, s in slices.items()}
    except UserError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f'{path} is damaged or only partly there ({error}); fetch it again') from error


def _hint(folder: Path) -> str:
    if any(folder.glob('*.bin')) or any(folder.glob('*.pth')):
        return 'only safetensors are read, as other formats can run code; convert the weights'
    return 'fetch it into that folder, or give the folder of an ObjEmbed checkpoint'


def _check_tokens(config: ObjEmbedConfig, tokens: SpecialTokens) -> None:
    ids = [*asdict(tokens).values(), config.qwen.image_token_id]
    size = config.qwen.text_config.vocab_size
    if len(set(ids)) < len(ids) or not all(0 <= i < size for i in ids):
        raise UserError(f'special tokens {ids} must differ and be below {size}; use the tokenizer of this checkpoint')


def frames_that_fit(network: ObjEmbed, most: int) -> int:
    """How many frames there is memory to embed at once, 1 to `most`."""
    width = network.config.hidden
    return memory.frames_that_fit(free_bytes(network.device), most, each=FRAME_WORK * width, once=WORK * width)


def _check_keys(network: ObjEmbed, entries: Mapping[str, _Entry], folder: Path) -> None:
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    if missing := sorted(wanted.keys() - entries.keys()):
        plain = not any(key.startswith(('logit_', 'model.merge')) for key in entries)
        remedy = 'this is a plain Qwen3-VL; give the folder of an ObjEmbed checkpoint' if plain else _AGREE
        raise UserError(f'{folder} lacks the {_named(missing)}; {remedy}')
    if unexpected := sorted(entries.keys() - wanted.keys()):
        raise UserError(f'{folder} has the unexpected {_named(unexpected)}; {_AGREE}')
    for key, shape in wanted.items():
        if entries[key].shape != shape:
            raise UserError(f'{folder}: {key} is {entries[key].shape}, config.json asks for {shape}; {_AGREE}')
        if entries[key].dtype not in _DTYPES:
            raise UserError(f'{folder}: {key} is of type {entries[key].dtype}; convert the weights to BF16, F16 or F32')


_AGREE = 'config.json and weights are not of the same checkpoint; fetch both again'


def _named(keys: list[str]) -> str:
    return f'key {keys[0]}' + (f' and {len(keys) - 1} more' if len(keys) > 1 else '')


def _own_dtype(entries: Mapping[str, _Entry]) -> torch.dtype:
    return _DTYPES[entries['model.merge.weight'].dtype]


def _check_memory(network: ObjEmbed, dtype: torch.dtype, device: torch.device, folder: Path) -> None:
    weights = sum(p.numel() for p in network.parameters()) * dtype.itemsize
    needed, free = weights + (WORK + FRAME_WORK) * network.config.hidden, free_bytes(device)
    if free is not None and free < needed:
        raise UserError(
            f'{folder} needs {needed / 1e9:.2f} GB of {"GPU " if device.type == "cuda" else ""}memory in '
            f'{str(dtype).removeprefix("torch.")}, {weights / 1e9:.2f} of them weights; {free / 1e9:.2f} GB are free; '
            'close other programs, or choose a smaller precision, checkpoint, or another device'
        )


def _read(entries: Mapping[str, _Entry], device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors on the device; none stays a view of its file, which the user may replace or remove."""
    out: dict[str, Tensor] = {}
    for path in sorted({entry.path for entry in entries.values()}):
        with safe_open(path, 'pt') as file:
            for key in (key for key, entry in entries.items() if entry.path == path):
                wanted: Any = torch.float32 if key in _EXACT else dtype
                out[key] = file.get_tensor(key).to(device, wanted, copy=True)
    return out

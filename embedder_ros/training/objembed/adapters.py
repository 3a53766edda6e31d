# SPDX-License-Identifier: Apache-2.0
"""What of a checkpoint learns, and the folder that comes out: LoRA on the language model, merged into its weights.

A merged folder is the checkpoint's own files with the changed tensors replaced in their own type, so that it loads
wherever the checkpoint did and nothing that was not trained changes by a bit.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from embedder_ros.models.objembed.checkpoint import INDEX, WEIGHTS
from embedder_ros.models.objembed.network import ObjEmbed
from embedder_ros.types import UserError

ADAPTER = 'default'
PROJECTIONS = r'model\.language_model\.layers\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)'
WEIGHT_FILES = ('.safetensors', '.bin', '.pth', '.pt', '.gguf', '.onnx')
_BODY = ('model.visual.', 'model.language_model.')


def prepare(network: ObjEmbed, *, rank: int, added: bool, seed: int) -> None:
    """Switch on what learns.

    Args:
        network: changed in place.
        rank: of LoRA on every projection of the language model; 0 trains its weights themselves.
        added: whether ObjEmbed's own modules and calibration learn as well.
        seed: of LoRA's first weights.
    """
    for name, parameter in network.named_parameters():
        own = not name.startswith(_BODY)
        parameter.requires_grad_(added if own else rank == 0 and not name.startswith('model.visual.'))
    if rank:
        _adapt(network, rank, seed)


def changed(network: ObjEmbed, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What training made.

    Args:
        network: trained.
        weights: float32 values of the parameters that learned, by name.

    Returns:
        New values, and what is to be added to old ones; both by the checkpoint's keys.
    """
    from peft.tuners.lora import LoraLayer

    new = {name: w.detach() for name, w in weights.items() if '.lora_' not in name}
    added = {
        f'{name}.weight': module.get_delta_weight(ADAPTER).detach().float()
        for name, module in network.named_modules()
        if isinstance(module, LoraLayer)
    }
    return new, added


def write_merged(source: Path, output: Path, new: Mapping[str, Tensor], added: Mapping[str, Tensor]) -> None:
    """Copy the checkpoint `source` to `output` with changed weights; config.json comes last, so half a copy is none.

    Raises:
        UserError: the disk is full or cannot be written.
    """
    try:
        for name in weight_files(source):
            _write_weights(source / name, output / name, new, added)
        for path in sorted(source.iterdir(), key=lambda p: p.name == 'config.json'):
            new_name = path.is_file() and not (output / path.name).exists()
            if new_name and not path.name.endswith(WEIGHT_FILES):
                _replace(output / path.name, lambda target, path=path: shutil.copyfile(path, target))
    except OSError as error:
        raise UserError(f'{output} cannot be written ({error}); make room, then go on with --resume') from error


def weight_files(folder: Path) -> list[str]:
    """Names of a checkpoint's weight files."""
    if (folder / WEIGHTS).exists():
        return [WEIGHTS]
    return sorted(set(json.loads((folder / INDEX).read_text(encoding='utf-8'))['weight_map'].values()))


def save_state(path: Path, state: Mapping[str, object]) -> None:
    """Write a training state so that either the old or the new one is whole, whenever the power goes."""
    try:
        _replace(path, lambda target: torch.save(dict(state), target))
    except (OSError, RuntimeError) as error:  # torch tells of a full disk by RuntimeError
        raise UserError(f'{path} cannot be written ({error}); make room, then go on with --resume') from error


def _adapt(network: ObjEmbed, rank: int, seed: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    frozen = {name: p.requires_grad for name, p in network.named_parameters()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=PROJECTIONS)
        inject_adapter_in_model(config, network, adapter_name=ADAPTER)
    for name, parameter in network.named_parameters():  # peft freezes all but its own
        parameter.requires_grad_('.lora_' in name or frozen[name.replace('.base_layer.', '.')])


def _write_weights(source: Path, target: Path, new: Mapping[str, Tensor], added: Mapping[str, Tensor]) -> None:
    with safe_open(source, 'pt') as file:
        tensors = dict(_merged(file, new, added))
        metadata = file.metadata()
    _replace(target, lambda path: save_file(tensors, path, metadata=metadata))


def _merged(file: safe_open, new: Mapping[str, Tensor], added: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for key in file.keys():
        value = file.get_tensor(key)
        if key in new:
            # a trained calibration is kept in float32, as it is read: bfloat16 would round a bias of -13.8 to 1/16
            scalar = value.numel() == 1 and key.startswith('logit_')
            value = new[key].to('cpu', torch.float32 if scalar else value.dtype).reshape(value.shape).contiguous()
        elif key in added:
            value = (value.float() + added[key].cpu()).to(value.dtype)
        yield key, value


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path`, then put it in its place."""
    part = path.with_name(path.name + '.part')
    try:
        write(part)
        with part.open('rb') as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)  # half a file must not fill the disk

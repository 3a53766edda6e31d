# SPDX-License-Identifier: Apache-2.0
"""Strict loading of a released `wedetect_*_uni.pth` (MODELS.md 2.6).

The network's size comes from the tensors, never from the file's name: a wrong guess would load nothing and run with
random weights. Every tensor of the checkpoint has exactly one place, and every place exactly one tensor.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from embedder_ros.models.wedetect.network import Shape, WeDetectUni
from embedder_ros.types import UserError

# Whole names to whole names: a rename that could also match inside another name would hide a wrong checkpoint.
_PREFIXES = (
    (re.compile(r'backbone\.image_model\.model\.(.+)'), r'backbone.\1'),
    (re.compile(r'bbox_head\.head_module\.(.+)'), r'bbox_head.\1'),
)
_PREDICTOR = re.compile(r'(bbox_head\.(?:reg|cls)_preds\.\d+)\.(\d)(?:\.(conv|bn))?\.(\w+)')
_PLACES = {('0', 'conv'): 0, ('0', 'bn'): 1, ('1', 'conv'): 3, ('1', 'bn'): 4, ('2', None): 6}
# In the file and not in the network: the text tower, and the constants 0 to 15 that distances are read with.
_NOT_OURS = re.compile(r'(backbone\.text_model\..+|bbox_head\.head_module\.proj)')
_REMEDY = 'give wedetect_base_uni.pth or wedetect_large_uni.pth as released'


def load_wedetect(path: str | Path, *, device: str | torch.device = 'cpu') -> WeDetectUni:
    """The network with the weights in `path`, in float32, ready for inference.

    Raises:
        UserError: no such file, a git-LFS pointer, damaged, not the Uni release, or a tensor that is missing,
            unexpected or of another shape; the message names it.
    """
    return from_tensors(_read(Path(path)), str(path)).to(device).eval()


def from_tensors(tensors: Mapping[str, Tensor], name: str) -> WeDetectUni:
    """The network with tensors under the checkpoint's names. Raises UserError; `name` is what it calls them."""
    ours = {renamed(key): value for key, value in tensors.items() if not _NOT_OURS.fullmatch(key)}
    with torch.device('meta'):
        network = WeDetectUni(_shape(ours, name))
    wanted = network.state_dict()
    for what, keys in (('lacks', wanted.keys() - ours.keys()), ('has the unexpected', ours.keys() - wanted.keys())):
        if keys:
            more = f' and {len(keys) - 1} more' if len(keys) > 1 else ''
            raise UserError(f'{name} {what} tensor {min(keys)}{more}; {_REMEDY}')
    for key, value in wanted.items():
        if ours[key].shape != value.shape:
            raise UserError(f'{name}: {key} is {tuple(ours[key].shape)}, not {tuple(value.shape)}; {_REMEDY}')
    counts = {key for key in ours if key.endswith('num_batches_tracked')}
    network.load_state_dict({k: v if k in counts else v.float() for k, v in ours.items()}, assign=True)
    return network.requires_grad_(False)


def renamed(key: str) -> str:
    """A tensor's name in the checkpoint to its name in the network; other names stay."""
    for pattern, ours in _PREFIXES:
        if match := pattern.fullmatch(key):
            key = match.expand(ours)
    if match := _PREDICTOR.fullmatch(key):
        start, layer, part, end = match.groups()
        if (layer, part) in _PLACES:
            return f'{start}.{_PLACES[layer, part]}.{end}'
    return key


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f'{path} does not exist; {_REMEDY}')
    with path.open('rb') as file:
        start = file.read(64)
    if start.startswith(b'version ') and b'git-lfs' in start:
        raise UserError(f'{path} is a git-LFS pointer, not weights; run `git lfs pull` in {path.parent}')
    try:
        content = torch.load(path, map_location='cpu', weights_only=True, mmap=not start.startswith(b'\x80'))
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(f'{path} is damaged, or holds more than tensors ({error}); fetch it again') from error
    tensors = content.get('state_dict', content) if isinstance(content, dict) else None
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f'{path} holds no tensors by name; {_REMEDY}')
    return tensors


def _shape(tensors: Mapping[str, Tensor], name: str) -> Shape:
    """The sizes that the tensors tell."""
    if 'embeddings' not in tensors:
        raise UserError(f'{name} has no objectness prompts: it is not a Uni release of WeDetect; {_REMEDY}')
    try:
        down = [tensors[f'backbone.downsample_layers.{i}.{0 if i == 0 else 1}.weight'] for i in range(4)]
        blocks = [re.match(r'backbone\.stages\.(\d)\.(\d+)\.gamma', key) for key in tensors]
        depths = [sum(1 for b in blocks if b and b[1] == str(stage)) for stage in range(4)]
        reg, cls = (tensors[f'bbox_head.{kind}_preds.0.0.weight'] for kind in ('reg', 'cls'))
        neck = [tensors[f'bbox_head.reg_preds.{level}.0.weight'].shape[1] for level in range(3)]
        bins = tensors['bbox_head.reg_preds.0.6.weight'].shape[0] // 4
        prompts, embedding = tensors['embeddings'].shape
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f'{name} is not a checkpoint of WeDetect-Uni ({error}); {_REMEDY}') from error
    d0, d1, d2, d3 = (w.shape[0] for w in down)
    s0, s1, s2, s3 = depths
    n0, n1, n2 = neck
    return Shape((d0, d1, d2, d3), (s0, s1, s2, s3), (n0, n1, n2), reg.shape[0], cls.shape[0], bins, prompts, embedding)

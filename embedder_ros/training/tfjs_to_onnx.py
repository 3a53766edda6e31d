# SPDX-License-Identifier: Apache-2.0
"""Translate a TensorFlow.js graph model (model.json + one .bin) to ONNX nodes. Knows the operations NanoDet uses."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from embedder_ros.training.onnx_graph import GraphWriter


class TfjsGraph:
    """One TensorFlow.js graph, translated node by node on demand.

    Args:
        model: the model's .json; the weights lie beside it with the suffix .bin.
        graph: where the ONNX nodes go.
        image: name of the ONNX value that takes the place of the graph's placeholder.
    """

    def __init__(self, model: Path, graph: GraphWriter, image: str) -> None:
        described = json.loads(model.read_text())
        self._nodes = {node['name']: node for node in described['modelTopology']['node']}
        self._constants = read_weights(described['weightsManifest'], model.with_suffix('.bin').read_bytes())
        self._graph = graph
        self._image = image
        self._done: dict[str, str] = {}

    def output(self, name: str) -> str:
        """ONNX name of a node's output; 'node:1' is its second."""
        name = name.removesuffix(':0')
        if name not in self._done:
            self._translate(name.split(':')[0])
        return self._done[name]

    def _translate(self, name: str) -> None:
        node = self._nodes[name]
        inputs = [i.removesuffix(':0') for i in node.get('input', [])]
        attributes = node.get('attr', {})
        handler = getattr(self, f'_{node["op"].lower()}', None)
        if handler is None:
            raise NotImplementedError(f'operation {node["op"]} of node {name}')
        self._done[name] = handler(name, inputs, attributes)

    def _array(self, name: str) -> np.ndarray:
        """Value of a node that depends on constants only."""
        node = self._nodes[name]
        if node['op'] == 'Const':
            return self._constants[name]
        if node['op'] == 'SparseToDense':
            index, shape, values, default = (self._array(i) for i in node['input'])
            dense = np.full(shape.astype(int).tolist(), default, np.int64)
            if index.size:
                dense[tuple(index.reshape(-1, dense.ndim).T.astype(int))] = values
            return dense
        if node['op'] in ('Add', 'AddV2'):
            return self._array(node['input'][0]) + self._array(node['input'][1])
        raise NotImplementedError(f'{name} ({node["op"]}) is not constant')

    def _placeholder(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        return self._image

    def _const(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        return self._graph.weight(self._constants[name])

    def _identity(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        return self.output(inputs[0])

    def _transpose(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        return self._graph.op('Transpose', self.output(inputs[0]), perm=self._array(inputs[1]).tolist())

    def _conv2d(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        kernel = self._array(inputs[1]).transpose(3, 2, 0, 1)  # (out, in, kh, kw)
        strides = [int(s) for s in attributes['strides']['list']['i']][1:3]
        same = base64.b64decode(attributes['padding']['s']) == b'SAME'
        value, pads = (inputs[0], None) if same else self._unpadded(inputs[0])
        padding: dict[str, Any] = {'auto_pad': 'SAME_UPPER'} if same else {'pads': pads}
        planes = self._to_planes(self.output(value))
        return self._to_rows(self._graph.op('Conv', planes, self._graph.weight(kernel), strides=strides, **padding))

    def _unpadded(self, name: str) -> tuple[str, list[int]]:
        """What a convolution reads, and its own padding: a Pad of zeros before it would cost a copy and its layout."""
        node = self._nodes.get(name, {'op': ''})
        if node['op'] not in ('Pad', 'PadV2') or (node['op'] == 'PadV2' and self._array(node['input'][2]) != 0):
            return name, [0, 0, 0, 0]
        rows, columns = self._array(node['input'][1])[1:3].astype(int).tolist()
        return node['input'][0].removesuffix(':0'), [rows[0], columns[0], rows[1], columns[1]]

    def _add(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        return self._graph.op('Add', self.output(inputs[0]), self.output(inputs[1]))

    _addv2 = _add

    def _pad(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        pads = self._array(inputs[1]).T.reshape(-1).astype(np.int64)
        values = [self._graph.constant(np.float32(self._array(inputs[2])))] if len(inputs) > 2 else []
        return self._graph.op('Pad', self.output(inputs[0]), self._graph.constant(pads), *values)

    _padv2 = _pad

    def _leakyrelu(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        alpha = float(attributes.get('alpha', {}).get('f', 0.2))
        return self._graph.op('LeakyRelu', self.output(inputs[0]), alpha=alpha)

    def _concatv2(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        axis = int(self._array(inputs[-1]))
        return self._graph.op('Concat', *[self.output(i) for i in inputs[:-1]], axis=axis)

    def _reshape(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        shape = self._array(inputs[1]).astype(np.int64)
        return self._graph.op('Reshape', self.output(inputs[0]), self._graph.constant(shape))

    def _sigmoid(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        return self._graph.op('Sigmoid', self.output(inputs[0]))

    def _resizebilinear(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        rows, columns = (int(v) for v in self._array(inputs[1]))
        planes = self._to_planes(self.output(inputs[0]))
        shape = self._graph.op('Shape', planes)
        head = self._graph.op('Slice', shape, self._graph.constant(np.array([0])), self._graph.constant(np.array([2])))
        sizes = self._graph.op('Concat', head, self._graph.constant(np.array([rows, columns])), axis=0)
        mode = 'half_pixel' if attributes['half_pixel_centers']['b'] else 'asymmetric'
        out = self._graph.op('Resize', planes, '', '', sizes, mode='linear', coordinate_transformation_mode=mode)
        return self._to_rows(out)

    def _maxpool(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        size = [int(v) for v in attributes['ksize']['list']['i']][1:3]
        strides = [int(v) for v in attributes['strides']['list']['i']][1:3]
        planes = self._to_planes(self.output(inputs[0]))
        return self._to_rows(self._graph.op('MaxPool', planes, kernel_shape=size, strides=strides))

    def _splitv(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        sizes, axis = self._array(inputs[1]).astype(np.int64), int(self._array(inputs[2]))
        parts = self._graph.op(
            'Split', self.output(inputs[0]), self._graph.constant(sizes), outputs=len(sizes), axis=axis
        )
        for index, part in enumerate(parts[1:], start=1):
            self._done[f'{name}:{index}'] = part
        return parts[0]

    def _to_planes(self, value: str) -> str:
        return self._graph.op('Transpose', value, perm=[0, 3, 1, 2])

    def _to_rows(self, value: str) -> str:
        return self._graph.op('Transpose', value, perm=[0, 2, 3, 1])


def read_weights(manifest: list[dict[str, Any]], raw: bytes) -> dict[str, np.ndarray]:
    """Weights of a TensorFlow.js graph by node name; float16-stored ones come back as float32."""
    weights, offset = {}, 0
    for entry in (w for group in manifest for w in group['weights']):
        quantised = entry.get('quantization')
        kind = np.dtype(quantised['dtype'] if quantised else entry['dtype'])
        count = int(np.prod(entry['shape']))
        value = np.frombuffer(raw, kind, count, offset).reshape(entry['shape'])
        offset += count * kind.itemsize
        if quantised and 'scale' in quantised:
            value = value.astype(np.float32) * quantised['scale'] + quantised['min']
        weights[entry['name']] = value.astype(entry['dtype'])
    return weights

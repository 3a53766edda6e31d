# SPDX-License-Identifier: Apache-2.0
"""A small ONNX graph writer: float32 arithmetic, weights stored as float16 or bytes, so that files stay small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 9  # what onnxruntime 1.16 and later read


class GraphWriter:
    """Collects nodes and weights and writes one checked ONNX file."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._count = 0

    def weight(self, value: np.ndarray) -> str:
        """A constant; float arrays are stored as float16 and cast back when the session starts."""
        array = np.asarray(value)
        if array.dtype.kind != 'f':
            return self.constant(array)
        stored = self.constant(array.astype(np.float16))
        return self.op('Cast', stored, to=TensorProto.FLOAT)

    def bytes(self, value: np.ndarray) -> str:
        """A matrix (R, C) stored as one byte a number and a scale a row; multiplied out when the session starts."""
        scale = np.abs(value).max(axis=1, keepdims=True) / 127
        stored = self.op('Cast', self.constant(np.rint(value / scale).astype(np.int8)), to=TensorProto.FLOAT)
        return self.op('Mul', stored, self.constant(scale.astype(np.float32)))

    def constant(self, value: np.ndarray) -> str:
        """A constant stored exactly as it is."""
        name = self._name('w')
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; returns its output name, or a list of names when it has several."""
        names = [self._name(kind.lower()) for _ in range(outputs)]
        self._nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def roi_align(self, value: str, boxes: str, index: str, *, stride: int, cells: int, samples: int) -> Any:
        """(N, C, cells, cells) of a map under boxes (N, 4) in pixels; `index` (N,) int64 zeros; name of the output."""
        return self.op(
            'RoiAlign', value, boxes, index, coordinate_transformation_mode='half_pixel', output_height=cells,
            output_width=cells, sampling_ratio=samples, spatial_scale=1 / stride,
        )  # fmt: skip

    def save(
        self,
        path: Path,
        inputs: dict[str, tuple[int, list[Any]]],
        outputs: dict[str, str],
        shapes: dict[str, list[Any]],
    ) -> None:
        """Write the graph.

        Args:
            path: file to write.
            inputs: name to (element type, shape).
            outputs: public name to internal name.
            shapes: public name to shape.
        """
        renamed = [helper.make_node('Identity', [inner], [name]) for name, inner in outputs.items()]
        graph = helper.make_graph(
            self._nodes + renamed,
            path.stem,
            [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in outputs],
            self._weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', OPSET)])
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)

    def _name(self, stem: str) -> str:
        self._count += 1
        return f'{stem}_{self._count}'

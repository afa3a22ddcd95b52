"""Lays rows of few features out with the features in front, where kernels would else work on a few numbers at a time.

A small net over many rows ([batch, rows, features]: every item of a catalogue, every place of a sequence) adds a bias
of `features` numbers to each row. onnxruntime does that row by row, which costs more than the products: a tower of
widths 8, 4 and 1 over 1,682 rows took 205 us, and 53 as [batch, features, rows]. A chain is turned where it ends in one
feature that is squeezed away, and begins with what is turned for nothing: weights, and vectors that are the same for
all rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

UNARY = frozenset({"Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Softplus", "Gelu", "HardSwish", "Identity"})
BINARY = frozenset({"Add", "Sub", "Mul", "Div", "PRelu"})
FIRST, LAST = 1, 2
"""Axes of rows and features, and of features and rows once they are turned."""
AXES, FEW = 3, 64
"""Axes of a value that is turned, and the most features that are few."""


def rows_last(model: onnx.ModelProto) -> int:
    """Turn every chain that ends in one feature of each row, in place; return how many were turned."""
    if not any(node.op_type == "Squeeze" for node in model.graph.node):
        return 0
    graph = _Graph.of(model)
    chains = [(node, chain) for node in model.graph.node if (chain := graph.chain(node))]
    if not chains:
        return 0
    for end, chain in chains:
        for node in chain:
            graph.turn(node)
        end.input[1] = graph.constant(end.input[1], np.array([FIRST]))
    used = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    del model.graph.value_info[:]
    return len(chains)


@dataclass(frozen=True)
class _Graph:
    graph: onnx.GraphProto
    makers: Mapping[str, onnx.NodeProto]
    readers: Mapping[str, Sequence[onnx.NodeProto]]
    constants: dict[str, onnx.TensorProto]
    axes: Mapping[str, int]
    """How many axes a value has, where that is known."""

    @classmethod
    def of(cls, model: onnx.ModelProto) -> _Graph:
        graph, shaped, readers = model.graph, model, dict[str, list[onnx.NodeProto]]()
        with suppress(onnx.shape_inference.InferenceError, ValueError):
            shaped = onnx.shape_inference.infer_shapes(model)
        axes = {
            value.name: len(value.type.tensor_type.shape.dim)
            for value in shaped.graph.value_info
            if value.type.tensor_type.HasField("shape")
        }
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        makers = {name: node for node in graph.node for name in node.output}
        return cls(graph, makers, readers, {tensor.name: tensor for tensor in graph.initializer}, axes)

    def chain(self, end: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the nodes that are turned with the squeezing of a last axis; none where not all of them can be."""
        if end.op_type != "Squeeze" or self._list(end) not in ([-1], [LAST]):
            return []
        found: dict[str, onnx.NodeProto] = {}
        waiting = [end.input[0]]
        while waiting:
            name = waiting.pop()
            if name in found:
                continue
            inputs = self._turned_inputs(name)
            if inputs is None:
                return []
            found[name] = self.makers[name]
            waiting += inputs
        inside = {id(node) for node in (*found.values(), end)}
        alone = all(id(reader) in inside for name in found for reader in self.readers[name])
        products = any(node.op_type == "MatMul" for node in found.values())
        return list(found.values()) if alone and products else []

    def _turned_inputs(self, name: str) -> list[str] | None:
        """Return what must be turned so that a value of three axes can be; None where it cannot."""
        node = self.makers.get(name)
        if node is None or self.axes.get(name) != AXES:
            return None
        if node.op_type == "MatMul" and node.input[1] in self.constants:
            shape = self.constants[node.input[1]].dims
            return [node.input[0]] if len(shape) == 2 and shape[1] <= FEW else None
        if node.op_type in UNARY:
            return [node.input[0]]
        if node.op_type in BINARY:
            return [each for each in node.input if each not in self.constants]
        return [] if node.op_type == "Unsqueeze" and self._list(node) == [FIRST] else None

    def turn(self, node: onnx.NodeProto) -> None:
        """Let a node of a chain work on [batch, features, rows]."""
        if node.op_type == "MatMul":
            weight = self._array(node.input[1])
            node.input[:] = [self.constant(node.input[1], weight.T), node.input[0]]
        elif node.op_type == "Unsqueeze":
            node.input[1] = self.constant(node.input[1], np.array([LAST]))
        elif node.op_type in BINARY:
            node.input[:] = [self._operand(name) if name in self.constants else name for name in node.input]

    def constant(self, like: str, value: NDArray[Any]) -> str:
        """Add what another constant is when turned; return its name."""
        name = f"{like}_turned"
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
            self.graph.initializer.append(self.constants[name])
        return name

    def _operand(self, name: str) -> str:
        value = self._array(name)
        if value.ndim == 0:
            return name
        return self.constant(name, value[:, None] if value.ndim == 1 else value.swapaxes(-1, -2))

    def _array(self, name: str) -> NDArray[Any]:
        return np.asarray(numpy_helper.to_array(self.constants[name]))

    def _list(self, node: onnx.NodeProto) -> list[int]:
        """Return the axes that a node is given as a constant."""
        given = node.input[1] if len(node.input) > 1 else ""
        return self._array(given).ravel().tolist() if given in self.constants else []

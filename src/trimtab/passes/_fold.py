"""Folds what constants and known sizes decide in an ONNX graph, by onnxscript's optimizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx_ir.passes import common
from onnxscript import ir
from onnxscript.optimizer import optimize_ir

from trimtab.errors import Refused
from trimtab.passes._graph import count_nodes
from trimtab.run import onnx_facts

ROUNDS = 4
"""Times that folding and inferring shapes alternate, at most: each may open the way for the other."""
LARGEST = 2**24
"""Elements up to which a tensor is folded."""


def folded(model: onnx.ModelProto, check_time: Callable[[], None]) -> onnx.ModelProto:
    """Return the graph with everything folded that constants and known sizes decide.

    Raises:
        Refused: the optimizer cannot read the graph.
    """
    count = -1
    for _ in range(ROUNDS):
        check_time()
        try:
            graph = ir.serde.deserialize_model(model)
            optimize_ir(graph, should_fold=_should_fold, input_size_limit=LARGEST, output_size_limit=LARGEST)
            common.ClearMetadataAndDocStringPass()(graph)
            model = ir.serde.serialize_model(graph)
        except Exception as error:
            raise Refused(f"onnxscript cannot simplify this graph: {error}") from error
        with suppress(onnx.shape_inference.InferenceError, ValueError):
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        changed = _settle_sizes(model) + _tabulate(model)
        if not changed and count_nodes(model) == count:
            break
        count = count_nodes(model)
    del model.graph.value_info[:]
    return model


def _settle_sizes(model: onnx.ModelProto) -> int:
    """Turn every size that is taken out of a shape and known into a constant, in place; return how many.

    The optimizer itself does so for a list of axes with the attribute written out, and exporters mostly write neither.
    """
    graph = model.graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in (*graph.input, *graph.value_info)}
    taken = {name for node in graph.node if node.op_type == "Gather" for name in node.input[1:]}
    axes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in taken}
    count = 0
    for inner in onnx_facts.graphs_of(model):
        measured = {n.output[0]: n.input[0] for n in inner.node if n.op_type == "Shape" and not n.attribute}
        for node in inner.node:
            dims = shapes.get(measured.get(node.input[0], "")) if node.op_type == "Gather" else None
            chosen = [dims[axis] for axis in axes[node.input[1]].ravel()] if dims and node.input[1] in axes else []
            if chosen and all(dim.HasField("dim_value") for dim in chosen):
                sizes = np.array([dim.dim_value for dim in chosen]).reshape(axes[node.input[1]].shape)
                node.CopyFrom(helper.make_node("Constant", [], node.output, value=numpy_helper.from_array(sizes)))
                count += 1
    return count


def _tabulate(model: onnx.ModelProto) -> int:
    """Multiply tables of embeddings by the product that alone reads them, in place, where no larger; return how many.

    A row is then looked up already multiplied: gather(E, i) W + b = gather(E W + b, i).
    """
    graph, count = model.graph, 0
    weights = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter([name for inner in onnx_facts.graphs_of(model) for node in inner.node for name in node.input])
    readers.update(value.name for value in graph.output)
    looked_up = {
        node.output[0]: node for node in graph.node if node.op_type == "Gather" and _rows_of_table(node, weights)
    }
    for node in graph.node:
        gather = looked_up.get(node.input[0]) if node.input else None
        factors = _factors(node, weights) if gather is not None and readers[gather.output[0]] == 1 else None
        if gather is None or factors is None:
            continue
        table = numpy_helper.to_array(weights[gather.input[0]])
        product = table @ factors[0] + factors[1]
        if product.size > table.size + factors[0].size:
            continue
        name = f"{node.output[0]}/table"
        graph.initializer.append(numpy_helper.from_array(product.astype(table.dtype), name))
        node.CopyFrom(helper.make_node("Gather", [name, gather.input[1]], [node.output[0]], axis=0, name=node.name))
        graph.node.remove(gather)
        count += 1
    return count


def _rows_of_table(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> bool:
    table = weights.get(node.input[0])
    plain = all(attribute.name == "axis" and attribute.i == 0 for attribute in node.attribute)
    return plain and table is not None and len(table.dims) == 2 and table.data_type == onnx.TensorProto.FLOAT


def _factors(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> tuple[Any, Any] | None:
    """Return what a product multiplies its first input by and adds to it, where both are constants; else None."""
    if node.op_type not in ("MatMul", "Gemm") or any(name not in weights for name in node.input[1:] if name):
        return None
    said = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if said.get("transA", 0) or said.get("alpha", 1.0) != 1.0 or said.get("beta", 1.0) != 1.0:
        return None
    weight, *bias = (numpy_helper.to_array(weights[name]) for name in node.input[1:] if name)
    return (weight.T if said.get("transB", 0) else weight), (bias[0] if bias else 0.0)


def _should_fold(node: Any) -> bool | None:
    """Fold tensors that are filled with one value too, which the optimizer leaves: paddings are made of them."""
    return True if node.op_type == "ConstantOfShape" and node.domain == "" else None

"""What an ONNX graph costs, read off the graph: parameters, multiply-accumulates for one example, layers, bits.

Sizes come from onnx's own shape inference on a copy whose symbolic sizes are set to those of one example and whose
large weights are replaced by their types, so that a graph of any size is counted in little memory.

Multiply-accumulates, with |x| the number of elements of x:

    convolution             |output| x |weight| / output channels
    transposed convolution  |input| x |weight| / input channels
    matrix product          |output| x inner size
    LSTM, GRU, RNN          steps x batch x (|W| + |R|)
    attention               heads x queries x keys x (key size + value size)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TypeAlias

import onnx

from trimtab.values.facts import Facts

Shape = tuple[int, ...]
Graph: TypeAlias = onnx.GraphProto | onnx.FunctionProto
SMALL = 1024
"""Elements up to which a tensor may be a shape that inference has to read."""
KINDS: Mapping[str, str] = {
    "Conv": "conv", "ConvTranspose": "conv", "ConvInteger": "conv", "QLinearConv": "conv",
    "Gemm": "linear", "QGemm": "linear", "MatMulNBits": "linear",
    "LSTM": "lstm", "DynamicQuantizeLSTM": "lstm", "GRU": "gru", "RNN": "rnn",
    "Attention": "attention", "MultiHeadAttention": "attention",
    "BatchNormalization": "norm", "LayerNormalization": "norm", "InstanceNormalization": "norm",
    "GroupNormalization": "norm", "RMSNormalization": "norm", "SimplifiedLayerNormalization": "norm",
}  # fmt: skip
PRODUCTS = frozenset({"MatMul", "MatMulInteger", "QLinearMatMul"})
DYNAMIC = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger"})
"""Operators that find the range of an activation at each call, or follow one that does."""
QUANTIZED = frozenset({"QuantizeLinear", "QLinearConv", "QLinearMatMul", "QGemm", *DYNAMIC})
PASSING = frozenset({"Dropout", "Cast", "Where", "IsNaN", "Identity", "QuantizeLinear", "DequantizeLinear"})
"""What may stand between the softmax of an attention and its product with the values."""
MOVED = frozenset({"DequantizeLinear", "Transpose", "Identity", "Cast", "Add"})
"""What may stand between a weight and its layer; a bias of its own belongs to the layer that it is added to."""
SCALES: Mapping[str, int] = {
    "QuantizeLinear": 1, "DequantizeLinear": 1, "MatMulNBits": 2, "MatMulInteger": 2, "DynamicQuantizeLSTM": 8,
}  # fmt: skip
"""Where the scales and zero points begin among an operator's inputs."""
BITS: Mapping[int, int] = {
    onnx.TensorProto.FLOAT: 32, onnx.TensorProto.DOUBLE: 64, onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.BFLOAT16: 16, onnx.TensorProto.INT32: 32, onnx.TensorProto.INT16: 16,
    onnx.TensorProto.UINT16: 16, onnx.TensorProto.INT8: 8, onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.INT4: 4, onnx.TensorProto.UINT4: 4, onnx.TensorProto.FLOAT8E4M3FN: 8,
    onnx.TensorProto.FLOAT8E5M2: 8,
}  # fmt: skip
"""Bits of the types that weights have; others (int64, bool, string) are shapes and tables."""


def facts(model: onnx.ModelProto, sizes: Mapping[str, int] | None = None) -> Facts:
    """Count one example's work; `sizes` gives symbolic sizes their value, those not named count as 1.

    A loop's body counts once, and operators that shape inference does not know count as nothing.
    """
    graphs = list(graphs_of(model))
    nodes = [node for graph in graphs for node in graph.node]
    constants = _constants(graphs)
    weights = [(t.name, *_size(t, nodes)) for t in _weights(graphs)]
    total = sum(count for _, count, _ in weights)
    widened = {name for node in nodes if node.op_type == "Cast" and _to_float(node) for name in node.input}
    at_work = sum(count * (32.0 if bits == 16 and name in widened else bits) for name, count, bits in weights)
    kinds = {node.output[0]: kind for node, kind in _kinds(nodes, constants)}
    work = _operations(model, sizes or {})
    quantized = any(n.op_type in QUANTIZED and n.input[0] not in constants for n in nodes)
    return Facts(
        format="onnx",
        parameters=total,
        operations=sum(work.values()),
        layers=dict(sorted(Counter(kinds.values()).items())),
        weight_bits=at_work / total if total else 32.0,
        activation_bits=8.0 if quantized else 32.0,
        operations_by={kind: count for kind, count in sorted(work.items()) if count},
        parameters_by=_parameters_by(weights, nodes, kinds),
        dynamic=any(node.op_type in DYNAMIC for node in nodes),
        stored=sum(count * bits for _, count, bits in weights) / at_work if at_work else 1.0,
    )


def graphs_of(model: onnx.ModelProto) -> Iterator[Graph]:
    """Yield the main graph, the functions and every graph inside their nodes."""
    pending: list[Graph] = [model.graph, *model.functions]
    while pending:
        graph = pending.pop()
        yield graph
        for attribute in (a for node in graph.node for a in node.attribute):
            pending += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def tensors_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor the model carries: initializers, sparse ones, and attributes of nodes, at any depth."""
    for graph in graphs_of(model):
        if isinstance(graph, onnx.GraphProto):
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        for attribute in (a for node in graph.node for a in node.attribute):
            yield from ([attribute.t] if attribute.HasField("t") else [])
            yield from attribute.tensors
            kept = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            for sparse in (*kept, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _constants(graphs: Sequence[Graph], learnt: Iterable[str] = ()) -> frozenset[str]:
    """Names whose values no input reaches, a dequantized weight among them; `learnt` are known to be so."""
    known = {*learnt} | {
        tensor.name for graph in graphs if isinstance(graph, onnx.GraphProto) for tensor in graph.initializer
    }
    for graph in graphs:
        for node in graph.node:
            if node.op_type == "Constant" or (node.input and all(not i or i in known for i in node.input)):
                known.update(node.output)
    return frozenset(known)


def _weights(graphs: Iterable[Graph]) -> Iterator[onnx.TensorProto]:
    """Yield what was learnt: not shapes and tables, not scalars, not the scales and zero points of quantization."""
    graphs = list(graphs)
    scales = {i for g in graphs for n in g.node if n.op_type in SCALES for i in n.input[SCALES[n.op_type] :]}
    for graph in graphs:
        for name, tensor in held(graph):
            if tensor.dims and tensor.data_type in BITS and name not in scales:
                yield tensor


def held(graph: Graph) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Yield the name and the tensor of each initializer and of each constant among the nodes."""
    if isinstance(graph, onnx.GraphProto):
        yield from ((tensor.name, tensor) for tensor in graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            yield node.output[0], node.attribute[0].t


def _to_float(cast: onnx.NodeProto) -> bool:
    return any(attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT for attribute in cast.attribute)


def _size(tensor: onnx.TensorProto, nodes: Iterable[onnx.NodeProto]) -> tuple[int, float]:
    """Return a tensor's parameters and the bits of each; MatMulNBits packs them, and its scales weigh something."""
    packed = next((n for n in nodes if n.op_type == "MatMulNBits" and n.input[1] == tensor.name), None)
    if packed is None:
        return math.prod(tensor.dims), float(BITS[tensor.data_type])
    given = {a.name: a.i for a in packed.attribute}
    return given["K"] * given["N"], given.get("bits", 4) + 32 / given["block_size"]


def _parameters_by(
    weights: Iterable[tuple[str, int, float]], nodes: Sequence[onnx.NodeProto], kinds: Mapping[str, str]
) -> dict[str, int]:
    """Add parameters up by the kind of layer that takes them, also behind a dequantization or a transposition."""
    takers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            takers.setdefault(name, []).append(node)
    found: Counter[str] = Counter()
    for name, count, _ in weights:
        reached = takers.get(name, [])
        while reached and reached[0].output[0] not in kinds and reached[0].op_type in MOVED:
            reached = takers.get(reached[0].output[0], [])
        kind = next((kinds[node.output[0]] for node in reached if node.output and node.output[0] in kinds), None)
        found[kind or "other"] += count
    return {kind: count for kind, count in sorted(found.items()) if count}


def _kinds(nodes: Iterable[onnx.NodeProto], constants: frozenset[str]) -> Iterator[tuple[onnx.NodeProto, str]]:
    probabilities: set[str] = set()
    for node in nodes:
        learnt = any(name in constants for name in node.input)
        if node.op_type in KINDS:
            yield node, KINDS[node.op_type]
        elif node.op_type in PRODUCTS and _factors(node) & constants:
            yield node, "linear"
        elif node.op_type in PRODUCTS and _factors(node) & probabilities:
            yield node, "attention"
        elif node.op_type == "Gather" and learnt and node.input[0] in constants:
            yield node, "embedding"
        elif node.op_type == "Softmax" or (node.op_type in PASSING and set(node.input) & probabilities):
            probabilities.update(node.output)


def _factors(node: onnx.NodeProto) -> set[str]:
    return {node.input[0], node.input[3 if node.op_type == "QLinearMatMul" else 1]}


def _operations(model: onnx.ModelProto, sizes: Mapping[str, int]) -> Counter[str]:
    """Count multiply-accumulates by kind of layer; products of two activations are attention's."""
    graphs, shapes, constants = _shaped(model, sizes)
    found: Counter[str] = Counter()
    for node in (node for graph in graphs for node in graph.node):
        plain = "linear" if set(node.input) & constants else "attention"
        found[KINDS.get(node.op_type, plain)] += _work(node, shapes)
    return found


def activations(model: onnx.ModelProto, sizes: Mapping[str, int] | None = None) -> tuple[int, int]:
    """Return the numbers that layers which multiply write for one example, and how many such layers there are."""
    graphs, shapes, _ = _shaped(model, sizes or {})
    nodes = [node for graph in graphs for node in graph.node if _work(node, shapes)]
    return sum(math.prod(shapes.get(node.output[0], ())) for node in nodes), len(nodes)


def _shaped(
    model: onnx.ModelProto, sizes: Mapping[str, int]
) -> tuple[list[onnx.GraphProto], dict[str, Shape], frozenset[str]]:
    """Return all graphs, the shapes of their values for one example, and which are constants."""
    sized = _sized(model, sizes)
    with suppress(onnx.shape_inference.InferenceError):
        sized = onnx.shape_inference.infer_shapes(sized, data_prop=True)
    graphs = [graph for graph in graphs_of(sized) if isinstance(graph, onnx.GraphProto)]
    shapes = {value.name: _shape(value, sizes) for value in model.graph.value_info}
    for graph in graphs:
        shapes |= {v.name: _shape(v, sizes) for v in (*graph.value_info, *graph.input, *graph.output) if _known(v)}
        shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    learnt = {value.name for value in sized.graph.input} - {value.name for value in model.graph.input}
    return graphs, shapes, _constants(graphs, learnt)


def _sized(model: onnx.ModelProto, sizes: Mapping[str, int]) -> onnx.ModelProto:
    """Copy the graph with one example's sizes, its large weights as typed inputs."""
    graph = onnx.GraphProto(name="sized", node=model.graph.node, output=model.graph.output)
    large = {t.name: t for t in model.graph.initializer if math.prod(t.dims) > SMALL}
    graph.initializer.extend(t for t in model.graph.initializer if t.name not in large)
    graph.input.extend(onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in large.values())
    for value in model.graph.input:
        if value.name not in large:
            kind = value.type.tensor_type.elem_type
            graph.input.append(onnx.helper.make_tensor_value_info(value.name, kind, _shape(value, sizes)))
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    sized = onnx.ModelProto(ir_version=model.ir_version, graph=graph, opset_import=model.opset_import)
    sized.functions.extend(model.functions)
    return onnx.inliner.inline_local_functions(sized) if model.functions else sized


def _known(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.HasField("shape"))


def _shape(value: onnx.ValueInfoProto, sizes: Mapping[str, int]) -> Shape:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else sizes.get(dim.dim_param, 1) for dim in dims)


def _work(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    """Count the multiply-accumulates of a node; 0 where a shape it needs is unknown."""
    count = WORK.get(node.op_type)
    try:
        return count(node, [shapes.get(i, ()) for i in node.input], shapes.get(node.output[0], ())) if count else 0
    except (IndexError, ZeroDivisionError):
        return 0


def _convolution(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
    weight = inputs[3 if node.op_type == "QLinearConv" else 1]
    return math.prod(output) * math.prod(weight) // weight[0] if output else 0


def _transposed(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
    return math.prod(inputs[0]) * math.prod(inputs[1]) // inputs[1][0]


def _gemm(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    other = inputs[3 if node.op_type == "QGemm" else 1]
    return math.prod(inputs[0]) * math.prod(other) // inputs[0][0 if transposed else 1]


def _product(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
    return math.prod(output) * inputs[0][-1] if output else 0


def _nbits(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
    return math.prod(inputs[0]) * int(next(a.i for a in node.attribute if a.name == "N"))


def _recurrent(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
    return inputs[0][0] * inputs[0][1] * (math.prod(inputs[1]) + math.prod(inputs[2]))


def _attention(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
    """Standard operator of opset 23, its query [batch, heads, queries, size]."""
    query, key, value = inputs[:3]
    return math.prod(query[:3]) * key[2] * (query[3] + value[3])


def _einsum(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
    equation = next(a.s.decode() for a in node.attribute if a.name == "equation").replace(" ", "")
    letters = equation.partition("->")[0].split(",")
    sizes = {
        mark: size
        for word, shape in zip(letters, inputs, strict=False)
        for mark, size in zip(word, shape, strict=False)
    }
    return math.prod(sizes.values()) if len(inputs) > 1 else 0


WORK: Mapping[str, Callable[[onnx.NodeProto, list[Shape], Shape], int]] = {
    "Conv": _convolution, "ConvInteger": _convolution, "QLinearConv": _convolution, "ConvTranspose": _transposed,
    "Gemm": _gemm, "QGemm": _gemm, "MatMul": _product, "MatMulInteger": _product, "QLinearMatMul": _product,
    "MatMulNBits": _nbits, "LSTM": _recurrent, "GRU": _recurrent, "RNN": _recurrent,
    "DynamicQuantizeLSTM": _recurrent, "Attention": _attention, "Einsum": _einsum,
}  # fmt: skip

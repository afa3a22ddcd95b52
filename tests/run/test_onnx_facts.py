"""What is read off a graph: work and weights by kind of layer, and what quantized operators really hold."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from trimtab.run import onnx_layers, onnx_precision
from trimtab.run.onnx_facts import facts


def graph(nodes, shapes, weights):
    held = {name: np.random.default_rng(0).normal(size=shape).astype(np.float32) for name, shape in weights.items()}
    inputs = [helper.make_tensor_value_info(name, kind, ["batch", *shape]) for name, (kind, shape) in shapes.items()]
    made = [helper.make_node(op, i.split(), o.split(), f"{op}{n}", **more) for n, (op, i, o, more) in enumerate(nodes)]
    outputs = [helper.make_tensor_value_info(made[-1].output[0], TensorProto.FLOAT, None)]
    tensors = [numpy_helper.from_array(value, name) for name, value in held.items()]
    proto = helper.make_graph(made, "graph", inputs, outputs, tensors)
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def attention():
    """A table of tokens, two projections of 64, their products as attention does them, and a head."""
    nodes = [
        ("Gather", "table tokens", "x", {}),
        ("MatMul", "x Q", "q", {}),
        ("MatMul", "x K", "k", {}),
        ("Transpose", "k", "kt", {"perm": [0, 2, 1]}),
        ("MatMul", "q kt", "s", {}),
        ("Softmax", "s", "p", {}),
        ("MatMul", "p x", "c", {}),
        ("LayerNormalization", "c scale", "n", {}),
        ("MatMul", "n head", "h", {}),
        ("Add", "h bias", "output", {}),
    ]
    weights = {"table": (50, 64), "Q": (64, 64), "K": (64, 64), "scale": (64,), "head": (64, 8), "bias": (8,)}
    return graph(nodes, {"tokens": (TensorProto.INT64, [12])}, weights)


def test_work_and_weights_by_kind():
    found = facts(attention(), {"batch": 1})
    assert found.layers == {"attention": 1, "embedding": 1, "linear": 3, "norm": 1}
    assert found.operations_by == {"attention": 2 * 12 * 12 * 64, "linear": 12 * 64 * (64 + 64 + 8)}
    assert found.operations == sum(found.operations_by.values())
    assert found.parameters_by == {"embedding": 3200, "linear": 2 * 4096 + 512, "norm": 64, "other": 8}
    assert found.parameters == sum(found.parameters_by.values())
    assert not found.dynamic


@pytest.mark.parametrize("bits", [8, 4])
def test_packed_weights_count_as_the_weights_they_are(bits):
    before = facts(attention(), {"batch": 1})
    settings = onnx_precision.Settings(bits=bits, group_size=32)
    found = facts(onnx_precision.weights(onnx_layers.prepare(attention()), settings), {"batch": 1})
    assert found.parameters_by["linear"] == before.parameters_by["linear"]
    assert found.layers == before.layers
    linear, table = found.parameters_by["linear"] * (bits + 1), found.parameters_by["embedding"] * 8
    assert found.weight_bits * found.parameters == pytest.approx(linear + table + 72 * 32)
    assert (found.activation_bits, found.dynamic) == (32, False)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"saturate": 1, "to": TensorProto.FLOAT}, (32.0, 0.5)),
        ({"saturate": 1, "to": TensorProto.FLOAT16}, (16.0, 1.0)),
        ({}, (16.0, 1.0)),
    ],
)
def test_weights_that_are_widened_count_as_wide_at_work_and_narrow_on_disk(attributes, expected):
    proto = graph([("Cast", "w", "v", attributes), ("MatMul", "x v", "y", {})], {"x": (TensorProto.FLOAT, [64])}, {})
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((64, 64), np.float16), "w"))
    found = facts(proto, {"batch": 1})
    assert (found.weight_bits, found.stored) == expected
    assert found.size_mb == 64 * 64 * 2 / 1e6


def test_dynamic_graphs_say_so():
    prepared = onnx_layers.prepare(attention())
    found = facts(onnx_precision.dynamic(prepared, onnx_precision.Settings()), {"batch": 1})
    assert (found.activation_bits, found.dynamic) == (8, True)
    assert found.operations_by == facts(attention(), {"batch": 1}).operations_by
    assert found.weight_bits < 10

"""Rows of few features are turned where that costs nothing, and the answers stay the same."""

from itertools import pairwise

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from trimtab.passes._turn import rows_last

ROWS, WIDTH = 7, 5


def tower(widths, kinds=("Relu",), seed=0, squeezed=-1, outputs=("answer",), extra=()):
    """A vector of each example meets a table of rows, and a tower of these widths follows, the last one squeezed."""
    random = np.random.default_rng(seed)
    weights = {"table": random.normal(size=(ROWS, widths[0])), "rows": np.array([1]), "features": np.array([squeezed])}
    nodes = [
        helper.make_node("Unsqueeze", ["vector", "rows"], ["wide"]),
        helper.make_node("Add", ["wide", "table"], ["x0"]),
    ]
    for number, (before, after) in enumerate(pairwise(widths)):
        kind = kinds[number % len(kinds)]
        weights[f"w{number}"] = random.normal(size=(before, after))
        weights[f"b{number}"] = random.normal(size=(after,))
        weights[f"s{number}"] = random.normal(size=(ROWS, after))
        nodes += [
            helper.make_node(kind, [f"x{number}"], [f"act{number}"]),
            helper.make_node("MatMul", [f"act{number}", f"w{number}"], [f"p{number}"]),
            helper.make_node("Add", [f"b{number}", f"p{number}"], [f"q{number}"]),
            helper.make_node("Mul", [f"q{number}", f"s{number}"], [f"x{number + 1}"]),
        ]
    nodes += [helper.make_node("Squeeze", [f"x{len(widths) - 1}", "features"], ["answer"]), *extra]
    tensors = [
        numpy_helper.from_array(value if value.dtype == np.int64 else value.astype(np.float32), name)
        for name, value in weights.items()
    ]
    taken = helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", widths[0]])
    given_ = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "tower", [taken], given_, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def answers(model, width):
    vector = np.random.default_rng(1).normal(size=(3, width)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"vector": vector})[0]


@pytest.mark.slow
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.lists(st.sampled_from(["Relu", "Sigmoid", "Tanh", "Elu"]), min_size=1, max_size=3),
    st.integers(0, 99),
    st.sampled_from([-1, 2]),
)
@settings(max_examples=30, deadline=None)
def test_a_turned_tower_answers_the_same(widths, kinds, seed, squeezed):
    model = tower([*widths, 1], kinds, seed, squeezed)
    before = answers(model, widths[0])
    assert rows_last(model) == 1
    np.testing.assert_allclose(answers(model, widths[0]), before, rtol=1e-4, atol=1e-4)
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    assert all(node.input[0].endswith("_turned") for node in products)
    kept = {tensor.name for tensor in model.graph.initializer}
    assert kept <= {name for node in model.graph.node for name in node.input}, "nothing is left behind"
    assert rows_last(model) == 0, "what was turned stays so"


@pytest.mark.parametrize(
    "model",
    [
        tower([WIDTH, 4, 1], squeezed=0),
        tower([WIDTH, 4, 1], outputs=("answer", "x1")),
        tower([WIDTH, 4, 1], extra=[helper.make_node("Relu", ["x1"], ["read"])], outputs=("answer", "read")),
        tower([WIDTH, 4, 1], kinds=("Softmax",)),
        tower([1]),
    ],
    ids=["another axis", "an output inside", "read elsewhere", "softmax over features", "no product"],
)
def test_what_cannot_be_turned_for_nothing_stays(model):
    before = model.SerializeToString()
    assert rows_last(model) == 0
    assert model.SerializeToString() == before

"""An ONNX graph that takes one step of a sequence, with state in and out."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

IN, HIDDEN, OUT = 3, 4, 3
FLOAT = TensorProto.FLOAT
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def step_graph(kind="LSTM", layers=1, seed=0, break_it="", wide=IN, answers=OUT):
    """Write a step: a dense layer, recurrent layers whose states lie in one tensor, a dense layer on the last."""
    rng, nodes, constants = np.random.default_rng(seed), [], {}
    states = 2 if kind == "LSTM" else 1

    def constant(name, *shape, value=None):
        array = rng.normal(size=shape).astype(np.float32) if value is None else np.array(value)
        constants[name] = numpy_helper.from_array(array, name)
        return name

    def node(op, takes, gives, **attributes):
        nodes.append(helper.make_node(op, takes, gives, **attributes))

    node("MatMul", ["x", constant("w_in", wide, IN)], ["dense"])
    node("Tanh", ["dense"], ["row"])
    constant("front", value=[0])
    last, gone = "row", []
    for layer in range(layers):
        node("Unsqueeze", [last, "front"], [f"step{layer}"])
        begun = []
        for number in range(states):
            node(
                "Gather",
                ["state", constant(f"i{layer}{number}", value=layer * states + number)],
                [f"s{layer}{number}"],
                axis=0,
            )
            node("Unsqueeze", [f"s{layer}{number}", "front"], [f"begin{layer}{number}"])
            begun.append(f"begin{layer}{number}")
        size = IN if layer == 0 else HIDDEN
        weights = [
            constant(f"W{layer}", 1, GATES[kind] * HIDDEN, size),
            constant(f"R{layer}", 1, GATES[kind] * HIDDEN, HIDDEN),
        ]
        finals = [f"h{layer}", f"c{layer}"][:states]
        direction = "reverse" if break_it == "reverse" else "forward"
        node(
            kind,
            [f"step{layer}", *weights, "", "", *begun],
            [f"all{layer}", *finals],
            hidden_size=HIDDEN,
            direction=direction,
        )
        node("Squeeze", [f"h{layer}", "front"], [f"last{layer}"])
        last = f"last{layer}"
        gone += finals
    if break_it == "leak":
        node("Gather", ["state", "i00"], ["past"], axis=0)
        node("Add", [last, "past"], ["leaked"])
        last = "leaked"
    if break_it == "decay":
        node("Mul", [gone[0], constant("half", value=np.float32(0.5))], ["faded"])
        gone[0] = "faded"
    node("MatMul", [last, constant("w_out", HIDDEN, answers)], ["output"])
    node("Concat", gone, ["stateN"], axis=0)
    dims = [layers * states, "batch", HIDDEN]
    inputs = [
        helper.make_tensor_value_info("x", FLOAT, ["batch", wide]),
        helper.make_tensor_value_info("state", FLOAT, dims),
    ]
    outputs = [
        helper.make_tensor_value_info("output", FLOAT, ["batch", answers]),
        helper.make_tensor_value_info("stateN", FLOAT, dims),
    ]
    graph = helper.make_graph(nodes, "step", inputs, outputs, list(constants.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

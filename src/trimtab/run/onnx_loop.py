"""Writes a greedy decoder, encoder and all, as one ONNX graph with a `Loop`: what `trimtab.run.program` drives.

The loop's body is the decoder's graph, the choice of the likeliest token behind it, and the test whether every row has
said its stop token. Weights stay in the outer graph, where the body sees them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trimtab.run import onnx_facts
from trimtab.values.model import Greedy, Part

ENCODER, STEP = "encode/", "step/"
"""In front of the names of the two graphs."""
TOKENS, LENGTHS, CHANCE = "tokens", "lengths", "log_probability"
OPSET = 13
"""From which on axes are inputs of `Squeeze`, `Unsqueeze` and `ReduceSum`."""
Bodies = Mapping[str, tuple[onnx.ModelProto, Part]]


class CannotLoop(Exception):
    """The parts cannot be put into one graph; the message says why."""


def looped(parts: Bodies, program: Greedy, chances: bool) -> onnx.ModelProto:
    """Return one graph that answers as the program does: `tokens`, `lengths`, and with `chances` `log_probability`.

    Raises:
        CannotLoop: the operators' versions differ or are too old, or a state does not come from the encoder.
    """
    opset = _opset([proto for proto, _ in parts.values()])
    decoder, part = parts[program.decoder]
    encoder = parts[program.encoder][0] if program.encoder else None
    begun = {value.name: f"{ENCODER}{value.name}" for value in encoder.graph.output} if encoder else {}
    states = dict(part.signature.state)
    orphans = [name for name in states.values() if name not in begun]
    if orphans:
        raise CannotLoop(f"the state {orphans[0]} starts from nothing that the encoder gives")
    nodes, constants = (
        _taken(encoder, ENCODER, {value.name: value.name for value in encoder.graph.input}) if encoder else ([], [])
    )
    own = [value for value in decoder.graph.input if value.name not in {program.token, *states.values(), *begun}]
    inputs = [*(encoder.graph.input if encoder else ()), *own]
    inputs = list({value.name: value for value in inputs}.values())
    body, weights = _body(decoder, part, program, (begun, chances))
    first = inputs[0].name
    nodes += [
        helper.make_node("Shape", [first], ["loop/shape"]),
        helper.make_node("Slice", ["loop/shape", "loop/0", "loop/1"], ["loop/rows"]),
        helper.make_node("Expand", ["loop/start", "loop/rows"], ["loop/first"]),
        helper.make_node("Expand", ["loop/false", "loop/rows"], ["loop/none_done"]),
        helper.make_node(
            "Loop",
            ["loop/most", "loop/true", "loop/first", "loop/none_done", *(begun[name] for name in states.values())],
            [*(f"loop/last{n}" for n in range(2 + len(states))), "loop/said", *(["loop/chances"] if chances else [])],
            body=body,
        ),
        *_answers(chances),
    ]
    said = {"0": [0], "1": [1], "start": [program.start], "stop": [program.stop], "most": program.max_length, "axis": 1}
    constants += [*weights, *(numpy_helper.from_array(np.array(v, np.int64), f"loop/{k}") for k, v in said.items())]
    flags = {"true": np.array(True), "false": np.array([False])}
    constants += [numpy_helper.from_array(value, f"loop/{name}") for name, value in flags.items()]
    outputs = [
        helper.make_tensor_value_info(TOKENS, TensorProto.INT64, ["batch", "said"]),
        helper.make_tensor_value_info(LENGTHS, TensorProto.INT64, ["batch"]),
        *([helper.make_tensor_value_info(CHANCE, TensorProto.FLOAT, ["batch", "said"])] if chances else []),
    ]
    graph = helper.make_graph(nodes, "greedy", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=opset, ir_version=decoder.ir_version)


def _opset(models: Sequence[onnx.ModelProto]) -> list[onnx.OperatorSetIdProto]:
    """Return the versions of operators that all graphs share."""
    found: dict[str, int] = {}
    for model in models:
        if model.functions:
            raise CannotLoop("a graph with functions of its own is not understood")
        for one in model.opset_import:
            if found.setdefault(one.domain, one.version) != one.version:
                raise CannotLoop(
                    f"the parts use operators of different versions, {found[one.domain]} and {one.version}"
                )
    if found.get("", OPSET) < OPSET:
        raise CannotLoop(f"it takes operators of version {OPSET}, and the parts have {found['']}")
    return [helper.make_opsetid(domain, version) for domain, version in found.items()]


def _taken(
    model: onnx.ModelProto, prefix: str, names: Mapping[str, str]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return a graph's nodes and constants with a prefix on every name that `names` does not map."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if copy.graph.sparse_initializer:
        raise CannotLoop("a graph with sparse weights is not understood")

    def named(name: str) -> str:
        return names.get(name, f"{prefix}{name}") if name else ""

    for graph in onnx_facts.graphs_of(copy):
        for node in graph.node:
            node.name = f"{prefix}{node.name}" if node.name else ""
            node.input[:] = [named(name) for name in node.input]
            node.output[:] = [named(name) for name in node.output]
        for thing in (*graph.input, *graph.output, *graph.initializer):
            thing.name = named(thing.name)
    return list(copy.graph.node), list(copy.graph.initializer)


def _body(
    decoder: onnx.ModelProto, part: Part, program: Greedy, about: tuple[Mapping[str, str], bool]
) -> tuple[onnx.GraphProto, list[onnx.TensorProto]]:
    """Return one step as a graph, and the weights that the outer graph keeps for it."""
    begun, chances = about
    states = part.signature.state
    given = {value.name: value for value in decoder.graph.input}
    ranks = {spec.name: len(spec.shape) for spec in (*part.signature.inputs, *part.signature.outputs)}
    others = {name: begun.get(name, name) for name in given if name not in {program.token, *states.values()}}
    names = {program.token: "loop/token_in", **{name: f"loop/{name}" for name in states.values()}, **others}
    nodes, weights = _taken(decoder, STEP, names)
    kind = given[program.token].type.tensor_type.elem_type
    enter = [helper.make_node("Cast", ["loop/token"], ["loop/token_cast"], to=kind)]
    wide = ranks[program.token] == 2
    enter += [
        helper.make_node(
            "Unsqueeze" if wide else "Identity", ["loop/token_cast", *(["loop/1"] if wide else [])], ["loop/token_in"]
        )
    ]
    logits = f"{STEP}{program.logits}"
    if ranks[program.logits] == 3:
        nodes.append(helper.make_node("Squeeze", [logits, "loop/1"], ["loop/logits"]))
        logits = "loop/logits"
    steps = [*enter, *nodes, *_choice(logits, chances)]
    inputs = [
        helper.make_tensor_value_info("loop/step", TensorProto.INT64, []),
        helper.make_tensor_value_info("loop/go", TensorProto.BOOL, []),
        helper.make_tensor_value_info("loop/token", TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info("loop/done", TensorProto.BOOL, ["batch"]),
        *(_renamed(given[name], f"loop/{name}") for name in states.values()),
    ]
    outputs = [
        helper.make_tensor_value_info("loop/go_on", TensorProto.BOOL, []),
        helper.make_tensor_value_info("loop/next", TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info("loop/ended", TensorProto.BOOL, ["batch"]),
        *(_renamed(given[name], f"{STEP}{output}") for output, name in states.items()),
        helper.make_tensor_value_info("loop/say", TensorProto.INT64, ["batch"]),
        *([helper.make_tensor_value_info("loop/chance", TensorProto.FLOAT, ["batch"])] if chances else []),
    ]
    return helper.make_graph(steps, "step", inputs, outputs), weights


def _choice(logits: str, chances: bool) -> list[onnx.NodeProto]:
    """Choose each row's token; a row that is done says the stop token again, with a log-probability of 0."""
    nodes = [
        helper.make_node("ArgMax", [logits], ["loop/best"], axis=1, keepdims=0),
        helper.make_node("Where", ["loop/done", "loop/stop", "loop/best"], ["loop/next"]),
        helper.make_node("Identity", ["loop/next"], ["loop/say"]),
        helper.make_node("Equal", ["loop/next", "loop/stop"], ["loop/ended"]),
        helper.make_node("Cast", ["loop/ended"], ["loop/ended_as_number"], to=TensorProto.INT32),
        helper.make_node("ReduceMin", ["loop/ended_as_number"], ["loop/all_ended"], keepdims=0),
        helper.make_node("Cast", ["loop/all_ended"], ["loop/over"], to=TensorProto.BOOL),
        helper.make_node("Not", ["loop/over"], ["loop/go_on"]),
    ]
    if chances:
        nodes += [
            helper.make_node("LogSoftmax", [logits], ["loop/log_chances"], axis=1),
            helper.make_node("Unsqueeze", ["loop/best", "loop/1"], ["loop/best_column"]),
            helper.make_node("GatherElements", ["loop/log_chances", "loop/best_column"], ["loop/top_column"], axis=1),
            helper.make_node("Squeeze", ["loop/top_column", "loop/1"], ["loop/top"]),
            helper.make_node("Cast", ["loop/done"], ["loop/done_as_number"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["loop/top", "loop/done_as_number"], ["loop/silent"]),
            helper.make_node("Sub", ["loop/top", "loop/silent"], ["loop/chance"]),
        ]
    return nodes


def _answers(chances: bool) -> list[onnx.NodeProto]:
    """Turn what was said, one step below the other, into rows and count each up to its first stop."""
    nodes = [
        helper.make_node("Transpose", ["loop/said"], [TOKENS], perm=[1, 0]),
        helper.make_node("Equal", [TOKENS, "loop/stop"], ["loop/is_stop"]),
        helper.make_node("Cast", ["loop/is_stop"], ["loop/stops"], to=TensorProto.INT64),
        helper.make_node("CumSum", ["loop/stops", "loop/axis"], ["loop/stops_before"], exclusive=1),
        helper.make_node("Equal", ["loop/stops_before", "loop/0"], ["loop/counts"]),
        helper.make_node("Cast", ["loop/counts"], ["loop/counted"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["loop/counted", "loop/1"], [LENGTHS], keepdims=0),
    ]
    return nodes + ([helper.make_node("Transpose", ["loop/chances"], [CHANCE], perm=[1, 0])] if chances else [])


def _renamed(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    copy.name = name
    return copy

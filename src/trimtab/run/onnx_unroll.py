"""Rewrites an ONNX graph of one step with state as a graph of whole sequences.

What does not read the state is done for all steps at once, as one large batch. An LSTM, GRU or RNN that steps once and
whose state only passes through becomes the same operator over all steps; what reads its answers is again done for all
steps at once. So each value of the step graph has up to two forms here:

    of steps   [batch x steps, ...], what the step graph computes in each step
    last       [batch, ...], what it would hold after the last step: the state that goes out
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

STEPS = "steps"
"""Name of the new axis."""
RECURRENT = {"LSTM": 2, "GRU": 1, "RNN": 1}
"""Operators that carry state -> how many states, which stand behind the first input of states."""
FIRST_STATE, LENGTHS = 5, 4
"""Places among a recurrent operator's inputs."""
PASSING = frozenset({"Concat", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that move numbers and leave them as they are."""


class CannotUnroll(Exception):
    """The graph carries state in a way that is not understood; the message says which."""


@dataclass
class _Unrolling:
    """The new graph as far as it is written."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    """Values that no input reaches: the same in every step."""
    of_steps: dict[str, str] = field(default_factory=dict)
    """Value of the step graph -> its form of steps."""
    last: dict[str, str] = field(default_factory=dict)
    """Value of the step graph -> its last form."""
    carried: set[str] = field(default_factory=set)
    """Values that only pass state on, as it comes in."""
    broken: dict[str, str] = field(default_factory=dict)
    """Value that lacks a form -> the operator for which it does."""

    def add(self, kind: str, given: Sequence[str], name: str, **attributes: object) -> str:
        """Add a node of one output, and return that output's name."""
        self.nodes.append(helper.make_node(kind, given, [name], **attributes))
        return name

    def numbers(self, name: str, values: Sequence[int]) -> str:
        """Return the name of a constant that holds these whole numbers, added once."""
        if all(tensor.name != name for tensor in self.constants):
            self.constants.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name

    def node(self, node: onnx.NodeProto) -> None:
        """Take over one node of the step graph in every form that its inputs have."""
        given = [name for name in node.input if name and name not in self.known]
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise CannotUnroll(f"it holds {node.op_type}, a graph inside the graph")
        if not given:
            self.nodes.append(node)
            self.known.update(node.output)
        elif node.op_type in RECURRENT and self.carried & set(node.input):
            self._recurrent(node)
        elif node.op_type in PASSING and all(name in self.carried for name in given):
            self.nodes.append(node)
            self.carried.update(node.output)
        else:
            self._plain(node, given)

    def _plain(self, node: onnx.NodeProto, given: Sequence[str]) -> None:
        steps, passing = all(name in self.of_steps for name in given), node.op_type in PASSING
        last = passing and all(name in self.last for name in given)
        if steps:
            self._copy(node, self.of_steps, "of_steps")
        if last:
            self._copy(node, self.last, "last")
        if not (steps and last):
            reason = next((self.broken[name] for name in given if name in self.broken), node.op_type)
            self.broken.update(dict.fromkeys(node.output, reason))

    def _copy(self, node: onnx.NodeProto, forms: dict[str, str], form: str) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{node.name}/{form}" if node.name else ""
        copy.input[:] = [forms.get(name, name) for name in node.input]
        copy.output[:] = [f"{name}/{form}" if name else "" for name in node.output]
        forms.update(zip(node.output, copy.output, strict=True))
        self.nodes.append(copy)

    def _recurrent(self, node: onnx.NodeProto) -> None:
        """Let the operator run over all steps at once."""
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        inputs = [*node.input, *[""] * 8][:8]
        states = inputs[FIRST_STATE : FIRST_STATE + RECURRENT[node.op_type]]
        plain = attributes.get("direction", b"forward") == b"forward" and not attributes.get("layout", 0)
        if not plain or inputs[LENGTHS] or inputs[0] not in self.of_steps or not set(states) <= self.carried:
            self.broken.update(dict.fromkeys(filter(None, node.output), node.op_type))
            return
        outputs = [*node.output, "", "", ""][:3]
        base = node.name or outputs[0] or outputs[1]
        wide = self.add("Reshape", [self.of_steps[inputs[0]], self.add_sizes(f"{base}/in", -1)], f"{base}/rows")
        turned = self.add("Transpose", [wide], f"{base}/turned", perm=[1, 0, 2])
        named = [f"{base}/all", *(f"{base}/last{number}" for number in range(RECURRENT[node.op_type]))]
        whole = onnx.NodeProto()
        whole.CopyFrom(node)
        whole.input[0] = turned
        whole.output[:] = named
        self.nodes.append(whole)
        self.last.update({name: form for name, form in zip(outputs[1:], named[1:], strict=False) if name})
        hidden = int(attributes["hidden_size"])
        back = self.add("Transpose", [named[0]], f"{base}/back", perm=[1, 2, 0, 3])
        for name, shape in ((outputs[0], [1, 1, -1, hidden]), (outputs[1], [1, -1, hidden])):
            if name:
                size = self.numbers(f"{base}/shape{len(shape)}", shape)
                self.of_steps[name] = self.add("Reshape", [back, size], f"{name}/of_steps")

    def add_sizes(self, name: str, *others: int) -> str:
        """Return the name of the shape [batch, steps, others]."""
        rest = self.numbers(f"{name}/rest", others)
        return self.add("Concat", ["unrolled/batch_and_steps", rest], f"{name}/shape", axis=0)

    def tail(self, value: str, start: int, name: str) -> str:
        """Return the name of a value's shape from an axis on."""
        shape = self.add("Shape", [value], f"{name}/whole_shape")
        ends = [self.numbers(f"unrolled/{n}", [n]) for n in (start, 99)]
        return self.add("Slice", [shape, *ends], f"{name}/tail")


def unrolled(model: onnx.ModelProto, over: Sequence[str], state: Mapping[str, str]) -> onnx.ModelProto:
    """Return the graph for whole sequences: inputs `over` gain an axis of steps behind the batch, and so do answers.

    `state` maps outputs to the inputs that they feed. Inputs that are neither are not understood.

    Raises:
        CannotUnroll: state is read or made by something else than an LSTM, GRU or RNN that steps once.
    """
    graph = model.graph
    others = [value.name for value in graph.input if value.name not in {*over, *state.values()}]
    if others:
        raise CannotUnroll(f"{', '.join(others)} is given anew to each step")
    work = _Unrolling(known={tensor.name for tensor in graph.initializer}, carried=set(state.values()))
    _enter(work, over)
    for node in graph.node:
        work.node(node)
    for value in graph.output:
        _leave(work, value.name, value.name in state)
    inputs = [_with_steps(value) if value.name in over else value for value in graph.input]
    outputs = [value if value.name in state else _with_steps(value) for value in graph.output]
    new = helper.make_graph(work.nodes, graph.name, inputs, outputs, [*graph.initializer, *work.constants])
    return helper.make_model(new, opset_imports=model.opset_import, ir_version=model.ir_version)


def _enter(work: _Unrolling, over: Sequence[str]) -> None:
    """Lay all steps of the inputs one below the other."""
    shape = work.add("Shape", [over[0]], "unrolled/shape")
    ends = [work.numbers(f"unrolled/{n}", [n]) for n in (0, 2)]
    work.add("Slice", [shape, *ends], "unrolled/batch_and_steps")
    for name in over:
        rest = work.tail(name, 2, f"{name}/in")
        rows = work.add("Concat", [work.numbers("unrolled/any", [-1]), rest], f"{name}/rows", axis=0)
        work.of_steps[name] = work.add("Reshape", [name, rows], f"{name}/of_steps")


def _leave(work: _Unrolling, name: str, is_state: bool) -> None:
    """Write an output: the state after the last step, or the answers of all steps."""
    form = (work.last if is_state else work.of_steps).get(name)
    if form is None:
        raise CannotUnroll(f"{name} hangs on state through {work.broken.get(name, 'nothing but itself')}")
    if is_state:
        work.add("Identity", [form], name)
        return
    rest = work.tail(form, 1, f"{name}/out")
    shape = work.add("Concat", ["unrolled/batch_and_steps", rest], f"{name}/out_shape", axis=0)
    work.add("Reshape", [form, shape], name)


def _with_steps(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """Return the same input or output with an axis of steps behind the batch."""
    tensor = value.type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim]
    return helper.make_tensor_value_info(value.name, tensor.elem_type, [*dims[:1], STEPS, *dims[1:]])

"""What each layer's quantization alone does to a model's outputs, from one session a method.

Every layer gets switches: its weights are inputs with a default, and its activations pass through an `If` that
quantizes and dequantizes them where the layer's number is asked for. So nothing is built anew for a layer. The
rounding is simulated in float: saturating kernels are another matter (`trimtab.run.onnx_check`), and so is the
rounding of an LSTM's state at each of its steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from trimtab.run import onnx_check, onnx_layers
from trimtab.run.onnx_inputs import Feed
from trimtab.run.onnx_layers import Layer, Ranges

Floats = NDArray[np.float64]
Rounding: TypeAlias = Callable[[str, str], list[onnx.NodeProto]]
CHOSEN = "chosen layer"
NONE = -1
GROUP = 32


@dataclass(frozen=True)
class Switched:
    """A prepared model, its layers, and feeds of one part."""

    model: onnx.ModelProto
    layers: Sequence[Layer]
    feeds: Sequence[Feed]
    ranges: Ranges
    logits: str = ""
    """The output whose last axis holds class logits, or none."""


def harms(part: Switched, method: str, check_time: Callable[[], None]) -> dict[str, Floats]:
    """Return for each layer [relative squared error, mean KL divergence, share of flips] of the outputs.

    `method` is static, dynamic, weights or weights4. KL (nats) and flips are those of the logits' softmax, NaN where
    there are none.
    """
    bits, group = (4, GROUP) if method == "weights4" else (8, 0)
    switched, initial = _switched(part, method)
    session = onnx_check.session(switched.SerializeToString())
    names = [value.name for value in session.get_outputs()]
    asked = {value.name for value in session.get_inputs()}
    exact = [_run(session, names, feed, asked, NONE) for feed in part.feeds]
    found = {}
    for number, layer in enumerate(part.layers):
        check_time()
        changed = {}
        for name in layer.weights:
            matrix = group if layer.kind in ("MatMul", "Gemm") else 0
            changed[_weight(name, number)] = _rounded(initial[name], layer, bits, matrix)
        given = (_run(session, names, feed | changed, asked, number) for feed in part.feeds)
        found[layer.name] = _harm(zip(exact, given, strict=True), names, part.logits)
    return found


def _rounded(weight: NDArray[np.float32], layer: Layer, bits: int, group: int) -> NDArray[np.float32]:
    if not group:
        return onnx_layers.rounded(weight, layer.axis, 8)
    flipped = layer.axis == 0
    found = onnx_layers.rounded(weight.T if flipped else weight, 1, bits, group)
    return np.ascontiguousarray(found.T if flipped else found)


def _run(session: object, names: list[str], feed: Feed, asked: set[str], number: int) -> list[NDArray[np.float32]]:
    chosen = {CHOSEN: np.array(number, np.int64)} if CHOSEN in asked else {}
    return list(session.run(names, feed | chosen))  # type: ignore[attr-defined]


def _switched(part: Switched, method: str) -> tuple[onnx.ModelProto, dict[str, NDArray[np.float32]]]:
    """Return the model with a switch at each layer's input, weights and outputs, and the weights as they are."""
    model = onnx.ModelProto()
    model.CopyFrom(part.model)
    nodes = list(model.graph.node)
    before: dict[int, list[onnx.NodeProto]] = {}
    after: dict[int, list[onnx.NodeProto]] = {}
    makers = {name: place for place, node in enumerate(nodes) for name in node.output}
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for number, layer in enumerate(part.layers):
        node = nodes[layer.index]
        for place, name in enumerate(node.input):
            if name in layer.weights:
                node.input[place] = _weight(name, number)
                _offer(model.graph, held[name], node.input[place])
        if method in ("static", "dynamic") and layer.kind != "Gather":
            node.input[0] = f"{layer.source}#{number}"
            before[layer.index] = _switch(layer.source, node.input[0], number, _rounding(layer.source, method, part))
        for tensor in _outputs(layer, part.ranges) if method == "static" else ():
            place = makers[tensor]
            slot = list(nodes[place].output).index(tensor)
            nodes[place].output[slot] = f"{tensor}#raw"
            after[place] = _switch(f"{tensor}#raw", tensor, number, _rounding(tensor, method, part))
    ordered = [one for at, node in enumerate(nodes) for one in (*before.get(at, ()), node, *after.get(at, ()))]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(copies)
    if before:
        model.graph.input.append(helper.make_tensor_value_info(CHOSEN, onnx.TensorProto.INT64, []))
    wanted = {name for layer in part.layers for name in layer.weights}
    return model, {name: numpy_helper.to_array(held[name]).astype(np.float32) for name in wanted}


def _outputs(layer: Layer, ranges: Ranges) -> list[str]:
    """Name what is rounded with the layer: its output, and those of the nodes that follow it in 8 bits."""
    return [name for name in (layer.target, *layer.between.values()) if name in ranges]


def _weight(name: str, number: int) -> str:
    return f"{name}#{number}"


def _offer(graph: onnx.GraphProto, held: onnx.TensorProto, name: str) -> None:
    """Give the layer a copy of its weight that is an input with a default."""
    if name in {tensor.name for tensor in graph.initializer}:
        return
    copy = graph.initializer.add()
    copy.CopyFrom(held)
    copy.name = name
    graph.input.append(helper.make_tensor_value_info(name, held.data_type, held.dims))


def _rounding(tensor: str, method: str, part: Switched) -> Rounding:
    """Return a function that makes the nodes which round the tensor `given` to `out`."""
    if method == "dynamic":
        return _dynamic_rounding
    low, high = min(float(part.ranges[tensor][0]), 0.0), max(float(part.ranges[tensor][1]), 0.0)
    step = max((high - low) / 255, 1e-12)
    zero = int(np.clip(np.rint(-low / step), 0, 255))

    def make(given: str, out: str) -> list[onnx.NodeProto]:
        scale = numpy_helper.from_array(np.array(step, np.float32))
        zeros = numpy_helper.from_array(np.array(zero, np.uint8))
        return [
            helper.make_node("Constant", [], [f"{out}_scale"], value=scale),
            helper.make_node("Constant", [], [f"{out}_zero"], value=zeros),
            helper.make_node("QuantizeLinear", [given, f"{out}_scale", f"{out}_zero"], [f"{out}_codes"]),
            helper.make_node("DequantizeLinear", [f"{out}_codes", f"{out}_scale", f"{out}_zero"], [out]),
        ]

    return make


def _dynamic_rounding(given: str, out: str) -> list[onnx.NodeProto]:
    codes = [f"{out}_codes", f"{out}_scale", f"{out}_zero"]
    return [
        helper.make_node("DynamicQuantizeLinear", [given], codes),
        helper.make_node("DequantizeLinear", codes, [out]),
    ]


def _switch(given: str, out: str, number: int, rounding: Rounding) -> list[onnx.NodeProto]:
    """Return an If that rounds where this layer is asked for, and hands on what came otherwise."""
    branches = []
    same = helper.make_node("Identity", [given], [f"{out}#off"])
    for name, nodes in (("on", rounding(given, f"{out}#on")), ("off", [same])):
        shown = helper.make_tensor_value_info(f"{out}#{name}", onnx.TensorProto.FLOAT, None)
        branches.append(helper.make_graph(nodes, name, [], [shown]))
    own = numpy_helper.from_array(np.array(number, np.int64))
    return [
        helper.make_node("Constant", [], [f"{out}#number"], value=own),
        helper.make_node("Equal", [CHOSEN, f"{out}#number"], [f"{out}#asked"]),
        helper.make_node("If", [f"{out}#asked"], [out], then_branch=branches[0], else_branch=branches[1]),
    ]


def _harm(
    pairs: Iterator[tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]], names: list[str], logits: str
) -> Floats:
    """Add up over feeds: the outputs' squared errors by their squares, and the divergence of the logits' softmax."""
    wrong, size = np.zeros(len(names)), np.zeros(len(names))
    diverged = flips = rows = 0.0
    for exact, given in pairs:
        for place, (a, b) in enumerate(zip(exact, given, strict=True)):
            if a.dtype.kind != "f":
                continue
            wrong[place] += float(np.sum((a.astype(np.float64) - b) ** 2))
            size[place] += float(np.sum(a.astype(np.float64) ** 2))
            if names[place] == logits:
                p, q = _log_softmax(a), _log_softmax(b)
                diverged += float(np.sum(np.exp(p) * (p - q)))
                flips += float(np.sum(a.argmax(-1) != b.argmax(-1)))
                rows += a.size / a.shape[-1]
    relative = float(np.mean(wrong[size > 0] / size[size > 0])) if (size > 0).any() else 0.0
    return np.array([relative, diverged / rows if rows else np.nan, flips / rows if rows else np.nan])


def _log_softmax(logits: NDArray[np.float32]) -> Floats:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))

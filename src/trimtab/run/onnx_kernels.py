"""Do int8 kernels compute here what they should? Layer by layer, against the same products without saturation.

Where the CPU has no VNNI, u8 x s8 products are added in pairs of 16 bits and saturate without notice. Each layer of a
quantized graph is run alone, on the codes that reach it: in QDQ form by the kernels and by the same nodes in float,
in integer form by the kernels and in whole numbers of 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from trimtab.errors import MissingExtra
from trimtab.run import onnx_check, onnx_files, onnx_layers
from trimtab.run.onnx_inputs import Feed
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Part
from trimtab.values.registry import registry

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
NOTICED = 0.02
"""Share of a layer's range by which a kernel must stray to be named: rounding another way is 1 code of 255."""


def compared(before: bytes, after: bytes, feeds: Iterable[Feed], meant: bool) -> dict[str, float]:
    """Return how far the first output moved, and where it is `meant` to be in float kernels, how far theirs is off.

    `output_change` is the greatest difference and `kernel_error` the root mean square of the worst call, as shares of
    the output's range (0.01 is 1% of it); `output_error` is the squared error over the squares.
    """
    sessions = [onnx_check.session(before), onnx_check.session(after)]
    sessions += [onnx_check.session(after, optimized=False)] if meant else []
    moved = strayed = wrong = size = 0.0
    low, high = np.inf, -np.inf
    for feed in feeds:
        exact, kernels, *others = (session.run(None, feed)[0].astype(np.float64) for session in sessions)
        moved = max(moved, float(np.max(np.abs(kernels - exact), initial=0.0)))
        strayed = max([strayed, *(float(np.sqrt(np.mean((kernels - other) ** 2))) for other in others)])
        wrong, size = wrong + float(np.sum((kernels - exact) ** 2)), size + float(np.sum(exact**2))
        low, high = min(low, float(exact.min())), max(high, float(exact.max()))
    span = max(high - low, 1e-12)
    notes = {"output_change": moved / span, "output_error": wrong / max(size, 1e-30)}
    return notes | ({"kernel_error": strayed / span} if meant else {})


def runtime_errors(part: Part, feeds: Sequence[Feed], machine: Machine) -> dict[str, float]:
    """Return runtime -> root mean square error of a quantized part's first output, as a share of its range.

    The reference computes the same graph in float. Runtimes that are not installed, or refuse the part, are left out.
    """
    meant = onnx_check.session(part.path / onnx_files.MODEL, optimized=False)
    expected = [meant.run(None, feed)[0] for feed in feeds]
    model, name = Model({"main": part}), part.signature.outputs[0].name
    found = {}
    for runtime in registry("runtimes").names():
        try:
            kind = registry("runtimes").take(runtime)
            if "onnx" not in kind.formats or kind().refuses(model, machine):
                continue
            session = kind().load(model, machine)
        except MissingExtra:
            continue
        given = [session.run(feed)[name] for feed in feeds]
        span = max(*(float(np.ptp(one)) for one in expected), 1e-12)
        errors = [float(np.sqrt(np.mean((a - b) ** 2))) for a, b in zip(expected, given, strict=True)]
        found[runtime] = max(errors) / span
    return found


def layer_errors(model: onnx.ModelProto, feeds: Iterable[Feed]) -> dict[str, float]:
    """Return for each quantized layer the greatest error of its kernel, as a share of its output's range."""
    feeds = list(feeds)
    return {**_qdq_errors(model, feeds), **_integer_errors(model, feeds)}


def _qdq_errors(model: onnx.ModelProto, feeds: Sequence[Feed]) -> dict[str, float]:
    alone = dict(_qdq_layers(model))
    if not alone:
        return {}
    codes = sorted({value.name for graph in alone.values() for value in graph.graph.input})
    inner = [name for name in codes if name not in {value.name for value in model.graph.input}]
    session = onnx_check.session(onnx_layers.exposed(model, inner).SerializeToString(), optimized=False)
    reached = [dict(zip(inner, session.run(inner, feed), strict=True)) for feed in feeds]
    return {name: _error(graph, reached) for name, graph in alone.items()}


def _error(graph: onnx.ModelProto, reached: Sequence[Feed]) -> float:
    data = graph.SerializeToString()
    kernel, meant = onnx_check.session(data), onnx_check.session(data, optimized=False)
    names = [value.name for value in graph.graph.input]
    worst = 0.0
    for codes in reached:
        feed = {name: codes[name] for name in names}
        given, expected = (session.run(None, feed)[0].astype(np.int32) for session in (kernel, meant))
        worst = max(worst, float(np.abs(given - expected).max(initial=0)) / 255)
    return worst


def _qdq_layers(model: onnx.ModelProto) -> Iterable[tuple[str, onnx.ModelProto]]:
    """Yield each product that stands between DequantizeLinear and QuantizeLinear as a model of its own."""
    makers = {name: node for node in model.graph.node for name in node.output}
    takers = {name: node for node in model.graph.node for name in node.input}
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        feeding = [makers.get(name) for name in node.input if name]
        after = takers.get(node.output[0])
        if node.op_type not in PRODUCTS or after is None or after.op_type != "QuantizeLinear":
            continue
        nodes = [maker for maker in feeding if maker is not None and maker.op_type == "DequantizeLinear"]
        if len(nodes) < len(feeding):
            continue
        used = {name for one in (*nodes, node, after) for name in one.input}
        inside = {name for one in (*nodes, node) for name in one.output}
        open_ends = sorted(used - inside - set(held) - {""})
        kinds = {name: _code_type(model, name, makers) for name in open_ends}
        inputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
        outputs = [helper.make_empty_tensor_value_info(after.output[0])]
        weights = [held[name] for name in sorted(used & set(held))]
        graph = helper.make_graph([*nodes, node, after], "layer", inputs, outputs, weights)
        yield node.name, helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _code_type(model: onnx.ModelProto, name: str, makers: dict[str, onnx.NodeProto]) -> int:
    """Return the type of the codes a QuantizeLinear gives: that of its zero point."""
    maker = makers.get(name)
    while maker is not None and maker.op_type != "QuantizeLinear":
        maker = makers.get(maker.input[0])
    zero = next((t for t in model.graph.initializer if maker is not None and t.name == maker.input[2]), None)
    return int(zero.data_type if zero is not None else onnx.TensorProto.UINT8)


def _integer_errors(model: onnx.ModelProto, feeds: Sequence[Feed]) -> dict[str, float]:
    nodes = [node for node in model.graph.node if node.op_type == "MatMulInteger"]
    shown = [name for node in nodes for name in (node.input[0], node.input[2], node.output[0])]
    if not nodes:
        return {}
    session = onnx_check.session(onnx_layers.exposed(model, shown).SerializeToString(), optimized=False)
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    worst = {node.name.removesuffix("_quant"): 0.0 for node in nodes}
    for feed in feeds:
        given = dict(zip(shown, session.run(shown, feed), strict=True)) | held
        for node in nodes:
            name = node.name.removesuffix("_quant")
            worst[name] = max(worst[name], _strayed([given[i] for i in node.input], given[node.output[0]]))
    return worst


def _strayed(inputs: Sequence[NDArray[Any]], given: NDArray[Any]) -> float:
    whole = [value.astype(np.int64) for value in inputs]
    weights = whole[1] - (whole[3] if len(whole) > 3 else 0)
    expected = ((whole[0] - whole[2]).astype(np.float64) @ weights.astype(np.float64)).astype(np.int64)
    span = max(int(expected.max(initial=0)) - int(expected.min(initial=0)), 1)
    return float(np.abs(given - expected).max(initial=0)) / span


def worst(errors: dict[str, float], count: int = 5) -> list[dict[str, object]]:
    """Return the layers whose kernels stray noticeably, the worst first."""
    noticed = sorted((name for name in errors if errors[name] > NOTICED), key=lambda name: -errors[name])
    return [{"layer": name, "error": errors[name]} for name in noticed[:count]]

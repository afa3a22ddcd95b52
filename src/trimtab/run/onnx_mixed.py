"""Which layers stay in float, and why: chosen by measured harm and time before, read off the graph afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from trimtab.maths.assignment import knapsack
from trimtab.run import onnx_facts, onnx_layers
from trimtab.run.onnx_layers import Layer

Measured = Mapping[str, NDArray[np.float64]]
COLUMNS = {"static": 1, "dynamic": 2}
"""Column of a layer's milliseconds that holds the method's; only weights save size, whatever the time."""
SLOWER = 1.2
"""An 8-bit kernel slower than this many times the float one saves nothing: below, it may be noise."""
LEARNT = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Attention", "Gather")


def harm_of(entry: NDArray[np.float64]) -> float:
    """Return a layer's harm: mean KL divergence of the answers where they are classes, else relative squared error."""
    return float(entry[1] if np.isfinite(entry[1]) else entry[0])


def assign(
    layers: Sequence[Layer], harms: Measured, milliseconds: Measured, method: str, share: float
) -> list[dict[str, Any]]:
    """Return a record for each layer that the method reaches: its harm, milliseconds, and `bits` 32 where left.

    The layers quantized save the most time (bytes, where only weights are quantized) whose harm is at most `share`
    of all layers' harm.
    """
    chosen = [layer for layer in layers if layer.name in harms]
    harm = np.array([harm_of(harms[layer.name]) for layer in chosen])
    times = [_times(milliseconds.get(layer.name), method) for layer in chosen]
    values = np.array([_value(layer, time) for layer, time in zip(chosen, times, strict=True)])
    taken = knapsack(values, np.maximum(harm, 0.0), share * float(np.maximum(harm, 0.0).sum()))
    return [
        {"layer": layer.name, "kind": layer.kind, "harm": float(h), "ms_float": time[0], "ms_int8": time[1]}
        | ({} if take else {"left": _reason(float(h), float(harm.sum()), time)})
        for layer, h, time, take in zip(chosen, harm, times, taken, strict=True)
    ]


def _times(entry: NDArray[np.float64] | None, method: str) -> tuple[float | None, float | None]:
    if entry is None or method not in COLUMNS or not np.isfinite(entry[[0, COLUMNS[method]]]).all():
        return None, None
    return float(entry[0]), float(entry[COLUMNS[method]])


def _value(layer: Layer, time: tuple[float | None, float | None]) -> float:
    """What quantizing gains: milliseconds, and a little for its bytes, so that equal times are not a toss-up."""
    small = 1e-9 * layer.parameters
    if time[0] is None or time[1] is None:
        return small
    return -1.0 if time[1] > SLOWER * time[0] else max(time[0] - time[1], 0.0) + small


def _reason(harm: float, total: float, time: tuple[float | None, float | None]) -> str:
    if time[0] is not None and time[1] is not None and time[1] > SLOWER * time[0]:
        return f"8 bits are slower here: {time[1]:.3g} ms for {time[0]:.3g}"
    return f"{100 * harm / max(total, 1e-30):.0f}% of the harm of quantizing every layer is its own"


def left_in_float(
    before: Sequence[Layer], after: onnx.ModelProto, method: str, reasons: Mapping[str, str]
) -> list[dict[str, str]]:
    """Name the layers whose weights are still float in the quantized model, and say why."""
    known = {layer.name: layer for layer in before}
    tensors = (tensor for graph in onnx_facts.graphs_of(after) for _, tensor in onnx_facts.held(graph))
    floats = {tensor.name for tensor in tensors if onnx_layers.is_float(tensor)}
    found = []
    for graph in onnx_facts.graphs_of(after):
        inside = graph is not after.graph
        for node in graph.node:
            name = node.name.removesuffix("_MatMul")
            if node.op_type in LEARNT and floats & set(onnx_layers.weight_inputs(node)):
                layer = known.get(name)
                why = reasons.get(name) or _why(node, layer, method, inside)
                found.append({"layer": name, "kind": layer.kind if layer else node.op_type, "why": why})
    return found


def _why(node: onnx.NodeProto, layer: Layer | None, method: str, inside: bool) -> str:
    if inside:
        return "it lies inside a loop, a branch or a function of the graph, where layers are not quantized"
    if layer is None:
        return "its weights are not constants of the graph"
    if layer.why_float and method != "weights":
        return layer.why_float
    if node.op_type.startswith("Conv") and method == "dynamic":
        return "a dynamic convolution is slower than a float one"
    if method == "weights":
        return "it has too few weights to matter"
    if method == "static" and node.op_type == "Attention":
        return "a fused attention is quantized dynamically only"
    return "onnxruntime's quantizer leaves it"

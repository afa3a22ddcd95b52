"""What one calibration run tells of an ONNX model: ranges of activations, each layer's harm, and its time.

    ranges         part/tensor -> [lowest, highest] over the sample
    histograms     part/tensor -> [lowest, highest, counts of 2,048 bins between them] over its first examples
    static, dynamic, weights, weights4
                   part/layer -> [relative squared error, mean KL in nats, share of flips] of the part's outputs when
                   this layer alone is quantized so (weights: int8; weights4: 4 bits in groups of 32)
    milliseconds   part/layer -> [float, static int8, dynamic int8] at batch 1 on this machine, by onnxruntime's
                   profiler; NaN where there is no such kernel

All but the milliseconds are a function of the model, the training data and the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from trimtab.run import onnx_check, onnx_files, onnx_layers, onnx_profile, onnx_switches
from trimtab.run.onnx_inputs import Feed, Inputs
from trimtab.run.onnx_layers import Layer, Ranges
from trimtab.run.onnx_switches import Switched
from trimtab.values.model import Model
from trimtab.values.task import TaskView

Floats = NDArray[np.float64]
METHODS = ("static", "dynamic", "weights", "weights4")
KINDS = ("ranges", "histograms", *METHODS, "milliseconds")
SAMPLES = 256
BINS = 2048
COUNTED = 64
"""Examples whose activations are counted into histograms."""
COUNTED_OF_A_FEED = 2**16
BUDGET = 10**11
"""Multiply-accumulates that the harms of one method may take: a few seconds on one core."""
FEWEST, MOST = 4, 64
"""Examples on which harms are measured, by what the budget allows."""
KINDS_OF = {
    "static": onnx_layers.STATIC,
    "dynamic": onnx_layers.DYNAMIC,
    "weights": onnx_layers.WEIGHTS,
    "weights4": frozenset({"MatMul", "Gemm"}),
}
CLASSIFIED = ("cross_entropy", "token_nll")
LOGITS = ("output", "logits")


def collect(
    model: Model, view: TaskView, kinds: Sequence[str], seed: int, check_time: Callable[[], None]
) -> dict[str, dict[str, Floats]]:
    """Return the asked `KINDS` of statistics on training examples: kind -> "part/layer" -> array.

    Raises:
        DataError: training inputs with NaN or infinity (the example is named), or that the model does not take.
        ValueError: a kind that is not known.
    """
    strange = sorted(set(kinds) - set(KINDS))
    if strange:
        raise ValueError(f"no statistic {', '.join(strange)}; known: {', '.join(KINDS)}")
    inputs = Inputs(model, view, seed, SAMPLES, check_time)
    found: dict[str, dict[str, Floats]] = {kind: {} for kind in kinds}
    for name in model.parts:
        with onnx_check.quietly():
            prepared = onnx_layers.prepare(onnx_files.load(model.parts[name]))
            for kind, values in _part(prepared, name, inputs, kinds).items():
                found[kind] |= {f"{name}/{key}": value for key, value in values.items()}
    return found


def of_part(statistics: Mapping[str, Floats], part: str) -> dict[str, Floats]:
    """Return one part's entries of one kind, without the part's name."""
    start = f"{part}/"
    return {key.removeprefix(start): value for key, value in statistics.items() if key.startswith(start)}


def _part(prepared: onnx.ModelProto, name: str, inputs: Inputs, kinds: Sequence[str]) -> dict[str, dict[str, Floats]]:
    found: dict[str, dict[str, Floats]] = {}
    between = {} if set(kinds) <= {"weights", "weights4"} else ranges(prepared, inputs.of(name))
    if "ranges" in kinds:
        found["ranges"] = between
    if "histograms" in kinds:
        found["histograms"] = histograms(prepared, between, inputs.of(name))
    layers = onnx_layers.layers(prepared, bool(inputs.model.parts[name].facts.layers.get("attention")))
    for method in (method for method in METHODS if method in kinds):
        feeds = list(_few(inputs, name, len(layers)))
        chosen = [layer for layer in layers if _fits(layer, method, between)]
        switched = Switched(prepared, chosen, feeds, between, _logits(prepared, inputs.view))
        found[method] = onnx_switches.harms(switched, method, inputs.check_time)
    if "milliseconds" in kinds:
        alone = next(_rows(inputs.of(name), 1))
        found["milliseconds"] = onnx_profile.milliseconds(prepared, layers, alone, between)
    return found


def _fits(layer: Layer, method: str, between: dict[str, Floats]) -> bool:
    if layer.kind not in KINDS_OF[method] or (layer.why_float and method == "dynamic"):
        return False
    return method != "static" or {layer.source, layer.target} <= set(between)


def _logits(model: onnx.ModelProto, view: TaskView) -> str:
    names = [value.name for value in model.graph.output if value.name in LOGITS]
    return names[0] if names and view.task.objective in CLASSIFIED else ""


def ranges(model: onnx.ModelProto, feeds: Iterator[Feed]) -> dict[str, Floats]:
    """Return [lowest, highest] of each float activation of a prepared model; those that reach infinity are left out."""
    names = _floats(model)
    inner = [name for name in names if name not in {value.name for value in model.graph.input}]
    least = onnx_layers.exposed(model, [])
    for name in inner:
        for operator in ("ReduceMin", "ReduceMax"):
            made = f"{name}#{operator}"
            least.graph.node.append(helper.make_node(operator, [name], [made], keepdims=0))
            least.graph.output.append(onnx.ValueInfoProto(name=made))
    session = onnx_check.session(least.SerializeToString())
    asked = [f"{name}#{operator}" for operator in ("ReduceMin", "ReduceMax") for name in inner]
    found = {name: np.array([np.inf, -np.inf]) for name in names}
    for feed in feeds:
        ends = np.array(session.run(asked, feed), np.float64).reshape(2, -1)
        seen = dict(zip(inner, ends.T, strict=True))
        seen |= {name: np.array([feed[name].min(), feed[name].max()]) for name in names if name in feed}
        for name, (low, high) in seen.items():
            found[name] = np.array([min(found[name][0], low), max(found[name][1], high)])
    return {name: pair for name, pair in found.items() if np.isfinite(pair).all()}


def _floats(model: onnx.ModelProto) -> list[str]:
    """Name the float tensors that are inputs of the model, or given by its nodes."""
    held = {tensor.name for tensor in model.graph.initializer}
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    kind = onnx.TensorProto.FLOAT
    return list(dict.fromkeys(v.name for v in values if v.type.tensor_type.elem_type == kind and v.name not in held))


def histograms(model: onnx.ModelProto, between: Ranges, feeds: Iterator[Feed]) -> dict[str, Floats]:
    """Return [low, high, counts...] of each activation between the ends given, over the first examples fed."""
    session = onnx_check.session(onnx_layers.exposed(model, list(between)).SerializeToString())
    inner = [name for name in between if name not in {value.name for value in model.graph.input}]
    counts = {name: np.zeros(BINS) for name in between}
    for feed in _rows(feeds, COUNTED):
        given = dict(zip(inner, session.run(inner, feed), strict=True)) | feed
        for name, (low, high) in between.items():
            counts[name] += _counted(given[name].reshape(-1), float(low), float(high)) if high > low else 0.0
    return {name: np.concatenate([between[name], counts[name]]) for name in between}


def _counted(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.int64]:
    """Count values between the ends in equal bins, every nth where there are very many."""
    few = values[:: 1 + len(values) // COUNTED_OF_A_FEED]
    places = np.clip((few - low) * (BINS / (high - low)), 0, BINS - 1).astype(np.int64)
    return np.bincount(places, minlength=BINS)


def _few(inputs: Inputs, part: str, layers: int) -> Iterator[Feed]:
    """Yield as many examples as the budget of multiply-accumulates allows."""
    work = max(inputs.model.parts[part].facts.operations * max(layers, 1), 1)
    return _rows(inputs.of(part), int(np.clip(BUDGET // work, FEWEST, MOST)))


def _rows(feeds: Iterator[Feed], wanted: int) -> Iterator[Feed]:
    """Yield feeds of at most 4 rows each until so many rows were seen; a feed whose inputs differ in rows is one."""
    seen = 0
    for feed in feeds:
        sizes = {len(value) if value.ndim else 0 for value in feed.values()}
        size = sizes.pop() if len(sizes) == 1 else 0
        pieces = [{name: value[i : i + 4] for name, value in feed.items()} for i in range(0, size, 4)] or [feed]
        for piece in pieces:
            rows = min(wanted - seen, 4)
            if rows <= 0:
                return
            yield {name: value[:rows] for name, value in piece.items()} if size else piece
            seen += rows if size else 1

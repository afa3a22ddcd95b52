"""The layers of an ONNX graph that can be quantized, under names that calibration and quantization agree on.

Both look at the same prepared graph: constants, batch norms and biases folded by onnxruntime, every node named once,
and the float tensors known to be so even behind operators that onnx's shape inference does not know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from trimtab.run import onnx_check, onnx_facts

Ranges: TypeAlias = Mapping[str, NDArray[np.float64]]
"""Activation -> [lowest, highest] value."""
PER_CHANNEL = 13
"""The first opset whose QuantizeLinear has an axis."""
CLIPPED = ("Relu", "Clip")
"""Activations that 8-bit ranges make superfluous: they move into the layer before them."""
NORMS = frozenset({"InstanceNormalization", "LayerNormalization", "BatchNormalization"})
ROUNDING = NORMS.union(
    ("Add", "Mul", "Sigmoid", "Softmax", "LeakyRelu", "Concat", "Resize", "Where", "GlobalAveragePool", "AveragePool")
)
"""What a static quantization computes in 8 bits between layers: it rounds anew."""
MOVING = frozenset(
    ("Relu", "Clip", "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Pad")
)
"""What hands codes on as they are."""
AXES: Mapping[str, int] = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1, "LSTM": 1, "GRU": 1, "RNN": 1, "Attention": -1}
"""Axis of the output channels in a layer's weights; Gemm's depends on transB, an embedding has one scale in all."""
STATIC = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
DYNAMIC = frozenset({"Gemm", "MatMul", "LSTM", "Attention"})
WEIGHTS = STATIC | DYNAMIC | {"GRU", "RNN", "Gather"}


@dataclass(frozen=True)
class Layer:
    """One node with learnt weights of its own."""

    name: str
    kind: str
    index: int
    """Position among the nodes of the main graph."""
    weights: tuple[str, ...]
    """Names of its initializers of two or more axes."""
    axis: int | None
    """Axis of the output channels in each of them, or None where one scale serves all."""
    source: str
    """The activation that comes in; for an embedding, the indices."""
    target: str
    """What goes out: after the activation that would be quantized with it."""
    parameters: int
    between: Mapping[str, str] = field(default_factory=dict)
    """Nodes after it, up to the next layers, in 8 bits when it is -> what they give if it is rounded anew, or ""."""
    why_float: str = ""
    """Why no 8-bit kernel takes this very node, empty where one does."""


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a folded copy whose nodes have names, or a named copy where onnxruntime cannot fold it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    _name(copy)
    folded = _folded(_raised(copy))
    del folded.graph.value_info[:]
    _name(folded)
    kinds = types(folded)
    known = {value.name for value in (*folded.graph.input, *folded.graph.output)}
    floats = [name for name, kind in kinds.items() if kind == "tensor(float)" and name not in known]
    folded.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in floats
    )
    return folded


def _name(model: onnx.ModelProto) -> None:
    """Give every node of the main graph a name of its own, in place."""
    seen: Counter[str] = Counter()
    for index, node in enumerate(model.graph.node):
        plain = node.name or f"{node.op_type}_{index}"
        node.name = f"{plain}_{seen[plain]}" if seen[plain] else plain
        seen[plain] += 1


def _raised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with operators that can be quantized by channel, or as it is where it cannot be converted."""
    version = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=PER_CHANNEL)
    if version >= PER_CHANNEL:
        return model
    try:
        converted: onnx.ModelProto = onnx.version_converter.convert_version(model, PER_CHANNEL)
        onnx_check.session(converted.SerializeToString(), optimized=False)
    except Exception:  # the converter's errors share no base, and what it gives does not always load
        return model
    return converted


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    options = onnx_check.options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with onnx_check.kept_file() as path:
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            return onnx.load(path)
        except Exception:  # its errors share no base; the model as it came is as good
            return model


def types(model: onnx.ModelProto) -> dict[str, str]:
    """Return the type of every tensor that a node of the main graph gives, in onnxruntime's words."""
    shown = exposed(model, [name for node in model.graph.node for name in node.output if name])
    return {value.name: value.type for value in onnx_check.session(shown.SerializeToString(), False).get_outputs()}


def exposed(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return a copy that also gives the named tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    given = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in given)
    return copy


def layers(model: onnx.ModelProto, masked: bool = False) -> list[Layer]:
    """Return the layers of a prepared model's main graph, in order; `masked`, activations do not move into them."""
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    used = Counter(name for node in model.graph.node for name in node.input)
    after = {name: node for node in model.graph.node for name in node.input[:1]}
    shown = {value.name for value in model.graph.output} | _captured(model)
    found = (_layer(index, node, held) for index, node in enumerate(model.graph.node))
    plain = [layer for layer in found if layer]
    if masked:
        return plain
    between = _between(model, plain, shown)
    return [_followed(replace(layer, between=between.get(layer.index, {})), used, after, shown) for layer in plain]


def _layer(index: int, node: onnx.NodeProto, held: Mapping[str, onnx.TensorProto]) -> Layer | None:
    names = weight_inputs(node)
    weights = [held[name] for name in names if name in held and is_float(held[name])]
    if node.op_type not in WEIGHTS or len(weights) < max(len(names), 1):
        return None
    size = sum(int(np.prod(tensor.dims)) for tensor in weights)
    source = node.input[1] if node.op_type == "Gather" else node.input[0]
    axis = _axis(node)
    return Layer(node.name, node.op_type, index, names, axis, source, node.output[0], size, why_float=_why_float(node))


def weight_inputs(node: onnx.NodeProto) -> tuple[str, ...]:
    """Return the inputs of a node at the places where its kind takes weights."""
    places = {"Gather": (0,), "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2)}.get(node.op_type, (1,))
    return tuple(node.input[place] for place in places if place < len(node.input))


def _followed(layer: Layer, used: Counter[str], after: Mapping[str, onnx.NodeProto], shown: set[str]) -> Layer:
    follower = after.get(layer.target)
    if used[layer.target] != 1 or layer.target in shown or follower is None or follower.op_type not in CLIPPED:
        return layer
    if follower.output[0] in shown:
        return layer
    between = {name: "" if given == follower.output[0] else given for name, given in layer.between.items()}
    return replace(layer, target=follower.output[0], between=between)


def _captured(model: onnx.ModelProto) -> set[str]:
    """Name what branches and loops take from the main graph.

    onnxruntime's quantizer leaves a Relu out where its range clips anyway; those who take the unclipped value from
    inside a branch would see what the Relu should have cut off.
    """
    others = list(onnx_facts.graphs_of(model))[1:]
    return {name for graph in others for node in graph.node for name in node.input}


def _between(model: onnx.ModelProto, found: Sequence[Layer], shown: set[str]) -> dict[int, dict[str, str]]:
    """Return layer's index -> nodes in 8 bits that follow it: each belongs to the last layer that reaches it.

    Those behind operators that stay in float count too: a sum of squares is hard on 8 bits, and the layer's own doing.
    """
    owner = {layer.target: layer.index for layer in found if layer.kind in STATIC}
    ends = {layer.index for layer in found}
    between: dict[int, dict[str, str]] = {}
    for index, node in enumerate(model.graph.node):
        reached = [owner[name] for name in node.input if name in owner]
        if index in ends or not reached:
            continue
        last = max(reached)
        owner |= dict.fromkeys(node.output, last)
        clips = node.op_type in CLIPPED and node.output[0] in shown
        if node.op_type in ROUNDING | MOVING and not clips:
            between.setdefault(last, {})[node.name] = node.output[0] if node.op_type in ROUNDING else ""
    return between


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return an attribute's value, or the default."""
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)


def _axis(node: onnx.NodeProto) -> int | None:
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    if node.op_type == "ConvTranspose" and attribute(node, "group", 1) != 1:
        return None
    return AXES.get(node.op_type)


def _why_float(node: onnx.NodeProto) -> str:
    match node.op_type:
        case "GRU" | "RNN":
            return f"onnxruntime has no int8 {node.op_type}"
        case "LSTM" if attribute(node, "layout", 0):
            return "onnxruntime's int8 LSTM takes the time axis in front, and this one the batch"
    return ""


def is_float(tensor: onnx.TensorProto) -> bool:
    """Tell whether a tensor holds float weights, two axes or more of them."""
    return tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16) and len(tensor.dims) > 1


def codes(weight: NDArray[Any], axis: int | None, bits: int = 8) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return symmetric codes int8[shape] and scales float32 (one an index of `axis`, or one): weight = codes x scale.

    The largest magnitude takes the code 2^(bits-1) - 1, and 64 at 7 bits, as onnxruntime's quantizers have it.
    """
    top = 64 if bits == 7 else 2 ** (bits - 1) - 1
    others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis % weight.ndim)
    most = np.abs(weight).max(axis=others, keepdims=True).astype(np.float32)
    scale = np.where(most / top > 0, most / top, 1.0).astype(np.float32)
    rounded = np.clip(np.rint(weight / scale), -top, top).astype(np.int8)
    return rounded, scale.reshape(-1) if axis is not None else scale.reshape(())


def rounded(weight: NDArray[Any], axis: int | None, bits: int = 8, group: int = 0) -> NDArray[np.float32]:
    """Return the weight as its codes hold it; with a `group`, each so many of axis 0 share a scale (a matrix)."""
    if not group:
        whole, scale = codes(weight, axis, bits)
        shape = [-1 if i == (axis or 0) % weight.ndim else 1 for i in range(weight.ndim)]
        return np.asarray(whole * (scale if axis is None else scale.reshape(shape)), np.float32)
    blocks = [
        rounded(weight[start : start + group].astype(np.float32), 1, bits) for start in range(0, len(weight), group)
    ]
    return np.concatenate(blocks)

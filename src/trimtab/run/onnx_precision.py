"""ONNX graphs in fewer bits, by onnxruntime's quantizers: from ranges known beforehand, and layer by layer.

Weights are symmetric int8 with one scale an output channel, activations uint8 with one scale a tensor: what the CPU
kernels of onnxruntime and OpenVINO are for. An LSTM has a dynamic int8 kernel only, so `static` gives it that one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import QuantizationMode
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from trimtab.run import onnx_layers
from trimtab.run.onnx_layers import Layer, Ranges

OPERATORS = tuple(sorted({*QDQRegistry, *QLinearOpsRegistry}))
"""What a static quantization takes: layers, and what lies between them, so that it stays in 8 bits."""
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Gather")
"""The same where attention masks may add minus infinity, which no range of 8 bits holds."""
LEAST = 256
"""Weights from which a layer's are worth holding in fewer bits."""
INT8_COMPUTE = 4
"""MatMulNBits' accuracy level at which it quantizes activations too, by blocks: much quicker, hardly coarser."""


@dataclass(frozen=True)
class Settings:
    """How to quantize one part."""

    left: frozenset[str] = field(default_factory=frozenset)
    """Names of the layers that stay in float."""
    bits: int = 8
    """Of weights: 8, 7, or 4 where only weights are quantized."""
    per_channel: bool = True
    masked: bool = False
    """The part has attention: only its products are quantized."""
    group_size: int = 32
    """Inputs that share a scale where only weights are quantized."""


def static(model: onnx.ModelProto, ranges: Ranges, settings: Settings) -> onnx.ModelProto:
    """Return a prepared model in QDQ form; `ranges` gives each activation tensor its lowest and highest value.

    What touches an activation without a range stays in float.
    """
    data = {name: tuple(np.array(value, np.float32) for value in pair) for name, pair in ranges.items()}
    quantizer = QDQQuantizer(
        _copied(model),
        settings.per_channel,
        settings.bits == 7,
        QuantType.QInt8,
        QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, data),
        [],
        [*settings.left, *unranged(model, ranges), *_beside(model, settings)],
        list(PRODUCTS if settings.masked else OPERATORS),
        {"WeightSymmetric": True, "ActivationSymmetric": False},
    )
    quantizer.quantize_model()
    after = _finished(quantizer.model)
    recurrent = any(layer.kind == "LSTM" for layer in onnx_layers.layers(model))
    return dynamic(after, settings, ("LSTM",)) if recurrent else after


def _beside(model: onnx.ModelProto, settings: Settings) -> list[str]:
    """Name the nodes that follow no quantized layer: rounding there serves nobody, and nobody measured its harm.

    Seen: a voice detector whose samples and recurrent state pass through a Concat lost half its answers.
    """
    layers = onnx_layers.layers(model, settings.masked)
    kept = {layer.name for layer in layers}
    kept |= {name for layer in layers if layer.name not in settings.left for name in layer.between}
    return [node.name for node in model.graph.node if node.name not in kept and not settings.masked]


def unranged(model: onnx.ModelProto, ranges: Ranges) -> list[str]:
    """Name the nodes that take or give a float activation for which there is no range."""
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.input)}
    types |= {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
    floats = {name for name, kind in types.items() if kind == onnx.TensorProto.FLOAT}
    return [node.name for node in model.graph.node if (floats - set(ranges)) & {*node.input, *node.output}]


def dynamic(
    model: onnx.ModelProto, settings: Settings, operators: Sequence[str] = ("MatMul", "LSTM", "Attention", "Gather")
) -> onnx.ModelProto:
    """Return a prepared model whose products take ranges of activations at each call; Gemm becomes MatMul and Add."""
    batched = [layer.name for layer in onnx_layers.layers(model) if layer.why_float]
    quantizer = ONNXQuantizer(
        _copied(model),
        settings.per_channel,
        settings.bits == 7,
        QuantizationMode.IntegerOps,
        False,
        QuantType.QInt8,
        QuantType.QUInt8,
        None,
        [],
        [name for one in (*settings.left, *batched) for name in (one, f"{one}_MatMul")],
        list(operators),
        {"MatMulConstBOnly": True},
    )
    quantizer.quantize_model()
    return _finished(quantizer.model)


def weights(model: onnx.ModelProto, settings: Settings) -> onnx.ModelProto:
    """Return a prepared model with its weights alone in fewer bits.

    Matrices of products become MatMulNBits with one scale for `group_size` inputs; others are int8 behind a
    DequantizeLinear, whatever the bits asked for.
    """
    wrapped = ONNXModel(_copied(model))
    wrapped.replace_gemm_with_matmul()
    named = [name for one in settings.left for name in (one, f"{one}_MatMul")]
    small = [layer.name for layer in onnx_layers.layers(wrapped.model) if layer.parameters < LEAST]
    quantizer = MatMulNBitsQuantizer(
        wrapped.model,
        bits=4 if settings.bits == 4 else 8,
        block_size=settings.group_size,
        is_symmetric=True,
        accuracy_level=INT8_COMPUTE,
        nodes_to_exclude=[*named, *small],
    )
    quantizer.process()
    after = quantizer.model.model
    for layer in onnx_layers.layers(after):
        if layer.name not in {*named, *small} and layer.kind != "MatMul":
            _hold_in_codes(after, layer)
    return _finished(ONNXModel(after))


def _hold_in_codes(model: onnx.ModelProto, layer: Layer) -> None:
    """Replace a layer's weights by int8 codes and a DequantizeLinear in front of it."""
    for name in dict.fromkeys(layer.weights):
        if any(name in node.output for node in model.graph.node):  # shared, and done with an earlier layer
            continue
        held = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        codes, scale = onnx_layers.codes(numpy_helper.to_array(held), layer.axis)
        model.graph.initializer.remove(held)
        model.graph.initializer.extend(
            numpy_helper.from_array(value, f"{name}_{what}") for value, what in ((codes, "codes"), (scale, "scale"))
        )
        axis = {} if layer.axis is None else {"axis": layer.axis % codes.ndim}
        node = helper.make_node("DequantizeLinear", [f"{name}_codes", f"{name}_scale"], [name], f"{name}_held", **axis)
        model.graph.node.insert(0, node)


def ranges_of(histograms: Mapping[str, NDArray[np.float64]], method: str) -> dict[str, NDArray[np.float64]]:
    """Return each tensor's range: `percentile` cuts 1e-5 off both ends, `mse` where the squared error is least.

    A histogram is [low, high, counts...], as `trimtab.run.onnx_statistics` gives it.
    """
    choose = {"percentile": _percentile, "mse": _least_error}[method]
    chosen = {name: choose(float(v[0]), float(v[1]), v[2:]) for name, v in histograms.items()}
    return {name: np.array(pair, np.float64) for name, pair in chosen.items()}


def _percentile(low: float, high: float, counts: NDArray[Any]) -> tuple[float, float]:
    share = np.cumsum(counts) / max(counts.sum(), 1.0)
    edges = np.linspace(low, high, len(counts) + 1)
    first, last = (int(np.searchsorted(share, end)) for end in (1e-5, 1 - 1e-5))
    return float(edges[min(first, len(counts))]), float(edges[min(last + 1, len(counts))])


def _least_error(low: float, high: float, counts: NDArray[Any]) -> tuple[float, float]:
    """Try shrinking the range to 30% in steps of 2%: rounding gets finer, and more is cut off.

    Source: Nagel et al., A White Paper on Neural Network Quantization, arXiv 2106.08295, section 3.1 (MSE range).
    """
    centres = low + (high - low) * (np.arange(len(counts)) + 0.5) / len(counts)
    tried = [(max(low, min(low, 0.0) * share), high * share) for share in np.arange(1.0, 0.29, -0.02)]
    errors = [float(counts @ _error(centres, *pair)) for pair in tried]
    return tried[int(np.argmin(errors))]


def _error(values: NDArray[Any], low: float, high: float) -> NDArray[Any]:
    low, high = min(low, 0.0), max(high, 0.0)
    step = max(high - low, 1e-12) / 255
    return np.asarray((np.clip(np.rint((values - low) / step), 0, 255) * step + low - values) ** 2)


def _copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return onnx.shape_inference.infer_shapes(copy)


def _finished(wrapped: ONNXModel) -> onnx.ModelProto:
    wrapped.topological_sort()
    model: onnx.ModelProto = wrapped.model
    del model.graph.value_info[:]
    del model.metadata_props[:]
    return model

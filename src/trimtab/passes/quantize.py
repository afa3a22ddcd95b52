"""Quantize an ONNX part to 8 bits: static with calibration on training inputs, or dynamic.

A real number r is held as r = scale x (q - zero), q a whole number. Weights are symmetric (zero = 0) with one scale an
output channel; activations are unsigned with one scale a tensor, read off real inputs ("static") or off each input as
it comes ("dynamic"). Unsigned activations x signed weights is what onnxruntime's and OpenVINO's CPU kernels are for.

Where the CPU has no VNNI, that product adds pairs in 16 bits: 2 x 255 x 127 > 32,767, so large values saturate without
notice. Weights of 7 bits cannot: 2 x 255 x 64 < 32,767. What saturates here shows as a difference between the int8
kernels and the same graph computed in float, and is noted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
from onnxruntime import quantization as ort_quantization

from trimtab.errors import DataError, Refused, TrimtabError
from trimtab.passes import Context, Pass, Stage, Use
from trimtab.run import onnx_check, onnx_facts, onnx_files
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Part, Signature

METHODS = ("static", "dynamic")
CALIBRATIONS = ("minmax", "entropy", "percentile")
BATCH = 16
CHECKED = 64
"""Training examples on which the quantized model is compared with the float one."""
STATIC = ("conv", "linear")
DYNAMIC = ("linear", "lstm", "attention", "embedding")
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""What is quantized where attention masks may add minus infinity, which no range of 8 bits holds."""
DYNAMIC_OPERATORS = ("MatMul", "Gemm", "LSTM", "Attention", "Gather")
LEARNT = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")
"""Operators with weights of their own."""


@dataclass(frozen=True)
class Quantize(Pass):
    """Quantize weights and activations to 8 bits."""

    weights: int = 8
    """8, or 7 for CPUs without VNNI."""
    activations: int = 8
    """Bits; 8 is what the kernels take."""
    method: str = "static"
    """`static` fixes the ranges of activations on training examples, `dynamic` finds them at each call."""
    calibration: str = "minmax"
    """How static ranges are chosen: `minmax`, `entropy` or `percentile`."""
    samples: int = 256
    """Training examples to calibrate on."""
    per_channel: bool = True
    """A scale for each output channel of a weight, or one for the whole."""

    formats: ClassVar[Mapping[str, str]] = {"onnx": "onnx"}
    stage: ClassVar[Stage] = "precision"
    uses: ClassVar[frozenset[Use]] = frozenset({"train", "seed", "machine"})

    def __post_init__(self) -> None:
        if self.weights not in (7, 8) or self.activations != 8:
            raise ValueError(
                f"weights are 8 or 7 bits and activations 8, got {self.weights} and {self.activations}; "
                "no kernel for others is used here"
            )
        if self.method not in METHODS:
            raise ValueError(f"method is {' or '.join(METHODS)}, got {self.method!r}")
        if self.calibration not in CALIBRATIONS:
            raise ValueError(f"calibration is {' or '.join(CALIBRATIONS)}, got {self.calibration!r}")
        if self.samples < 1:
            raise ValueError(f"samples is at least 1, got {self.samples}")

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return dynamic where its layers are, static 8 bits, and 7 where 8 may saturate."""
        if _is_quantized(facts):
            return ()
        static = [cls()] if _reaches("static", facts) else []
        narrow = [cls(weights=7)] if static and _saturates(machine) else []
        dynamic = [cls(method="dynamic")] if _reaches("dynamic", facts) else []
        return (*dynamic, *static, *narrow)

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Return the facts at 8 bits, with a loss that is usual for such nets; unchanged where most stays in float."""
        if not _reaches(self.method, facts):
            return facts
        loss = {"static": 0.003, "dynamic": 0.001}[self.method] + (0.001 if self.weights == 7 else 0.0)
        return replace(facts, weight_bits=8.0, activation_bits=8.0, quality_loss=facts.quality_loss + loss)

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Say why where there is nothing to do, or no way to calibrate."""
        if any(_is_quantized(part.facts) for part in model.parts.values()):
            return "the model is quantized already; quantize the float model instead"
        kinds = STATIC if self.method == "static" else DYNAMIC
        if not any(_has(part.facts, kinds) for part in model.parts.values()):
            return f"quantize(method={self.method!r}) works on {', '.join(kinds)} layers, and the model has none"
        if self.method == "static" and (len(model.parts) > 1 or model.main.signature.state):
            return "static calibration needs one part without state; use quantize(method='dynamic')"
        return None

    def apply(self, model: Model, context: Context) -> Model:
        """Return the quantized model; notes say which layers stay in float, and what the change did to the outputs.

        Raises:
            DataError: the calibration inputs hold NaN or infinity.
            Refused: nothing could be quantized.
        """
        parts, notes = {}, {}
        for done, (name, part) in enumerate(model.parts.items()):
            context.check_time()
            context.progress(f"quantizing {name}", done / len(model.parts))
            parts[name], notes[name] = self._part(part, context, name)
        said = notes["main"] if list(notes) == ["main"] else notes
        return model.map_parts(parts, notes={**model.notes, "quantize": said})

    def _part(self, part: Part, context: Context, name: str) -> tuple[Part, dict[str, Any]]:
        before = onnx_files.load(part)
        with tempfile.TemporaryDirectory(prefix="trimtab-") as folder, onnx_check.quietly():
            source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
            _prepare(before, source)
            self._quantize(source, target, part, context)
            after = onnx_files.load(target)
            left = _left_in_float(after, self.method)
            if not _codes(after):
                raise Refused(f"nothing in {name} could be quantized: {left or 'no layer holds weights of its own'}")
            notes = {"method": self.method, "left_in_float": left}
            if self.method == "static":
                notes |= _compared(source, target, _Reader(context, part.signature, CHECKED), context.machine)
        saved = onnx_files.save(after, context.scratch / name)
        bits = saved.facts.weight_bits * saved.facts.parameters / max(part.facts.parameters, 1)
        facts = replace(part.facts, weight_bits=bits, activation_bits=8.0)
        return replace(saved, facts=facts, signature=part.signature), notes

    def _quantize(self, source: Path, target: Path, part: Part, context: Context) -> None:
        try:
            if self.method == "static":
                reader = _Reader(context, part.signature, self.samples)
                self._static(source, target, reader, bool(part.facts.layers.get("attention")))
            else:
                self._dynamic(source, target)
        except (TrimtabError, TimeoutError, MemoryError, OSError):
            raise
        except Exception as error:
            first = str(error).strip().partition("\n")[0][:200]
            raise Refused(f"onnxruntime's quantizer cannot take this model: {first or type(error).__name__}") from error

    def _static(self, source: Path, target: Path, reader: _Reader, masked: bool) -> None:
        kinds = ort_quantization.CalibrationMethod
        methods = {"minmax": kinds.MinMax, "entropy": kinds.Entropy, "percentile": kinds.Percentile}
        ort_quantization.quantize_static(
            str(source),
            str(target),
            reader,
            op_types_to_quantize=list(PRODUCTS) if masked else None,
            quant_format=ort_quantization.QuantFormat.QDQ,
            per_channel=self.per_channel,
            reduce_range=self.weights == 7,
            activation_type=ort_quantization.QuantType.QUInt8,
            weight_type=ort_quantization.QuantType.QInt8,
            calibrate_method=methods[self.calibration],
            extra_options={"WeightSymmetric": True, "ActivationSymmetric": False, "CalibStridedMinMax": 1},
        )

    def _dynamic(self, source: Path, target: Path) -> None:
        ort_quantization.quantize_dynamic(
            str(source),
            str(target),
            op_types_to_quantize=list(DYNAMIC_OPERATORS),
            per_channel=self.per_channel,
            reduce_range=self.weights == 7,
            weight_type=ort_quantization.QuantType.QInt8,
        )


class _Reader(ort_quantization.CalibrationDataReader):
    """Real training inputs, a seeded sample, one batch at a time, so that little memory is held."""

    def __init__(self, context: Context, signature: Signature, samples: int) -> None:
        examples = context.task.split("train")
        order = np.random.default_rng(context.seed).permutation(len(examples))[:samples]
        if not len(order):
            raise DataError(f"the train split of {context.task.task.name} is empty: nothing to calibrate on")
        self._context, self._signature = context, signature
        first = signature.inputs[0].shape[0]
        size = first if isinstance(first, int) else BATCH
        stop = len(order) // size * size if isinstance(first, int) else len(order)
        self._batches = [order[start : start + size] for start in range(0, stop, size)]
        self.set_range(0, len(self._batches))

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Start again, at batch `start_index`, and end before `end_index`."""
        self._left = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch's inputs by name, or None; raises DataError on NaN and infinity."""
        self._context.check_time()
        chosen = next(self._left, None)
        return None if chosen is None else self._inputs(chosen)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self._inputs(chosen) for chosen in self._batches)

    def _inputs(self, chosen: Any) -> dict[str, Any]:
        view = self._context.task
        examples = view.split("train")
        batch = view.task.collate([examples[int(i)] for i in chosen])
        for spec in self._signature.inputs:
            if spec.name not in batch.inputs:
                raise DataError(f"the model takes {spec.name!r}; {view.task.name} gives {', '.join(batch.inputs)}")
            array = batch.inputs[spec.name]
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                worst = next(i for i, row in zip(chosen, array, strict=True) if not np.isfinite(row).all())
                raise DataError(
                    f"example {examples[int(worst)].id!r} of the train split has NaN or infinity in {spec.name!r}; "
                    "mend or drop it before calibrating"
                )
        return {spec.name: batch.inputs[spec.name].astype(spec.dtype) for spec in self._signature.inputs}


def _prepare(model: onnx.ModelProto, path: Path) -> None:
    """Write the model with constants, batch norms and biases folded by onnxruntime, or as it is where that fails."""
    del model.graph.value_info[:]
    data = model.SerializeToString()
    options = onnx_check.options()
    options.optimized_model_filepath = str(path)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception:  # its errors share no base; the model as it came is as good
        path.write_bytes(data)


def _compared(source: Path, target: Path, reader: _Reader, machine: Machine) -> dict[str, Any]:
    """Return how far outputs moved, and how far int8 kernels are from the same graph in float: 0.01 is 1% of range."""
    reference = onnx_check.session(target, optimized=False)
    sessions = [onnx_check.session(source), onnx_check.session(target), reference]
    moved, strayed, low, high = 0.0, 0.0, np.inf, -np.inf
    for inputs in reader:
        exact, kernels, meant = (session.run(None, inputs)[0] for session in sessions)
        moved = max(moved, float(np.max(np.abs(kernels - exact))))
        strayed = max(strayed, float(np.max(np.abs(kernels - meant))))
        low, high = min(low, float(exact.min())), max(high, float(exact.max()))
    span = max(high - low, 1e-12)
    notes: dict[str, Any] = {"output_change": moved / span, "kernel_error": strayed / span}
    if _saturates(machine):
        notes["saturation"] = (
            "this CPU has no VNNI: 8-bit products may saturate (kernel_error shows it); weights=7 does not"
        )
    return notes


def _left_in_float(model: onnx.ModelProto, method: str) -> list[dict[str, str]]:
    """Name the layers whose weights stay in float, and say why."""
    graphs = list(onnx_facts.graphs_of(model))
    floats = {t.name for g in graphs for t in getattr(g, "initializer", ()) if _is_float(t)}
    why = {
        "GRU": "onnxruntime has no int8 GRU",
        "RNN": "onnxruntime has no int8 RNN",
        "LSTM": "an int8 LSTM is dynamic only",
        "Conv": "a dynamic convolution is slower than a float one" if method == "dynamic" else "",
    }
    return [
        {"layer": node.name, "kind": node.op_type, "why": why.get(node.op_type) or "onnxruntime's quantizer leaves it"}
        for graph in graphs
        for node in graph.node
        if node.op_type in LEARNT and len(node.input) > 1 and node.input[1] in floats
    ]


def _codes(model: onnx.ModelProto) -> bool:
    kinds = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    return any(tensor.data_type in kinds and len(tensor.dims) > 1 for tensor in onnx_facts.tensors_of(model))


def _is_float(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16) and len(tensor.dims) > 1


def _is_quantized(facts: Facts) -> bool:
    return facts.weight_bits < 16 or facts.activation_bits < 16


def _has(facts: Facts, kinds: tuple[str, ...]) -> bool:
    return any(facts.layers.get(kind) for kind in kinds)


def _reaches(method: str, facts: Facts) -> bool:
    """Tell whether the method has kernels for the layers that hold most weights of such a net."""
    if method == "static":
        return _has(facts, STATIC) and not _has(facts, ("lstm", "gru", "rnn"))
    return _has(facts, DYNAMIC) and not _has(facts, ("conv", "gru", "rnn"))


def _saturates(machine: Machine) -> bool:
    """Tell whether 8-bit products add up in 16 bits: x86 with neither VNNI nor AMX."""
    x86 = any(name.startswith("avx") for name in machine.isa)
    return x86 and not any("vnni" in name or name.startswith("amx_int8") for name in machine.isa)

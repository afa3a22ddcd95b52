# /// script
# dependencies = [
#     "torch==2.13.0",
#     "numpy==2.4.6",
#     "onnx==1.23.2",
#     "onnxruntime==1.31.1",
#     "sympy==1.14.0",
#     "scipy==1.17.1",
# ]
# ///
"""ONNX Runtime's own quantization, `dynamic` or `static`, as its document "Quantize ONNX models" says.

The document advises dynamic quantization for RNNs and transformers and static for CNNs; both are held here for every
model. It has the graph pre-processed first, transformers optimized first by its transformer tool, QDQ with int8 weights
and uint8 activations on x86, and `reduce_range` only where the processor lacks VNNI. A scale for each channel needs
opset 13; older graphs are converted, and where that fails weights get one scale a tensor.
"""

from __future__ import annotations

from pathlib import Path

import kit
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
    shape_inference,
)
from onnxruntime.transformers.optimizer import optimize_model

PER_CHANNEL = 13
"""The first opset whose DequantizeLinear takes a scale for each channel."""


class Reader(CalibrationDataReader):
    """Hands out what the part was called with."""

    def __init__(self, feeds):
        self.feeds = iter(feeds)

    def get_next(self):
        """Return the next call's inputs, or None."""
        return next(self.feeds, None)


def upgraded(job: kit.Job, part: str, notes: list[str]) -> tuple[Path, bool]:
    """Return the graph, converted where its opset knows no scale for each channel, and whether it knows one now."""
    path, target = job.onnx(part), job.out / f"{part}-opset{PER_CHANNEL}.onnx"
    graph = onnx.load(path)
    opset = next(each.version for each in graph.opset_import if each.domain in ("", "ai.onnx"))
    if opset >= PER_CHANNEL:
        return path, True
    try:
        onnx.save(onnx.version_converter.convert_version(graph, PER_CHANNEL), target)
        onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    except Exception as error:
        notes.append(
            f"{part}: opset {opset} does not convert to {PER_CHANNEL} ({kit.short(error)}), one scale a tensor"
        )
        return path, False
    notes.append(f"{part}: opset {opset} converted to {PER_CHANNEL}")
    return target, True


def prepared(job: kit.Job, part: str, path: Path, notes: list[str], fuse: bool) -> Path:
    """Return the graph pre-processed; steps that fail on it are left out, as the document advises."""
    target = job.out / f"{part}-prepared.onnx"
    if fuse:
        optimized = optimize_model(str(path), model_type="bert", num_heads=0, hidden_size=0)
        notes.append(f"{part}: fused {sum(optimized.get_fused_operator_statistics().values())} operators")
        path = job.out / f"{part}-fused.onnx"
        optimized.save_model_to_file(str(path))
    for skipped in ({}, {"skip_symbolic_shape": True}, {"skip_symbolic_shape": True, "skip_optimization": True}):
        try:
            shape_inference.quant_pre_process(str(path), str(target), **skipped)
            notes.extend(f"{part}: pre-processed with {name}" for name in skipped)
            return target
        except Exception as error:
            print(part, skipped, "failed:", error)
    notes.append(f"{part}: pre-processing failed, left out")
    return path


def quantized(job: kit.Job, source: Path, part: str, knobs: dict) -> None:
    """Quantize one graph."""
    graph = onnx.load(source)
    del graph.graph.value_info[:]  # what exporters wrote there contradicts the graph after fusing
    target = job.folder(part) / kit.FILES["onnx"]
    if job.variant == "dynamic":
        # what its error asks for where the type of a fused operator's output is not known
        quantize_dynamic(graph, target, extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT}, **knobs)
    else:
        feeds = Reader(job.feeds(part))
        quantize_static(graph, target, feeds, quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8, **knobs)


def work(job: kit.Job) -> None:
    """Quantize every part; a fused graph that cannot be quantized is taken as it was."""
    knobs = {"weight_type": QuantType.QInt8, "reduce_range": kit.saturates()}
    notes: list[str] = []
    per_channel: dict[str, bool] = {}
    for part in job.parts:
        path, per_channel[part] = upgraded(job, part, notes)
        for fuse in (True, False) if job.kind == "transformer" else (False,):
            try:
                source = prepared(job, part, path, notes, fuse)
                quantized(job, source, part, knobs | {"per_channel": per_channel[part]})
                break
            except Exception as error:
                if not fuse:
                    raise
                notes.append(f"{part}: quantizing the fused graph fails ({kit.short(error)}), left unfused")
    every = all(per_channel.values())
    job.ship("onnx", notes, mode=job.variant, per_channel=every, reduce_range=knobs["reduce_range"])


if __name__ == "__main__":
    kit.main(work)

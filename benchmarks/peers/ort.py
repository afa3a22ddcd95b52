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
and uint8 activations on x86, and `reduce_range` only where the processor lacks VNNI.
"""

from __future__ import annotations

from pathlib import Path

import kit
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
    shape_inference,
)
from onnxruntime.transformers.optimizer import optimize_model


class Reader(CalibrationDataReader):
    """Hands out what the part was called with."""

    def __init__(self, feeds):
        self.feeds = iter(feeds)

    def get_next(self):
        """Return the next call's inputs, or None."""
        return next(self.feeds, None)


def prepared(job: kit.Job, part: str, notes: list[str], fuse: bool) -> Path:
    """Return the graph pre-processed; steps that fail on it are left out, as the document advises."""
    path, target = job.onnx(part), job.out / f"{part}-prepared.onnx"
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
    knobs = {"weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": kit.saturates()}
    notes: list[str] = []
    for part in job.parts:
        for fuse in (True, False) if job.kind == "transformer" else (False,):
            try:
                quantized(job, prepared(job, part, notes, fuse), part, knobs)
                break
            except Exception as error:
                if not fuse:
                    raise
                notes.append(f"{part}: quantizing the fused graph fails ({kit.short(error)}), left unfused")
    job.ship("onnx", notes, mode=job.variant, per_channel=True, reduce_range=knobs["reduce_range"])


if __name__ == "__main__":
    kit.main(work)

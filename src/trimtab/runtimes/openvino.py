"""OpenVINO on the processor: serves `onnx` and its own `openvino` parts; often the quickest for int8 convolutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import openvino
from numpy.typing import NDArray

from trimtab.run import openvino_files
from trimtab.run.onnx_guard import guarded
from trimtab.run.speed import Speed, expected_peak
from trimtab.runtimes import Runtime
from trimtab.values.facts import Facts
from trimtab.values.machine import HERE, Machine
from trimtab.values.model import Model, Part
from trimtab.values.session import Arrays, Session

SPEED = Speed(efficiency=0.8, call_us=40.0, layer_us=3.0)
Shapes = Mapping[str, Any]
"""Input -> its shape, a tuple of whole numbers."""
HINTS, PRECISIONS = ("latency", "throughput"), ("f32", "bf16")
PROCESSORS = frozenset({"sse4_2", "avx2", "avx512f", "asimd"})
"""Its processor plugin needs one of these instruction sets."""
BRIEF = frozenset({"amx_bf16", "avx512_bf16"})
"""Instruction sets with products of bf16; elsewhere it is emulated or ignored, and never quicker."""
SEQUENCES = frozenset({"lstm", "gru", "rnn", "attention", "embedding"})
"""Kinds of layers that read sequences of any length."""


@dataclass(frozen=True)
class OpenVino(Runtime):
    """Compiles the graph for the processor, in one stream: `openvino(threads=1)`."""

    hint: str = "latency"
    """What it is told to optimize: latency or throughput."""
    static: bool = False
    """Compile a second time for single examples of one shape, the first that comes where the model takes several."""
    precision: str = "f32"
    """What float layers compute in: f32, or bf16, quicker and coarser where the processor has products of it."""

    formats: ClassVar[frozenset[str]] = frozenset({"onnx", "openvino"})
    native: ClassVar[frozenset[str]] = frozenset({"openvino"})
    paces: ClassVar[frozenset[str]] = frozenset({"threads", "hint", "static"})
    libraries: ClassVar[tuple[str, ...]] = ("openvino",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hint not in HINTS:
            raise ValueError(f"hint is latency or throughput, got {self.hint!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is f32 or bf16, got {self.precision!r}")

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Runtime, ...]:
        """Return a few numbers of threads, and where the processor has it the same with bf16 for what is in float.

        All are static but for models of sequences, whose second axis is free. Models that quantize activations as they
        come are left to onnxruntime: OpenVINO works through that step by step, many times slower.
        """
        if facts.dynamic:
            return ()
        static = not SEQUENCES & set(facts.layers)
        plain = tuple(cls(threads=one.threads, static=static) for one in super().choices(facts, machine))
        if not BRIEF & set(machine.isa):
            return plain
        return (*plain, *(cls(threads=one.threads, static=static, precision="bf16") for one in plain))

    def predict(self, facts: Facts, machine: Machine) -> dict[str, float]:
        """Return the expected `latency_ms` at batch 1; the constants are explained in `trimtab.run.speed`."""
        if self.precision == "bf16" and facts.activation_bits > 16:
            facts = replace(facts, weight_bits=min(16.0, facts.weight_bits))
            peaks = machine.peak_gflops
            machine = replace(machine, peak_gflops={**peaks, "fp32": expected_peak("bf16", peaks)})
        return {"latency_ms": SPEED.latency_ms(facts, machine, self.threads)}

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Refuse processors without the instructions that it is built for, or that the precision asks for."""
        wanted = (PROCESSORS, *((BRIEF,) if self.precision == "bf16" else ()))
        lacks = next((needed for needed in wanted if not needed & set(machine.isa)), None)
        if lacks is None or not machine.isa:
            return None
        return f"{self} needs {' or '.join(sorted(lacks))}; {machine.name} has {', '.join(machine.isa)}"

    def load(self, model: Model, machine: Machine) -> Session:
        """Compile every part's graph; nothing is cached on disk."""
        core = openvino.Core()

        def compiled(name: str, shapes: Shapes) -> openvino.InferRequest:
            return self._compile(core, model.parts[name], shapes)

        requests = {name: self._compile(core, part) for name, part in model.parts.items()}
        session = _Requests(requests, compiled if self.static else None)
        for name, part in model.parts.items():
            if _only_batch(part):
                session.single(name, {spec.name: (1, *spec.shape[1:]) for spec in part.signature.inputs})
        return session

    def _compile(self, core: openvino.Core, part: Part, shapes: Shapes | None = None) -> openvino.InferRequest:
        settings = {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": self.hint.upper(),
            "INFERENCE_PRECISION_HINT": self.precision,
            "ENABLE_CPU_PINNING": False,
        }
        path = openvino_files.model(part.path) if part.format == "openvino" else guarded(part.path)
        network = openvino_files.name_tensors(core.read_model(path))
        if shapes:
            network.reshape(shapes)
        return core.compile_model(network, "CPU", settings).create_infer_request()


def session(model: Model) -> Session:
    """Load a model's networks in this process, with settings that hold anywhere."""
    return OpenVino().load(model, Machine(HERE, 1))


def _only_batch(part: Part) -> bool:
    """Whether the batch axis, in front, is free, and no other axis is."""
    shapes = [spec.shape for spec in part.signature.inputs]
    return all(shape and isinstance(shape[0], str) and all(isinstance(n, int) for n in shape[1:]) for shape in shapes)


class _Requests:
    def __init__(
        self,
        requests: Mapping[str, openvino.InferRequest],
        compiled: Callable[[str, Shapes], openvino.InferRequest] | None,
    ) -> None:
        self.requests, self.compiled = requests, compiled
        self.singles: dict[str, tuple[Shapes, openvino.InferRequest]] = {}
        self.shapes: dict[str, Shapes] = {}
        self.outputs = {
            name: [output.get_any_name() for output in request.model_outputs] for name, request in requests.items()
        }

    def run(self, inputs: Arrays, part: str = "main") -> dict[str, NDArray[Any]]:
        request, shapes = self.requests[part], {name: array.shape for name, array in inputs.items()}
        single = self.single(part, shapes)
        if single is not None:
            request = single
            request.infer(dict(inputs), share_inputs=True, share_outputs=True)
        elif self.shapes.get(part) == shapes:
            request.infer(dict(inputs), share_inputs=True, share_outputs=True)
        else:
            self._reshape(request, inputs)
            self.shapes[part] = shapes
        return {name: np.array(request.get_tensor(name).data) for name in self.outputs[part]}

    def single(self, part: str, shapes: Shapes) -> openvino.InferRequest | None:
        """Return what is compiled for a single example of these shapes; the first that come have it compiled."""
        if self.compiled is None or any(shape[:1] != (1,) for shape in shapes.values()):
            return None
        if part not in self.singles:
            self.singles[part] = shapes, self.compiled(part, shapes)
        known, request = self.singles[part]
        return request if known == shapes else None

    def _reshape(self, request: openvino.InferRequest, inputs: Arrays) -> None:
        """Run inputs of new shapes, for which memory is allocated.

        `infer` says nothing when that fails and leaves the outputs of the call before (seen in 2026.4.1); `wait`
        raises, but costs a thread's switch at each call.
        """
        request.start_async(dict(inputs), share_inputs=True)
        request.wait()

"""OpenVINO on the processor: serves `onnx` parts; often the quickest for int8 convolutions on x86."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import openvino
from numpy.typing import NDArray

from trimtab.run.speed import Speed
from trimtab.runtimes import Runtime
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Part
from trimtab.values.session import Session

if TYPE_CHECKING:
    from trimtab.values.session import Arrays

SPEED = Speed(efficiency=0.8, call_us=40.0, layer_us=3.0)
HINTS = ("latency", "throughput")
PROCESSORS = frozenset({"sse4_2", "avx2", "avx512f", "asimd"})
"""Its processor plugin needs one of these instruction sets."""


@dataclass(frozen=True)
class OpenVino(Runtime):
    """Compiles the graph for the processor, in one stream and float32: `openvino(threads=1)`."""

    hint: str = "latency"
    """What it is told to optimize: latency or throughput."""

    formats: ClassVar[frozenset[str]] = frozenset({"onnx"})
    libraries: ClassVar[tuple[str, ...]] = ("openvino",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hint not in HINTS:
            raise ValueError(f"hint is latency or throughput, got {self.hint!r}")

    def predict(self, facts: Facts, machine: Machine) -> dict[str, float]:
        """Return the expected `latency_ms` at batch 1; the constants are explained in `trimtab.run.speed`."""
        return {"latency_ms": SPEED.latency_ms(facts, machine, self.threads)}

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Refuse processors without the instructions that it is built for."""
        if not machine.isa or PROCESSORS & set(machine.isa):
            return None
        return f"openvino needs {' or '.join(sorted(PROCESSORS))}; {machine.name} has {', '.join(machine.isa)}"

    def load(self, model: Model, machine: Machine) -> Session:
        """Compile every part's graph; nothing is cached on disk."""
        core = openvino.Core()
        return _Requests({name: self._compile(core, part) for name, part in model.parts.items()})

    def _compile(self, core: openvino.Core, part: Part) -> openvino.InferRequest:
        settings = {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": self.hint.upper(),
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        graph = core.read_model(part.path / "model.onnx")
        return core.compile_model(graph, "CPU", settings).create_infer_request()


class _Requests:
    def __init__(self, requests: Mapping[str, openvino.InferRequest]) -> None:
        self.requests = requests
        self.shapes: dict[str, list[tuple[int, ...]]] = {}
        self.outputs = {
            name: [output.get_any_name() for output in request.model_outputs] for name, request in requests.items()
        }

    def run(self, inputs: Arrays, part: str = "main") -> dict[str, NDArray[Any]]:
        request, shapes = self.requests[part], [array.shape for array in inputs.values()]
        if self.shapes.get(part) == shapes:
            request.infer(dict(inputs), share_inputs=True, share_outputs=True)
        else:
            self._reshape(request, inputs)
            self.shapes[part] = shapes
        return {name: np.array(request.get_tensor(name).data) for name in self.outputs[part]}

    def _reshape(self, request: openvino.InferRequest, inputs: Arrays) -> None:
        """Run inputs of new shapes, for which memory is allocated.

        `infer` says nothing when that fails and leaves the outputs of the call before (seen in 2026.4.1); `wait`
        raises, but costs a thread's switch at each call.
        """
        request.start_async(dict(inputs), share_inputs=True)
        request.wait()

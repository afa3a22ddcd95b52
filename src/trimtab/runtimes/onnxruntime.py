"""ONNX Runtime on the processor: serves `onnx` parts; small, quick to start, and installed with trimtab."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import onnxruntime
from numpy.typing import NDArray

from trimtab.run.onnx_guard import guarded
from trimtab.run.speed import Speed
from trimtab.runtimes import Runtime
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Part
from trimtab.values.session import Arrays, Session

SPEED = Speed(efficiency=0.8, call_us=12.0, layer_us=3.0)
LEVELS = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
ERRORS_ONLY = 3
LARGE = 20_000_000
"""Multiply-accumulates from which waking a thread at each layer costs little beside its work."""


@dataclass(frozen=True)
class OnnxRuntime(Runtime):
    """Runs the graph in order on the processor: `onnxruntime(threads=1)`."""

    level: str = "all"
    """Graph optimization: none, basic, extended or all."""
    precise_int8: bool = False
    """Add int8 products without overflow where the processor lacks VNNI: slower there, and without effect elsewhere."""
    spin: bool = False
    """Let waiting threads spin: quicker where the cores are its own, much slower where they are shared."""

    formats: ClassVar[frozenset[str]] = frozenset({"onnx"})
    native: ClassVar[frozenset[str]] = frozenset({"onnx"})
    paces: ClassVar[frozenset[str]] = frozenset({"threads", "spin"})
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.level not in LEVELS:
            raise ValueError(f"level is one of {', '.join(LEVELS)}, got {self.level!r}")

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Runtime, ...]:
        """Return a few numbers of threads; spinning for large models, and precise for int8 that could overflow."""
        plain = super().choices(facts, machine)
        spinning = [cls(threads=machine.cores, spin=True)] if machine.cores > 1 and facts.operations >= LARGE else []
        overflows = facts.activation_bits <= 8 and machine.saturates
        return (*plain, *spinning, *([cls(precise_int8=True)] if overflows else []))

    def predict(self, facts: Facts, machine: Machine) -> dict[str, float]:
        """Return the expected `latency_ms` at batch 1; the constants are explained in `trimtab.run.speed`."""
        return {"latency_ms": SPEED.latency_ms(facts, machine, self.threads)}

    def load(self, model: Model, machine: Machine) -> Session:
        """Load every part's graph."""
        return _Graphs({name: self._open(part, alone=len(model.parts) == 1) for name, part in model.parts.items()})

    def _open(self, part: Part, alone: bool) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = LEVELS[self.level]
        options.log_severity_level = ERRORS_ONLY
        # waiting threads that spin steal the core of those that work: on two busy cores p90 was 13.6 ms, 6.1 without
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(self.spin)))
        # each graph has threads of its own, which else spin on in another's turn: a cascade took 1.7 times as long
        options.add_session_config_entry("session.force_spinning_stop", str(int(not alone)))
        options.add_session_config_entry("session.x64quantprecision", str(int(self.precise_int8)))
        return onnxruntime.InferenceSession(str(guarded(part.path)), options, providers=["CPUExecutionProvider"])


class _Graphs:
    def __init__(self, graphs: Mapping[str, onnxruntime.InferenceSession]) -> None:
        self.graphs = graphs
        self.outputs = {name: [output.name for output in graph.get_outputs()] for name, graph in graphs.items()}

    def run(self, inputs: Arrays, part: str = "main") -> dict[str, NDArray[Any]]:
        names = self.outputs[part]
        return dict(zip(names, self.graphs[part].run(names, dict(inputs)), strict=True))

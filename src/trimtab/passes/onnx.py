"""Export a torch part to ONNX, and prove on real inputs that it still computes the same.

torch's exporters sometimes write a graph that loads and runs but computes something else, most often at another batch
size or length than the one they saw. So each export runs on onnxruntime at two of each against torch before it is
handed on; where the newer exporter fails or differs, the older one (TorchScript) is tried.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxscript.optimizer
import torch
from onnxscript import rewriter
from torch import nn

from trimtab.errors import Refused
from trimtab.fit import module as artefact
from trimtab.passes import Context, Pass, Stage
from trimtab.run import onnx_check, onnx_facts, onnx_files
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Part, Signature
from trimtab.values.task import Batch

EXPORTERS = ("dynamo", "torchscript")
OPSETS = range(17, 24)
TOLERANCE = 1e-4
"""Largest difference from torch, as a share of the largest output (at least 1): float32 sums in another order."""
SEARCHED = 256
"""Training examples among which the shortest and the longest are looked for."""


@dataclass(frozen=True)
class Onnx(Pass):
    """Export to ONNX, outputs compared with torch on real inputs."""

    opset: int = 20
    """onnxruntime 1.20 and OpenVINO 2025 and later read it, and it has GELU and layer normalization."""
    exporter: str = "dynamo"
    """Tried first: `dynamo`, or `torchscript`, which is quicker."""

    formats: ClassVar[Mapping[str, str]] = {"torch": "onnx"}
    stage: ClassVar[Stage] = "export"

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise ValueError(f"opset is {OPSETS.start} to {OPSETS.stop - 1}, got {self.opset}")
        if self.exporter not in EXPORTERS:
            raise ValueError(f"exporter is {' or '.join(EXPORTERS)}, got {self.exporter!r}")

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return the one setting worth trying."""
        return (cls(),) if facts.format in cls.formats else ()

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Return the same facts in the new format."""
        return replace(facts, format="onnx")

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Say why where the model has parts whose inputs a task's batch does not hold."""
        if len(model.parts) > 1 or model.main.signature.state:
            return (
                "onnx exports models of one part without state; export each part by itself and open it with onnx:FILE"
            )
        return None

    def apply(self, model: Model, context: Context) -> Model:
        """Return the model as ONNX, with the exporter used and the greatest difference in its notes."""
        (name, part), *_ = model.parts.items()
        module = artefact.load(part)
        names = (self.exporter, *(e for e in EXPORTERS if e != self.exporter))
        failures: list[str] = []
        for done, exporter in enumerate(names):
            context.check_time()
            context.progress(f"exporting to ONNX with {exporter}", done / len(names))
            try:
                proto = self._export(exporter, module, part.signature, artefact.example(context.task))
                difference = _difference(proto, module, part.signature, context)
            except MemoryError:
                raise
            except Exception as error:
                failures.append(f"{exporter}: {_first_line(error)}")
                continue
            return self._finished(
                model, {name: _saved(proto, part, context, name)}, _notes(exporter, difference, failures)
            )
        raise Refused(f"this module cannot be exported to ONNX ({'; '.join(failures)})")

    def _finished(self, model: Model, parts: dict[str, Part], notes: dict[str, Any]) -> Model:
        return model.map_parts(parts, notes={**model.notes, "onnx": {"opset": self.opset, **notes}})

    def _export(self, exporter: str, module: nn.Module, signature: Signature, batch: Batch) -> onnx.ModelProto:
        arguments = artefact.arguments(batch, signature)
        axes = [{i: n for i, n in enumerate(s.shape) if isinstance(n, str)} for s in signature.inputs]
        named: dict[str, Any] = {
            "input_names": [spec.name for spec in signature.inputs],
            "output_names": [spec.name for spec in signature.outputs],
            "opset_version": self.opset,
        }
        with onnx_check.quietly(), torch.no_grad():
            export = _dynamo if exporter == "dynamo" else _torchscript
            return _tidy(export(module, arguments, axes, named))


def _dynamo(module: nn.Module, arguments: Any, axes: list[dict[int, str]], named: dict[str, Any]) -> onnx.ModelProto:
    dims = {name: torch.export.Dim(name) for axis in axes for name in axis.values()}
    shapes = tuple({i: dims[name] for i, name in axis.items()} for axis in axes)
    program = torch.onnx.export(module, arguments, dynamo=True, dynamic_shapes=shapes, verbose=False, **named)
    if program is None:
        raise RuntimeError("the exporter gave nothing")
    return program.model_proto


def _torchscript(
    module: nn.Module, arguments: Any, axes: list[dict[int, str]], named: dict[str, Any]
) -> onnx.ModelProto:
    dynamic = dict(zip(named["input_names"], axes, strict=True))
    dynamic |= {name: {0: "batch"} for name in named["output_names"]}
    file = io.BytesIO()
    export: Any = torch.onnx.export  # its annotation leaves out the file objects that this exporter writes to
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a fused operator that ONNX does not have
    try:
        export(module, arguments, file, dynamo=False, dynamic_axes=dynamic, verbose=False, **named)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return onnx.load_model_from_string(file.getvalue())


def _tidy(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants and batch norms, and drop the source lines and file paths that exporters leave behind."""
    proto = rewriter.rewrite(onnxscript.optimizer.optimize(proto))
    for graph in onnx_facts.graphs_of(proto):
        kinds = ("node", "value_info", "input", "output", "initializer")
        values = (thing for kind in kinds for thing in getattr(graph, kind, ()) if not isinstance(thing, str))
        for thing in (graph, *values):
            thing.ClearField("metadata_props")
            thing.ClearField("doc_string")
    proto.ClearField("metadata_props")
    return proto


def _difference(proto: onnx.ModelProto, module: nn.Module, signature: Signature, context: Context) -> float:
    """Return the greatest absolute difference from torch; raises Refused where it is beyond the tolerance."""
    session = onnx_check.session(proto.SerializeToString())
    wanted = [value.name for value in session.get_inputs()]
    worst = 0.0
    for batch in _batches(context):
        with torch.no_grad():
            expected = artefact.named(module(*artefact.arguments(batch, signature)))
        given = session.run(list(expected), {name: batch.inputs[name] for name in wanted})
        for (name, tensor), array in zip(expected.items(), given, strict=True):
            worst = max(worst, _compare(name, tensor.numpy(), array, len(batch)))
    return worst


def _batches(context: Context) -> list[Batch]:
    """Return the shortest training example alone, and the longest ones together: exporters fix sizes they saw."""
    examples = context.task.split("train")
    chosen = sorted(
        (examples[i] for i in range(min(SEARCHED, len(examples)))),
        key=lambda example: sum(array.size for array in example.inputs.values()),
    )
    return [context.task.task.collate(chosen[:1]), context.task.task.collate(chosen[-5:])]


def _compare(name: str, expected: Any, given: Any, size: int) -> float:
    if expected.shape != given.shape:
        raise Refused(f"{name} has the shape {given.shape} at batch {size}, torch gives {expected.shape}")
    difference = float(np.max(np.abs(expected - given), initial=0.0))
    limit = TOLERANCE * max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    if not difference <= limit:
        raise Refused(f"{name} differs from torch by {difference:.3g} at batch {size}; at most {limit:.3g} is accepted")
    return difference


def _saved(proto: onnx.ModelProto, part: Part, context: Context, name: str) -> Part:
    batch = artefact.example(context.task)
    shapes = [(spec.shape, batch.inputs[spec.name].shape) for spec in part.signature.inputs]
    sizes = {n: size for names, sizes in shapes for n, size in zip(names, sizes, strict=True) if isinstance(n, str)}
    return onnx_files.save(proto, context.scratch / name, sizes | {"batch": 1})


def _notes(exporter: str, difference: float, failures: list[str]) -> dict[str, Any]:
    return {"exporter": exporter, "max_difference": difference, "failed_first": failures}


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__

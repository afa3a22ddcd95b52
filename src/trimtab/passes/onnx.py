"""Export torch parts to ONNX, and prove on real inputs that they still compute the same.

torch's exporters sometimes write a graph that loads and runs but computes something else, most often at another batch
size or length than the one they saw. So the whole program runs in torch at two of each, what every part was given and
gave is kept, and each export must give the same on onnxruntime before it is handed on. Where the newer exporter fails
or differs, the older one (TorchScript) is tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from trimtab.errors import Refused
from trimtab.fit import module as artefact
from trimtab.fit.exporting import reason
from trimtab.fit.program import by_name
from trimtab.maths.gap import gap
from trimtab.passes import Context, Pass, Stage
from trimtab.passes._onnx_export import EXPORTERS, export
from trimtab.passes._turn import rows_last
from trimtab.run import onnx_check, onnx_files
from trimtab.run.program import drive
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Cascade, Model, Part, Signature
from trimtab.values.session import Arrays
from trimtab.values.task import Batch

OPSETS = range(17, 24)
TOLERANCE = 1e-4
"""Largest difference from torch, as a share of the largest output (at least 1): float32 sums in another order."""
SEARCHED = 256
"""Training examples among which the shortest and the longest are looked for."""
UNSURE = 2.0
"""A threshold that no probability reaches: every stage of a cascade is asked."""
REMEDY = (
    "Without ONNX it can still be served by torch, with other threads, and pruned or distilled there; "
    "or mend the code so that it has tensors only (torch.where, masks)"
)


@dataclass(frozen=True)
class Onnx(Pass):
    """Export to ONNX, outputs compared with torch on real inputs."""

    opset: int = 20
    """onnxruntime 1.20 and OpenVINO 2025 and later read it, and it has GELU and layer normalization."""
    exporter: str = "dynamo"
    """Tried first: `dynamo`, or `torchscript`, which is quicker."""

    formats: ClassVar[Mapping[str, str]] = {"torch": "onnx"}
    stage: ClassVar[Stage] = "export"
    version: ClassVar[int] = 3

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

    def apply(self, model: Model, context: Context) -> Model:
        """Return the model as ONNX, with the exporters used and the greatest difference in its notes."""
        context.check_time()
        recorder = Recorder.load(model)
        first = recorder.calls(artefact.example(context.task))
        known = [recorder.calls(batch) for batch in _batches(context)]
        parts, exporters, failures, difference = dict[str, Part](), list[str](), list[str](), 0.0
        for name, part in model.parts.items():
            if not first[name]:
                raise Refused(f"the part {name!r} was not run on any example, so its export cannot be checked")
            seen = _Seen(name, recorder.modules[name], first[name], [call for calls in known for call in calls[name]])
            proto, exporter, worst = self._exported(part.signature, seen, context, failures)
            saved = onnx_files.save(proto, context.scratch / name, _sizes(part.signature, first[name][0].inputs))
            parts[name] = replace(saved, signature=replace(saved.signature, state=part.signature.state))
            exporters, difference = [*exporters, exporter], max(difference, worst)
        said = {"exporter": ", ".join(dict.fromkeys(exporters)), "max_difference": difference, "failed_first": failures}
        return model.map_parts(parts, notes={**model.notes, "onnx": {"opset": self.opset, **said}})

    def _exported(
        self, signature: Signature, seen: _Seen, context: Context, failures: list[str]
    ) -> tuple[onnx.ModelProto, str, float]:
        """Return a checked graph of one part, its exporter and the greatest difference from torch."""
        names = (self.exporter, *(e for e in EXPORTERS if e != self.exporter))
        mine: list[str] = []
        for done, exporter in enumerate(names):
            context.check_time()
            context.progress(f"exporting {seen.part} to ONNX with {exporter}", done / len(names))
            try:
                call = seen.first[min(1, len(seen.first) - 1)]  # of a decoder the second: the first may have no past
                given = [torch.from_numpy(np.array(call.inputs[spec.name])) for spec in signature.inputs]
                proto = export(exporter, seen.module, given, signature, self.opset)
                rows_last(proto)
                worst = _difference(proto, seen.known)
            except MemoryError:
                raise
            except Exception as error:
                mine.append(f"{exporter}: {reason(error)}")
                continue
            failures += mine
            return proto, exporter, worst
        which = "this module" if seen.part == "main" else f"the part {seen.part!r}"
        raise Refused(f"{which} cannot be exported to ONNX ({'; '.join(mine)}). {REMEDY}")


@dataclass(frozen=True)
class Call:
    """What a part was given once, and what it gave."""

    inputs: Arrays
    outputs: Arrays


@dataclass(frozen=True)
class _Seen:
    """A part's module with calls to export it with, and others to check it by."""

    part: str
    module: nn.Module
    first: Sequence[Call]
    known: Sequence[Call]


@dataclass
class Recorder:
    """A session that runs parts in torch and remembers what they were given and gave."""

    model: Model
    modules: dict[str, nn.Module]
    made: dict[str, list[Call]] = field(default_factory=dict)

    @classmethod
    def load(cls, model: Model) -> Recorder:
        """Load every part; a cascade is driven through all of its stages."""
        if isinstance(model.program, Cascade):
            thresholds = (UNSURE,) * len(model.program.thresholds)
            model = replace(model, program=replace(model.program, thresholds=thresholds))
        return cls(model, {name: artefact.load(part) for name, part in model.parts.items()})

    def calls(self, batch: Batch) -> dict[str, list[Call]]:
        """Run the whole program on a batch and return each part's first, second and last call."""
        self.made = {name: [] for name in self.modules}
        drive(self.model, self, batch.inputs)
        return {
            name: [calls[i] for i in sorted({*range(len(calls))[:2], *range(len(calls))[-1:]})]
            for name, calls in self.made.items()
        }

    @torch.no_grad()
    def run(self, inputs: Arrays, part: str = "main") -> dict[str, NDArray[Any]]:
        """Run one part."""
        signature = self.model.parts[part].signature
        given = (torch.from_numpy(np.array(inputs[spec.name])) for spec in signature.inputs)
        named = by_name(self.modules[part](*given), signature)
        outputs = {name: value.numpy() for name, value in named.items()}
        self.made[part].append(Call(dict(inputs), outputs))
        return outputs


def _difference(proto: onnx.ModelProto, calls: Sequence[Call]) -> float:
    """Return the greatest absolute difference from torch; raises Refused where it is beyond the tolerance."""
    session = onnx_check.session(proto.SerializeToString())
    wanted = [value.name for value in session.get_inputs()]
    worst = 0.0
    for call in calls:
        given = session.run(list(call.outputs), {name: call.inputs[name] for name in wanted})
        for (name, expected), array in zip(call.outputs.items(), given, strict=True):
            worst = max(worst, _compare(name, expected, array, len(expected)))
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
    difference, largest = gap(given, expected)
    limit = TOLERANCE * max(1.0, largest)
    if not difference <= limit:
        raise Refused(f"{name} differs from torch by {difference:.3g} at batch {size}; at most {limit:.3g} is accepted")
    return difference


def _sizes(signature: Signature, given: Arrays) -> dict[str, int]:
    """Return what the names in a part's shapes stand for in one example."""
    shapes = [(spec.shape, given[spec.name].shape) for spec in signature.inputs]
    sizes = {n: size for names, sizes in shapes for n, size in zip(names, sizes, strict=True) if isinstance(n, str)}
    return sizes | {"batch": 1}

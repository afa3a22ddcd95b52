"""What passes over ONNX graphs share: the sizes that a task fixes, the outputs it reads, and the proof of sameness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from trimtab.errors import Refused
from trimtab.maths.gap import gap
from trimtab.passes import Context
from trimtab.run import onnx_check, onnx_facts, onnx_files
from trimtab.run.onnx_guard import guarded
from trimtab.run.program import drive
from trimtab.values.facts import Facts
from trimtab.values.model import Model, Part, Scan, Single
from trimtab.values.session import Arrays, Session
from trimtab.values.task import Batch, TaskView

SEEN = 256
"""Examples of a split from which sizes are learnt."""
CHECKED = 4
"""Training examples on which two graphs must answer the same."""


def in_one_call(facts: Facts) -> Facts:
    """Return facts of one call that does the work of all."""
    by = {kind: count * facts.calls for kind, count in facts.operations_by.items()}
    return replace(facts, operations=facts.operations * facts.calls, operations_by=by, calls=1)


def example_sizes(model: Model, view: TaskView) -> dict[str, int]:
    """Return the symbolic sizes of the part `main` on which all `SEEN` examples agree, the batch not among them.

    Only programs that call one part are looked into; a size that varies, such as a time axis, is left out.
    """
    if not isinstance(model.program, Single | Scan):
        return {}
    part = model.parts[model.program.part]
    over = model.program.over if isinstance(model.program, Scan) else ()
    found: dict[str, set[int]] = {}
    for split in ("train", "validation"):
        examples = view.split(split)
        for number in range(min(SEEN, len(examples))):
            inputs = examples[number].inputs
            for spec in (spec for spec in part.signature.inputs if spec.name in inputs):
                wanted, sizes = spec.shape[1:], inputs[spec.name].shape
                if spec.name in over:
                    wanted, sizes = wanted[len(wanted) - len(sizes) + 1 :], sizes[1:]
                for name, size in zip(wanted, sizes, strict=False):
                    found.setdefault(str(name), set()).add(size)
    return {name: sizes.pop() for name, sizes in found.items() if len(sizes) == 1 and not name.isdigit()}


def set_sizes(model: onnx.ModelProto, sizes: Mapping[str, int]) -> None:
    """Give symbolic sizes of inputs and outputs a number, in place, and forget the shapes inferred inside."""
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value"):
                continue
            size = sizes.get(dim.dim_param or ("batch" if axis == 0 else f"{value.name}_{axis}"))
            if size is not None:
                dim.dim_value = size


def outputs_read(model: Model, batch: Batch, context: Context) -> frozenset[str]:
    """Return the outputs of the program that the task scores, seen by watching it do so."""
    watched = _Watched(drive(model, Graphs.of(model), batch.inputs))
    context.task.task.score(watched, batch)
    return frozenset(watched.read)


def first_batch(context: Context) -> Batch:
    """Return a few training examples as a batch."""
    return next(context.task.batches("train", CHECKED))


def largest_difference(before: Model, after: Model, batch: Batch) -> float:
    """Return the largest difference between the outputs that both models give, as a share of the largest of them.

    Infinity where one gives a number and the other does not, or where whole numbers differ. The last state, which the
    driver does not put together again where the batch is fixed, shows in the steps before.
    """
    ours, theirs = (drive(model, Graphs.of(model), batch.inputs) for model in (after, before))
    state = {output for part in after.parts.values() for output in part.signature.state}
    names = [name for name in ours if name not in state or ours[name].shape == theirs[name].shape]
    return max((_difference(ours[name], theirs[name]) for name in names), default=0.0)


def check_same(before: Model, after: Model, batch: Batch, allowed: float) -> float:
    """Return the largest difference; raises Refused where it is more than `allowed`, a share."""
    found = largest_difference(before, after, batch)
    if not found <= allowed:
        raise Refused(
            f"the new graph answers otherwise: outputs differ by {found:.2g} of the largest, at most {allowed:g}"
        )
    return found


def count_nodes(model: onnx.ModelProto, kinds: Sequence[str] = ()) -> int:
    """Count the nodes of all graphs, or those of some operators."""
    nodes = (node for graph in onnx_facts.graphs_of(model) for node in graph.node)
    return sum(not kinds or node.op_type in kinds for node in nodes)


def saved(model: onnx.ModelProto, part: Part, context: Context, name: str, sizes: Mapping[str, int]) -> Part:
    """Write the graph as the part's successor: its state and what is known of its quality stay."""
    shapes = {value.name: value.type.tensor_type.shape for value in model.graph.input}
    for value in model.graph.output:
        if part.signature.state.get(value.name) in shapes:
            value.type.tensor_type.shape.CopyFrom(shapes[part.signature.state[value.name]])
    written = onnx_files.save(model, context.scratch / name, {**sizes, "batch": 1})
    kept = {
        key: getattr(part.facts, key)
        for key in ("quality_loss", "cut", "blocks", "calls", "dynamic", "activation_bits")
    }
    found = written.facts
    plain = replace(part.facts, parameters=found.parameters, stored=found.stored)
    facts = replace(found, **kept) if sizes else plain
    inputs = {spec.name for spec in written.signature.inputs}
    state = {output: name for output, name in part.signature.state.items() if name in inputs}
    return replace(written, facts=facts, signature=replace(written.signature, state=state))


@dataclass(frozen=True)
class Graphs:
    """A session of onnxruntime on every part, for checks inside a pass."""

    sessions: Mapping[str, Any]

    @classmethod
    def of(cls, model: Model) -> Graphs:
        """Load every part."""
        return cls({name: onnx_check.session(guarded(part.path)) for name, part in model.parts.items()})

    def run(self, inputs: Arrays, part: str = "main") -> dict[str, NDArray[Any]]:
        """Return the part's outputs by name."""
        names = [value.name for value in self.sessions[part].get_outputs()]
        return dict(zip(names, self.sessions[part].run(names, dict(inputs)), strict=True))


def session(model: Model) -> Session:
    """Load a model's graphs in this process."""
    return Graphs.of(model)


class _Watched(Mapping[str, NDArray[Any]]):
    """Outputs that remember which of them were looked at."""

    def __init__(self, outputs: Mapping[str, NDArray[Any]]) -> None:
        self.outputs = outputs
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> NDArray[Any]:
        self.read.add(name)
        return self.outputs[name]

    def __contains__(self, name: object) -> bool:
        return name in self.outputs

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)


def _difference(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    difference, largest = gap(ours, theirs)
    return difference / (largest or 1.0) if np.isfinite(difference) else float("inf")

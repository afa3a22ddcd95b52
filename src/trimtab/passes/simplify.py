"""Simplify an ONNX graph without changing what it computes: fold constants, decide branches, drop what is not needed.

onnxscript's optimizer does the folding. What it needs to know is which sizes never change: the first examples of
training and validation tell that. Then shapes are constants, and with them most conditions. Weights in `Constant` nodes
become initializers, where quantizers look for them. Rows of few features are laid out with the features in front.
Convolution, batch norm and activation are left as they are: every runtime fuses them itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import onnx

from trimtab.passes import Context, Pass, Stage, Use
from trimtab.passes._fold import folded
from trimtab.passes._graph import check_same, count_nodes, example_sizes, first_batch, outputs_read, saved, set_sizes
from trimtab.passes._turn import rows_last
from trimtab.run import onnx_check, onnx_facts, onnx_files
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Part, Scan, Single

BRANCHES = ("If",)
ALLOWED = 1e-4
"""Largest difference of the outputs, as a share of the largest: folding rounds otherwise, and does no more."""


@dataclass(frozen=True)
class Simplify(Pass):
    """Fold constants, decide branches, drop what nobody reads; the answers stay the same."""

    batch: int = 0
    """A fixed number of examples a call, which lets a runtime plan its memory; 0 leaves it free."""
    sizes: bool = True
    """Fix the other sizes on which the first examples agree; a graph that meets another size refuses it."""

    formats: ClassVar[Mapping[str, str]] = {"onnx": "onnx"}
    stage: ClassVar[Stage] = "graph"
    version: ClassVar[int] = 3
    uses: ClassVar[frozenset[Use]] = frozenset({"train", "validation"})

    def __post_init__(self) -> None:
        if self.batch < 0:
            raise ValueError(f"batch is a number of examples, or 0 for any, got {self.batch}")

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return any batch, and one example at a time."""
        return (cls(), cls(batch=1))

    def seconds(self, facts: Facts, machine: Machine) -> float | None:
        """Return about a second, and more for many weights."""
        return 1.0 + facts.parameters / 2e7

    def apply(self, model: Model, context: Context) -> Model:
        """Return the simplified model; notes say what went, which sizes are fixed now, and the difference measured.

        Raises:
            Refused: the graph cannot be read by the optimizer, or would answer otherwise.
        """
        context.check_time()
        batch = first_batch(context)
        sizes = example_sizes(model, context.task)
        kept = self._kept(model, outputs_read(model, batch, context))
        parts, notes = {}, {}
        for done, (name, part) in enumerate(model.parts.items()):
            context.check_time()
            context.progress(f"simplifying {name}", done / len(model.parts))
            parts[name], notes[name] = self._part(name, part, context, sizes, kept)
        after = model.map_parts(parts)
        difference = check_same(model, after, batch, ALLOWED)
        said = notes["main"] if list(notes) == ["main"] else notes
        return replace(after, notes={**model.notes, "simplify": {**said, "largest_difference": difference}})

    def _kept(self, model: Model, read: frozenset[str]) -> frozenset[str] | None:
        """Return the outputs that are needed; None for all, where several parts feed each other."""
        if not isinstance(model.program, Single | Scan):
            return None
        return read | set(model.parts[model.program.part].signature.state)

    def _part(
        self, name: str, part: Part, context: Context, sizes: Mapping[str, int], kept: frozenset[str] | None
    ) -> tuple[Part, dict[str, Any]]:
        proto = onnx_files.load(part)
        counts = [count_nodes(proto), count_nodes(proto, BRANCHES)]
        fixed = {**(sizes if self.sizes else {}), **({"batch": self.batch} if self.batch else {})}
        outputs = _drop(proto.graph.output, lambda value: kept is not None and value not in kept)
        set_sizes(proto, fixed)
        with onnx_check.quietly():
            proto = folded(proto, context.check_time)
            turned = rows_last(proto)
        used = _read(proto)
        inputs = _drop(proto.graph.input, lambda value: value not in used)
        notes: dict[str, Any] = {}
        notes |= {"nodes": [counts[0], count_nodes(proto)], "branches": [counts[1], count_nodes(proto, BRANCHES)]}
        notes |= {"features_first": turned, "outputs_dropped": outputs, "inputs_dropped": inputs, "sizes": fixed}
        return saved(proto, part, context, name, sizes), notes


def _drop(values: Any, needless: Callable[[str], bool]) -> list[str]:
    """Take inputs or outputs off a graph's list, in place; return their names."""
    dropped = [value for value in values if needless(value.name)]
    for value in dropped:
        values.remove(value)
    return [value.name for value in dropped]


def _read(model: onnx.ModelProto) -> set[str]:
    nodes = (node for graph in onnx_facts.graphs_of(model) for node in graph.node)
    return {name for node in nodes for name in node.input} | {value.name for value in model.graph.output}

"""Turns an ONNX graph that takes one step of a sequence into one that takes any number of steps a call.

Called step by step, a small recurrent net spends its time on calls, and its products have one row each. Most of it
does not read the state: convolutions and products become one large batch over all steps, and the LSTM or GRU itself
runs over all steps in one operator. State still goes in and out, so that a stream can be cut into pieces of any length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from trimtab.errors import Refused
from trimtab.passes import Context, Pass, Stage, Use
from trimtab.passes._fold import folded
from trimtab.passes._graph import check_same, example_sizes, first_batch, in_one_call, outputs_read, saved, set_sizes
from trimtab.run import onnx_check, onnx_files
from trimtab.run.onnx_unroll import STEPS, CannotUnroll, unrolled
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Scan, Single

ALLOWED = 1e-3
"""Largest difference of the outputs, as a share of the largest: other kernels round otherwise in each step."""


@dataclass(frozen=True)
class Unroll(Pass):
    """Take any number of steps of a sequence a call, state going in and out; the answers stay the same."""

    formats: ClassVar[Mapping[str, str]] = {"onnx": "onnx"}
    stage: ClassVar[Stage] = "export"
    uses: ClassVar[frozenset[Use]] = frozenset({"train", "validation"})

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return the pass where a part is called step by step and an LSTM or GRU carries its state."""
        return (cls(),) if facts.calls > 1 and any(facts.layers.get(kind) for kind in ("lstm", "gru", "rnn")) else ()

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Return facts of one call that does the work of all."""
        return in_one_call(facts)

    def seconds(self, facts: Facts, machine: Machine) -> float | None:
        """Return about a second, and more for many weights."""
        return 1.0 + facts.parameters / 2e7

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Refuse models that take whole sequences already."""
        if isinstance(model.program, Scan):
            return None
        return "unroll takes models that are called step by step along a sequence, and this one is not"

    def apply(self, model: Model, context: Context) -> Model:
        """Return the model that takes whole sequences; notes say what it was, and the difference measured.

        Raises:
            Refused: the graph carries state in a way that is not understood, or would answer otherwise.
        """
        context.check_time()
        program = model.program
        if not isinstance(program, Scan):
            raise Refused(str(self.refuses(model, context.machine)))
        batch, part = first_batch(context), model.parts[program.part]
        proto, sizes = onnx_files.load(part), example_sizes(model, context.task)
        read = outputs_read(model, batch, context) | set(part.signature.state)
        for value in [value for value in proto.graph.output if value.name not in read]:
            proto.graph.output.remove(value)
        set_sizes(proto, sizes)
        with onnx_check.quietly():
            proto = folded(proto, context.check_time)
        try:
            whole = unrolled(proto, program.over, part.signature.state)
        except CannotUnroll as reason:
            raise Refused(f"unroll cannot take this graph: {reason}") from reason
        sizes = {**sizes, STEPS: part.facts.calls}
        written = saved(whole, part, context, program.part, sizes)
        written = replace(written, facts=replace(written.facts, calls=1))
        after = replace(model.map_parts({program.part: written}), program=Single(program.part))
        difference = check_same(model, after, batch, ALLOWED)
        notes: dict[str, Any] = {"over": list(program.over), "largest_difference": difference}
        return replace(after, notes={**model.notes, "unroll": notes})

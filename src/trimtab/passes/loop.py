"""Puts a greedy decoder, encoder and all, into one ONNX graph, so that a runtime decodes without coming back.

Decoding step by step, a small recurrent net spends more time on calls and on choosing the next token outside than on
its layers. In the graph a `Loop` runs the decoder until every row has said its stop token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from trimtab.errors import Refused
from trimtab.passes import Context, Pass, Stage, Use
from trimtab.passes._graph import check_same, first_batch, in_one_call, outputs_read
from trimtab.run import onnx_files
from trimtab.run.onnx_loop import CHANCE, CannotLoop, looped
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Greedy, Model, Single

ALLOWED = 1e-3
"""Largest difference of log-probabilities, as a share of the largest; tokens must be the same."""


@dataclass(frozen=True)
class Loop(Pass):
    """Decode inside one graph; the answers stay the same."""

    formats: ClassVar[Mapping[str, str]] = {"onnx": "onnx"}
    stage: ClassVar[Stage] = "program"
    uses: ClassVar[frozenset[Use]] = frozenset({"train"})

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return the pass where a part is called again and again, and is no detector of single steps."""
        return (cls(),) if facts.calls > 1 and facts.layers.get("embedding") else ()

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Return facts of one call that does the work of all."""
        return in_one_call(facts)

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Refuse models that decode nothing."""
        if isinstance(model.program, Greedy):
            return None
        return "loop takes models that decode token by token, and this one does not"

    def apply(self, model: Model, context: Context) -> Model:
        """Return the model as one part; notes hold the difference measured.

        Raises:
            Refused: the parts cannot be put into one graph, or it would answer otherwise.
        """
        context.check_time()
        program = model.program
        if not isinstance(program, Greedy):
            raise Refused(str(self.refuses(model, context.machine)))
        batch = first_batch(context)
        chances = CHANCE in outputs_read(model, batch, context)
        try:
            proto = looped(
                {name: (onnx_files.load(part), part) for name, part in model.parts.items()}, program, chances
            )
        except CannotLoop as reason:
            raise Refused(f"loop cannot take this model: {reason}") from reason
        written = onnx_files.save(proto, context.scratch / "main")
        whole = model.facts
        facts = replace(self.predict(whole, context.machine), stored=written.facts.stored)
        after = replace(model, parts={"main": replace(written, facts=facts)}, program=Single())
        difference = check_same(model, after, batch, ALLOWED)
        return replace(after, notes={**model.notes, "loop": {"largest_difference": difference}})

"""Puts a small fresh net of the zoo in the place of the whole one, to be taught by it.

A net that was made for a thousand kinds of pictures, or for any text, is deep because its first task asked for it; a
shallow one often learns what it answers on the task at hand (Hinton et al. 2015, arXiv 1503.02531, section 3; Ba and
Caruana 2014, arXiv 1312.6184). The student knows nothing at first: `distill` comes behind it.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from trimtab.errors import DataError, RecipeError, Refused
from trimtab.fit.checkpoint import seeded
from trimtab.passes import Context, Pass, Stage, Use
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Signature, Single
from trimtab.values.registry import registry

WIDTHS = (8, 16, 24, 32, 48, 64, 96, 128)
DEEP = 16
"""Convolutions from which a net is so deep that a shallow student is worth trying."""
LAYERS = {"conv": 10, "norm": 10, "linear": 1}
"""Of the student that is offered, zoo:resnet."""
UNTAUGHT = 1.0
"""Share of the score that a net lacks which was taught nothing."""


@dataclass(frozen=True)
class Student(Pass):
    """Replaces the net by the widest `zoo:` net that takes at most a `share` of its operations."""

    net: str = "resnet"
    """A net of the zoo that has a width, such as `resnet`, `vgg`, `mlp`, `lstm`, `gru` or `transformer`."""
    share: float = 0.1
    """Of the operations, above 0 and below 1."""

    formats: ClassVar = {"torch": "torch"}
    stage: ClassVar[Stage] = "structure"
    uses: ClassVar[frozenset[Use]] = frozenset({"seed"})

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share is above 0 and below 1, got {self.share}")

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return a small and a smaller student for deep convolutional nets."""
        return (cls(share=0.3), cls()) if not facts.cut and facts.layers.get("conv", 0) >= DEEP else ()

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Expect the share of operations, in few layers, and nothing learnt yet."""
        return replace(
            facts,
            parameters=round(facts.parameters * self.share),
            operations=round(facts.operations * self.share),
            operations_by={"conv": round(facts.operations * self.share)},
            parameters_by={},
            layers=LAYERS,
            quality_loss=UNTAUGHT,
            cut=1 - (1 - facts.cut) * self.share,
            blocks=0,
        )

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Take one network that one call answers."""
        if not isinstance(model.program, Single) or len(model.parts) > 1:
            return "student takes the place of one network that one call answers"
        return None

    def apply(self, model: Model, context: Context) -> Model:
        """Build students of growing width, and keep the widest that is small enough.

        Raises:
            Refused: even the narrowest is not, or the student takes or gives something else than the net.
        """
        reason = self.refuses(model, context.machine)
        if reason:
            raise Refused(reason)
        name, allowed = next(iter(model.parts)), self.share * model.main.facts.operations
        width = 0
        for wider in WIDTHS:
            context.check_time()
            with tempfile.TemporaryDirectory() as scratch:
                least = self._opened(wider, Path(scratch), context).main.facts.operations
            if least > allowed:
                break
            width = wider
        if not width:
            raise Refused(f"a {self.net} of width {WIDTHS[0]} takes {least} operations, more than {allowed:.0f}")
        part = self._opened(width, context.scratch, context).main
        _check(model.main.signature, part.signature)
        cut = 1 - part.facts.operations / max(1, model.main.facts.operations)
        part = replace(part, facts=replace(part.facts, cut=cut, quality_loss=UNTAUGHT))
        return model.map_parts({name: part}, notes={**model.notes, self.name(): {"net": self.net, "width": width}})

    def _opened(self, width: int, scratch: Path, context: Context) -> Model:
        try:
            with seeded(context.seed, context.threads):
                source = registry("sources").take("zoo")()
                opened: Model = source.open(f"{self.net}(width={width}, seed={context.seed})", scratch, context.task)
        except (DataError, RecipeError, ValueError) as error:
            raise Refused(f"the student cannot be made: {error}") from error
        return opened


def _check(net: Signature, student: Signature) -> None:
    """Raise Refused where the student does not take and give what the net does."""
    taken, given = ([[s.name for s in one.inputs], [(s.name, s.shape) for s in one.outputs]] for one in (net, student))
    if taken != given:
        raise Refused(f"the student takes and gives {given}, the net {taken}")

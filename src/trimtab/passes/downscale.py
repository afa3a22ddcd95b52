"""Reads images at a lower resolution: pixels are averaged in front of the net, which then has fewer places to look at.

A net's work falls with the square of the side. Where images were enlarged to what a pretrained net is used to, or show
large things, little is lost once the net has got used to the smaller ones (resolution is one of the three sizes that
Tan and Le 2019, arXiv 1905.11946, section 3, scale together).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from trimtab.errors import Refused
from trimtab.fit import module as artefact
from trimtab.fit import shrink
from trimtab.passes import Context, Pass, Stage
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Single

LEAST = 12
"""Pixels of a side below which little is left to see."""
LOSS = 0.12
"""Share of the score lost by half the side, before any recovery."""


@dataclass(frozen=True)
class Downscale(Pass):
    """Averages each `factor` x `factor` pixels into one before the net."""

    factor: int = 2
    """How many times shorter each side becomes."""

    formats: ClassVar = {"torch": "torch"}
    stage: ClassVar[Stage] = "structure"

    def __post_init__(self) -> None:
        if self.factor < 2:
            raise ValueError(f"factor is a whole number from 2, got {self.factor}")

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return half the side, for nets that work mostly in convolutions."""
        return (cls(),) if not facts.cut and 2 * facts.operations_by.get("conv", 0) > facts.operations else ()

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Expect the operations to fall with the square of the factor."""
        left = 1 / self.factor**2
        return replace(
            facts,
            operations=round(facts.operations * left),
            operations_by={kind: round(number * left) for kind, number in facts.operations_by.items()},
            quality_loss=min(1.0, facts.quality_loss + LOSS * (self.factor - 1)),
        )

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Take one network that reads images of a size that stays."""
        if not isinstance(model.program, Single) or len(model.parts) > 1:
            return "downscale takes models of one network, before they are put together"
        sides = [min(spec.shape[2:]) for spec in model.main.signature.inputs if shrink.is_image(spec)]
        if not sides:
            return "downscale takes images of a fixed size, channels first; this model takes none"
        if int(min(sides)) // self.factor < LEAST:
            return f"images of {min(sides)} pixels a side are too small to be {self.factor} times smaller"
        return None

    def apply(self, model: Model, context: Context) -> Model:
        """Put the average in front; the weights stay as they are."""
        context.check_time()
        part = model.main
        images = [shrink.is_image(spec) for spec in part.signature.inputs]
        module = shrink.averaged(artefact.load(part, editable=True), images, self.factor)
        example = artefact.example(context.task)
        sizes = tried(module, artefact.arguments(example, part.signature), "of smaller images")
        wanted = [spec.shape[1:] for spec in part.signature.outputs]
        if sizes != wanted:
            raise Refused(f"of smaller images this model gives {sizes}, not {wanted}")
        build, edits = artefact.edited(part)
        edits = [*edits, {"by": self.name(), "edit": {"images": images, "factor": self.factor}}]
        name = next(iter(model.parts))
        saved = artefact.save(module, context.scratch / name, part.signature, build, edits, example)
        loss = self.predict(part.facts, context.machine).quality_loss
        kept = replace(saved.facts, cut=part.facts.cut, quality_loss=loss)
        return model.map_parts({name: replace(saved, facts=kept)})

    @staticmethod
    def rebuild(module: nn.Module, edit: Mapping[str, Any]) -> nn.Module:
        """Put the recorded average in front of a freshly built module."""
        return shrink.averaged(module, [bool(image) for image in edit["images"]], int(edit["factor"]))


def tried(module: nn.Module, given: tuple[torch.Tensor, ...], what: str) -> list[tuple[int, ...]]:
    """Return the sizes, without the batch, of what the module gives; raises Refused where it fails."""
    try:
        with torch.no_grad():
            found = artefact.named(module.eval()(*given))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        first = str(error).partition("\n")[0][:200]
        raise Refused(f"{what} this model cannot take any: {first}") from error
    return [tuple(value.shape[1:]) for value in found.values()]

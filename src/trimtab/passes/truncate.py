"""Reads only the beginning of each sequence: what a text is about often shows early.

The work of recurrent nets falls with the length, that of attention faster. The length is a share of what most training
examples have, so that it fits any data; examples that are shorter stay whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from torch import nn

from trimtab.errors import Refused
from trimtab.fit import module as artefact
from trimtab.fit import shrink
from trimtab.passes import Context, Pass, Stage, Use
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Single
from trimtab.values.task import TaskView

LOOKED_AT = 2000
"""Training examples whose lengths are looked at."""
MOST = 0.95
"""Share of the examples that are no longer than what counts as the usual length."""
LOSS = 0.2
"""Share of the score lost for each share of the length, before any recovery."""
WORTH = 200_000_000
"""Operations from which a sequence is taken to be long."""


@dataclass(frozen=True)
class Truncate(Pass):
    """Reads the first steps of a sequence, a `share` of the usual length."""

    share: float = 0.5
    """Of the length that 95% of the training examples do not exceed, above 0 and below 1."""

    formats: ClassVar = {"torch": "torch"}
    stage: ClassVar[Stage] = "structure"
    uses: ClassVar[frozenset[Use]] = frozenset({"train"})

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share is above 0 and below 1, got {self.share}")

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return half the length, for nets that read long sequences."""
        reads = any(facts.layers.get(kind) for kind in ("attention", "lstm", "gru", "rnn"))
        return (cls(),) if reads and facts.operations >= WORTH else ()

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Expect the operations to fall with the length."""
        return replace(
            facts,
            operations=round(facts.operations * self.share),
            operations_by={kind: round(number * self.share) for kind, number in facts.operations_by.items()},
            quality_loss=min(1.0, facts.quality_loss + LOSS * (1 - self.share)),
        )

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Take one network that reads sequences of any length and gives one answer for each."""
        if not isinstance(model.program, Single) or len(model.parts) > 1:
            return "truncate takes models of one network, before they are put together"
        signature = model.main.signature
        if shrink.TIME not in shrink.roles(signature):
            return "truncate takes sequences of any length; this model takes none"
        if any(shrink.TIME in spec.shape for spec in signature.outputs):
            return "truncate takes models that answer once a sequence; this one answers at each step"
        return None

    def apply(self, model: Model, context: Context) -> Model:
        """Cut inputs off in front of the net; the weights stay as they are."""
        context.check_time()
        part, roles = model.main, shrink.roles(model.main.signature)
        first = next(spec.name for spec, role in zip(part.signature.inputs, roles, strict=True) if role == shrink.TIME)
        length = max(1, math.ceil(self.share * usual_length(context.task, first)))
        module = shrink.CutOff(artefact.load(part, editable=True), roles, length)
        build, edits = artefact.edited(part)
        edits = [*edits, {"by": self.name(), "edit": {"roles": roles, "length": length}}]
        name = next(iter(model.parts))
        example = artefact.example(context.task)
        saved = artefact.save(module, context.scratch / name, part.signature, build, edits, example)
        facts = self.predict(part.facts, context.machine)
        return model.map_parts(
            {name: replace(saved, facts=facts)}, notes={**model.notes, "truncate": {"length": length}}
        )

    @staticmethod
    def rebuild(module: nn.Module, edit: Mapping[str, Any]) -> nn.Module:
        """Cut off what a freshly built module reads, as recorded."""
        return shrink.CutOff(module, [str(role) for role in edit["roles"]], int(edit["length"]))


def usual_length(view: TaskView, name: str) -> int:
    """Return the length of an input that most training examples do not exceed; raises Refused where there is none."""
    examples = view.split("train")
    lengths = [len(examples[i].inputs[name]) for i in range(min(LOOKED_AT, len(examples)))]
    if not lengths:
        raise Refused("there are no training examples whose lengths could be looked at")
    return int(np.quantile(lengths, MOST, method="inverted_cdf"))

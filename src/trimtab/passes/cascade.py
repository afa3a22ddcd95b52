"""Puts a small model before the large one: the large one answers only where the small one is unsure.

Most examples are easy (Viola and Jones 2001, section 4, for faces; Wang et al. 2021, arXiv 2012.01988, for classifiers
at large). The small model is made from the given one by a recipe of its own, `first`; examples whose highest
probability reaches a threshold stop there. The threshold is chosen on validation data (`trimtab.fit.thresholds`) and
is part of the artefact, so the certificate covers it. An easy example is fast and a hard one slower than before:
latency is the mean of both, and `latency_p90` tells of the hard ones. It stands among the passes of recovery, so that
nothing is cut or retrained behind it, while export and quantization follow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from trimtab.errors import Refused, TrimtabError
from trimtab.fit import thresholds
from trimtab.fit.program import Net
from trimtab.passes import Context, Pass, Stage, Use
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Part
from trimtab.values.notation import Recipe
from trimtab.values.registry import registry
from trimtab.values.store import copy_folder

GOING_ON = 0.3
"""Share of examples expected to go on to the large model."""
PRUNED = "prune(ratio=0.9) | distill(steps=512)"
SHALLOW = "drop_layers(keep=1) | distill(steps=512)"
WORDS = "drop_layers(keep=0) | distill(steps=1024, alpha=0.0)"
SEEN_WORDS = f"prune(of='vocabulary') | {WORDS}"
"""A step moves every row of an embedding, seen or not: without the others it is quicker, and the stage smaller."""


@dataclass(frozen=True)
class Cascade(Pass):
    """Asks a small model first, and the given one where the small one is unsure."""

    first: str | Recipe = PRUNED
    """The recipe that makes the small model from the given one: passes that take torch and give torch."""
    loss: float = 0.002
    """Share of examples that may be wrong in addition, on validation data."""

    formats: ClassVar = {"torch": "torch"}
    stage: ClassVar[Stage] = "recover"
    uses: ClassVar[frozenset[Use]] = frozenset({"train", "validation", "base", "seed"})

    def __post_init__(self) -> None:
        if not 0 <= self.loss < 1:
            raise ValueError(f"loss is a share from 0 to below 1, got {self.loss}")
        try:
            recipe = Recipe.parse(str(self.first))
            object.__setattr__(self, "first", str(recipe))
            _check(recipe)
        except TrimtabError as error:
            raise ValueError(f"first is no recipe for a torch model: {error}") from error

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return a shallow first stage or words for nets of blocks with attention, a narrow one for convolutions."""
        if facts.cut:
            return ()
        if facts.blocks > 1 and facts.layers.get("attention"):
            words = (WORDS, SEEN_WORDS) if facts.layers.get("embedding") else ()
            return tuple(cls(first=first) for first in (SHALLOW, *words))
        return (cls(),) if facts.layers.get("conv") else ()

    def inner(self) -> str:
        """Return the recipe of the first stage."""
        return str(self.first)

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Expect three of ten examples to go on to the large model, and the loss that is allowed."""
        small = [*self._predicted(facts, machine)][-1]
        first, rest = (sum(each.layers.values()) for each in (small, facts))
        by = Counter(small.operations_by)
        by.update({kind: round(GOING_ON * number) for kind, number in facts.operations_by.items()})
        return replace(
            facts,
            parameters=small.parameters + facts.parameters,
            operations=small.operations + round(GOING_ON * facts.operations),
            layers=dict(Counter(small.layers) + Counter(facts.layers)),
            operations_by=dict(by),
            parameters_by=dict(Counter(small.parameters_by) + Counter(facts.parameters_by)),
            quality_loss=min(1.0, facts.quality_loss + self.loss),
            reached=(first + GOING_ON * rest) / (first + rest or 1),
            cut=0.0,
            blocks=0,
        )

    def seconds(self, facts: Facts, machine: Machine) -> float | None:
        """Expect what the passes of `first` take, as far as they tell."""
        before = [facts, *self._predicted(facts, machine)]
        told = [step.seconds(given, machine) for step, given in zip(_passes(str(self.first)), before, strict=False)]
        return sum(one for one in told if one) or None

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Take one network that one call answers."""
        return thresholds.unfit(model, self.name())

    def apply(self, model: Model, context: Context) -> Model:
        """Make the small model, choose the threshold and put both together."""
        context.check_time()
        reason = self.refuses(model, context.machine)
        if reason:
            raise Refused(reason)
        thresholds.check_objective(context.task, self.name())
        if context.make is None:
            raise Refused("cascade makes its first stage from a recipe, and here is nobody to run one")
        small = context.make(str(self.first))
        self._check_small(small)
        seen = thresholds.answers(context.task, Net.load(small), Net.load(model), context.check_time)
        choice = thresholds.choose(seen, self.loss)
        large = model.main
        thresholds.check_gain(choice, small.main.facts.operations, large.facts.operations, large.facts.operations)
        loss = min(1.0, large.facts.quality_loss + self.loss)
        parts = {
            "first": _copied(small.main, context.scratch / "first", loss),
            "main": _copied(large, context.scratch / "main", loss),
        }
        output = _answer(large)
        notes = {**choice.notes(), "first": str(self.first), "first_notes": _added(model, small)}
        return replace(model, parts=parts, program=choice.program(output), notes={**model.notes, self.name(): notes})

    def _check_small(self, small: Model) -> None:
        reason = thresholds.unfit(small, self.name())
        if small.format != "torch":
            reason = f"the first stage must be a torch model; {self.first} gives one of format {small.format}"
        if reason:
            raise Refused(reason)

    def _predicted(self, facts: Facts, machine: Machine) -> Iterator[Facts]:
        """Yield the facts expected after each pass of `first`."""
        for step in _passes(str(self.first)):
            facts = step.predict(facts, machine)
            yield facts


def _passes(text: str) -> list[Pass]:
    return [step.build(registry("passes").take(step.name)) for step in Recipe.parse(text).steps]


def _check(recipe: Recipe) -> None:
    """Raise ValueError where a recipe cannot make a torch model of a torch model."""
    if recipe.runtime is not None or not recipe.steps:
        what = f"names the runtime {recipe.runtime}" if recipe.runtime else "has no passes"
        raise ValueError(f"first is passes only, such as {PRUNED}; {str(recipe)!r} {what}")
    for step in _passes(str(recipe)):
        given = type(step).formats.get("torch", "no torch model")
        if given != "torch" or step.name() in ("cascade", "early_exit"):
            gives = "a cascade" if given == "torch" else given
            raise ValueError(f"first takes and gives one torch network; {step.name()} takes or gives {gives}")


def _copied(part: Part, folder: Path, loss: float) -> Part:
    """Copy a part's files, which lie in the store, into the new artefact."""
    copy_folder(part.path, folder)
    return replace(part, path=folder, facts=replace(part.facts, cut=0.0, quality_loss=loss))


def _answer(part: Part) -> str:
    names = [spec.name for spec in part.signature.outputs]
    return "output" if "output" in names else names[0]


def _added(model: Model, small: Model) -> dict[str, object]:
    return {name: note for name, note in small.notes.items() if model.notes.get(name) != note}

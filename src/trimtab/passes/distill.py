"""Teaches a smaller or damaged net to answer as the base does (Hinton et al. 2015, arXiv 1503.02531).

The base is the teacher: its whole distribution says more about an example than the label does, so a pruned net recovers
in a few epochs. Both see the same augmented batch, so the teacher answers anew each time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from trimtab.errors import Refused
from trimtab.fit import module as artefact
from trimtab.fit.loop import fit
from trimtab.fit.settings import Settings, Surroundings
from trimtab.passes import Context, Pass, Stage, Use
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Single


@dataclass(frozen=True)
class Distill(Pass):
    """Fits the weights to the base's answers and the labels."""

    epochs: int = 3
    """Passes over the train split."""
    steps: int | None = None
    """Optimizer steps in all; replaces `epochs`."""
    lr: float = 0.002
    """Highest learning rate."""
    temperature: float = 2.0
    """Softens both answers; above 1 the small probabilities count more."""
    alpha: float = 0.7
    """Share of the teacher in the loss, from 0 (labels only) to 1 (needs no labels)."""
    batch: int = 16
    """Examples a step."""
    optimizer: str = "adamw"
    """`adamw` or `sgd`."""
    weight_decay: float = 0.01
    """Decoupled from the gradient."""
    warmup: float = 0.1
    """Share of all steps over which the learning rate rises in a line to `lr`."""
    clip: float | None = None
    """Largest norm of the gradient of all weights together."""

    formats: ClassVar = {"torch": "torch"}
    stage: ClassVar[Stage] = "recover"
    uses: ClassVar[frozenset[Use]] = frozenset({"train", "validation", "base", "seed"})

    def __post_init__(self) -> None:
        self._settings()

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return a short and a longer recovery where structure was removed."""
        return (cls(epochs=3), cls(epochs=6)) if facts.cut else ()

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Expect each epoch to win back four fifths of what is still lost; 0.2 percent of it never comes back."""
        left = 0.002 + 0.2 ** (self.epochs if self.steps is None else 3)
        return replace(facts, cut=0.0, quality_loss=facts.quality_loss * min(1.0, left))

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Take one network only."""
        single = len(model.parts) == 1 and isinstance(model.program, Single)
        return None if single else f"distill fits one network, this model has the parts {', '.join(model.parts)}"

    def apply(self, model: Model, context: Context) -> Model:
        """Fit a copy of the model with the base as its teacher."""
        (name,) = model.parts
        base = context.base
        if base is None or base.format != "torch" or len(base.parts) != 1:
            came = "none" if base is None else f"one of format {base.format} with {len(base.parts)} parts"
            raise Refused(f"distill needs a base that is one torch network, to be the teacher; got {came}")
        module = artefact.load(model.main, editable=True)
        around = Surroundings(context.seed, context.threads, context.check_time, context.keep, context.progress)
        report = fit(module, context.task, self._settings(), around, artefact.load(base.main))
        build, edits = artefact.edited(model.main)
        example = artefact.example(context.task)
        part = artefact.save(module, context.scratch / name, model.main.signature, build, edits, example)
        expected = self.predict(model.main.facts, context.machine)
        part = replace(part, facts=replace(part.facts, cut=0.0, quality_loss=expected.quality_loss))
        notes: dict[str, Any] = {"history": list(report.history), "notes": list(report.notes)}
        return model.map_parts({name: part}, notes={**model.notes, "distill": notes})

    def _settings(self) -> Settings:
        kept = ("epochs", "steps", "lr", "temperature", "alpha", "batch", "optimizer", "weight_decay", "warmup", "clip")
        return Settings(**{key: getattr(self, key) for key in kept})

"""Teaches a smaller or damaged net to answer as the base does (Hinton et al. 2015, arXiv 1503.02531).

The base is the teacher: its whole distribution says more about an example than the label does, so a pruned net recovers
in few steps. Both see the same batch; a teacher whose examples stay the same is asked once for each. A task without
labels is learnt from the teacher alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from trimtab.errors import Refused
from trimtab.fit.effort import epochs_worth, precision_of, step_seconds, steps_worth, still_lost, uncut
from trimtab.fit.loop import fit
from trimtab.fit.program import Net, unfit
from trimtab.fit.settings import Settings, Surroundings
from trimtab.passes import Context, Pass, Stage, Use
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model

DEAR_TEACHER = 2.5
"""Times as long as a step on labels alone a step with the teacher takes, from which both are offered."""
ASKED = 500
"""Steps after which a teacher's answers come again: four epochs of a small data set (`trimtab.fit.teacher`)."""


@dataclass(frozen=True)
class Distill(Pass):
    """Fits the weights to the base's answers and the labels."""

    epochs: int = 3
    """Passes over the train split."""
    steps: int | None = None
    """Optimizer steps in all; replaces `epochs`."""
    lr: float | None = None
    """Highest learning rate; None: 0.002; 0.0001 for large nets with attention, 0.0005 for 20 convolutions and more."""
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
    """Largest norm of the gradient of all weights; None: 1 for nets with attention or recurrence, else none."""
    features: bool = False
    """Match the hidden states of the teacher's blocks too, through learnt projections that are thrown away."""
    precision: str = "fp32"
    """`fp32`, or `bf16` for processors that multiply it: products in bf16, weights in fp32."""

    formats: ClassVar = {"torch": "torch"}
    stage: ClassVar[Stage] = "recover"
    version: ClassVar[int] = 5
    uses: ClassVar[frozenset[Use]] = frozenset({"train", "validation", "base", "seed"})

    def __post_init__(self) -> None:
        self._settings()

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return a short, a medium and a long recovery on this machine, where something was lost.

        Where asking the teacher leaves time for few steps, also those that learn from the labels alone.
        """
        if not facts.cut and not facts.quality_loss:
            return ()
        precision = precision_of(facts, machine)
        second, own = (step_seconds(facts, machine, cls.batch, taught=t, precision=precision) for t in (True, False))
        taught, alone = steps_worth(second), steps_worth(own)
        few = taught != alone and second > DEAR_TEACHER * own
        offered = [*((steps, cls.alpha) for steps in taught), *((steps, 0.0) for steps in alone if few)]
        return tuple(cls(steps=steps, alpha=alpha, precision=precision) for steps, alpha in offered)

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Expect the more to be won back, the longer it takes; one recovery after another is one that is as long."""
        whole, before = facts.whole, facts.recovered
        if facts.cut:
            whole, before = max(whole, round(uncut(facts))), 0.0
        after = before + epochs_worth(self.epochs, self.steps, facts.layers.get("conv", 0))
        lost = facts.quality_loss * still_lost(after) / still_lost(before)
        return replace(facts, cut=0.0, whole=whole, recovered=after, quality_loss=lost)

    def seconds(self, facts: Facts, machine: Machine) -> float | None:
        """Expect what the steps take, and the teacher; epochs tell nothing without the number of examples."""
        asked, own = (
            step_seconds(facts, machine, self.batch, taught=t, precision=self.precision) for t in (True, False)
        )
        if not self.steps or not own:
            return None
        return self.steps * own + (min(self.steps, ASKED) * (asked - own) if self.alpha > 0 else 0.0)

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Take one call, a scan or a decoder; a cascade has no one loss."""
        return unfit(model)

    def apply(self, model: Model, context: Context) -> Model:
        """Fit a copy of the model with the base as its teacher."""
        base = context.base
        if base is None or base.format != "torch" or unfit(base):
            came = "none" if base is None else unfit(base) or f"one of format {base.format}"
            raise Refused(f"distill needs a base that is a torch model, to be the teacher; got {came}")
        net = Net.load(model, editable=True)
        around = Surroundings(context.seed, context.threads, context.check_time, context.keep, context.progress)
        if not self.alpha and context.task.task.objective == "none":
            raise Refused("there are no labels to learn from alone: distill with alpha above 0")
        report = fit(net, context.task, self._settings(), around, Net.load(base))
        parts = net.save(model, context.task, context.scratch, lambda facts: self.predict(facts, context.machine))
        notes: dict[str, Any] = {"history": list(report.history), "notes": list(report.notes)}
        return model.map_parts(parts, notes={**model.notes, "distill": notes})

    def _settings(self) -> Settings:
        kept = ("epochs", "steps", "lr", "temperature", "alpha", "batch", "optimizer", "weight_decay", "warmup", "clip")
        values = {key: getattr(self, key) for key in kept}
        return Settings(**values, features=float(self.features), precision=self.precision)

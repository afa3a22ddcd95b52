"""Trains the model on the task's train split: the first step of most recipes, `zoo:resnet | train(epochs=5)`.

The same loop fine-tunes a model that has weights already. The search never tries it by itself: what the user calls the
base is the user's choice.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import ClassVar

from trimtab.fit.effort import step_seconds
from trimtab.fit.loop import fit
from trimtab.fit.program import Net, unfit
from trimtab.fit.settings import Settings, Surroundings
from trimtab.passes import Context, Pass, Stage, Use
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model


@dataclass(frozen=True)
class Train(Pass):
    """Fits the weights to the train split."""

    epochs: int = 5
    """Passes over the train split."""
    steps: int | None = None
    """Optimizer steps in all; replaces `epochs`."""
    lr: float | None = None
    """Highest learning rate; None: 0.002, or 0.0001 for large nets with attention, which come pretrained."""
    optimizer: str = "adamw"
    """`adamw` or `sgd`."""
    momentum: float = 0.9
    """Of SGD, in Nesterov's form."""
    weight_decay: float = 0.01
    """Decoupled from the gradient."""
    schedule: str = "cosine"
    """`cosine`, `step` or `constant`."""
    warmup: float = 0.2
    """Share of all steps over which the learning rate rises in a line to `lr`."""
    batch: int = 16
    """Examples a step."""
    clip: float | None = None
    """Largest norm of the gradient of all weights; None: 1 for nets with attention or recurrence, else none."""
    patience: int | None = None
    """Stop after so many epochs without a better validation metric, and keep the best weights."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""
    precision: str = "fp32"
    """`fp32`, or `bf16` for processors that multiply it: products in bf16, weights in fp32."""

    formats: ClassVar = {"torch": "torch"}
    stage: ClassVar[Stage] = "fit"
    uses: ClassVar[frozenset[Use]] = frozenset({"train", "validation", "seed"})

    def __post_init__(self) -> None:
        self._settings()

    def seconds(self, facts: Facts, machine: Machine) -> float | None:
        """Expect what the steps take; epochs tell nothing without the number of examples."""
        step = step_seconds(facts, machine, self.batch, precision=self.precision)
        return self.steps * step if self.steps and step else None

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Take one call, a scan or a decoder; a cascade has no one loss."""
        return unfit(model)

    def apply(self, model: Model, context: Context) -> Model:
        """Train a copy of the model."""
        net = Net.load(model, editable=True)
        around = Surroundings(context.seed, context.threads, context.check_time, context.keep, context.progress)
        report = fit(net, context.task, self._settings(), around)
        parts = net.save(model, context.task, context.scratch, lambda facts: replace(facts, cut=0.0, quality_loss=0.0))
        notes = {**model.notes, "train": {"history": list(report.history), "notes": list(report.notes)}}
        return model.map_parts(parts, notes=notes)

    def _settings(self) -> Settings:
        return Settings(**asdict(self))

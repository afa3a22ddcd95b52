"""Trains the model on the task's train split: the first step of most recipes, `zoo:resnet | train(epochs=5)`.

The same loop fine-tunes a model that has weights already. The search never tries it by itself: what the user calls the
base is the user's choice.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

from trimtab.fit import module as artefact
from trimtab.fit.loop import fit
from trimtab.fit.settings import Settings, Surroundings
from trimtab.passes import Context, Pass, Stage, Use
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Single


@dataclass(frozen=True)
class Train(Pass):
    """Fits the weights to the train split."""

    epochs: int = 5
    """Passes over the train split."""
    steps: int | None = None
    """Optimizer steps in all; replaces `epochs`."""
    lr: float = 0.002
    """Highest learning rate."""
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
    """Largest norm of the gradient of all weights together."""
    patience: int | None = None
    """Stop after so many epochs without a better validation metric, and keep the best weights."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""

    formats: ClassVar = {"torch": "torch"}
    stage: ClassVar[Stage] = "fit"
    uses: ClassVar[frozenset[Use]] = frozenset({"train", "validation", "seed"})

    def __post_init__(self) -> None:
        self._settings()

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Take one network only: a program of several has no one loss."""
        single = len(model.parts) == 1 and isinstance(model.program, Single)
        return None if single else f"train fits one network, this model has the parts {', '.join(model.parts)}"

    def apply(self, model: Model, context: Context) -> Model:
        """Train a copy of the model."""
        (name,) = model.parts
        module = artefact.load(model.main, editable=True)
        around = Surroundings(context.seed, context.threads, context.check_time, context.keep, context.progress)
        report = fit(module, context.task, self._settings(), around)
        build, edits = artefact.edited(model.main)
        example = artefact.example(context.task)
        part = artefact.save(module, context.scratch / name, model.main.signature, build, edits, example)
        notes = {**model.notes, "train": {"history": list(report.history), "notes": list(report.notes)}}
        return model.map_parts({name: part}, notes=notes)

    def _settings(self) -> Settings:
        return Settings(**asdict(self))

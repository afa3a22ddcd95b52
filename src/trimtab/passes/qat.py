"""Quantization-aware training: the net learns with its int8 rounding in place, taught by the base.

The result is a float net whose weights lie on their int8 grid and whose activations have known ranges, so that
`onnx | quantize` behind it loses little (Jacob et al. 2018, arXiv 1712.05877, section 3). Ranges are in the notes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from trimtab.errors import Refused
from trimtab.fit.effort import epochs_worth, step_seconds, steps_worth, still_lost
from trimtab.fit.fake import attach, detach
from trimtab.fit.loop import fit
from trimtab.fit.optimizer import settled
from trimtab.fit.program import Net, unfit
from trimtab.fit.settings import Settings, Surroundings
from trimtab.passes import Context, Pass, Stage, Use
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model

KINDS = ("conv", "linear")
GENTLE = 0.25
"""Share of the usual learning rate, for a net that needs no more than to get used to rounding."""
ROUNDING = 2.0
"""How many times longer a step takes with fake quantizers than without."""


@dataclass(frozen=True)
class Qat(Pass):
    """Fits the weights to the base's answers with fake quantizers on convolutions and linear layers."""

    epochs: int = 3
    """Passes over the train split."""
    steps: int | None = None
    """Optimizer steps in all; replaces `epochs`."""
    weights: int = 8
    """Bits of weights, 2 to 8."""
    activations: int = 8
    """Bits of activations, 2 to 8."""
    lr: float | None = None
    """Highest learning rate; None: that of distill where structure was cut, else a quarter of it."""
    alpha: float = 0.7
    """Share of the teacher in the loss."""
    temperature: float = 2.0
    """Softens the teacher's and the net's answers."""
    batch: int = 16
    """Examples a step."""
    warmup: float = 0.1
    """Share of all steps over which the learning rate rises in a line to `lr`."""

    formats: ClassVar = {"torch": "torch"}
    stage: ClassVar[Stage] = "recover"
    version: ClassVar[int] = 5
    uses: ClassVar[frozenset[Use]] = frozenset({"train", "validation", "base", "seed"})

    def __post_init__(self) -> None:
        for name in ("weights", "activations"):
            if not 2 <= getattr(self, name) <= 8:
                raise ValueError(f"{name} are 2 to 8 bits, got {getattr(self, name)}")
        self._settings()

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return one training of medium length, for nets of convolutions and linear layers."""
        if not any(facts.layers.get(kind) for kind in KINDS):
            return ()
        steps = steps_worth(ROUNDING * step_seconds(facts, machine, cls.batch, taught=True))
        return (cls(steps=steps[len(steps) // 2]),) if steps else ()

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Expect what distillation wins back; weights on a grid cost a little themselves."""
        left = still_lost(epochs_worth(self.epochs, self.steps, facts.layers.get("conv", 0)))
        lost = facts.quality_loss * left + 0.001 * 4.0 ** (8 - self.weights)
        return replace(facts, cut=0.0, quality_loss=min(1.0, lost))

    def seconds(self, facts: Facts, machine: Machine) -> float | None:
        """Expect what the steps take; epochs tell nothing without the number of examples."""
        step = step_seconds(facts, machine, self.batch, taught=self.alpha > 0)
        return ROUNDING * self.steps * step if self.steps and step else None

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Take nets with convolutions or linear layers."""
        if not any(part.facts.layers.get(kind) for part in model.parts.values() for kind in KINDS):
            return "qat rounds convolutions and linear layers, and the model has none"
        return unfit(model)

    def apply(self, model: Model, context: Context) -> Model:
        """Fit a copy of the model with fake quantizers on, and fold them into its weights."""
        base = context.base
        if base is None or base.format != "torch" or unfit(base):
            came = "none" if base is None else unfit(base) or f"one of format {base.format}"
            raise Refused(f"qat needs a base that is a torch model, to be the teacher; got {came}")
        net = Net.load(model, editable=True)
        settings = settled(self._settings(), net, recovering=True)
        if self.lr is None and not (model.facts.cut or model.facts.quality_loss):
            settings = replace(settings, lr=settings.peak * GENTLE)
        left = attach(net, self.weights, self.activations)
        around = Surroundings(context.seed, context.threads, context.check_time, context.keep, context.progress)
        report = fit(net, context.task, settings, around, Net.load(base))
        ranges = detach(net)
        parts = net.save(model, context.task, context.scratch, lambda facts: self.predict(facts, context.machine))
        notes: dict[str, Any] = {"history": list(report.history), "notes": list(report.notes)}
        notes |= {"weights": self.weights, "activations": self.activations, "ranges": ranges, "left_alone": left}
        return model.map_parts(parts, notes={**model.notes, "qat": notes})

    def _settings(self) -> Settings:
        kept = ("epochs", "steps", "lr", "alpha", "temperature", "batch", "warmup")
        return Settings(**{key: getattr(self, key) for key in kept})

"""How to train, where, and what came of it: the values around the training engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

OPTIMIZERS, SCHEDULES = ("adamw", "sgd"), ("cosine", "step", "constant")
PRECISIONS = ("fp32", "bf16")
LR = 0.002
"""Learning rate where none is set and no other suits the net."""


@dataclass(frozen=True)
class Settings:
    """How to train. Refuses values that mean nothing with a ValueError."""

    epochs: int = 5
    """Passes over the train split."""
    steps: int | None = None
    """Optimizer steps in all; replaces `epochs`."""
    lr: float | None = None
    """Highest learning rate; None: 0.002, or 0.0001 for large nets with attention (`trimtab.fit.optimizer`)."""
    optimizer: str = "adamw"
    """`adamw` or `sgd`."""
    momentum: float = 0.9
    """Of SGD, in Nesterov's form."""
    weight_decay: float = 0.01
    """Decoupled from the gradient (Loshchilov and Hutter 2019, arXiv 1711.05101)."""
    schedule: str = "cosine"
    """Of the learning rate after the warm-up: `cosine`, `step` or `constant`."""
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
    alpha: float = 0.0
    """Share of the teacher in the loss; 0 without a teacher."""
    temperature: float = 2.0
    """Softens the teacher's and the student's answers (Hinton et al. 2015, arXiv 1503.02531, section 2)."""
    features: float = 0.0
    """Weight of matching the teacher's hidden states in the loss (`trimtab.fit.features`)."""
    precision: str = "fp32"
    """Of the products in the forward and backward pass: `fp32`, or `bf16` with weights kept in fp32."""

    def __post_init__(self) -> None:
        self._one_of("optimizer", OPTIMIZERS)
        self._one_of("schedule", SCHEDULES)
        self._one_of("precision", PRECISIONS)
        for name in ("epochs", "steps", "batch", "patience", "lr", "clip", "temperature"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is above 0, got {value}")
        for name in ("momentum", "warmup", "label_smoothing", "alpha"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is from 0 to 1, got {getattr(self, name)}")
        for name in ("weight_decay", "features"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is at least 0, got {getattr(self, name)}")

    @property
    def peak(self) -> float:
        """The highest learning rate, settled."""
        return LR if self.lr is None else self.lr

    def _one_of(self, name: str, known: tuple[str, ...]) -> None:
        if getattr(self, name) not in known:
            raise ValueError(f"{name} is one of {', '.join(known)}, got {getattr(self, name)!r}")


def _no_limit(needed_s: float = 0.0) -> None:
    """Never end."""


def _quiet(what: str, share: float) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Surroundings:
    """Where and under what limits a training runs."""

    seed: int = 0
    threads: int = 1
    check_time: Callable[[float], None] = _no_limit
    """Told the seconds still needed, raises TimeoutError past the deadline; a checkpoint is written first."""
    keep: Path | None = None
    """Folder of the checkpoint; None trains without one."""
    progress: Callable[[str, float], None] = _quiet


@dataclass(frozen=True)
class Report:
    """What a training did."""

    steps: int
    history: tuple[dict[str, float], ...]
    notes: tuple[str, ...] = ()
    """Sentences for the tab: resumed, a torn checkpoint left aside, stopped early."""


def rate(settings: Settings, step: int, total: int) -> float:
    """Return the factor on `lr` at `step` of `total`: a line up, then the schedule down.

    cosine: half a cosine to 0 (Loshchilov and Hutter 2017, arXiv 1608.03983); step: x 0.1 at 1/2 and 3/4.

    >>> [round(rate(Settings(warmup=0.5), step, 4), 3) for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    rise = round(settings.warmup * total)
    if step < rise:
        return (step + 1) / rise
    share = (step - rise) / max(1, total - rise)
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    if settings.schedule == "step":
        return 0.1 ** ((share >= 0.5) + (share >= 0.75))
    return 1.0

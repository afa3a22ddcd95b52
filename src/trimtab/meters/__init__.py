"""Meters read figures off a running model. What shows is a meter: quality, latency, memory, size, energy, cost.

One file is one meter. A meter reads one block; the verb `measure` alternates blocks of two models and combines them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from trimtab.run.timing import BATCHES, MANY, real_batches
from trimtab.values.figure import Axis, Figure
from trimtab.values.machine import Machine
from trimtab.values.model import Cascade, Model
from trimtab.values.session import Arrays
from trimtab.values.task import Split, TaskView

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


LONGEST_S = 1.0
"""About as long the base takes for the examples on which models that vary are timed, once."""


class Remote(Protocol):
    """A session in a worker process, as a meter sees it."""

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run the model's whole program on a batch."""
        ...

    def time(self, inputs: Arrays, seconds: float) -> NDArray[np.float64]:
        """Return the wall time in seconds of each call made inside the worker for about `seconds`."""
        ...

    def usage(self) -> Mapping[str, float]:
        """Return the worker's `peak_memory_mb`, `base_memory_mb` (before loading) and `cpu_seconds` so far."""
        ...


@dataclass(frozen=True)
class Probe:
    """What to measure on, and for how long."""

    view: TaskView
    split: Split
    model: Model
    machine: Machine
    batch: int = 1
    seconds: float = 0.5
    confidence: float = 0.95
    threads: int = 1
    example_s: float = 0.0
    """What an example alone takes the base: slow ones go through fewer large batches; 0: not known."""

    beside_varying: bool = False
    """Whether a model that varies is raced against this one: both meet the same examples."""

    @property
    def varies(self) -> bool:
        """Whether the model, or one beside it, takes another way for some examples, as a cascade does."""
        return self.beside_varying or isinstance(self.model.program, Cascade)

    def batches(self) -> list[Mapping[str, NDArray[Any]]]:
        """Return the inputs of several real batches; of many where the model varies, as far as they take seconds."""
        if not self.varies:
            return real_batches(self.view, self.split, self.batch)
        affordable = int(LONGEST_S / self.example_s / self.batch) if self.example_s else MANY
        return real_batches(self.view, self.split, self.batch, max(BATCHES, min(MANY, affordable)))


@dataclass(frozen=True)
class Reading:
    """What one block gave."""

    figures: tuple[Figure, ...]
    rows: NDArray[np.float64] | None = None
    """Score rows [n, k], one an example in the split's order: what paired tests need."""
    samples: NDArray[np.float64] | None = None
    """Raw repeats, in the unit of the first figure."""
    details: Mapping[str, Any] = field(default_factory=dict)


class Meter(ABC):
    """Reads one kind of figure; made without arguments."""

    figures: ClassVar[Mapping[str, Axis]]
    """Name -> unit and better direction of each figure it gives; the first is what `--for METER` means."""
    repeats: ClassVar[bool] = False
    """True: noisy, so read in alternating blocks against the base; False: one reading says all."""
    fresh: ClassVar[bool] = False
    """True: read in a worker of its own, because what a worker did before would show."""

    @abstractmethod
    def read(self, session: Remote, probe: Probe) -> Reading:
        """Read one block."""


CONTRACT = Meter

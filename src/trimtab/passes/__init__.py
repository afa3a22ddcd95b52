"""Passes: Model -> Model. What mends a model is a pass: train, prune, distill, export, quantize.

One file is one pass: a frozen dataclass whose fields are its arguments, named after the file. A pass knows formats,
never its neighbours. `trimtab.testing.check_pass` tells whether one keeps this contract.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model
from trimtab.values.notation import show
from trimtab.values.task import TaskView

if TYPE_CHECKING:
    from numpy.typing import NDArray

Stage = Literal["fit", "structure", "recover", "export", "graph", "precision", "program"]
STAGES: tuple[Stage, ...] = ("fit", "structure", "recover", "export", "graph", "precision", "program")
Use = Literal["train", "validation", "base", "seed", "machine"]

Statistics: TypeAlias = "Mapping[str, Mapping[str, NDArray[Any]]]"
"""Kind of statistic -> `part/layer` -> array, as one run over calibration data gives it."""


def quiet(what: str, share: float) -> None:
    """Show no progress."""


SOON = 10.0
"""Seconds to go for which nothing is given up that has taken long already."""


class Overrun(TimeoutError):
    """What was begun would not end in time; it is given up early, so that its time can be used otherwise."""

    def __init__(self, needed_s: float, left_s: float) -> None:
        self.needed_s, self.left_s = needed_s, left_s
        super().__init__(f"given up early: about {needed_s:.0f} s more are needed, {max(left_s, 0):.0f} s are allowed")

    def __reduce__(self) -> tuple[type[Overrun], tuple[float, float]]:
        return Overrun, (self.needed_s, self.left_s)


@dataclass(frozen=True)
class Context:
    """What a pass may use besides the model. Test data is sealed in `task`."""

    task: TaskView
    scratch: Path
    """An empty folder for the files of the new model; it becomes the artefact."""
    machine: Machine
    base: Model | None = None
    """The teacher, for passes whose `uses` has "base"."""
    seed: int = 0
    threads: int = 1
    memory_limit_mb: float = 0.0
    """0 means no limit."""
    deadline: float | None = None
    """A `time.monotonic()` past which the pass should raise TimeoutError; its checkpoints stay."""
    patience: float | None = None
    """A `time.monotonic()` past which a recovery that has long to go is given up: its time can be used otherwise."""
    keep: Path | None = None
    """A folder that survives a killed run: checkpoints of this very step, for exact resume."""
    statistics: Statistics = field(default_factory=dict)
    """Every kind that the pass `needs`, of the model it is given."""
    make: Callable[[str], Model] | None = None
    """make("prune | distill"): the result of a chain of passes on the model that this pass is given, from the store."""
    progress: Callable[[str, float], None] = field(default=quiet)
    """progress(what is being done, share done in [0, 1])."""

    def check_time(self, needed_s: float = 0.0) -> None:
        """Raise TimeoutError past the deadline, and `Overrun` where the seconds still needed go past it."""
        left = math.inf if self.deadline is None else self.deadline - time.monotonic()
        if left < 0:
            raise TimeoutError("the time given to this step is over")
        hoped = math.inf if self.patience is None else max(self.patience - time.monotonic(), SOON)
        if needed_s > min(left, hoped):
            raise Overrun(needed_s, min(left, hoped))


@dataclass(frozen=True)
class Pass(ABC):
    """A step of a recipe."""

    formats: ClassVar[Mapping[str, str]]
    """Format taken -> format given. One pass may serve several formats."""
    stage: ClassVar[Stage]
    """Where the search puts it in a chain."""
    version: ClassVar[int] = 1
    """Raised whenever the same arguments would give another result: part of the cache key."""
    uses: ClassVar[frozenset[Use]] = frozenset()
    """What else the result depends on: part of the cache key. "train" marks passes that fit weights."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Kinds of statistics of the model on calibration data: one run gathers them for every pass of a format.

    torch: see `trimtab.fit.statistics.KINDS`; onnx: see `trimtab.run.onnx_statistics.KINDS`.
    """

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Pass, ...]:
        """Return the settings worth trying on such a model, mild to bold; () where it has nothing to offer."""
        return ()

    def predict(self, facts: Facts, machine: Machine) -> Facts:
        """Return the facts expected after this pass, before any work is done."""
        return facts

    def wants(self) -> frozenset[str]:
        """Return the kinds of statistics this very setting takes: `needs`, and dearer ones where it asks for them."""
        return self.needs

    def inner(self) -> str:
        """Return the recipe that this pass runs itself, through `Context.make`; empty for most."""
        return ""

    def seconds(self, facts: Facts, machine: Machine) -> float | None:
        """Return the time that `apply` is expected to take on such a model; None where it cannot be told."""
        return None

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Return the sentence that says why this model cannot be taken, or None."""
        return None

    @abstractmethod
    def apply(self, model: Model, context: Context) -> Model:
        """Return the new model, its files in `context.scratch`; lineage is kept by the caller.

        Raises:
            TimeoutError: past the deadline.
            Refused: where trying showed that the model cannot be taken.
        """

    @classmethod
    def name(cls) -> str:
        """The file's name, which is the pass's name in recipes."""
        return cls.__module__.rpartition(".")[2]

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        return show(self, self.name())


CONTRACT = Pass

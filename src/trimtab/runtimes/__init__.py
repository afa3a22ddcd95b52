"""Runtimes: what serves a model on a machine. One file is one runtime; `load` runs in a worker process of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar

from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model
from trimtab.values.notation import show
from trimtab.values.session import Session

MOST_THREADS = 1024


@dataclass(frozen=True)
class Runtime(ABC):
    """Loads a model and answers; `threads` is part of the recipe because it changes everything."""

    threads: int = 1
    """Processor threads it computes with."""

    formats: ClassVar[frozenset[str]]
    """Formats it can load."""
    native: ClassVar[frozenset[str]] = frozenset()
    """Formats whose base this runtime serves where the user names none: what "4x faster" is measured against."""
    paces: ClassVar[frozenset[str]] = frozenset({"threads"})
    """Settings that change how fast it answers, and its answers by the order of sums alone."""
    libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions go into conditions and verdicts."""
    loading_s: ClassVar[float] = 4.0
    """Seconds that starting a worker and loading a model of usual size take: the search plans with it."""

    def __post_init__(self) -> None:
        if not 1 <= self.threads <= MOST_THREADS:
            raise ValueError(f"threads is from 1 to {MOST_THREADS}, got {self.threads}")

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Runtime, ...]:
        """Return the settings worth trying: one thread, a quarter of the cores, half of them, and all."""
        counts = sorted({1, *(max(1, machine.cores // share) for share in (4, 2, 1))})
        return tuple(cls(threads=count) for count in counts)

    def predict(self, facts: Facts, machine: Machine) -> Mapping[str, float]:
        """Return expected figures by name (`latency_ms` at batch 1 at least)."""
        return {}

    def refuses(self, model: Model, machine: Machine) -> str | None:
        """Return the sentence that says why this model cannot be served here, or None."""
        return None

    @abstractmethod
    def load(self, model: Model, machine: Machine) -> Session:
        """Load every part of the model; called in the worker."""

    @property
    def answering(self) -> Runtime:
        """The setting that stands for all that give the same answers at another pace."""
        plain: dict[str, Any] = {each.name: each.default for each in fields(self) if each.name in self.paces}
        return replace(self, **plain)

    @classmethod
    def name(cls) -> str:
        """The file's name, which is the runtime's name in recipes."""
        return cls.__module__.rpartition(".")[2]

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        return show(self, self.name())


CONTRACT = Runtime

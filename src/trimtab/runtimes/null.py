"""Null runtime: a linear map in numpy, with faults to order, so that every verb can be tested in seconds.

A `null` part is a folder with `weights.npz`: `W` [F, K] and `b` [K]; its output is `input @ W + b`.
"""

from __future__ import annotations

import os
import signal
import time
import zipfile
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import CorruptFile
from trimtab.runtimes import Runtime
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Part
from trimtab.values.session import Arrays, Session

FAULTS = ("", "crash", "exit", "hang", "memory", "noise", "load")
CHUNK = 1 << 24
"""Bytes taken at a time by the `memory` fault, which gives up at a thousand of them."""


@dataclass(frozen=True)
class Null(Runtime):
    """Serves `null` parts; `Null(delay_ms=2)` is slow, `Null(fail="crash")` dies at the first call."""

    delay_ms: float = 0.0
    """Added to each call."""
    fail: str = ""
    """crash, exit, hang, memory and noise (prints into stdout) happen at a call, load while loading."""

    formats: ClassVar[frozenset[str]] = frozenset({"null"})
    native: ClassVar[frozenset[str]] = frozenset({"null"})
    libraries: ClassVar[tuple[str, ...]] = ("numpy",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fail not in FAULTS:
            raise ValueError(f"fail is one of {', '.join(filter(None, FAULTS))}, got {self.fail!r}")

    @classmethod
    def choices(cls, facts: Facts, machine: Machine) -> tuple[Runtime, ...]:
        """Return the one setting; it has no threads to vary."""
        return (cls(),)

    def predict(self, facts: Facts, machine: Machine) -> dict[str, float]:
        """Return the delay, which is all the time it takes."""
        return {"latency_ms": self.delay_ms}

    def load(self, model: Model, machine: Machine) -> Session:
        """Load every part."""
        if self.fail == "load":
            raise CorruptFile("the null runtime was told to fail while loading")
        return _Linear({name: _weights(part) for name, part in model.parts.items()}, model, self)


class _Linear:
    def __init__(self, weights: dict[str, dict[str, NDArray[Any]]], model: Model, runtime: Null) -> None:
        self.weights, self.model, self.runtime = weights, model, runtime

    def run(self, inputs: Arrays, part: str = "main") -> dict[str, NDArray[Any]]:
        _misbehave(self.runtime.fail)
        time.sleep(self.runtime.delay_ms / 1e3)
        signature, weights = self.model.parts[part].signature, self.weights[part]
        features = inputs[signature.inputs[0].name]
        return {signature.outputs[0].name: features.reshape(-1, len(weights["W"])) @ weights["W"] + weights["b"]}


def _weights(part: Part) -> dict[str, NDArray[Any]]:
    try:
        with np.load(part.path / "weights.npz", allow_pickle=False) as file:
            return {name: file[name] for name in ("W", "b")}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise CorruptFile(f"{part.path / 'weights.npz'} does not hold W and b: {error}") from error


def _misbehave(fault: str) -> None:
    if fault == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif fault == "exit":
        os._exit(7)
    elif fault == "hang":
        time.sleep(86400)
    elif fault == "memory":
        kept = [np.ones(CHUNK, np.uint8) for _ in range(1000)]
        raise MemoryError(f"{len(kept)} blocks were granted: no memory limit is set")
    elif fault == "noise":
        os.write(1, b"a library prints into stdout\n")

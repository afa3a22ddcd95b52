"""A finished trim run in seconds, made once for all test files that look at one: null models and the toy task."""

import atexit
import functools
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from trimtab import measure
from trimtab.api import Result, run
from trimtab.passes import Pass
from trimtab.request import Request
from trimtab.values.registry import registry
from trimtab.values.store import Store

TOY = "toy(examples=1200, features=64, spread=0.7)"
PROMISE = "accuracy >= base - 0.03"
CAST = {32: np.float32, 16: np.float16, 8: np.int8, 0: np.float64}


@dataclass(frozen=True)
class Narrow(Pass):
    """Writes the weights of a `null` part with fewer bits; 8 ruin it, and 0 leave no numbers."""

    bits: int = 16

    formats: ClassVar = {"null": "null"}
    stage: ClassVar = "precision"
    applied: ClassVar[list[int]] = []

    @classmethod
    def name(cls):
        return "narrow"

    @classmethod
    def choices(cls, facts, machine):
        return (cls(32), cls(16), cls(8))

    def predict(self, facts, machine):
        return replace(facts, weight_bits=float(self.bits or 64), quality_loss=0.001 if self.bits > 8 else 0.02)

    def apply(self, model, context):
        self.applied.append(self.bits)
        part, folder = model.main, context.scratch / "main"
        folder.mkdir()
        with np.load(part.path / "weights.npz") as file:
            weights = {name: np.asarray(file[name], CAST[self.bits]) for name in file}
        if not self.bits:
            weights["W"] *= np.nan
        np.savez(folder / "weights.npz", **weights)
        return model.map_parts({"main": replace(part, path=folder, facts=self.predict(part.facts, context.machine))})


@dataclass(frozen=True)
class Stem(Narrow):
    """The same in the stage of training, seeded: what recipes share."""

    bits: int = 32

    stage: ClassVar = "fit"
    uses: ClassVar = frozenset({"train", "seed"})

    @classmethod
    def name(cls):
        return "stem"

    @classmethod
    def choices(cls, facts, machine):
        return ()


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Register the passes and make measuring short, for one test file."""
    with working():
        yield


@functools.cache
def finished_run() -> Result:
    """Return a finished PASS."""
    root = Path(tempfile.mkdtemp(prefix="trimtab-tests-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    with working():
        return run(request(), root / "run", store=Store(root / "store"))


def request(**changes) -> Request:
    settings = {"objective": "size", "within_s": 120.0, "train": False}
    return Request("null:linear", TOY, (PROMISE, "accuracy[class=*] >= base - 0.1"), **settings | changes)


class working:  # noqa: N801  (a context manager, entered twice when a fixture asks for the run)
    def __enter__(self):
        self.patch = pytest.MonkeyPatch()
        for kind in (Narrow, Stem):
            self.patch.setitem(registry("passes")._added, kind.name(), kind)
        for name, value in (("BLOCK_SECONDS", 0.005), ("QUICK_BLOCKS", 2), ("FINAL_BLOCKS", 3)):
            self.patch.setattr(measure, name, value)

    def __exit__(self, *error):
        self.patch.undo()

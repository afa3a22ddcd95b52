"""What each part of a model is fed on training examples: the ground of calibration, whatever the program.

A part that answers in one call is fed batches as they come, so that little memory is held. For scans, decoding loops
and cascades the float model runs, and what its parts were given is written down. In a cascade every stage is asked:
where an earlier one is nearly always sure, too few examples for a range would come to the next, or none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import DataError
from trimtab.run import onnx_check
from trimtab.run.onnx_guard import guarded
from trimtab.run.program import drive
from trimtab.values.model import Cascade, Model, Single
from trimtab.values.session import Arrays
from trimtab.values.task import Batch, TaskView

Feed = dict[str, NDArray[Any]]
BATCH = 16
DRIVEN = 64
"""Examples that a whole program is run on, at most: one of them may call a part a hundred times."""


@dataclass(frozen=True)
class Inputs:
    """A seeded sample of training inputs, as each part of the model takes them."""

    model: Model
    view: TaskView
    seed: int = 0
    samples: int = 256
    check_time: Callable[[], None] = field(default=lambda: None)
    _recorded: dict[str, list[Feed]] = field(default_factory=dict)

    def of(self, part: str, calls: int | None = None) -> Iterator[Feed]:
        """Yield what the part is fed, at most `calls` times.

        Raises:
            DataError: no training examples, inputs that the model does not take, or NaN and infinity in them.
        """
        feeds = self._single(part) if self._is_single else iter(self._all()[part])
        for number, feed in enumerate(feeds):
            if calls is not None and number >= calls:
                return
            self.check_time()
            yield feed

    @property
    def _is_single(self) -> bool:
        signature = self.model.main.signature
        fixed = any(spec.shape and isinstance(spec.shape[0], int) for spec in signature.inputs)
        return isinstance(self.model.program, Single) and not fixed

    def _single(self, part: str) -> Iterator[Feed]:
        specs = self.model.parts[part].signature.inputs
        for batch in self._batches(self.samples):
            absent = [spec.name for spec in specs if spec.name not in batch.inputs]
            if absent:
                given = ", ".join(batch.inputs)
                raise DataError(f"the model takes {absent[0]!r}; {self.view.task.name} gives {given}")
            yield {spec.name: np.asarray(batch.inputs[spec.name], spec.dtype) for spec in specs}

    def _all(self) -> dict[str, list[Feed]]:
        if not self._recorded:
            self._recorded.update({name: [] for name in self.model.parts})
            graphs = {name: onnx_check.session(guarded(part.path)) for name, part in self.model.parts.items()}
            session = _Recorder(graphs, self._recorded, np.random.default_rng(self.seed), self.samples)
            for batch in self._batches(min(self.samples, DRIVEN)):
                self.check_time()
                drive(_never_sure(self.model), session, batch.inputs)
            for feeds in self._recorded.values():
                np.random.default_rng(self.seed).shuffle(feeds)
        return self._recorded

    def _batches(self, samples: int) -> Iterator[Batch]:
        examples = self.view.split("train")
        order = np.random.default_rng(self.seed).permutation(len(examples))[:samples]
        if not len(order):
            raise DataError(f"the train split of {self.view.task.name} is empty: nothing to calibrate on")
        for start in range(0, len(order), BATCH):
            chosen = [examples[int(i)] for i in order[start : start + BATCH]]
            batch = self.view.task.collate(chosen)
            _check_finite(batch, [example.id for example in chosen])
            yield batch


@dataclass
class _Recorder:
    """A session that keeps what it is fed: a fair sample of the calls of each part (Vitter 1985, algorithm R)."""

    graphs: dict[str, Any]
    recorded: dict[str, list[Feed]]
    rng: np.random.Generator
    most: int
    seen: dict[str, int] = field(default_factory=dict)

    def run(self, inputs: Arrays, part: str = "main") -> dict[str, NDArray[Any]]:
        kept, number = self.recorded[part], self.seen.get(part, 0)
        self.seen[part] = number + 1
        place = number if number < self.most else int(self.rng.integers(number + 1))
        if place < self.most:
            kept[place : place + 1] = [{name: np.array(value) for name, value in inputs.items()}]
        names = [value.name for value in self.graphs[part].get_outputs()]
        return dict(zip(names, self.graphs[part].run(names, dict(inputs)), strict=True))


def _never_sure(model: Model) -> Model:
    """Return the model; a cascade asks all its stages, however sure the first are."""
    program = model.program
    if not isinstance(program, Cascade):
        return model
    return replace(model, program=replace(program, thresholds=(math.inf,) * len(program.thresholds)))


def _check_finite(batch: Batch, ids: list[str]) -> None:
    for name, array in batch.inputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            worst = next(number for number, row in enumerate(array) if not np.isfinite(row).all())
            raise DataError(
                f"example {ids[worst]!r} of the train split has NaN or infinity in {name!r}; "
                "mend or drop it before calibrating"
            )

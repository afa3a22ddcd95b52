"""A task from two or three DataLoaders, or any iterables of (inputs, targets) batches: what a user has at hand.

Each is read once, to its end, and kept; so a loader that shuffles or changes its images at random gives what it gave
the first time. Examples are named and ordered by their content, not by the order in which they came.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trimtab.errors import DataError
from trimtab.tasks._data import Array, Data, encoded
from trimtab.tasks._labelled import Labelled, stacked
from trimtab.tasks._splits import row_hashes

NAMES: Mapping[int, tuple[str, ...]] = {2: ("features",), 3: ("sequence", "length"), 4: ("image",)}
"""Axes of the first input, batch included, and what the inputs are then called."""


@dataclass(frozen=True, eq=False)
class Loaders(Labelled):
    """A classification (targets of whole numbers) or regression (of any numbers) on batches.

    With two loaders validation is split off train, seeded, in the proportion of `shares`.

    >>> batches = [(np.arange(12.0).reshape(6, 2), np.array([0, 1] * 3))] * 1
    >>> more = [(np.arange(12.0, 24.0).reshape(6, 2), np.array([0, 1] * 3))]
    >>> task = Loaders(batches, more, shares=(0.4, 0.4, 0.2))
    >>> len(task.split("train")), len(task.split("validation")), len(task.split("test"))
    (3, 3, 6)
    """

    train: Iterable[Any] = ()
    test: Iterable[Any] = ()
    validation: Iterable[Any] | None = None
    names: tuple[str, ...] = ()
    """Of the inputs, in order; by default as their axes suggest: `features`, `image`, or `sequence` and `length`."""
    kind: str = ""
    """`classification` or `regression`."""

    def read(self) -> Data:
        """Read every batch of every loader."""
        given = {"train": self.train, "test": self.test}
        if self.validation is not None:
            given["validation"] = self.validation
        parts = {split: self._columns(split, loader) for split, loader in given.items()}
        names = list(parts["train"])
        if any(list(columns) != names for columns in parts.values()):
            raise DataError(f"the loaders give different inputs: { {s: list(c) for s, c in parts.items()} }")
        columns = {name: _joined([parts[split][name] for split in parts]) for name in names}
        split = np.repeat(list(parts), [len(each["target"]) for each in parts.values()])
        order, ids = _named(columns, split)
        columns = {name: array[order] for name, array in columns.items()}
        targets, labels = encoded(columns.pop("target"), self.kind)
        return Data(columns, ids, targets, labels, given=split[order])

    def _columns(self, split: str, loader: Iterable[Any]) -> dict[str, Array]:
        columns: dict[str, list[Array]] = {}
        for batch in loader:
            for name, array in self._batch(split, batch).items():
                columns.setdefault(name, []).append(array)
        if not columns:
            raise DataError(f"the {split} split is empty: its loader gives no batch")
        return {name: _joined(arrays) for name, arrays in columns.items()}

    def _batch(self, split: str, batch: Any) -> dict[str, Array]:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise DataError(f"the {split} loader must give (inputs, targets), got {type(batch).__name__}")
        inputs, target = batch
        if not isinstance(inputs, Mapping):
            each = list(inputs) if isinstance(inputs, tuple | list) else [inputs]
            names = self.names or NAMES.get(_array(each[0]).ndim, ("input",))
            if len(names) < len(each):
                raise DataError(f"the {split} loader gives {len(each)} inputs: say names=('first', ...)")
            inputs = dict(zip(names, each, strict=False))
        arrays = {name: _array(value) for name, value in inputs.items()} | {"target": _array(target)}
        if len({len(array) for array in arrays.values()}) != 1:
            raise DataError(f"the {split} loader gives rows that differ: { {n: len(a) for n, a in arrays.items()} }")
        return arrays


def _array(value: Any) -> Array:
    """Return a tensor or anything like an array as float32, int64 or text."""
    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    return array.astype(np.int64) if array.dtype.kind in "iub" else array


def _joined(arrays: list[Array]) -> Array:
    """Put batches behind one another; sequences of different lengths are padded."""
    if len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    return stacked([row for array in arrays for row in array])


def _named(columns: Mapping[str, Array], split: Array) -> tuple[Array, Array]:
    """Return the order of the rows by content, and their names; equal rows get a number."""
    hashes = [f"{where}-{value.hex()}" for where, value in zip(split, row_hashes(columns), strict=True)]
    order = np.argsort(hashes, kind="stable")
    counts: dict[str, int] = {}
    ids = []
    for name in (hashes[row] for row in order):
        counts[name] = counts.get(name, 0) + 1
        ids.append(name if counts[name] == 1 else f"{name}-{counts[name]}")
    return order, np.array(ids)

"""Rows as they were read, and the examples made of them: what every task with labels in a table of arrays shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import DataError
from trimtab.run.frontend import Step, fit_scale, masked, prepare
from trimtab.values.task import Example, Lazy

Array = NDArray[Any]
READY_BYTES = 256 * 2**20
"""Splits whose inputs, raw and prepared, are smaller are prepared at once, larger ones example by example."""
WHOLE_NUMBERS = 20
"""A target of whole numbers with at most so many distinct values is read as classes."""


def no_steps(train: Mapping[str, Array]) -> tuple[Step, ...]:
    """Prepare nothing: the inputs are the model's as they are."""
    return ()


@dataclass(frozen=True)
class Data:
    """Rows as read: arrays with one row an example, before cleaning and splitting."""

    inputs: Mapping[str, Array]
    """Raw: numbers, text, or lists in object arrays."""
    ids: Array
    """Text, different for each row; errors name rows by it."""
    targets: Array | None = None
    """Class indices int64[n] (-1: absent), or numbers float[n] or [n, m]; None where the data has no labels."""
    labels: tuple[str, ...] = ()
    """Names of the classes; () for a regression."""
    clusters: Array | None = None
    slices: Mapping[str, Array] = field(default_factory=dict)
    given: Array | None = None
    """Split name of each row; blank for a row that is used in none."""
    fit: Callable[[Mapping[str, Array]], tuple[Step, ...]] = no_steps
    """Learns the frontend's steps from the raw inputs of train, and of train alone."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Array) -> Data:
        """Return these rows only."""
        return replace(
            self,
            inputs={name: array[rows] for name, array in self.inputs.items()},
            slices={name: array[rows] for name, array in self.slices.items()},
            ids=self.ids[rows],
            targets=None if self.targets is None else self.targets[rows],
            clusters=None if self.clusters is None else self.clusters[rows],
            given=None if self.given is None else self.given[rows],
        )

    def missing(self) -> tuple[Array, str]:
        """Return which rows lack a value, bool[n], and where the first of them lacks it, as a phrase."""
        lacking = {f"input {name!r}": absent(array) for name, array in self.inputs.items()}
        if self.targets is not None:
            lacking["the target"] = self.targets < 0 if self.targets.dtype.kind == "i" else absent(self.targets)
        rows = np.asarray(np.stack(list(lacking.values())).any(axis=0))
        first = int(np.argmax(rows))
        where = next((place for place, mask in lacking.items() if mask[first]), "")
        return rows, f"row {self.ids[first]}: {where} is missing or not a finite number (float32 ends at 3.4e38)"


def fit_sequence(train: Mapping[str, Array], lists: Sequence[str]) -> tuple[Step, ...]:
    """Learn how columns of lists become one `sequence` [T, D], standardised by column, with its `length`."""
    join = {"op": "sequence", "inputs": list(lists), "output": "sequence", "length": "length"}
    joined = prepare({"steps": [join]}, {name: train[name] for name in lists})
    inside = np.arange(joined["sequence"].shape[1]) < joined["length"][:, None]
    scale = fit_scale(joined["sequence"][inside], axis=-1)
    return join, {"op": "scale", "input": "sequence", "length": "length", **scale}


def absent(array: Array) -> Array:
    """Tell for each row whether a value in it is NaN, infinite (also as float32), blank or None: bool[n]."""
    if array.dtype.kind == "f":
        return np.asarray(~_finite(array).reshape(len(array), -1).all(axis=1))
    if array.dtype.kind == "U":
        return np.asarray(np.char.strip(array) == "")
    if array.dtype.kind == "O":
        return np.array([_lacks(row) for row in array], dtype=bool)
    return np.zeros(len(array), dtype=bool)


def _lacks(row: Any) -> bool:
    if isinstance(row, str):
        return not row.strip()
    return row is None or not len(row) or not _finite(row).all()


def _finite(array: Array) -> NDArray[np.bool_]:
    return np.asarray(np.abs(array) <= np.finfo(np.float32).max)


def encoded(values: Array, kind: str = "") -> tuple[Array, tuple[str, ...]]:
    """Read a target column: class indices with their labels, or numbers with ().

    Text, booleans and whole numbers with few distinct values are classes, unless `kind` says "regression"; all else is
    a regression, unless it says "classification". Blank text and NaN are absent.

    Raises:
        DataError: `kind` is unknown, or asks for the impossible.
    """
    if kind not in ("", "classification", "regression"):
        raise DataError(f"kind is {kind!r}; it takes 'classification' or 'regression'")
    if values.dtype.kind not in "biufU":
        raise DataError(f"the target must be numbers or text, got {values.dtype}")
    present = ~absent(values) if values.ndim == 1 else np.ones(len(values), dtype=bool)
    if not kind:
        kind = "classification" if values.ndim == 1 and _few_words(values[present]) else "regression"
    if kind == "regression":
        if values.dtype.kind == "U":
            raise DataError(f"a regression needs numbers as its target, got text such as {str(values[0])!r}")
        with np.errstate(over="ignore"):
            return values.astype(np.float32), ()
    if values.ndim != 1:
        raise DataError(f"a classification needs one class a row, got targets of the shape {list(values.shape)}")
    known, codes = np.unique(values[present], return_inverse=True)
    indices = np.full(len(values), -1, dtype=np.int64)
    indices[present] = codes
    return indices, tuple(_label(value) for value in known)


def _few_words(values: Array) -> bool:
    if values.dtype.kind != "f":
        return values.dtype.kind in "Ub" or len(np.unique(values)) <= WHOLE_NUMBERS
    return bool((values == np.rint(values)).all()) and len(np.unique(values)) <= WHOLE_NUMBERS


def _label(value: Any) -> str:
    return str(int(value)) if isinstance(value, np.number) and float(value).is_integer() else str(value)


@dataclass(frozen=True, eq=False)
class Examples(Lazy):
    """One split."""

    data: Data
    frontend: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.data)

    def example(self, index: int) -> Example:
        """Make one."""
        data = self.data
        return Example(
            id=str(data.ids[index]),
            inputs=self._inputs(index),
            target=None if data.targets is None else data.targets[index].tolist(),
            cluster="" if data.clusters is None else str(data.clusters[index]),
            slices=self._slices(index),
        )

    def _inputs(self, index: int) -> dict[str, Array]:
        if self._ready is None:
            one = {name: array[index : index + 1] for name, array in self.data.inputs.items()}
            row = {name: array[0] for name, array in prepare(self.frontend, one).items()}
        else:
            row = {name: array[index] for name, array in self._ready.items()}
        if "length" in row and "sequence" in row:
            row["sequence"] = row["sequence"][: row["length"]]
        if names := masked(self.frontend):
            count = int(row[names[1]].sum())
            row |= {name: row[name][:count] for name in names}
        return row

    def _slices(self, index: int) -> dict[str, str]:
        data = self.data
        own = {"class": data.labels[data.targets[index]]} if data.labels and data.targets is not None else {}
        return own | {name: str(values[index]) for name, values in data.slices.items()}

    @cached_property
    def _ready(self) -> dict[str, Array] | None:
        raw = self.data.inputs
        one = prepare(self.frontend, {name: array[:1] for name, array in raw.items()})
        sizes = (sum(array.nbytes for array in raw.values()), len(self) * sum(array.nbytes for array in one.values()))
        return prepare(self.frontend, raw) if max(sizes) < READY_BYTES else None

"""Tasks whose data is a table of arrays with a label or a number to predict: one need only say how it is read.

Cleaning, splitting, duplicates, class weights, slices, scoring and description are done here, once, for all of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import DataError
from trimtab.maths.metrics import (
    Agreement,
    classification_metrics,
    classification_rows,
    regression_metrics,
    regression_rows,
)
from trimtab.run.frontend import prepare
from trimtab.tasks._augment import moved
from trimtab.tasks._data import Array, Data, Examples
from trimtab.tasks._splits import Parts, cut, duplicates, given_parts, row_hashes
from trimtab.values.notation import Step, plain_fields
from trimtab.values.task import SPLITS, Batch, Example, Metric, Split, Task

T = TypeVar("T")


def computed(function: Callable[[Any], T]) -> T:
    """Make an attribute of a method: computed on first use, kept ever after."""
    return cast(T, cached_property(function))


@dataclass(frozen=True, kw_only=True)
class Labelled(Task):
    """A classification or regression on rows; a subclass says in `read` where they come from."""

    seed: int = 0
    """Of the splits."""
    shares: tuple[float, ...] = (0.6, 0.15, 0.25)
    """Of train, validation and test, where the data does not say itself which row belongs where."""
    clean: str = ""
    """`drop` leaves out rows with a missing value; by default such a row is an error."""
    unique: bool = False
    """Keep only the first of rows with the same inputs."""
    weights: tuple[str | float, ...] = ()
    """Of the classes in the loss: a number for each, or `balanced`."""
    top_k: int = 5
    """Of the top-k accuracy."""
    tolerance: float = 0.0
    """Up to which difference two outputs of a regression agree, in the target's unit; 0 offers no agreement."""

    def __post_init__(self) -> None:
        if len(self.shares) != 3 or min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise DataError(
                f"shares are three numbers above 0 that add up to 1, as (0.6, 0.15, 0.25); got {self.shares}"
            )
        if self.clean not in ("", "drop"):
            raise DataError(f"clean is {self.clean!r}; it takes 'drop', or nothing")

    def __str__(self) -> str:
        return str(Step(self.name, (), plain_fields(self)))

    @abstractmethod
    def read(self) -> Data:
        """Read every row; raises DataError where that cannot be done."""

    @property
    def augmentation(self) -> Mapping[str, Any]:
        """Arguments of `moved` for training images; {} changes nothing."""
        return {}

    @computed
    def name(self) -> str:
        package, _, file = type(self).__module__.rpartition(".")
        return file if package == "trimtab.tasks" else type(self).__name__.lower().strip("_")

    @computed
    def objective(self) -> str:
        if self._rows.targets is None:
            return "none"
        return "cross_entropy" if self._rows.labels else "mse"

    @computed
    def labels(self) -> tuple[str, ...]:
        return self._rows.labels

    @computed
    def class_weights(self) -> tuple[float, ...] | None:
        if not self.weights:
            return None
        if not self.labels:
            raise DataError(
                f"weights are for classes, and {self.name} has none: leave them out, or say what is a class"
            )
        if self.weights in ("balanced", ("balanced",)):
            counts = np.bincount(self._targets("train"), minlength=len(self.labels))
            return tuple((counts.sum() / (len(counts) * np.maximum(counts, 1))).tolist())
        numbers = tuple(float(weight) for weight in self.weights if not isinstance(weight, str))
        if len(numbers) != len(self.labels) or len(numbers) != len(self.weights) or min(numbers) <= 0:
            raise DataError(f"weights are 'balanced', or one above 0 for each class of {', '.join(self.labels)}")
        return numbers

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those of a classification, of a regression, or agreement alone where the data has no labels."""
        if self._rows.targets is None:
            return (Agreement(tolerance=self.tolerance or None),)
        return classification_metrics(self.labels, self.top_k) if self.labels else regression_metrics(self.tolerance)

    def split(self, name: Split) -> Sequence[Example]:
        """Return one split, the same at every call."""
        return self._splits[name]

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Stack examples; inputs of different lengths are padded with zeros behind."""
        inputs = {name: stacked([example.inputs[name] for example in examples]) for name in examples[0].inputs}
        labelled = self._rows.targets is not None
        dtype = np.int64 if self._rows.labels else np.float32
        targets = np.array([example.target for example in examples], dtype=dtype) if labelled else None
        return Batch(inputs, targets, tuple(example.id for example in examples))

    def score(self, outputs: Mapping[str, Array], batch: Batch) -> NDArray[np.float64]:
        """Score the output named `output`, or else the first; raises DataError where it does not fit the targets."""
        output = outputs["output"] if "output" in outputs else next(iter(outputs.values()))
        classes = bool(self.labels) or (batch.targets is None and not self.tolerance)
        try:
            if self.labels and output.shape[1:] != (len(self.labels),):
                raise ValueError(f"{len(self.labels)} scores an example are needed, got {list(output.shape[1:])}")
            if classes and batch.targets is None and output[0].size < 2:
                raise ValueError(
                    "it gives one number an example, and there are no labels: say tolerance=NUMBER, up to which two "
                    "answers agree"
                )
            if classes:
                return classification_rows(output, batch.targets, self.top_k)
            return regression_rows(output, batch.targets)
        except ValueError as error:
            raise DataError(f"the model does not fit the task {self.name}: {error}") from error

    def augment(self, batch: Batch, seed: int) -> Batch:
        """Move images as `augmentation` says."""
        if not self.augmentation or "image" not in batch.inputs:
            return batch
        image = moved(batch.inputs["image"], seed, **self.augmentation)
        return Batch({**batch.inputs, "image": image}, batch.targets, batch.ids)

    def frontend(self) -> Mapping[str, Any]:
        """Return the steps, with what they learnt from train; the inputs' names; the labels."""
        return self._frontend

    def describe(self) -> Mapping[str, Any]:
        """Return JSON: sizes, classes, cleaning, augmentation, duplicates, and a sha256 of each split."""
        return self._description

    @computed
    def _frontend(self) -> dict[str, Any]:
        train = self._rows.take(self._parts["train"]).inputs
        steps = [dict(step) for step in self._rows.fit(train)]
        one = prepare({"steps": steps}, {name: array[:1] for name, array in train.items()})
        return {"steps": steps, "inputs": list(one), "labels": list(self.labels)}

    @computed
    def _splits(self) -> dict[Split, Examples]:
        return {name: Examples(self._rows.take(rows), self._frontend) for name, rows in self._parts.items()}

    @computed
    def _description(self) -> dict[str, Any]:
        rows = self._rows
        counts = {name: Counter(self._targets(name).tolist()) for name in SPLITS} if rows.labels else {}
        return {
            "task": str(self),
            "objective": self.objective,
            "sizes": {name: len(self._parts[name]) for name in SPLITS},
            "classes": {
                label: {name: counts[name][index] for name in SPLITS} for index, label in enumerate(rows.labels)
            },
            "class_weights": self.class_weights,
            "clusters": None if rows.clusters is None else len(np.unique(rows.clusters)),
            "cleaning": self._cleaned[1],
            "augmentation": dict(self.augmentation),
            "duplicates": duplicates(row_hashes(rows.inputs), self._parts, rows.targets),
            "splits": {name: self.fingerprint(name) for name in SPLITS},
        }

    @computed
    def _rows(self) -> Data:
        return self._cleaned[0]

    @computed
    def _cleaned(self) -> tuple[Data, dict[str, int]]:
        read = data = self.read()
        check_read(data)
        lacking, where = data.missing()
        if lacking.any() and not self.clean:
            raise DataError(f"{where}; mend it, or leave out such rows ({lacking.sum()}) with clean='drop'")
        data = data.take(np.flatnonzero(~lacking))
        if self.unique and len(data):
            first = {value: row for row, value in reversed(list(enumerate(row_hashes(data.inputs))))}
            data = data.take(np.sort(np.array(list(first.values()))))
        if data.labels and data.targets is not None and len(np.unique(data.targets)) < 2:
            raise DataError(f"the target has one class only, {data.labels[0]!r}; a classification needs two or more")
        dropped = {"missing": int(lacking.sum()), "duplicates": len(read) - int(lacking.sum()) - len(data)}
        return data, {"read": len(read), **dropped}

    @computed
    def _parts(self) -> Parts:
        data = self._rows
        units = data.ids if data.clusters is None else data.clusters
        strata = data.targets if data.labels and data.targets is not None else np.zeros(len(data))
        if data.given is None:
            pieces = cut(np.arange(len(data)), units, strata, self.seed, self.shares)
            parts: Parts = dict(zip(SPLITS, pieces, strict=True))
        else:
            parts = given_parts(data.given)
            if "validation" not in parts and "train" in parts:
                pieces = cut(parts["train"], units, strata, self.seed, self.shares[:2])
                parts |= dict(zip(SPLITS[:2], pieces, strict=True))
        check_parts(parts, data)
        return parts

    def _targets(self, name: Split) -> Array:
        return np.asarray(self._rows.targets)[self._parts[name]]


def stacked(arrays: Sequence[Array]) -> Array:
    """Stack arrays on a new first axis, the shorter ones padded with zeros behind along their own first axis."""
    if len({array.shape for array in arrays}) == 1:
        return np.stack(arrays)
    padded = np.zeros((len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]), dtype=arrays[0].dtype)
    for target, array in zip(padded, arrays, strict=True):
        target[: len(array)] = array
    return padded


def check_read(data: Data) -> None:
    """Raise DataError where arrays differ in length, or two rows share an identifier."""
    columns: dict[str, Array | None] = {f"input {name!r}": array for name, array in data.inputs.items()}
    columns |= {f"slice {name!r}": array for name, array in data.slices.items()}
    columns |= {"target": data.targets, "cluster": data.clusters, "split": data.given}
    for name, array in columns.items():
        if array is not None and len(array) != len(data):
            raise DataError(f"{name} has {len(array)} rows, the others have {len(data)}")
    if not data.inputs or not len(data):
        raise DataError("the data is empty: it takes at least one input and a few rows")
    names, counts = np.unique(data.ids, return_counts=True)
    if len(names) < len(data):
        twice = str(names[counts > 1][0])
        splits = set() if data.given is None else {*data.given[data.ids == twice]}
        where = f" in the splits {' and '.join(sorted(splits))}: splits may not overlap" if len(splits) > 1 else ""
        raise DataError(f"the identifier {twice!r} stands {counts.max()} times{where}; it must be a row's own")


def check_parts(parts: Parts, data: Data) -> None:
    """Raise DataError where a split is empty, a cluster torn apart, or a class has no row where it needs one."""
    for name in SPLITS:
        if name not in parts or not len(parts[name]):
            raise DataError(f"the {name} split is empty: {len(data)} rows are too few, or no row is marked {name!r}")
    if data.clusters is not None:
        _check_clusters(parts, data.clusters)
    if data.targets is None:
        return
    every = data.given is None and data.clusters is None
    for index, label in enumerate(data.labels):
        for name in SPLITS if every else SPLITS[:1]:
            count = int((data.targets == index).sum())
            if count and not (data.targets[parts[name]] == index).any():
                raise DataError(
                    f"class {label!r} has none of its {count} rows in {name}; gather more, or merge classes"
                )


def _check_clusters(parts: Parts, clusters: Array) -> None:
    home: dict[str, str] = {}
    for name, rows in parts.items():
        for cluster in np.unique(clusters[rows]):
            if home.setdefault(str(cluster), name) != name:
                raise DataError(
                    f"cluster {str(cluster)!r} is in the splits {home[str(cluster)]} and {name}: they overlap"
                )

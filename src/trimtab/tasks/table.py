"""A table in a CSV, TSV or Parquet file: numbers are standardised, categories become one input for each word.

Both are learnt from train alone. Columns of lists (Parquet) become one `sequence` [T, D], standardised by column, with
its `length`. A category keeps its 100 most frequent words; any other word is all zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimtab.errors import DataError, suggest
from trimtab.run.frontend import Step, fit_columns
from trimtab.tasks._columns import read_columns
from trimtab.tasks._data import Array, Data, encoded, fit_sequence
from trimtab.tasks._labelled import Labelled

MOST_GROUPS = 50


@dataclass(frozen=True)
class Table(Labelled):
    """Predict one column of a table from the others: `features` is float32 [F], or `sequence` and `length`."""

    path: str = ""
    """A `.csv`, `.tsv` or `.parquet` file."""
    target: str = ""
    """Column to predict; empty where the data has no labels, and then agreement is the only metric."""
    slices: tuple[str, ...] = ()
    """Columns whose groups are looked at one by one; they stay inputs unless dropped."""
    cluster: str = ""
    """Column that names what is drawn as one (user, patient): no cluster is in two splits."""
    split_column: str = ""
    """Column that says train, validation or test."""
    id: str = ""
    """Column with the name of each row; by default its number, from 1."""
    drop: tuple[str, ...] = ()
    """Columns that are no inputs."""
    categorical: tuple[str, ...] = ()
    """Columns of numbers that are names, as postcodes."""
    kind: str = ""
    """`classification` or `regression`; by default text and up to 20 whole numbers are classes."""

    def read(self) -> Data:
        """Read the file and sort its columns into inputs and the rest."""
        columns = read_columns(Path(self.path))
        self._check(columns)
        aside = {self.target, self.cluster, self.split_column, self.id, *self.drop}
        inputs = {name: self._input(name, array) for name, array in columns.items() if name not in aside}
        ids = (
            columns[self.id].astype(str) if self.id else np.arange(1, len(next(iter(columns.values()))) + 1).astype(str)
        )
        targets, labels = encoded(columns[self.target], self.kind) if self.target else (None, ())
        return Data(
            inputs,
            ids,
            targets,
            labels,
            clusters=columns[self.cluster].astype(str) if self.cluster else None,
            slices={name: self._groups(name, columns[name]) for name in self.slices},
            given=columns[self.split_column].astype(str) if self.split_column else None,
            fit=fit_table,
        )

    def _check(self, columns: Mapping[str, Array]) -> None:
        named = (self.target, self.cluster, self.split_column, self.id, *self.slices, *self.drop, *self.categorical)
        for name in filter(None, named):
            if name not in columns:
                raise DataError(f"{self.path} has no column {name!r}{suggest(name, columns)}")

    def _input(self, name: str, array: Array) -> Array:
        if name in self.categorical and array.dtype.kind == "f":
            whole = bool((array[np.isfinite(array)] % 1 == 0).all())
            return np.array(["" if np.isnan(x) else str(int(x)) if whole else str(x) for x in array])
        return array.astype(str) if name in self.categorical or array.dtype.kind == "b" else array

    def _groups(self, name: str, array: Array) -> Array:
        groups = np.unique(array.astype(str))
        if len(groups) > MOST_GROUPS:
            raise DataError(f"slice {name!r} has {len(groups)} groups, at most {MOST_GROUPS} fit; put it into bins")
        return array.astype(str)


def fit_table(train: Mapping[str, Array]) -> tuple[Step, ...]:
    """Learn how to prepare each column, by what it holds: lists, text or numbers."""
    kinds = {name: array.dtype.kind for name, array in train.items()}
    lists = [name for name, kind in kinds.items() if kind == "O"]
    words = [name for name, kind in kinds.items() if kind == "U"]
    numbers = [name for name in train if name not in lists and name not in words]
    steps: list[Step] = [fit_columns(train, numbers, words)] if numbers or words else []
    return (*steps, *fit_sequence(train, lists)) if lists else tuple(steps)

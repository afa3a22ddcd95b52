"""A table in a CSV, TSV or Parquet file: numbers are standardised, categories become one input for each word.

Both are learnt from train alone. Columns of lists (Parquet) become one `sequence` [T, D], standardised by column, with
its `length`. A category keeps its 100 most frequent words; any other word is all zeros.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.errors import DataError, suggest
from trimtab.run.frontend import Step, fit_columns, fit_scale, prepare
from trimtab.tasks._data import Array, Data, encoded
from trimtab.tasks._labelled import Labelled
from trimtab.values.registry import missing

BLANKS = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""What means a missing value in text, in any case."""
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
    if lists:
        join = {"op": "sequence", "inputs": lists, "output": "sequence", "length": "length"}
        joined = prepare({"steps": [join]}, {name: train[name] for name in lists})
        inside = np.arange(joined["sequence"].shape[1]) < joined["length"][:, None]
        scale = fit_scale(joined["sequence"][inside], axis=-1)
        steps += [join, {"op": "scale", "input": "sequence", "length": "length", **scale}]
    return tuple(steps)


def read_columns(path: Path) -> dict[str, Array]:
    """Read a table into columns: float64, int64, text, or object arrays of lists; raises DataError."""
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    columns = read_parquet(path) if path.suffix.lower() == ".parquet" else read_text(path)
    if not columns or not len(next(iter(columns.values()))):
        raise DataError(f"{path} has no rows")
    return columns


def read_text(path: Path) -> dict[str, Array]:
    """Read a CSV (or TSV) file with a header; a column is numbers if every value in it is."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = list(csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a text table in UTF-8: {error}") from error
    rows = [row for row in rows if row]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise DataError(f"{path}: row {number} has {len(row)} values, the header has {len(header)} columns")
    names = [name.strip() for name in header]
    if len({*names}) < len(names):
        raise DataError(f"{path} has two columns of one name: {', '.join(names)}")
    return {name: typed([row[place].strip() for row in rows]) for place, name in enumerate(names)}


def typed(values: Sequence[str]) -> Array:
    """Turn words into int64 or float64 if all are numbers, else leave text; blanks become NaN or "".

    >>> typed(["1", "2"]).dtype.kind, typed(["1.5", "NA"]).dtype.kind, typed(["a", "?"]).tolist()
    ('i', 'f', ['a', ''])
    """
    known = ["" if value.lower() in BLANKS else value for value in values]
    for kind, blank in ((np.int64, ""), (np.float64, "nan")):
        try:
            return np.array([value or blank for value in known]).astype(kind)
        except (ValueError, OverflowError):
            continue
    return np.array(known)


def read_parquet(path: Path) -> dict[str, Array]:
    """Read a Parquet file; raises MissingExtra without pyarrow."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise missing(error, "a Parquet file") from error
    try:
        table = parquet.read_table(path)
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"{path} is not a Parquet file that can be read: {error}") from error
    named = zip(table.column_names, table.columns, strict=True)
    return {name: _from_arrow(name, column.to_pylist()) for name, column in named}


def _from_arrow(name: str, values: list[Any]) -> Array:
    present = [value for value in values if value is not None]
    if present and all(isinstance(value, list) for value in present):
        column = np.empty(len(values), dtype=object)
        column[:] = [None if value is None else _steps(name, value) for value in values]
        return column
    if all(isinstance(value, bool) for value in present):
        return np.array(["" if value is None else str(value) for value in values])
    if all(isinstance(value, int | float) for value in present):
        whole = len(present) == len(values) and all(isinstance(value, int) for value in values)
        return np.array(values, dtype=np.int64 if whole else np.float64)
    return np.array(["" if value is None else str(value) for value in values])


def _steps(name: str, value: list[Any]) -> Array:
    try:
        return np.array(value, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise DataError(f"column {name!r}: lists must hold numbers: {error}") from error

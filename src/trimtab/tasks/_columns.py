"""Files of columns: CSV, TSV and Parquet become numbers, text, or lists, before a task says what they mean."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.errors import DataError
from trimtab.tasks._data import Array
from trimtab.values.registry import missing

BLANKS = frozenset({"", "na", "n/a", "nan", "null", "?"})
"""What means a missing value, in any case; beside numbers so does "none", which may well be a class."""
MOST_CHARACTERS = 2**24
"""In one value; Python's own limit of 131,072 is less than a long text has."""


def read_columns(path: Path, plain: bool = False) -> dict[str, Array]:
    """Read a table into columns: float64, int64, text, or object arrays of lists; raises DataError.

    `plain`: every column comes as it is, as an object array of text; in others one long text widens all of them.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    columns = read_parquet(path, plain) if path.suffix.lower() == ".parquet" else read_text(path, plain)
    if not columns or not len(next(iter(columns.values()))):
        raise DataError(f"{path} has no rows")
    return columns


def read_text(path: Path, plain: bool = False) -> dict[str, Array]:
    """Read a CSV (or TSV) file with a header; a column is numbers if every value in it is."""
    csv.field_size_limit(MOST_CHARACTERS)
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
    columns = {name: [row[place].strip() for row in rows] for place, name in enumerate(names)}
    return {name: as_text(values) if plain else typed(values) for name, values in columns.items()}


def as_text(values: Sequence[Any]) -> Array:
    """Return an object array of text; what is absent becomes blank."""
    column = np.empty(len(values), dtype=object)
    column[:] = ["" if value is None else str(value) for value in values]
    return column


def typed(values: Sequence[str]) -> Array:
    """Turn words into int64 or float64 if all are numbers, else leave text; blanks become NaN or "".

    >>> typed(["1", "2"]).dtype.kind, typed(["1.5", "NA"]).dtype.kind, typed(["a", "?"]).tolist()
    ('i', 'f', ['a', ''])
    """
    known = ["" if value.lower() in BLANKS else value for value in values]
    for kind, blank in ((np.int64, ""), (np.float64, "nan")):
        try:
            return np.array([blank if value.lower() in ("", "none") else value for value in known]).astype(kind)
        except (ValueError, OverflowError):
            continue
    return np.array(known)


def read_parquet(path: Path, plain: bool = False) -> dict[str, Array]:
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
    named = {name: column.to_pylist() for name, column in zip(table.column_names, table.columns, strict=True)}
    return {name: as_text(values) if plain else _from_arrow(name, values) for name, values in named.items()}


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

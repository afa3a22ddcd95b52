"""Texts in a CSV, TSV or Parquet file, with a label or a number for each: `text:reviews.csv(target='label')`.

The tokenizer is a `tokenizer.json`, of the folder of the model that is to read the texts. Its content goes into the
frontend, so that a bundle takes plain texts: `bundle.predict(["some text"])`. Texts are cut off at `max_length` tokens
and padded to the longest of their batch, so a single one is measured at its own length; `padding='max'` fills up all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimtab.errors import DataError, suggest
from trimtab.tasks._columns import read_columns, typed
from trimtab.tasks._data import Array, Data, encoded
from trimtab.tasks._texts import Texts


@dataclass(frozen=True)
class Text(Texts):
    """Predict a column from a column of texts: `input_ids` and `attention_mask`, int64 [T]."""

    path: str = ""
    """A `.csv`, `.tsv` or `.parquet` file."""
    target: str = ""
    """Column to predict; empty where the data has no labels, and then agreement is the only metric."""
    text: str = ""
    """Column of texts; by default the only one that is neither the target nor named below."""
    slices: tuple[str, ...] = ()
    """Columns whose groups are looked at one by one."""
    cluster: str = ""
    """Column that names what is drawn as one (author, document): no cluster is in two splits."""
    split_column: str = ""
    """Column that says train, validation or test."""
    id: str = ""
    """Column with the name of each row; by default its number, from 1."""
    kind: str = ""
    """`classification` or `regression`; by default text and up to 20 whole numbers are classes."""

    def read(self) -> Data:
        """Read the file; raises DataError where a column is absent."""
        columns = read_columns(Path(self.path), plain=True)
        text = self._column_of_texts(columns)
        aside = {name: columns[name].astype(str) for name in filter(None, (*self.slices, *self._named()))}
        rows = np.arange(1, len(columns[text]) + 1)
        targets, labels = encoded(typed(columns[self.target].tolist()), self.kind) if self.target else (None, ())
        return Data(
            {"text": columns[text]},
            aside.get(self.id, rows.astype(str)),
            targets,
            labels,
            clusters=aside.get(self.cluster),
            slices={name: aside[name] for name in self.slices},
            given=aside.get(self.split_column),
            fit=self.steps,
        )

    def _named(self) -> tuple[str, str, str]:
        return self.cluster, self.split_column, self.id

    def _column_of_texts(self, columns: Mapping[str, Array]) -> str:
        """Return the column of texts; raises DataError where it, or another that is named, is not there."""
        for name in filter(None, (self.text, self.target, *self._named(), *self.slices)):
            if name not in columns:
                raise DataError(f"{self.path} has no column {name!r}{suggest(name, columns)}")
        left = [name for name in columns if name not in {self.target, *self._named(), *self.slices}]
        if not self.text and len(left) != 1:
            raise DataError(f"say which column of {self.path} is the text, as text={next(iter(columns))!r}")
        return self.text or left[0]

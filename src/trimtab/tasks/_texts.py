"""What tasks on texts share: the tokenizer, the cut at `max_length`, the padding, and what is said of lengths."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.errors import DataError, one_line
from trimtab.packages import minilm
from trimtab.run import tokens
from trimtab.run.frontend import PADDINGS, Step
from trimtab.tasks._data import Array
from trimtab.tasks._labelled import Labelled, computed
from trimtab.values.registry import missing
from trimtab.values.task import Batch, Example

SAMPLE = 1000
"""Training texts whose full length is counted for the description."""
FILE = "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class Texts(Labelled):
    """A classification or regression on `text`, which a subclass reads as an object array, with `fit=self.steps`."""

    tokenizer: str = "minilm-l6"
    """A tokenizer.json, a folder that holds one, or an id on the Hugging Face hub."""
    max_length: int = 128
    """Tokens at which texts are cut off."""
    padding: str = "longest"
    """`longest`: to the longest text of a batch; `max`: all to `max_length`, for what takes one shape only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.padding not in PADDINGS:
            raise DataError(f"padding is {self.padding!r}; it takes {' or '.join(map(repr, PADDINGS))}")
        if self.max_length < 1:
            raise DataError(f"max_length is a number of tokens from 1, got {self.max_length}")

    def steps(self, train: Mapping[str, Array]) -> tuple[Step, ...]:
        """Return the one step, which learns nothing from `train`: the tokenizer came with the model."""
        return (self._step,)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Stack examples, padded to the longest of them with the tokenizer's own padding."""
        batch = super().collate(examples)
        mask = batch.inputs["attention_mask"]
        ids = np.where(mask == 0, self._step["pad"], batch.inputs["input_ids"])
        return Batch({"input_ids": ids, "attention_mask": mask}, batch.targets, batch.ids)

    def describe(self) -> Mapping[str, Any]:
        """Return JSON: as any task, and how long the texts are, and which share of them is cut off."""
        return {**super().describe(), "texts": self._about_texts}

    @computed
    def _step(self) -> Step:
        text = tokens.plain(read_tokenizer(self.tokenizer))
        if self.max_length <= tokens.fewest(text):
            raise DataError(f"max_length={self.max_length} leaves no token of the text; this tokenizer marks its ends")
        return {
            "op": "tokenize",
            "input": "text",
            "tokenizer": text,
            "max_length": self.max_length,
            "pad": tokens.padding(text),
            "padding": self.padding,
            "output": "input_ids",
            "mask": "attention_mask",
        }

    @computed
    def _about_texts(self) -> dict[str, Any]:
        rows = self._parts["train"]
        chosen = rows[np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(np.int64)]
        counts = tokens.lengths(self._rows.inputs["text"][chosen], self._step["tokenizer"])
        quantiles = np.quantile(counts, (0.05, 0.5, 0.95, 1)).tolist()
        return {
            "tokenizer": hashlib.sha256(self._step["tokenizer"].encode()).hexdigest(),
            "max_length": self.max_length,
            "padding": self.padding,
            "counted": len(chosen),
            "tokens": dict(zip(("5%", "median", "95%", "longest"), quantiles, strict=True)),
            "cut_off": float((counts > self.max_length).mean()),
        }


def read_tokenizer(place: str) -> str:
    """Return the content of a tokenizer.json; raises DataError where there is none."""
    path = Path(place)
    if place == "minilm-l6":
        path = minilm(FILE)[0]
    elif path.is_dir():
        path = path / FILE
        if not path.is_file():
            how = f"transformers.AutoTokenizer.from_pretrained({place!r}).save_pretrained({place!r})"
            raise DataError(f"{place} has no {FILE}; write one, as with {how}")
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is no {FILE} that can be read: {error}") from error
    return _from_hub(place)


def _from_hub(place: str) -> str:
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise missing(error, "a task of texts") from error
    try:
        return str(Tokenizer.from_pretrained(place).to_str())
    except Exception as error:  # the library raises nothing more precise
        raise DataError(
            f"there is no tokenizer {place!r}: name a {FILE}, a folder that holds one, minilm-l6, or an id on a hub "
            f"that can be reached ({one_line(error)})"
        ) from error

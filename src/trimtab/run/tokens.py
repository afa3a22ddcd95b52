"""Texts to tokens, with the tokenizer as data: the text of a tokenizer.json lies in the frontend's step.

So a model's folder and its bundle hold all that turns a text into numbers, under the hashes of `model.json`; nothing is
looked up by name, and nothing is code. The library `tokenizers` reads it, and is imported when the first text comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import CorruptFile, DataError
from trimtab.values.registry import missing

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Tokens = NDArray[np.int64]
CHUNK = 256
"""Texts tokenized together: what is cut off long ones is held in memory meanwhile."""


def plain(text: str) -> str:
    """Return a tokenizer.json without what it says of lengths: the step says that.

    Raises:
        CorruptFile: it is no tokenizer.
        MissingExtra: the library `tokenizers` is not installed.
    """
    tokenizer = _read(text)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return str(tokenizer.to_str())


def padding(text: str) -> int:
    """Return the token that fills up short texts; 0 where the tokenizer has none."""
    tokenizer = _read(text)
    known = (tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>", "<|pad|>"))
    return next((token for token in known if token is not None), 0)


def fewest(text: str) -> int:
    """Return how many tokens an empty text has: those that mark beginning and end."""
    return int(_read(text).num_special_tokens_to_add(False))


def lengths(texts: Iterable[Any], text: str) -> Tokens:
    """Return how many tokens each text has when nothing is cut off: int64[n]."""
    tokenizer = _read(text)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    found = [len(one.ids) for chunk in _chunks(texts) for one in tokenizer.encode_batch_fast(chunk)]
    return np.array(found, dtype=np.int64)


def encode(texts: Any, text: str, limit: int, pad: int, whole: bool) -> tuple[Tokens, Tokens]:
    """Return tokens and mask, both int64 [n, T]: `pad` behind short texts, long ones cut off at `limit` tokens.

    T is `limit` if `whole`, else the length of the longest.

    Raises:
        DataError: something is no text, or has no tokens.
        CorruptFile, MissingExtra: as `plain`.
    """
    tokenizer = _limited(text, limit)
    rows = [one.ids for chunk in _chunks(texts) for one in tokenizer.encode_batch_fast(chunk)]
    empty = next((number for number, row in enumerate(rows) if not row), None)
    if empty is not None:
        raise DataError(f"row {empty}: the text has no tokens; leave the row out")
    width = limit if whole else max(map(len, rows), default=1)
    ids, mask = np.full((len(rows), width), pad, dtype=np.int64), np.zeros((len(rows), width), dtype=np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = row, 1
    return ids, mask


def _chunks(texts: Any) -> Iterator[list[str]]:
    if isinstance(texts, str) or (isinstance(texts, np.ndarray) and texts.ndim != 1):
        raise DataError("texts come as a list of them, one for each row")
    listed = list(texts)
    for number, one in enumerate(listed):
        if not isinstance(one, str):
            raise DataError(f"row {number}: {str(one)[:80]!r} is a {type(one).__name__}, a text is needed")
    for start in range(0, len(listed), CHUNK):
        yield [str(one) for one in listed[start : start + CHUNK]]


def _read(text: str) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise missing(error, "a model of texts") from error
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more precise
        raise CorruptFile(f"the tokenizer is no tokenizer.json: {str(error)[:200]}") from error


@lru_cache(maxsize=8)
def _limited(text: str, limit: int) -> Tokenizer:
    tokenizer = _read(text)
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    return tokenizer

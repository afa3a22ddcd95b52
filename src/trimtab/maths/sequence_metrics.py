"""Scores of answers that are sequences of tokens, held against one or more right answers. One row an answer.

An error rate over tokens is a ratio of two sums, not a mean over answers: long answers count for more (as in word and
phoneme error rates of speech recognition). It is a set metric, and resampled as one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.maths.metrics import Agreement, Mean
from trimtab.values.figure import Better
from trimtab.values.task import Metric

Floats = NDArray[np.float64]
Tokens = Sequence[int]

EDITS, ANSWER, TOKENS, WRONG = range(4)
"""Columns of a sequence's row; ANSWER is a number that equal answers share, where `Agreement` looks for it."""


@dataclass(frozen=True)
class Ratio(Metric):
    """The sum of one column over the sum of another.

    >>> error = Ratio("phoneme_error", EDITS, TOKENS)
    >>> error.reduce(np.array([[1.0, 0.0, 4.0, 1.0], [0.0, 0.0, 6.0, 0.0]]), np.ones((1, 2)))
    array([0.1])
    """

    name: str
    above: int
    below: int
    better: Better = "lower"
    unit: str = "share"

    def reduce(self, rows: Floats, weights: Floats) -> Floats:
        """Return the ratio under each weighting, float[R]; NaN where the lower sum is 0."""
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio: Floats = (weights @ rows[:, self.above]) / (weights @ rows[:, self.below])
        return ratio


def edit_distance(first: Tokens, second: Tokens) -> int:
    """Return the fewest insertions, deletions and replacements that turn one into the other (Levenshtein 1966).

    >>> edit_distance("kitten", "sitting")
    3
    """
    row = list(range(len(second) + 1))
    for number, token in enumerate(first, start=1):
        before, row[0] = row[0], number
        for place, other in enumerate(second, start=1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (token != other))
    return row[-1]


def sequence_rows(answers: Sequence[Tokens], right: Sequence[Sequence[Tokens]]) -> Floats:
    """Score each answer against the nearest of its right answers: rows[n, 4] of EDITS, ANSWER, TOKENS, WRONG.

    Of equally near ones the longest counts.
    """
    return np.array([_row(tuple(answer), ways) for answer, ways in zip(answers, right, strict=True)], dtype=np.float64)


def _row(answer: tuple[int, ...], ways: Sequence[Tokens]) -> tuple[int, int, int, bool]:
    edits, shorter = min((edit_distance(answer, way), -len(way)) for way in ways)
    digest = hashlib.blake2b(repr(answer).encode(), digest_size=6).digest()
    return edits, int.from_bytes(digest), -shorter, edits > 0


def sequence_metrics(whole: str, single: str) -> tuple[Metric, ...]:
    """Return every metric of `sequence_rows`: the share of `whole` answers and of `single` tokens that are wrong."""
    return Mean(whole, WRONG, "lower", binary=True), Ratio(single, EDITS, TOKENS), Agreement()

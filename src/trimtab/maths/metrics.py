"""Scores of classifiers and regressors, from rows that can be paired, resampled and kept.

A model is scored once, into one row of numbers for each example. Every metric is then arithmetic on rows and
weights, so slices, bootstraps and paired tests need neither the model nor the data again.

Names: `accuracy`, `top_5_accuracy`, `log_loss`, `agreement`, `mse`, `mae`; `precision_macro`, `recall_macro`,
`f1_macro`; and one class against the rest, `precision_LABEL`, `recall_LABEL`, `f1_LABEL`. The class is part of the
name, because precision needs the rows *predicted* as that class, and a slice holds those that *are* of it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.values.figure import Better
from trimtab.values.task import Metric

Array = NDArray[Any]
Floats = NDArray[np.float64]
Score = Literal["precision", "recall", "f1"]
SCORES: tuple[Score, ...] = ("precision", "recall", "f1")

TARGET, PREDICTED, CORRECT, IN_TOP_K, LOG_LOSS = range(5)
"""Columns of a classification row; without labels all but PREDICTED are NaN."""
SQUARED_ERROR, ABSOLUTE_ERROR, OUTPUTS = range(3)
"""Columns of a regression row: errors averaged over the outputs, then the outputs themselves from OUTPUTS on."""

NO_ANSWER = -1.0
"""Predicted class of a row whose logits are NaN or infinite: wrong, and in agreement with nothing."""


def weighted_mean(values: Floats, weights: Floats) -> Floats:
    """Mean of values[n] under each of weights[R, n]; NaN where the weights add up to nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Floats = (weights @ values) / weights.sum(axis=1)
    return mean


@dataclass(frozen=True)
class Mean(Metric):
    """The mean of one column of the rows.

    >>> accuracy = Mean("accuracy", CORRECT, binary=True)
    >>> rows = classification_rows(np.array([[2.0, 0.0], [2.0, 0.0]]), np.array([0, 1]))
    >>> accuracy.reduce(rows, np.array([[1.0, 1.0], [3.0, 1.0]]))
    array([0.5 , 0.75])
    """

    name: str
    column: int
    better: Better = "higher"
    unit: str = "share"
    binary: bool = False

    def values(self, rows: Floats) -> Floats:
        """Return the column, float[n]."""
        return rows[:, self.column]

    def reduce(self, rows: Floats, weights: Floats) -> Floats:
        """Return the weighted means, float[R]."""
        return weighted_mean(self.values(rows), weights)


@dataclass(frozen=True)
class ClassScore(Metric):
    """Precision, recall or F1: of one class against the rest, or their plain mean over the classes (macro).

    Under a weighting, a class that is neither present nor predicted is left out of the macro mean, and its own score
    is NaN; any other 0/0 counts as 0, as scikit-learn has it.
    """

    name: str
    score: Score
    label: int | None = None
    """Index of the class; None for the macro mean."""
    better: Better = "higher"
    unit: str = "share"

    def support(self, rows: Floats) -> Floats:
        """Return the rows of each class that the score looks at."""
        classes, counts = np.unique(rows[:, TARGET], return_counts=True)
        behind: Floats = counts[(classes == self.label) | (self.label is None)].astype(np.float64)
        return behind

    def reduce(self, rows: Floats, weights: Floats) -> Floats:
        """Return the score under each weighting, float[R]."""
        seen = np.unique(rows[:, [TARGET, PREDICTED]])
        labels = seen[seen >= 0] if self.label is None else np.array([float(self.label)])
        targets, predicted = (rows[:, [column]] == labels for column in (TARGET, PREDICTED))
        hits, said, true = (weights @ matrix.astype(float) for matrix in (targets & predicted, predicted, targets))
        above, below = {"precision": (hits, said), "recall": (hits, true), "f1": (2 * hits, said + true)}[self.score]
        scores = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
        present = said + true > 0
        with np.errstate(invalid="ignore"):
            mean: Floats = (scores * present).sum(axis=1) / present.sum(axis=1)
        return mean


@dataclass(frozen=True)
class Agreement(Metric):
    """Share of examples on which model and base give the same answer; needs no labels.

    Rows are [model rows | base rows] side by side. Classes agree when equal; outputs of a regression when each
    differs by at most `tolerance`.
    """

    name: str = "agreement"
    tolerance: float | None = None
    """None for classes; else in the unit of the outputs."""
    better: Better = "higher"
    unit: str = "share"
    paired: bool = True
    binary: bool = True

    def values(self, rows: Floats) -> Floats:
        """Return 1 where both agree and 0 elsewhere, float[n]; raises ValueError on rows that are not pairs."""
        if rows.shape[1] % 2:
            raise ValueError(f"agreement takes model and base rows side by side, got {rows.shape[1]} columns: not even")
        ours, base = np.hsplit(rows, 2)
        if self.tolerance is None:
            same = (ours[:, PREDICTED] == base[:, PREDICTED]) & (ours[:, PREDICTED] != NO_ANSWER)
        else:
            same = (np.abs(ours[:, OUTPUTS:] - base[:, OUTPUTS:]) <= self.tolerance).all(axis=1)
        agree: Floats = same.astype(np.float64)
        return agree

    def reduce(self, rows: Floats, weights: Floats) -> Floats:
        """Return the weighted share that agrees, float[R]."""
        return weighted_mean(self.values(rows), weights)


def log_softmax(logits: Array) -> Floats:
    """Log probabilities along the last axis, in float64; large logits neither overflow nor vanish.

    >>> log_softmax(np.array([1000.0, 1000.0])).round(4)
    array([-0.6931, -0.6931])
    """
    shifted = np.asarray(logits, dtype=np.float64)
    shifted = shifted - shifted.max(axis=-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def classification_rows(logits: Array, targets: Array | None, top_k: int = 5) -> Floats:
    """Score logits[n, classes] against class indices[n]: rows[n, 5] of TARGET ... LOG_LOSS (in nats).

    Ties go to the lower class, as argmax has it. Logits of -inf are classes ruled out. A row with NaN or without any
    finite largest logit is no answer: wrong, with infinite log loss.

    Raises:
        ValueError: if the shapes do not fit, or a target is no class.
    """
    scores = np.asarray(logits, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] < 1:
        raise ValueError(f"class scores come as [examples, classes], got the shape {list(scores.shape)}")
    rows = np.full((len(scores), 5), np.nan)
    good = np.isfinite(scores.max(axis=1))
    rows[:, PREDICTED] = np.where(good, scores.argmax(axis=1), NO_ANSWER)
    if targets is None:
        return rows
    labels = _checked_targets(targets, *scores.shape)
    rows[:, TARGET] = labels
    rows[:, CORRECT:] = (0.0, 0.0, np.inf)
    rows[good, CORRECT:] = _graded(scores[good], labels[good], top_k)
    return rows


def _checked_targets(targets: Array, count: int, classes: int) -> Array:
    labels = np.asarray(targets)
    if labels.shape != (count,):
        raise ValueError(f"{count} answers need targets of shape [{count}], got {list(labels.shape)}")
    if count and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"targets run from {labels.min()} to {labels.max()}, the model gives {classes} classes")
    return labels.astype(np.int64)


def _graded(scores: Floats, labels: Array, top_k: int) -> Floats:
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    rank = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    loss = -np.take_along_axis(log_softmax(scores), labels[:, None], axis=1)[:, 0]
    return np.stack([rank == 0, rank < top_k, loss], axis=1).astype(np.float64)


def regression_rows(outputs: Array, targets: Array | None) -> Floats:
    """Score outputs[n] or [n, m] against targets of the same shape: rows[n, 2 + m], errors NaN without targets.

    Raises:
        ValueError: if the shapes do not fit.
    """
    values = np.asarray(outputs, dtype=np.float64)
    values = values.reshape(len(values), -1)
    errors = np.full((len(values), 2), np.nan)
    if targets is not None:
        wanted = np.asarray(targets, dtype=np.float64).reshape(len(targets), -1)
        if wanted.shape != values.shape:
            raise ValueError(f"outputs have the shape {list(values.shape)}, targets {list(wanted.shape)}")
        off = values - wanted
        errors = np.stack([(off**2).mean(axis=1), np.abs(off).mean(axis=1)], axis=1)
    return np.hstack([errors, values])


def classification_metrics(labels: Sequence[str], top_k: int = 5) -> tuple[Metric, ...]:
    """Return every metric of a labelled classification, means first, then macro, then class by class."""
    metrics: list[Metric] = [Mean("accuracy", CORRECT, binary=True)]
    if len(labels) > top_k > 1:
        metrics.append(Mean(f"top_{top_k}_accuracy", IN_TOP_K, binary=True))
    metrics += [Mean("log_loss", LOG_LOSS, "lower", "nats"), Agreement()]
    metrics += [ClassScore(f"{score}_macro", score) for score in SCORES]
    for index, word in enumerate(words(labels)):
        metrics += [ClassScore(f"{score}_{word}", score, index) for score in SCORES]
    return tuple(metrics)


def regression_metrics(tolerance: float = 0.0) -> tuple[Metric, ...]:
    """Return every metric of a labelled regression; agreement only where a tolerance is given."""
    errors = (Mean("mse", SQUARED_ERROR, "lower", "squared unit"), Mean("mae", ABSOLUTE_ERROR, "lower", "unit"))
    return (*errors, Agreement(tolerance=tolerance)) if tolerance > 0 else errors


def words(labels: Sequence[str]) -> tuple[str, ...]:
    """Turn labels into the ends of metric names: lower case, `_` for what is no letter or digit.

    Where two labels would read the same, or one would read `macro`, every class goes by its index.

    >>> words(["T-shirt/top", "Coat"]), words(["a+", "a-"])
    (('t_shirt_top', 'coat'), ('0', '1'))
    """
    named = tuple(re.sub(r"\W+", "_", label.lower()).strip("_") for label in labels)
    clash = len(set(named)) < len(named) or "macro" in named or "" in named
    return tuple(map(str, range(len(labels)))) if clash else named

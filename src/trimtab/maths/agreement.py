"""Do two models answer the same where an answer is a sequence of decisions or a set of boxes? Needs no labels.

Rows of a model have a fixed number of columns whatever the example, so that model and base stand side by side:

    steps    [how many, answer of step 0, 1, ...]       NaN behind the last
    boxes    [right, true, left, top, right, bottom, ...]   NaN behind the last; the first two count true boxes found
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.maths.metrics import weighted_mean
from trimtab.values.figure import Better
from trimtab.values.task import Metric

Floats = NDArray[np.float64]
RIGHT, TRUE, BOXES = range(3)
"""Columns of a row of boxes: true boxes found, true boxes there are, and where the four numbers of each box begin."""


@dataclass(frozen=True)
class StepAgreement(Metric):
    """Mean over examples of the share of their steps on which model and base decide the same.

    Every example weighs the same, however long. A step without a finite answer agrees with nothing.

    >>> rows = step_rows(np.array([[0.9, 0.2], [0.6, 0.0]]), np.array([2, 1]), 2)
    >>> base = step_rows(np.array([[0.8, 0.7], [0.9, 0.0]]), np.array([2, 1]), 2)
    >>> StepAgreement().values(np.hstack([rows, base]))
    array([0.5, 1. ])
    """

    name: str = "agreement"
    threshold: float = 0.5
    """An answer from here on is a yes."""
    better: Better = "higher"
    unit: str = "share"
    paired: bool = True

    def values(self, rows: Floats) -> Floats:
        """Return the share of each example's steps, float[n]; raises ValueError on rows that are not pairs."""
        ours, base, there = _steps(rows)
        with np.errstate(invalid="ignore"):
            same = ((ours >= self.threshold) == (base >= self.threshold)) & np.isfinite(ours) & np.isfinite(base)
        share: Floats = (same & there).sum(axis=1) / there.sum(axis=1)
        return share

    def reduce(self, rows: Floats, weights: Floats) -> Floats:
        """Return the weighted mean, float[R]."""
        return weighted_mean(self.values(rows), weights)


@dataclass(frozen=True)
class StepGap(Metric):
    """Mean over examples of how far the answers of their steps lie from the base's, in the unit of the answers."""

    name: str = "answer_gap"
    better: Better = "lower"
    unit: str = "unit"
    paired: bool = True

    def values(self, rows: Floats) -> Floats:
        """Return the mean absolute difference of each example's steps, float[n]; NaN where an answer is no number."""
        ours, base, there = _steps(rows)
        gap: Floats = np.where(there, np.abs(ours - base), 0.0).sum(axis=1) / there.sum(axis=1)
        return gap

    def reduce(self, rows: Floats, weights: Floats) -> Floats:
        """Return the weighted mean, float[R]."""
        return weighted_mean(self.values(rows), weights)


@dataclass(frozen=True)
class BoxAgreement(Metric):
    """Share of examples on which model and base find as many boxes, each over one of the other's."""

    name: str = "agreement"
    overlap: float = 0.5
    """Intersection over union from which on two boxes are the same."""
    better: Better = "higher"
    unit: str = "share"
    paired: bool = True
    binary: bool = True

    def values(self, rows: Floats) -> Floats:
        """Return 1 where all boxes agree and 0 elsewhere, float[n]; raises ValueError on rows that are not pairs."""
        matched, ours, base = _matched(rows, self.overlap)
        agree: Floats = ((matched == ours) & (matched == base)).astype(np.float64)
        return agree

    def reduce(self, rows: Floats, weights: Floats) -> Floats:
        """Return the weighted share that agrees, float[R]."""
        return weighted_mean(self.values(rows), weights)


@dataclass(frozen=True)
class BoxF1(Metric):
    """Mean over examples of 2 x matched boxes / (boxes of the model + boxes of the base); 1 where neither has any."""

    name: str = "box_f1"
    overlap: float = 0.5
    better: Better = "higher"
    unit: str = "share"
    paired: bool = True

    def values(self, rows: Floats) -> Floats:
        """Return the F1 of each example, float[n]; raises ValueError on rows that are not pairs."""
        matched, ours, base = _matched(rows, self.overlap)
        total = ours + base
        score: Floats = np.where(total > 0, 2 * matched / np.maximum(total, 1), 1.0)
        return score

    def reduce(self, rows: Floats, weights: Floats) -> Floats:
        """Return the weighted mean, float[R]."""
        return weighted_mean(self.values(rows), weights)


@dataclass(frozen=True)
class BoxRecall(Metric):
    """Share of all true boxes that the model finds; knows the truth, and not the base."""

    name: str = "box_recall"
    better: Better = "higher"
    unit: str = "share"

    def support(self, rows: Floats) -> Floats:
        """Return how many examples have true boxes, as the one part of the metric."""
        return np.array([(rows[:, TRUE] > 0).sum()], dtype=np.float64)

    def reduce(self, rows: Floats, weights: Floats) -> Floats:
        """Return the share under each weighting, float[R]; NaN where there is no true box."""
        with np.errstate(invalid="ignore"):
            share: Floats = (weights @ rows[:, RIGHT]) / (weights @ rows[:, TRUE])
        return share


def step_rows(answers: NDArray[Any], lengths: NDArray[Any], most: int) -> Floats:
    """Put answers[n, T] or [n, T, 1] of sequences of these lengths[n] into rows[n, 1 + most], NaN behind the last.

    Raises:
        ValueError: if the shapes do not fit, or a sequence is empty or longer than `most`.
    """
    values, counts = np.asarray(answers, dtype=np.float64), np.asarray(lengths)
    values = values.reshape(values.shape[:2]) if values.size == np.prod(values.shape[:2]) else values
    if values.ndim != 2 or counts.shape != values.shape[:1]:
        raise ValueError(f"one answer a step is needed, got the shape {list(np.shape(answers))}")
    if len(counts) and not 1 <= counts.min() <= counts.max() <= min(most, values.shape[1]):
        raise ValueError(
            f"sequences have 1 to {most} steps, got {counts.min()} to {counts.max()} and {values.shape[1]}"
        )
    rows = np.full((len(values), 1 + most), np.nan)
    rows[:, 0] = counts
    wide = min(most, values.shape[1])
    rows[:, 1 : 1 + wide] = np.where(np.arange(wide) < counts[:, None], values[:, :wide], np.nan)
    return rows


def box_rows(found: list[Floats], truth: list[Floats], most: int, overlap: float = 0.5) -> Floats:
    """Put boxes[m, 4] (left, top, right, bottom) of each example into rows[n, 2 + 4 * most], beside what is true.

    Only the first `most` boxes of an example are kept.
    """
    rows = np.full((len(found), BOXES + 4 * most), np.nan)
    true = np.full((len(found), BOXES + 4 * most), np.nan)
    for number, (boxes, right) in enumerate(zip(found, truth, strict=True)):
        for table, side in ((rows, boxes[:most]), (true, right[:most])):
            table[number, BOXES : BOXES + side.size] = side.ravel()
    rows[:, RIGHT], _, rows[:, TRUE] = _matched(np.hstack([rows, true]), overlap)
    return rows


def overlaps(ours: Floats, base: Floats) -> Floats:
    """Intersection over union of boxes[..., a, 4] with boxes[..., b, 4]: [..., a, b]; 0 where one is NaN.

    >>> overlaps(np.array([[0.0, 0.0, 2.0, 2.0]]), np.array([[1.0, 0.0, 3.0, 2.0]])).round(3)
    array([[0.333]])
    """
    low = np.maximum(ours[..., :, None, :2], base[..., None, :, :2])
    high = np.minimum(ours[..., :, None, 2:], base[..., None, :, 2:])
    inside = np.clip(high - low, 0.0, None).prod(axis=-1)
    areas = [np.clip(boxes[..., 2:] - boxes[..., :2], 0.0, None).prod(axis=-1) for boxes in (ours, base)]
    union = areas[0][..., :, None] + areas[1][..., None, :] - inside
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.nan_to_num(inside / union, nan=0.0, posinf=0.0))


def _steps(rows: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return both models' answers, and which of them are steps of the example."""
    ours, base = _halves(rows)
    return ours[:, 1:], base[:, 1:], np.arange(base.shape[1] - 1) < base[:, :1]


def _matched(rows: Floats, overlap: float) -> tuple[Floats, Floats, Floats]:
    """Count boxes that are each other's best and overlap enough, the model's, and the base's: float[n] each."""
    ours, base = (half[:, BOXES:].reshape(len(half), -1, 4) for half in _halves(rows))
    shared = overlaps(ours, base)
    best = shared.argmax(axis=2)
    back = np.take_along_axis(shared.argmax(axis=1), best, axis=1)
    enough = shared.max(axis=2, initial=0.0) >= overlap
    mutual = (back == np.arange(shared.shape[1])) & enough
    counts = [np.isfinite(boxes[..., 0]).sum(axis=1).astype(np.float64) for boxes in (ours, base)]
    return mutual.sum(axis=1).astype(np.float64), counts[0], counts[1]


def _halves(rows: Floats) -> list[Floats]:
    if rows.shape[1] % 2:
        raise ValueError(f"agreement takes model and base rows side by side, got {rows.shape[1]} columns: not even")
    return np.hsplit(rows, 2)

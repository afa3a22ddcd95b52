"""How good predictions were: their error, their bias, whether intervals held what they promised, and their order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Calibration:
    """Predictions beside what was measured; a figure that cannot be told from so few is None."""

    n: int
    median_error: float | None
    """Median of |predicted / measured - 1| over measurements that are not 0."""
    bias: float | None
    """Median of predicted / measured - 1: above 0, predictions are too high."""
    coverage: float | None
    """Share of the measurements that lie in their interval."""
    rank_correlation: float | None
    """Spearman's rho; None for fewer than three pairs, or where one side is constant."""


def calibration(predicted: ArrayLike, measured: ArrayLike, intervals: ArrayLike | None = None) -> Calibration:
    """Compare predicted[n] with measured[n], and with intervals[n, 2] (NaN: unknown) where there are any.

    >>> calibration([1.1, 2.0, 3.0], [1.0, 2.0, 4.0], [[1, 2], [1, 3], [2, 3]])
    Calibration(n=3, median_error=0.1, bias=0.0, coverage=0.667, rank_correlation=1.0)

    Raises:
        ValueError: the shapes do not fit.
    """
    said, seen = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    if said.shape != seen.shape or said.ndim != 1:
        raise ValueError(f"predicted has shape {said.shape}, measured {seen.shape}; both are [n]")
    known = seen != 0
    errors = said[known] / seen[known] - 1
    return Calibration(
        len(seen),
        _rounded(np.median(np.abs(errors)) if len(errors) else np.nan),
        _rounded(np.median(errors) if len(errors) else np.nan),
        _rounded(_coverage(seen, intervals)),
        _rounded(_rank_correlation(said, seen)),
    )


def _coverage(seen: np.ndarray, intervals: ArrayLike | None) -> float:
    if intervals is None or not len(seen):
        return float("nan")
    ends = np.asarray(intervals, dtype=np.float64).reshape(len(seen), 2)
    known = np.isfinite(ends).all(axis=1)
    inside = (ends[:, 0] <= seen) & (seen <= ends[:, 1])
    return float(inside[known].mean()) if known.any() else float("nan")


def _rank_correlation(said: np.ndarray, seen: np.ndarray) -> float:
    if len(seen) < 3 or np.ptp(said) == 0 or np.ptp(seen) == 0:
        return float("nan")
    return float(np.corrcoef(_ranks(said), _ranks(seen))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value; equal values share the mean of their ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[places])


def _rounded(value: float) -> float | None:
    return round(float(value), 3) if np.isfinite(value) else None

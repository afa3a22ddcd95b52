"""How far two answers to one question are apart: the one measure by which rewritten models are held to be the same."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def gap(ours: NDArray[Any], theirs: NDArray[Any]) -> tuple[float, float]:
    """Return the greatest absolute difference of two arrays, and the greatest absolute number of `theirs`.

    Numbers that are not finite, such as the -inf of a class that is ruled out, must stand in the same places. The
    difference is not finite where they do not, where shapes differ, and where whole numbers or truth values do.

    >>> gap(np.array([1.0, -np.inf]), np.array([1.5, -np.inf])), gap(np.array([1]), np.array([2]))
    ((0.5, 1.5), (inf, 2.0))
    """
    there = np.isfinite(theirs)
    largest = float(np.max(np.abs(theirs[there]), initial=0.0))
    if ours.shape != theirs.shape:
        return float("inf"), largest
    if theirs.dtype.kind != "f":
        return 0.0 if np.array_equal(ours, theirs) else float("inf"), largest
    if not np.array_equal(ours[~there], theirs[~there], equal_nan=True):
        return float("inf"), largest
    return float(np.max(np.abs(ours[there] - theirs[there]), initial=0.0)), largest

"""Which candidates are worth a look, and how many of them may be claimed.

Searching many and keeping the best flatters: the best of 50 that are each truly too bad passes a naive test
most of the time. A walk along the frontier in an order fixed beforehand, stopping at the first failure, has no
such fault and needs no correction.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Direction = Literal["min", "max"]


def frontier(points: ArrayLike, directions: Sequence[Direction]) -> NDArray[np.int64]:
    """Indices, rising, of the points[n, m] that no other point matches everywhere and beats somewhere.

    Of equal points the first is kept.

    >>> frontier([[1, 5], [2, 6], [3, 4], [1, 5]], ["min", "max"]).tolist()
    [0, 1]

    Raises:
        ValueError: if there is not one direction a column, or a value is NaN (a missing figure is never a win).
    """
    costs = np.asarray(points, dtype=np.float64)
    if costs.ndim != 2 or costs.shape[1] != len(directions) or not set(directions) <= {"min", "max"}:
        raise ValueError(
            f"points have shape {costs.shape}, directions are {list(directions)}; one, min or max, a column"
        )
    if np.isnan(costs).any():
        raise ValueError("a point holds NaN; leave out candidates with a missing figure")
    costs = costs * np.array([1.0 if direction == "min" else -1.0 for direction in directions])
    kept = [index for index in range(len(costs)) if not _beaten(costs, index)]
    return np.array(kept, dtype=np.int64)


def _beaten(costs: NDArray[np.float64], index: int) -> bool:
    no_worse = np.all(costs <= costs[index], axis=1)
    better = np.any(costs < costs[index], axis=1)
    return bool(np.any(no_worse & better) or np.any(no_worse[:index]))


def fixed_sequence(accepts: Iterable[bool]) -> int | None:
    """Index of the last accepted before the first failure, or None if the first fails.

    Each is a level-alpha test, in an order fixed without its data; then the chance that *any* of those
    accepted is a mistake is at most alpha. A generator is read no further than its first failure, so
    what is not needed is never tested.

    >>> fixed_sequence([True, True, False, True])
    1

    Source: Angelopoulos et al., Learn then Test, arXiv 2110.01052, section 2.1 (fixed sequence testing);
    Laufer-Goldshtein et al., Pareto Testing, arXiv 2210.07913, section 4.
    """
    last = None
    for index, accepted in enumerate(accepts):
        if not accepted:
            break
        last = index
    return last

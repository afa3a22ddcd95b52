"""Scores of rankings: which things, out of many, are put first for one person or query. One row a person.

Names: `ndcg_10`, `recall_10`, for the ten things put first.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.maths.metrics import Mean
from trimtab.values.task import Metric

Array = NDArray[Any]
Floats = NDArray[np.float64]

NDCG, RECALL = range(2)
"""Columns of a ranking's row."""


def ranking_rows(scores: Array, wanted: Array, left_out: Array, top: int) -> Floats:
    """Score rankings of m things, scores[n, m], against those wanted, bool[n, m]: rows[n, 2] of NDCG, RECALL.

    Things `left_out`, bool[n, m], are ranked last; ties go to the lower number, and NaN is the lowest score. Gain is 1
    for a wanted thing, discounted by log2(1 + rank), as a share of the best ranking's (Jarvelin and Kekalainen 2002,
    ACM Transactions on Information Systems 20:422, section 2.2, with logarithms of 2). Recall is the share found of
    the wanted ones, or of `top` where more are wanted.

    >>> ranking_rows(np.array([[3.0, 2.0, 1.0]]), np.array([[False, True, False]]), np.zeros((1, 3), bool), 2).round(4)
    array([[0.6309, 1.    ]])

    Raises:
        ValueError: a row wants nothing.
    """
    counts = np.minimum(wanted.sum(axis=1), top)
    if (counts == 0).any():
        raise ValueError(f"row {int(np.argmin(counts))} wants nothing, so no ranking of it can be right or wrong")
    usable = np.where(left_out | np.isnan(scores), -np.inf, scores)
    first = np.argsort(-usable, axis=1, kind="stable")[:, :top]
    hits = np.take_along_axis(wanted & ~left_out, first, axis=1)
    discount = 1 / np.log2(np.arange(first.shape[1]) + 2)
    best = np.cumsum(discount)[np.minimum(counts, first.shape[1]) - 1]
    return np.stack([hits @ discount / best, hits.sum(axis=1) / counts], axis=1)


def ranking_metrics(top: int) -> tuple[Metric, ...]:
    """Return every metric of `ranking_rows`."""
    return Mean(f"ndcg_{top}", NDCG), Mean(f"recall_{top}", RECALL)

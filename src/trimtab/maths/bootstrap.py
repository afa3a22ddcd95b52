"""Intervals for scores that are no plain mean, such as F1 or perplexity: a weighted bootstrap over clusters.

A resample is a row of weights, not a copy of the data, so a statistic that takes float[R, n] does thousands
at once. Whole clusters (documents, users, clips) are drawn, because rows of one cluster are not independent.

A bootstrap cannot see what the sample never showed: where every resample gives the same value the interval
has no width, and `Bootstrap.degenerate` says so. Nor is it exact: benchmarks/type1.py finds its one-sided 95%
bound near nominal from some 200 rows, but well short of it on 50 skewed ones. For right/wrong scores use
`noninferiority`, which is exact.

Source: Efron (1987), JASA 82:171, sections 2 and 6, for BCa; Davison and Hinkley (1997), section 3.8, for
resampling clusters.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from trimtab.maths.intervals import Side, never_seen_bound, tails

Floats = NDArray[np.float64]
Statistic = Callable[[Floats, Floats], Floats]
"""statistic(rows[n, k], weights[R, n]) -> float[R]."""

CHUNK_BYTES = 16 * 2**20
"""Memory of one block of weights."""

JACKKNIFE_GROUPS = 1000
"""Clusters are left out one by one up to this many, beyond it in this many random groups."""


@dataclass(frozen=True)
class Resampling:
    """How an interval is bootstrapped.

    >>> Resampling(confidence=0.95, side="upper").resamples
    2000
    """

    confidence: float = 0.95
    """Of the whole interval, whichever sides it has."""
    resamples: int = 2000
    """Monte-Carlo draws; at 2,000 the error of a two-sided 95% bound is about 1.5% of the interval's width."""
    seed: int = 0
    """Of the draws: the same seed gives the same interval."""
    side: Side = "two"
    """Which bounds are wanted; the other one is infinite."""


@dataclass(frozen=True)
class Bootstrap:
    """A statistic and its interval, in the statistic's unit.

    >>> Bootstrap(0.0, 0.0, 0.0, degenerate=True, unseen=0.01).widened(1.0).high
    0.01
    """

    value: float
    """The statistic of the sample itself."""
    low: float
    """Lower bound."""
    high: float
    """Upper bound."""
    degenerate: bool
    """True if every resample gave the same value: low = high = value bound nothing. See `widened`."""
    unseen: float
    """Largest share of clusters that could behave as none seen does, 1 - (1 - confidence)**(1 / clusters).

    At the confidence of the whole interval: a caller that wants more of either end alone bounds the share itself."""

    def widened(self, reach: float) -> "Bootstrap":
        """The valid interval of a degenerate mean: value +- unseen x reach; any other is returned unchanged.

        `reach` is the most that one cluster's mean can lie from the value: 1 for a difference of right/wrong.
        """
        if not self.degenerate:
            return self
        room = self.unseen * reach
        return Bootstrap(self.value, self.value - room, self.value + room, True, self.unseen)


def weights(clusters: ArrayLike, resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Multinomial counts per cluster, given to each of its rows: blocks float[r, n] with `resamples` rows in all.

    >>> block = next(weights([0, 0, 1], 2, np.random.default_rng(0)))
    >>> block.shape, bool((block[:, 0] == block[:, 1]).all())
    ((2, 3), True)
    """
    code, count = _coded(clusters)
    block = max(1, CHUNK_BYTES // (8 * max(len(code), count)))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(0, count, size=(size, count)) + np.arange(size)[:, None] * count
        counts = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        yield counts.astype(np.float64)[:, code]


def bca(statistic: Statistic, rows: ArrayLike, clusters: ArrayLike, resampling: Resampling | None = None) -> Bootstrap:
    """Bias-corrected and accelerated interval of statistic(rows[n, k], weights[R, n]) -> float[R].

    `clusters` holds n labels; np.arange(n) makes each row its own. The acceleration is the jackknife's, over
    clusters.

    >>> rows = np.random.default_rng(1).normal(size=(200, 1))
    >>> mean = lambda rows, weights: weights @ rows[:, 0] / weights.sum(axis=1)
    >>> interval = bca(mean, rows, np.arange(200))
    >>> bool(interval.low < interval.value < interval.high)
    True

    Raises:
        ValueError: if rows and clusters differ in length, or the statistic is not finite on some resample.
    """
    plan = resampling or Resampling()
    table = np.asarray(rows, dtype=np.float64)
    below, above = tails(plan.confidence, plan.side)
    code, count = _coded(clusters)
    if table.ndim != 2 or len(table) != len(code):
        raise ValueError(f"rows have shape {table.shape} and there are {len(code)} clusters; it takes [n, k] and n")
    rng = np.random.default_rng(plan.seed)
    value = float(_evaluate(statistic, table, iter([np.ones((1, len(table)))]))[0])
    drawn = np.sort(_evaluate(statistic, table, weights(code, plan.resamples, rng)))
    unseen = never_seen_bound(count, plan.confidence)
    if np.ptp(drawn) <= 1e-12 * max(1.0, abs(value)):
        return Bootstrap(value, value, value, True, unseen)
    left_out = _evaluate(statistic, table, _leave_out(code, count, rng))
    levels = _levels(value, drawn, _acceleration(left_out), np.array([below, 1 - above]))
    low, high = np.quantile(drawn, levels)
    return Bootstrap(value, float(low) if below else -np.inf, float(high) if above else np.inf, False, unseen)


def _coded(clusters: ArrayLike) -> tuple[NDArray[np.int64], int]:
    labels = np.asarray(clusters)
    if labels.ndim != 1 or len(labels) == 0:
        raise ValueError(f"clusters have shape {labels.shape}; it takes one label for each row, and a row")
    names, code = np.unique(labels, return_inverse=True)
    return code.astype(np.int64), len(names)


def _evaluate(statistic: Statistic, rows: Floats, blocks: Iterator[Floats]) -> Floats:
    values = np.concatenate([statistic(rows, block) for block in blocks])
    if not np.isfinite(values).all():
        missing = int((~np.isfinite(values)).sum())
        raise ValueError(f"the statistic is not finite on {missing} of {len(values)} resamples: too few rows for it")
    return values


def _leave_out(code: NDArray[np.int64], count: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Weights of 0 and 1 that leave out one cluster, or one random group of clusters, at a time."""
    groups = min(count, JACKKNIFE_GROUPS)
    group = rng.permutation(np.arange(count) % groups)[code]
    block = max(1, CHUNK_BYTES // (8 * len(code)))
    for start in range(0, groups, block):
        index = np.arange(start, min(groups, start + block))
        yield (group != index[:, None]).astype(np.float64)


def _acceleration(left_out: Floats) -> float:
    """Efron (1987), equation 6.6 by the jackknife; groups of equal size leave its expectation unchanged."""
    influence = left_out.mean() - left_out
    square = float(np.sum(influence**2))
    return float(np.sum(influence**3)) / (6 * square**1.5) if square > 0 else 0.0


def _levels(value: float, drawn: Floats, acceleration: float, wanted: Floats) -> Floats:
    """Efron (1987), equation 2.3: the quantiles of the draws that have the wanted tails; 0 and 1 stay."""
    below = (np.sum(drawn < value) + np.sum(drawn <= value)) / (2 * len(drawn))
    bias = ndtri(np.clip(below, 0.5 / len(drawn), 1 - 0.5 / len(drawn)))
    shifted = bias + ndtri(np.clip(wanted, 1e-9, 1 - 1e-9))
    levels = ndtr(bias + shifted / np.maximum(1 - acceleration * shifted, 1e-9))
    return np.asarray(levels, dtype=np.float64)

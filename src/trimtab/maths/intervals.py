"""Intervals that hold at small samples, because a figure without its interval decides nothing.

Each is exact (binomial, order statistics) or the usual t interval; none needs a simulation. A side that the
sample cannot bound is infinite, never guessed: twenty samples bound no p99.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, betaincinv, stdtrit

Side = Literal["two", "lower", "upper"]
"""Which bounds are wanted: both, each at half the error, or one at the whole error."""

Interval = tuple[float, float]


def check_confidence(confidence: float) -> None:
    """Raise ValueError unless `confidence` is a fraction strictly between 0 and 1."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1, such as 0.95")


def tails(confidence: float, side: Side) -> Interval:
    """Error allowed below and above: (0.025, 0.025) for two sides at 0.95, (0.05, 0) for a lower bound.

    Raises:
        ValueError: if the confidence is no fraction, or the side is unknown.
    """
    check_confidence(confidence)
    error = 1 - confidence
    known = {"two": (error / 2, error / 2), "lower": (error, 0.0), "upper": (0.0, error)}
    if side not in known:
        raise ValueError(f"side is {side!r}; it must be one of {', '.join(known)}")
    return known[side]


def clopper_pearson(successes: int, n: int, confidence: float = 0.95, side: Side = "two") -> Interval:
    """Exact interval of a proportion, as (low, high) fractions.

    >>> low, high = clopper_pearson(8, 10)
    >>> round(low, 4), round(high, 4)
    (0.4439, 0.9748)

    Source: Clopper and Pearson (1934), Biometrika 26:404, by the beta quantiles of their section 4.

    Raises:
        ValueError: if n < 1, if successes lie outside 0..n, or as `tails`.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}; it takes n >= 1 and successes between 0 and n")
    below, above = tails(confidence, side)
    low = betaincinv(successes, n - successes + 1, below) if successes and below else 0.0
    high = betaincinv(successes + 1, n - successes, 1 - above) if successes < n and above else 1.0
    return float(low), float(high)


def never_seen_bound(n: int, confidence: float = 0.95) -> float:
    """Largest share, as a fraction, that an event can have when n independent examples never showed it.

    It solves (1 - share)**n = 1 - confidence; at 0.95 it is about 3 / n, the "rule of three".

    >>> round(never_seen_bound(300), 5)
    0.00994

    Source: Clopper and Pearson (1934) at no successes; Hanley and Lippman-Hand (1983), JAMA 249:1743.

    Raises:
        ValueError: if n < 1 or the confidence is no fraction.
    """
    check_confidence(confidence)
    if n < 1:
        raise ValueError(f"n is {n}; it takes at least one example to bound a share")
    return float(-np.expm1(np.log1p(-confidence) / n))


def quantile_interval(sample: ArrayLike, quantile: float, confidence: float = 0.95) -> tuple[float, float, float]:
    """Distribution-free interval of a quantile: (value, low, high) in the sample's unit.

    The bounds are order statistics, so they are measured values. A bound that the sample is too small to give
    is infinite.

    >>> quantile_interval(range(1, 101), 0.5)
    (50.5, 40.0, 61.0)
    >>> quantile_interval(range(20), 0.99)[2]
    inf

    Source: Conover, Practical Nonparametric Statistics (3rd ed. 1999), section 3.2.

    Raises:
        ValueError: if the sample is empty, holds NaN or has more than one axis, or a fraction is none.
    """
    ordered = np.sort(_sample(sample, at_least=1))
    if not 0 < quantile < 1:
        raise ValueError(f"quantile is {quantile}; it must lie between 0 and 1, such as 0.5")
    below, above = tails(confidence, "two")
    n = len(ordered)
    at_most = bdtr(np.arange(n + 1.0), n, quantile)
    first = int(np.sum(at_most <= below))
    last = int(np.sum(at_most < 1 - above))
    low = float(ordered[first - 1]) if first > 0 else -np.inf
    high = float(ordered[last]) if last < n else np.inf
    return float(np.quantile(ordered, quantile)), low, high


def median_interval(sample: ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """Distribution-free interval of the median, (value, low, high): `quantile_interval` at one half."""
    return quantile_interval(sample, 0.5, confidence)


def mean_interval(sample: ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """Student's t interval of a mean, (value, low, high) in the sample's unit.

    >>> [round(x, 3) for x in mean_interval([1, 2, 3, 4])]
    [2.5, 0.446, 4.554]

    Source: Student (1908), Biometrika 6:1.

    Raises:
        ValueError: if there are fewer than two values, NaN, or more than one axis, or no fraction is given.
    """
    values = _sample(sample, at_least=2)
    below, _ = tails(confidence, "two")
    n = len(values)
    reach = float(stdtrit(n - 1, 1 - below) * values.std(ddof=1) / np.sqrt(n))
    mean = float(values.mean())
    return mean, mean - reach, mean + reach


def ratio_interval(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """Interval of the ratio a / b of paired positive samples: (ratio, low, high), without unit.

    The t interval of the mean of log(a_i / b_i), raised again: the ratio is the geometric mean, and swapping
    a and b turns the interval upside down exactly, which no ratio of means does.

    >>> ratio, low, high = ratio_interval([2.0, 4.1, 6.2], [1.0, 2.0, 3.0])
    >>> bool(low < ratio < high), round(ratio, 2)
    (True, 2.04)

    Source: Fleming and Wallace (1986), CACM 29:218, for the geometric mean of ratios; t interval as above.

    Raises:
        ValueError: if the two differ in length, hold a value <= 0, or as `mean_interval`.
    """
    first, second = _sample(a, at_least=2), _sample(b, at_least=2)
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values against {len(second)}; a paired ratio takes as many of each")
    if min(first.min(), second.min()) <= 0:
        raise ValueError("a ratio takes positive values only, and some are zero or less")
    mean, low, high = np.exp(mean_interval(np.log(first / second), confidence))
    return float(mean), float(low), float(high)


def _sample(sample: ArrayLike, at_least: int) -> NDArray[np.float64]:
    values = np.asarray(sample, dtype=np.float64)
    if values.ndim != 1 or len(values) < at_least or np.isnan(values).any():
        raise ValueError(
            f"the sample has shape {values.shape}; it takes one axis of {at_least} or more values, none NaN"
        )
    return values

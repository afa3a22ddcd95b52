"""Is the trimmed model not worse than the original by more than the margin? Tango's test, and its guard.

Both models answer the same n examples, so only the examples on which they differ speak: b that the original
had right and the trimmed model wrong, c the reverse. Tango's score test is close to its nominal error
when there are many of these, but not when there are few: with a margin d and n d = 2.71 it accepts on
b = c = 0, which a model exactly as bad as the margin shows with probability exp(-2.71) = 6.7%. Hence the
guard: an answer also needs the *exact* probability of a Tango statistic at least as extreme, under the worst
discordance that the data leave possible, to be at most alpha. So the error is at most alpha for every n.
The price is small: by exact sums (benchmarks/type1.py) the error of accepting is still between 4% and 5%
where discordance is at least 2% and 1.5 margins, and at least ten examples differ on average. Counts are
whole numbers, so with fewer it falls towards 0, and more examples are the only remedy.

Sources: Tango (1998), Statistics in Medicine 17:891, sections 2 and 3, for the statistic and interval;
Sidik (2003), Statistics in Medicine 22:265, for the exact unconditional test ordered by it;
Berger and Boos (1994), JASA 89:1012, for maximising over an interval of the nuisance parameter.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincc, gammaln, ndtr, ndtri, xlog1py, xlogy

from trimtab.maths.intervals import check_confidence, clopper_pearson

Floats = NDArray[np.float64]

NUISANCE_ERROR = 1e-4
"""The part of alpha spent on the interval of the discordance (Berger and Boos)."""

NUISANCE_STEPS = 41
"""Discordances tried within that interval; the probability is smooth on the scale of a tenth of it."""


def tango_z(b: ArrayLike, c: ArrayLike, n: ArrayLike, margin: ArrayLike) -> Floats:
    """Tango's score statistic for "p_b - p_c = margin": very negative speaks for the trimmed model.

    All four broadcast; the answer has their common shape. At a margin of 0 it is McNemar's statistic, and 0
    where nothing differs.

    >>> round(float(tango_z(6, 16, 161, 0.0)), 4)
    -2.132

    Source: Tango (1998), section 2: the restricted estimate q of p_c solves a quadratic.
    """
    b, c, n, d = (np.asarray(x, dtype=np.float64) for x in (b, c, n, margin))
    spread = np.sqrt(n * null_variance(b, c, n, d))
    shift = b - c - n * d
    return np.divide(shift, spread, out=np.zeros(np.broadcast(shift, spread).shape), where=spread > 0)


def null_variance(b: Floats, c: Floats, n: Floats, d: Floats) -> Floats:
    """Variance of one example's difference where p_b = p_c + d, at the restricted estimate of p_c."""
    return np.maximum(2 * _restricted(b, c, n, d) + d * (1 - d), 0.0)


def _restricted(b: Floats, c: Floats, n: Floats, d: Floats) -> Floats:
    """Maximum-likelihood estimate of p_c where p_b = p_c + d; the form that does not cancel when linear > 0."""
    linear = -b - c + (2 * n - b + c) * d
    constant = -c * d * (1 - d)
    root = np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0.0))
    safe = np.where(linear > 0, linear + root, 1.0)
    return np.where(linear > 0, -2 * constant / safe, (root - linear) / (4 * n))


def tango_interval(b: int, c: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval (low, high) of the difference p_b - p_c, the accuracy lost, as a fraction.

    It holds the margins that the two-sided test at 1 - confidence does not reject.

    >>> low, high = tango_interval(6, 16, 161)
    >>> round(low, 4), round(high, 4)
    (-0.124, -0.0054)

    Source: Tango (1998), section 3. The values are those of Fagerland, Lydersen and Laake (2014),
    Statistics in Medicine 33:2850, for Cavo's trial.

    Raises:
        ValueError: if the counts do not fit together, or the confidence is no fraction.
    """
    _check(b, c, n, 0.0)
    check_confidence(confidence)
    target = ndtri(np.array([0.5 + confidence / 2, 0.5 - confidence / 2]))
    low, high = np.full(2, -1.0), np.full(2, 1.0)
    for _ in range(60):
        middle = (low + high) / 2
        beyond = tango_z(b, c, n, middle) > target
        low, high = np.where(beyond, middle, low), np.where(beyond, high, middle)
    return float(low[0]), float(high[1])


def exact_tail(b: int, c: int, n: int, margin: float) -> float:
    """Exact p-value against "p_b - p_c >= margin", ordered by Tango's statistic: at most alpha is rare.

    It sums the trinomial probability of every table at least as favourable as this one, at the worst
    discordance within its Clopper-Pearson interval at 1 - 1e-4, and adds that 1e-4.

    >>> round(exact_tail(0, 0, 300, 0.01), 4)  # = 0.99**300 + 1e-4: the rule of three
    0.0491

    Source: Sidik (2003), equation for the unconditional p-value; Berger and Boos (1994), section 2.

    Raises:
        ValueError: if the counts or the margin do not fit.
    """
    _check(b, c, n, margin)
    low, high = clopper_pearson(b + c, n, 1 - NUISANCE_ERROR)
    low = max(low, abs(margin))
    if low > high:
        return NUISANCE_ERROR
    reverse = (np.linspace(low, high, NUISANCE_STEPS) - margin) / 2
    z = float(tango_z(b, c, n, margin))
    chances = region_probability(z, n, margin, np.maximum(reverse, 0.0))
    return min(1.0, float(chances.max()) + NUISANCE_ERROR)


def region_probability(z: float, n: int, margin: float, reverse: ArrayLike) -> Floats:
    """Probability that Tango's statistic is at most z where p_c = reverse and p_b = reverse + margin.

    `reverse` is float[m] and so is the answer. Exact but for counts c beyond 7 standard deviations.
    """
    q = np.atleast_1d(np.asarray(reverse, dtype=np.float64))
    c = _plausible(n, q)
    most = _largest_b(z, c, n, margin)
    share = np.minimum((q + margin) / np.maximum(1 - q, 1e-300), 1.0)[:, None]
    within = betaincc(most + 1, np.maximum(n - c - most, 1e-300), share)
    within = np.where(most < 0, 0.0, np.where(most >= n - c, 1.0, within))
    count = gammaln(n + 1) - gammaln(c + 1) - gammaln(n - c + 1)
    chance = np.exp(count + xlogy(c, q[:, None]) + xlog1py(n - c, -q[:, None]))
    return np.asarray((chance * within).sum(axis=1), dtype=np.float64)


def _plausible(n: int, q: Floats) -> Floats:
    low, high = n * q.min(), n * q.max()
    first = max(0, int(low - 7 * np.sqrt(low) - 10))
    last = min(n, int(high + 7 * np.sqrt(high) + 20))
    return np.arange(first, last + 1, dtype=np.float64)


def _largest_b(z: float, c: Floats, n: int, margin: float) -> Floats:
    """For each c the largest b whose statistic is at most z, or -1: the statistic rises with b."""
    low, high = np.full(len(c), -1.0), n - c
    while (low < high).any():
        middle = np.ceil((low + high) / 2)
        inside = tango_z(middle, c, n, margin) <= z + 1e-9
        low, high = np.where(inside, middle, low), np.where(inside, high, middle - 1)
    return low


@dataclass(frozen=True)
class PairedTest:
    """What the pairs say of the promise: kept, broken, or neither yet.

    >>> noninferior(b=12, c=10, n=2000, margin=0.01).accepted
    True
    """

    b: int
    """Examples that the original had right and the trimmed model wrong."""
    c: int
    """Examples that the original had wrong and the trimmed model right."""
    n: int
    """All examples, agreeing ones included."""
    margin: float
    """The accuracy that may be lost, as a fraction."""
    alpha: float
    """The error allowed for either answer."""
    z: float
    """Tango's statistic at the margin."""
    p_value: float
    """Against "worse by the margin or more": the larger of the asymptotic and the exact one.

    Above 0.5 the asymptotic one alone, since nothing hangs on it there."""
    p_refuted: float
    """Against "worse by the margin or less": its mirror."""
    difference: float
    """(b - c) / n, the accuracy lost in this sample."""
    low: float
    """Lower bound of that difference at confidence 1 - alpha (so the pair is a 1 - 2 alpha interval)."""
    high: float
    """Upper bound of it at confidence 1 - alpha."""

    @property
    def accepted(self) -> bool:
        """Proved: the loss is below the margin."""
        return self.p_value <= self.alpha

    @property
    def refuted(self) -> bool:
        """Proved: the loss is above the margin."""
        return self.p_refuted <= self.alpha


def noninferior(b: int, c: int, n: int, margin: float, alpha: float = 0.05) -> PairedTest:
    """Test whether the accuracy lost, p_b - p_c, is below `margin`, and whether it is above.

    Either answer is wrong with probability at most alpha, at every n and discordance. Where nothing differs
    (b = c = 0) it accepts once (1 - margin)**n <= alpha - 1e-4, the bound on a share never seen. A margin of 0
    asks for proof that the trimmed model is better; identical answers never give it.

    Raises:
        ValueError: if the counts, the margin (0 <= margin < 1) or alpha (1e-4 < alpha < 0.5) do not fit.
    """
    _check(b, c, n, margin)
    if not NUISANCE_ERROR < alpha < 0.5 or margin < 0:
        raise ValueError(f"margin {margin}, alpha {alpha}; it takes 0 <= margin < 1 and 1e-4 < alpha < 0.5")
    z = float(tango_z(b, c, n, margin))
    low, high = tango_interval(b, c, n, 1 - 2 * alpha)
    p_value = max(float(ndtr(z)), exact_tail(b, c, n, margin) if z < 0 else 0.0)
    p_refuted = max(float(ndtr(-z)), exact_tail(c, b, n, -margin) if z > 0 else 0.0)
    return PairedTest(b, c, n, margin, alpha, z, p_value, p_refuted, (b - c) / n, low, high)


def _check(b: int, c: int, n: int, margin: float) -> None:
    if n < 1 or b < 0 or c < 0 or b + c > n:
        raise ValueError(f"b={b}, c={c}, n={n}; it takes counts of 0 or more with b + c <= n and n >= 1")
    if not -1 < margin < 1:
        raise ValueError(f"margin is {margin}; it is a fraction, such as 0.005 for half a point of accuracy")

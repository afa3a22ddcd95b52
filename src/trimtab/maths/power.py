"""How many examples would decide? UNDECIDED is of use only beside the number that would settle it.

Normal approximations for Tango's test (`noninferiority`), by the usual two-variance formula for score tests;
with next to no differing examples the rule of three takes over, because no test can accept before it does.

Source: Nam (1997), Biometrics 53:1422, section 3, for the power of the score test of paired proportions.
"""

import math

import numpy as np
from scipy.special import ndtr, ndtri

from trimtab.maths.intervals import never_seen_bound
from trimtab.maths.noninferiority import PairedTest, null_variance


def probability_of_acceptance(
    difference: float, discordance: float, n: int, margin: float, alpha: float = 0.05
) -> float:
    """Chance that n examples prove the promise, given the true loss and the true share that differ.

    `difference` is p_b - p_c and `discordance` p_b + p_c; all but n are fractions. The normal
    approximation of the unguarded test; tests/maths/test_power.py holds it to 0.03 where 40 or more differ.

    >>> round(probability_of_acceptance(0.0, 0.04, 5000, 0.01), 3)
    0.968

    Raises:
        ValueError: if n < 1, or the difference is larger than the discordance, or that is larger than 1.
    """
    if n < 1 or not abs(difference) <= discordance <= 1:
        raise ValueError(
            f"difference {difference}, discordance {discordance}, n {n}; "
            "it takes |difference| <= discordance <= 1 and n >= 1"
        )
    under_null, under_truth = _spreads(difference, discordance, margin)
    room = (margin - difference) * math.sqrt(n) + float(ndtri(alpha)) * under_null
    if under_truth == 0:
        return float(room > 0 and never_seen_bound(n, 1 - alpha) <= margin)
    return float(ndtr(room / under_truth))


def smallest_decidable_margin(n: int, discordance: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The tightest margin that n examples can prove with chance `power`, for a trimmed model truly as good.

    Fractions. Never below the share bound, 1 - alpha**(1/n).

    >>> round(smallest_decidable_margin(10_000, 0.02), 5)
    0.00355

    Raises:
        ValueError: as `probability_of_acceptance`.
    """
    low, high = never_seen_bound(n, 1 - alpha), 1.0 - 1e-12
    if probability_of_acceptance(0.0, discordance, n, low, alpha) >= power:
        return low
    for _ in range(50):
        middle = (low + high) / 2
        enough = probability_of_acceptance(0.0, discordance, n, middle, alpha) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def examples_to_decide(test: PairedTest, power: float = 0.8) -> int | None:
    """How many *more* examples would prove the promise with chance `power`, if the rates seen are the true ones.

    0 if it is proved already; None if the loss seen is at or above the margin, so that more examples would
    at best prove the contrary (`examples_to_refute`).

    >>> from trimtab.maths.noninferiority import noninferior
    >>> examples_to_decide(noninferior(b=10, c=8, n=500, margin=0.01))
    5845
    """
    if test.accepted:
        return 0
    if test.difference >= test.margin:
        return None
    unseen = math.ceil(math.log(test.alpha) / math.log1p(-test.margin)) if test.margin > 0 else 0
    return max(1, max(_total(test, power), unseen) - test.n)


def examples_to_refute(test: PairedTest, power: float = 0.8) -> int | None:
    """How many *more* examples would prove the promise broken; None if the loss seen is at or below the margin."""
    if test.refuted:
        return 0
    if test.difference <= test.margin:
        return None
    return max(1, _total(test, power) - test.n)


def _total(test: PairedTest, power: float) -> int:
    under_null, under_truth = _spreads(test.difference, (test.b + test.c) / test.n, test.margin)
    reach = float(ndtri(1 - test.alpha)) * under_null + float(ndtri(power)) * under_truth
    return math.ceil((reach / (test.margin - test.difference)) ** 2)


def _spreads(difference: float, discordance: float, margin: float) -> tuple[float, float]:
    """Standard deviations of one example's difference: at the margin, and in truth."""
    b, c = (discordance + difference) / 2, (discordance - difference) / 2
    under_null = null_variance(*(np.asarray(x, dtype=np.float64) for x in (b, c, 1.0, margin)))
    return math.sqrt(under_null), math.sqrt(max(discordance - difference**2, 0.0))

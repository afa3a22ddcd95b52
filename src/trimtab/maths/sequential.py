"""Stop early, and still be right: e-processes that may be looked at after every example.

Two gamblers bet on the paired differences D_i (original's score less trimmed's, in [-1, 1]). One bets that the
loss is below the margin d, with the capital prod(1 + l (d - D_i)); its mirror bets that it is above, with
prod(1 + l (D_i - d)). If the truth is against a gambler, no factor has mean above one, so the capital ever
reaches 1/alpha with probability at most alpha (Ville): one may stop at any time and for any reason. The stake l
is set before each example from those gone by, and never risks more than half the capital on one example.

Examples must come in an order independent of their outcome: shuffle first.

Source: Waudby-Smith and Ramdas (2024), JRSS B 86:1, section 4 (capital) and appendix B.3 (aGRAPA).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

BOLDNESS = 0.5
"""Largest stake, as a part of the one at which a single example could take all the capital."""

PRIOR_VARIANCE = 0.05
"""Guess of the variance, worth one example: it keeps the first stakes small."""


def accept_process(differences: ArrayLike, margin: float) -> Floats:
    """Evidence path that the mean difference is below `margin`: float[n], the capital after each example.

    Since d - D_i >= d - 1, a stake l < 1 / (1 - d) keeps every factor positive.

    Raises:
        ValueError: if a difference is outside [-1, 1] or the margin outside (-1, 1).
    """
    values = _checked(differences, margin)
    return _capital(margin - values, 1 / (1 - margin))


def drop_process(differences: ArrayLike, margin: float) -> Floats:
    """Evidence path that the mean difference is above `margin`: the mirror, with l < 1 / (1 + d).

    Raises:
        ValueError: as `accept_process`.
    """
    values = _checked(differences, margin)
    return _capital(values - margin, 1 / (1 + margin))


def _capital(gains: Floats, ruin: float) -> Floats:
    logs = np.cumsum(np.log1p(_stakes(gains, BOLDNESS * ruin) * gains))
    return np.asarray(np.exp(np.minimum(logs, 700.0)), dtype=np.float64)


def _stakes(gains: Floats, largest: float) -> Floats:
    """aGRAPA: mean / (variance + mean**2) of the gains gone by, between 0 and `largest`."""
    seen = np.arange(1.0, len(gains) + 1)
    mean = _before(np.cumsum(gains)) / seen
    variance = (PRIOR_VARIANCE + _before(np.cumsum((gains - mean) ** 2))) / seen
    return np.asarray(np.clip(mean / (variance + mean**2), 0.0, largest), dtype=np.float64)


def _before(sums: Floats) -> Floats:
    return np.concatenate([np.zeros(min(1, len(sums))), sums[:-1]])


def _checked(differences: ArrayLike, margin: float) -> Floats:
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not (np.abs(values) <= 1).all():
        raise ValueError(f"differences have shape {values.shape}; it takes one axis of numbers between -1 and 1")
    if not -1 < margin < 1:
        raise ValueError(f"margin is {margin}; it is a fraction, such as 0.005 for half a point of accuracy")
    return values

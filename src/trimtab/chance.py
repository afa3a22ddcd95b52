"""How likely a candidate is to pass the sealed test, judged from validation, before the test is opened."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import NormalDist

from trimtab.candidates import normal_cdf
from trimtab.maths.intervals import never_seen_bound
from trimtab.verify import EXACT, Judgement

SLICE_SPREAD = 0.01
"""Prior standard deviation of a slice's loss around the overall loss, as a share."""
USUAL_LOSS = {"exact": (0.0, 0.001), "precision": (0.002, 0.005), "structure": (0.005, 0.01)}
"""What recipes lose that kept a promise of about a point, and its spread, as shares: of models that were proved to
answer as the base does, that were quantized, and that were cut and fitted."""


def chance_of_passing(
    judgements: Sequence[Judgement], ratio: float, confidence: float, usual: tuple[float, float] | None = None
) -> float:
    """Return the chance that a test split `1 / ratio` times as large passes, from validation judgements.

    A difference seen has a standard error e, read off its interval, and the one to come e x sqrt(ratio). It is drawn
    towards the `usual` loss (mean, spread) the more, the smaller the spread is beside e. Slices are small: their error
    is scaled from the overall one, and their difference drawn towards it (empirical Bayes, Efron and Morris 1973, JASA
    68:117). Slices are taken as independent, which errs on the careful side.
    """
    whole = {_metric(j): j for j in judgements if not j.slice and j.difference is not None}
    prior = usual or (0.0, math.inf)
    wholes = [whole.get(_metric(j)) if j.slice else None for j in judgements]
    return math.prod(_chance_of_one(j, w, (ratio, *prior), confidence) for j, w in zip(judgements, wholes, strict=True))


def expected_chance(room: float, doubt: float, error: float, confidence: float) -> float:
    """Return the chance that what is yet to be made passes the sealed test.

    Its loss is expected to be `room` below the tolerance, give or take `doubt`, and will be seen there with a standard
    `error`, all as shares; what passes is seen so far within the tolerance that luck is ruled out at that confidence.

    >>> round(expected_chance(0.01, 0.005, 0.0, 0.95), 2), round(expected_chance(0.01, 0.005, 0.004, 0.95), 2)
    (0.98, 0.7)
    """
    return normal_cdf((room - NormalDist().inv_cdf(confidence) * error) / math.hypot(doubt, error))


def sealed_error(judgements: Sequence[Judgement], ratio: float, confidence: float) -> float:
    """Return the standard error, as a share, to expect on a test split `1 / ratio` times as large as validation.

    That of the promise on all examples that is known the least; 0 where none is about a share.
    """
    z = NormalDist().inv_cdf(confidence)
    wholes = [
        _error(one, z) * _narrowing(one, ratio, confidence)
        for one in judgements
        if not one.slice and one.unit == "share"
    ]
    return max((error for error in wholes if math.isfinite(error)), default=0.0)


def _metric(judgement: Judgement) -> str:
    return re.split(r"[\[\s]", judgement.promise, maxsplit=1)[0]


def _chance_of_one(
    judgement: Judgement, whole: Judgement | None, about: tuple[float, float, float], confidence: float
) -> float:
    ratio, usual, spread = about
    if judgement.method == EXACT and judgement.base is None and ">=" in judgement.promise:
        return _chance_to_agree(judgement, about, confidence)
    z = NormalDist().inv_cdf(confidence)
    error = _error(judgement, z)
    seen = judgement.trimmed if judgement.difference is None else judgement.difference
    doubt = error
    if whole is not None and whole.difference is not None and judgement.unit == "share":
        error = _error(whole, z) * math.sqrt(whole.n / judgement.n)
        trust = SLICE_SPREAD**2 / (SLICE_SPREAD**2 + error**2)
        seen, doubt = trust * seen + (1 - trust) * whole.difference, SLICE_SPREAD * math.sqrt(1 - trust)
    if not math.isfinite(error):
        return 0.0
    if whole is None and judgement.unit == "share" and math.isfinite(spread):
        lost = usual if ">=" in judgement.promise else -usual
        trust = spread**2 / (spread**2 + doubt**2)
        seen = trust * seen + (1 - trust) * (_without_loss(judgement) - lost)
        doubt = spread * math.sqrt(1 - trust)
    later = error * (_narrowing(judgement, ratio, confidence) if whole is None else math.sqrt(ratio))
    room = (seen - judgement.margin) * (1 if ">=" in judgement.promise else -1)
    return normal_cdf((room - z * later) / math.hypot(doubt, later))


def _chance_to_agree(judgement: Judgement, about: tuple[float, float, float], confidence: float) -> float:
    """Return the chance that so few answers of the test split differ that the exact interval lies above the margin.

    How many will differ is beta-binomial, what validation saw added to a prior with the moments of the usual loss
    (Gelman et al. 2013, Bayesian Data Analysis, section 2.4). A normal error would be that of the share seen, far too
    wide to tell that the usual share is not what was seen.
    """
    from scipy.stats import betabinom, binom  # takes a third of a second

    ratio, usual, spread = about
    differ, later = round((1 - judgement.trimmed) * judgement.n), round(judgement.n / ratio)
    mean = max(usual, spread / 2) if math.isfinite(spread) else 0.5
    weight = mean * (1 - mean) / spread**2 - 1 if math.isfinite(spread) else 1.0  # Jeffreys' prior where none is known
    most = later - 1 - binom.isf(1 - confidence, later, judgement.margin)
    return float(betabinom.cdf(most, later, differ + weight * mean, judgement.n - differ + weight * (1 - mean)))


def _narrowing(judgement: Judgement, ratio: float, confidence: float) -> float:
    """Return how much narrower the interval is on a split `1 / ratio` times as large.

    By the root; but what is as narrow as so few examples allow, having seen nothing change, shrinks as they grow.
    """
    floor = never_seen_bound(judgement.n, confidence) if judgement.unit == "share" else 0.0
    return ratio if (judgement.high - judgement.low) / 2 <= floor * (1 + 1e-9) else math.sqrt(ratio)


def _without_loss(judgement: Judgement) -> float:
    """Return what the base itself would show: the difference to the share of it that is promised, or its own value.

    It agrees wholly with itself."""
    whole = float(">=" in judgement.promise) if judgement.base is None else judgement.base
    return whole if judgement.difference is None else whole - (judgement.trimmed - judgement.difference)


def _error(judgement: Judgement, z: float) -> float:
    """Standard error read off an interval of confidence 1 - 2 alpha."""
    return max((judgement.high - judgement.low) / (2 * z), 1e-6)

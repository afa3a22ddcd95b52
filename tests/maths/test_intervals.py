"""The intervals against scipy.stats and against exact coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, ttest_1samp

from trimtab.maths.intervals import (
    clopper_pearson,
    mean_interval,
    median_interval,
    never_seen_bound,
    quantile_interval,
    ratio_interval,
)


@pytest.mark.parametrize(("side", "alternative"), [("two", "two-sided"), ("lower", "greater"), ("upper", "less")])
@pytest.mark.parametrize(("successes", "n"), [(0, 7), (7, 7), (3, 11), (199, 1000)])
def test_clopper_pearson_is_scipys(side, alternative, successes, n):
    wanted = binomtest(successes, n, alternative=alternative).proportion_ci(0.9, method="exact")
    assert clopper_pearson(successes, n, 0.9, side) == pytest.approx(tuple(wanted), abs=1e-9)


@given(n=st.integers(1, 100_000), confidence=st.floats(0.5, 0.999))
@settings(max_examples=50, deadline=None)
def test_never_seen_is_clopper_pearson_at_none(n, confidence):
    assert never_seen_bound(n, confidence) == pytest.approx(clopper_pearson(0, n, confidence, "upper")[1], rel=1e-6)


@pytest.mark.parametrize("n", [6, 20, 101])
@pytest.mark.parametrize("quantile", [0.5, 0.9])
def test_quantile_interval_covers_exactly(n, quantile):
    _, low, high = quantile_interval(np.arange(1.0, n + 1), quantile, 0.95)
    first = 0 if np.isinf(low) else low
    last = n + 1 if np.isinf(high) else high
    coverage = binom.cdf(last - 1, n, quantile) - binom.cdf(first - 1, n, quantile)
    assert coverage >= 0.95


def test_twenty_samples_bound_no_p99():
    assert quantile_interval(np.arange(20.0), 0.99)[2] == np.inf
    assert median_interval(np.arange(20.0))[1:] == (5.0, 14.0)


def test_mean_interval_is_scipys():
    sample = np.random.default_rng(0).normal(3, 2, 30)
    wanted = ttest_1samp(sample, 0).confidence_interval(0.9)
    assert mean_interval(sample, 0.9)[1:] == pytest.approx(tuple(wanted))


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=2, max_size=20))
@settings(max_examples=50, deadline=None)
def test_ratio_turns_over_when_swapped(pairs):
    a, b = np.array(pairs).T
    ratio, low, high = ratio_interval(a, b)
    assert (1 / ratio, 1 / high, 1 / low) == pytest.approx(ratio_interval(b, a), rel=1e-9)


@pytest.mark.parametrize(
    "call",
    [
        lambda: clopper_pearson(3, 2),
        lambda: clopper_pearson(1, 2, 1.5),
        lambda: clopper_pearson(1, 2, 0.9, "left"),
        lambda: never_seen_bound(0),
        lambda: mean_interval([1.0]),
        lambda: mean_interval([1.0, np.nan]),
        lambda: quantile_interval([1.0], 1.0),
        lambda: ratio_interval([1.0, 2.0], [1.0, 0.0]),
        lambda: ratio_interval([1.0, 2.0], [1.0, 2.0, 3.0]),
    ],
)
def test_what_does_not_fit_is_refused(call):
    with pytest.raises(ValueError, match=r"it takes|must|positive|as many"):
        call()

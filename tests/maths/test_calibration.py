"""Calibration figures on cases whose answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from trimtab.maths.calibration import calibration

VALUES = st.lists(st.floats(0.1, 100), min_size=3, max_size=20)


@given(VALUES)
def test_perfect_predictions_have_no_error(values):
    found = calibration(values, values, [[v - 1, v + 1] for v in values])
    assert (found.median_error, found.bias, found.coverage) == (0.0, 0.0, 1.0)
    assert found.rank_correlation == (1.0 if len(set(values)) > 1 else None)


@given(VALUES, st.floats(1.1, 3))
def test_a_constant_factor_is_bias_and_error(values, factor):
    found = calibration(np.array(values) * factor, values)
    assert found.bias == found.median_error == pytest.approx(factor - 1, abs=1e-3)
    assert found.coverage is None


@given(st.permutations(list(range(1, 8))))
def test_reversing_turns_the_rank_correlation_round(values):
    seen = np.arange(1.0, 8.0)
    one, other = calibration(values, seen), calibration([8 - v for v in values], seen)
    assert one.rank_correlation == pytest.approx(-other.rank_correlation, abs=2e-3)


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=20))
def test_the_rank_correlation_is_spearmans_with_ties(pairs):
    said, seen = zip(*pairs, strict=True)
    found = calibration(said, seen).rank_correlation
    if len(set(said)) == 1 or len(set(seen)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(said, seen).statistic, abs=1e-3)


def test_unknown_intervals_and_zeros_are_left_out():
    found = calibration([1.0, 2.0, 3.0], [0.0, 2.0, 3.0], [[np.nan, 2.0], [3.0, 4.0], [2.0, 4.0]])
    assert (found.n, found.median_error, found.coverage) == (3, 0.0, 0.5)


def test_nothing_is_told_from_nothing():
    found = calibration([], [])
    assert (found.n, found.median_error, found.bias, found.coverage, found.rank_correlation) == (0, *[None] * 4)
    with pytest.raises(ValueError, match="both are"):
        calibration([1.0], [1.0, 2.0])

"""A scaling law is found again where it made the runs, and what runs cannot tell is said."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad

from trimtab.maths import scaling
from trimtab.maths.scaling import Law, fit, forecast

TABLES = Path(__file__).resolve().parents[2] / "benchmarks" / "tables"
TRUE = Law(E=1.8, A=480.0, alpha=0.35, B=2000.0, beta=0.37)


def runs(law=TRUE, noise=0.0, seed=0):
    draw = np.random.default_rng(seed)
    sizes, amounts = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 6)))
    losses = np.array([law.loss(n, d) for n, d in zip(sizes, amounts, strict=True)])
    return sizes, amounts, losses * np.exp(noise * draw.standard_normal(len(losses)))


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.floats(1.2, 2.5), st.floats(0.25, 0.45), st.floats(0.25, 0.45))
def test_a_law_is_found_again(least, alpha, beta):
    law = Law(least, 400.0, alpha, 1000.0, beta)
    found = fit(*runs(law))
    assert found.alpha == pytest.approx(alpha, rel=0.05)
    assert found.beta == pytest.approx(beta, rel=0.05)
    assert found.loss(1e11, 1e13) == pytest.approx(law.loss(1e11, 1e13), rel=0.01)


def test_the_gradient_is_right():
    data = scaling._checked(*runs(noise=0.01))
    for point in ([-0.1, 0.0, 0.0, 0.3, 0.3], [-0.5, -1.0, 0.5, 0.4, 0.2]):
        off = check_grad(lambda x: scaling._huber(x, *data)[0], lambda x: scaling._huber(x, *data)[1], np.array(point))
        assert off < 1e-3 * np.abs(scaling._huber(np.array(point), *data)[1]).max()


@pytest.mark.slow
def test_runs_that_no_law_fits_are_left_out():
    sizes, amounts, losses = runs(noise=0.002)
    losses[3] *= 1.3
    found = forecast(sizes, amounts, losses, resamples=10)
    assert found.left_out == (3,)
    assert found.law.alpha == pytest.approx(TRUE.alpha, rel=0.1)


@pytest.mark.slow
def test_hoffmanns_runs_give_besirolgus_law():
    """Besiroglu et al. 2024: E 1.82, alpha 0.35 and beta 0.37 with standard errors of 0.03, 0.02 and 0.02."""
    with (TABLES / "scaling_chinchilla_besiroglu_points.csv").open() as file:
        rows = [[float(row[name]) for name in ("N", "D", "loss")] for row in csv.DictReader(file)]
    found = fit(*np.array(rows).T)
    assert pytest.approx(1.8172, abs=0.06) == found.E
    assert found.alpha == pytest.approx(0.3478, abs=0.04)
    assert found.beta == pytest.approx(0.3658, abs=0.06)


@pytest.mark.slow
def test_losses_may_be_in_any_unit():
    sizes, amounts, losses = runs()
    small, large = fit(sizes, amounts, losses), fit(sizes, amounts, 100 * losses)
    assert large.alpha == pytest.approx(small.alpha, rel=1e-3)
    assert large.loss(1e11, 1e13) == pytest.approx(100 * small.loss(1e11, 1e13), rel=1e-3)


@pytest.mark.slow
def test_intervals_hold_the_law_and_widen_with_confidence():
    found = forecast(*runs(noise=0.004), resamples=40)
    wide, narrow = found.interval(1e11, 1e13), found.interval(1e11, 1e13, 0.5)
    assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]
    assert wide[0] * 0.995 <= TRUE.loss(1e11, 1e13) <= wide[1] * 1.005
    low, high = found.best_interval(1e24)
    assert low <= found.law.best(1e24)[0] * 1.2
    assert high >= found.law.best(1e24)[0] / 1.2


@pytest.mark.slow
def test_what_cannot_be_told_is_said():
    sizes, amounts, losses = runs(noise=0.001)
    one_size = np.full_like(sizes, 1e8)
    told = forecast(one_size, amounts, np.array([TRUE.loss(1e8, d) for d in amounts]), resamples=10).unidentified
    assert any("parameters span less" in one for one in told)
    along = 20 * sizes
    told = forecast(sizes, along, np.array([TRUE.loss(n, d) for n, d in zip(sizes, along, strict=True)]), resamples=10)
    assert any("grow together" in one for one in told.unidentified)
    with pytest.raises(ValueError, match="at least 6 runs"):
        fit(sizes[:5], amounts[:5], losses[:5])
    with pytest.raises(ValueError, match="above 0"):
        fit(sizes, amounts, -losses)


@given(st.floats(1e18, 1e26))
def test_the_best_split_cannot_be_bettered(operations):
    size, tokens = TRUE.best(operations)
    best = TRUE.loss(size, tokens)
    assert 6 * size * tokens == pytest.approx(operations)
    for factor in (0.8, 1.25):
        assert TRUE.loss(size * factor, tokens / factor) >= best
    marginal = TRUE.marginal(size, tokens)
    assert marginal["parameters"] == pytest.approx(marginal["tokens"], rel=1e-6)

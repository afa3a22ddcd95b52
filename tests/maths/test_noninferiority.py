"""Tango's test against published values, second routes, and its promise about errors."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import gammaln, ndtri, xlogy

from trimtab.maths.noninferiority import (
    NUISANCE_ERROR,
    exact_tail,
    noninferior,
    region_probability,
    tango_interval,
    tango_z,
)

_path = Path(__file__).parents[2] / "benchmarks" / "type1.py"
_spec = importlib.util.spec_from_file_location("type1", _path)
type1 = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(type1)


def trinomial(counts, n, b_share, c_share):
    shares = np.maximum([b_share, c_share, 1 - b_share - c_share], 0.0)
    return np.exp(gammaln(n + 1) + (xlogy(counts, shares) - gammaln(counts + 1)).sum(axis=1))


@st.composite
def tables(draw):
    n = draw(st.integers(2, 3000))
    b = draw(st.integers(0, n))
    return b, draw(st.integers(0, n - b)), n


def test_published_intervals():
    """Fagerland, Lydersen and Laake (2014), tables for Bentur's and Cavo's trials."""
    assert tango_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert tango_interval(6, 16, 161) == pytest.approx((-0.1240, -0.0054), abs=5e-5)


@pytest.mark.parametrize(("b", "c", "n"), [(1, 7, 21), (6, 16, 161), (40, 20, 160), (0, 1, 44)])
def test_interval_is_the_root_of_the_quartic(b, c, n):
    """Yang, Sun and Hardin (2013), Statistics in Medicine 32:1336: the bounds without iteration."""
    g = float(ndtri(0.975)) ** 2
    d, s, k = b - c, b + c, n / g
    quartic = [
        n**2 * (k + 1) ** 2,
        -n * d * (k + 1) * (4 * k + 1),
        2 * n * d**2 * (3 * k + 2) / g - n**2 * (s / g + 1),
        n * d * (2 * s / g + 1) - d**3 * (4 * k + 1) / g,
        d**2 * (d**2 / g - s) / g,
    ]
    roots = np.roots(quartic)
    real = roots[np.abs(roots.imag) < 1e-6].real
    for bound in tango_interval(b, c, n):
        assert np.min(np.abs(real - bound)) < 1e-6


@pytest.mark.parametrize(("b", "c", "n", "margin"), [(3, 9, 200, 0.02), (12, 0, 90, 0.1), (30, 25, 400, -0.05)])
def test_statistic_by_direct_maximisation(b, c, n, margin):
    def loss(q):
        return -(xlogy(b, q + margin) + xlogy(c, q) + xlogy(n - b - c, 1 - 2 * q - margin))

    low, high = max(0.0, -margin), (1 - margin) / 2
    q = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    spread = np.sqrt(n * (2 * q + margin - margin**2))
    assert float(tango_z(b, c, n, margin)) == pytest.approx((b - c - n * margin) / spread, abs=1e-4)


@given(tables(), st.floats(-0.9, 0.9))
@settings(max_examples=50, deadline=None)
def test_mirror(table, margin):
    b, c, n = table
    assert float(tango_z(b, c, n, margin)) == pytest.approx(-float(tango_z(c, b, n, -margin)), abs=1e-7)


@given(tables())
@settings(max_examples=50, deadline=None)
def test_statistic_falls_with_margin_and_c_and_rises_with_b(table):
    b, c, n = table
    margins = np.linspace(-0.9, 0.9, 101)
    assert (np.diff(tango_z(b, c, n, margins)) <= 1e-9).all()
    others = np.arange(n - c + 1)
    assert (np.diff(tango_z(others, c, n, 0.01)) >= -1e-9).all()
    assert (np.diff(tango_z(c, others, n, 0.01)) <= 1e-9).all()


@given(tables(), st.floats(0.001, 0.3))
@settings(max_examples=50, deadline=None)
def test_verdicts_agree_with_the_interval(table, margin):
    test = noninferior(*table, margin)
    assert not (test.accepted and test.refuted)
    assert test.low - 1e-12 <= test.difference <= test.high + 1e-12
    assert not test.accepted or test.high < margin + 1e-9
    assert not test.refuted or test.low > margin - 1e-9


def test_region_is_the_sum_over_tables():
    n, margin, z, q = 14, 0.1, -0.8, 0.15
    b, c = (x.ravel() for x in np.mgrid[: n + 1, : n + 1])
    b, c = b[b + c <= n], c[b + c <= n]
    chances = trinomial(np.stack([b, c, n - b - c], 1), n, q + margin, q)
    wanted = chances[tango_z(b, c, n, margin) <= z].sum()
    assert region_probability(z, n, margin, q)[0] == pytest.approx(wanted, rel=1e-9)


def test_nothing_differs():
    assert exact_tail(0, 0, 300, 0.01) == pytest.approx(0.99**300 + NUISANCE_ERROR)
    assert not noninferior(0, 0, 290, 0.01).accepted  # 0.99**290 = 5.4%, though Tango's z is -1.71
    assert noninferior(0, 0, 300, 0.01).accepted
    same = noninferior(0, 0, 10_000, 0.0)
    assert (same.accepted, same.refuted, same.z) == (False, False, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("n", [6, 13])
@pytest.mark.parametrize("margin", [0.0, 0.05, 0.2])
def test_no_wrong_verdict_above_alpha_by_full_enumeration(n, margin):
    """Every table, at the boundary and inside either hypothesis: no monotonicity is assumed."""
    tables_ = [(b, c) for b in range(n + 1) for c in range(n + 1 - b)]
    tests = [noninferior(b, c, n, margin) for b, c in tables_]
    counts = np.array([(b, c, n - b - c) for b, c in tables_])
    for loss in margin + np.array([-0.1, -0.02, 0.0, 0.02, 0.1]):
        for q in np.linspace(max(0.0, -loss), (1 - loss) / 2, 25):
            chance = trinomial(counts, n, q + loss, q)
            if loss >= margin:
                assert chance[[t.accepted for t in tests]].sum() <= 0.05
            if loss <= margin:
                assert chance[[t.refuted for t in tests]].sum() <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("n", "margin"), [(100, 0.01), (300, 0.01), (500, 0.002), (1000, 0.005)])
@pytest.mark.parametrize("sign", [1, -1])
def test_error_is_at_most_alpha_and_near_it_where_examples_differ(n, margin, sign):
    """Exact sums; sign -1 is the mirror, the error of refuting."""
    discordance = np.geomspace(margin, 0.105 if n == 100 else 0.06, 25)
    error = type1.guarded_error(n, sign * margin, discordance)
    assert error.max() <= 0.05
    enough = (discordance >= 0.02) & (discordance >= 1.5 * margin) & (n * discordance >= 10)
    assert error[enough].min() >= (0.04 if sign > 0 else 0.035)


def test_the_guard_is_needed():
    bare = region_probability(float(ndtri(0.05)), 272, 0.01, 0.0)[0]
    assert bare > 0.06
    assert type1.guarded_error(272, 0.01, np.array([0.01]))[0] <= 0.05


@pytest.mark.parametrize(
    "arguments", [(5, 6, 10, 0.1), (-1, 0, 10, 0.1), (1, 0, 10, 1.0), (1, 0, 10, -0.1), (1, 0, 10, 0.1, 0.7)]
)
def test_what_does_not_fit_is_refused(arguments):
    with pytest.raises(ValueError, match=r"it takes|fraction"):
        noninferior(*arguments)

"""Watts, joules, money and the roofline."""

import pytest

from trimtab.maths.cost import electricity_usd, energy_j, modelled_power_w, money_usd, per_million
from trimtab.maths.roofline import intensity_ridge, roofline_s


def test_an_hour_at_a_kilowatt():
    assert electricity_usd(energy_j(1000.0, 3600.0), 0.3) == pytest.approx(0.3)
    assert money_usd(3600.0, 1.5) == 1.5
    assert per_million(3.0, 1_000_000) == 3.0


def test_modelled_power_runs_from_idle_to_full():
    assert [modelled_power_w(5.0, 25.0, share) for share in (0.0, 0.5, 1.0)] == [5.0, 15.0, 25.0]


def test_the_roof_turns_at_the_ridge():
    ridge = intensity_ridge(1e12, 1e11)
    assert roofline_s(ridge * 1e9, 1e9, 1e12, 1e11) == pytest.approx(1e-2)
    assert roofline_s(1.0, 1e9, 1e12, 1e11) == roofline_s(1e9, 1e9, 1e12, 1e11)
    assert roofline_s(1e12, 1.0, 1e12, 1e11, 0.5) == 1.5


@pytest.mark.parametrize(
    "call", [lambda: modelled_power_w(1, 2, 1.1), lambda: per_million(1, 0), lambda: roofline_s(1, 1, 0, 1)]
)
def test_what_does_not_fit_is_refused(call):
    with pytest.raises(ValueError, match=r"between|at least|above"):
        call()

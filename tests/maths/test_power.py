"""The sizes promised against simulation."""

import numpy as np
import pytest
from scipy.special import ndtri

from trimtab.maths.intervals import never_seen_bound
from trimtab.maths.noninferiority import noninferior, tango_z
from trimtab.maths.power import (
    examples_to_decide,
    examples_to_refute,
    probability_of_acceptance,
    smallest_decidable_margin,
)


def simulated(difference, discordance, n, margin):
    shares = [(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance]
    b, c, _ = np.random.default_rng(0).multinomial(n, shares, size=20_000).T
    return np.mean(tango_z(b, c, n, margin) < ndtri(0.05))


@pytest.mark.parametrize(
    ("difference", "discordance", "n", "margin"),
    [(0.0, 0.04, 5000, 0.01), (0.002, 0.03, 3000, 0.01), (-0.005, 0.05, 800, 0.01), (0.01, 0.05, 2000, 0.01)],
)
def test_power_is_what_simulation_shows(difference, discordance, n, margin):
    wanted = simulated(difference, discordance, n, margin)
    assert probability_of_acceptance(difference, discordance, n, margin) == pytest.approx(wanted, abs=0.03)


def test_the_examples_asked_for_give_the_power_asked_for():
    test = noninferior(12, 10, 700, 0.01)
    total = 700 + examples_to_decide(test)
    assert probability_of_acceptance(2 / 700, 22 / 700, total, 0.01) == pytest.approx(0.8, abs=1e-3)


def test_each_side_of_the_margin_has_its_own_count():
    good, bad = noninferior(5, 5, 500, 0.01), noninferior(20, 8, 600, 0.01)
    assert examples_to_decide(good) > 0
    assert examples_to_refute(good) is None
    assert examples_to_decide(bad) is None
    assert examples_to_refute(bad) > 0
    assert examples_to_decide(noninferior(5, 5, 5000, 0.01)) == 0
    assert examples_to_refute(noninferior(100, 0, 500, 0.01)) == 0
    assert examples_to_decide(noninferior(0, 0, 500, 0.0)) is None


def test_where_nothing_differs_the_rule_of_three_decides():
    more = examples_to_decide(noninferior(0, 0, 100, 0.01))
    assert noninferior(0, 0, 100 + more + 1, 0.01).accepted
    assert smallest_decidable_margin(500, 0.0) == never_seen_bound(500)
    assert probability_of_acceptance(0.0, 0.0, 500, 0.01) == 1.0
    assert probability_of_acceptance(0.0, 0.0, 200, 0.01) == 0.0


def test_smallest_margin_has_the_power_and_falls_with_n():
    margins = [smallest_decidable_margin(n, 0.03) for n in (500, 2000, 8000)]
    assert margins == sorted(margins, reverse=True)
    assert simulated(0.0, 0.03, 2000, margins[1]) == pytest.approx(0.8, abs=0.03)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="it takes"):
        probability_of_acceptance(0.1, 0.05, 100, 0.01)

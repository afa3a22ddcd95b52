"""Random effects against the textbook: a mean of one group, additivity, and what must hold whatever the data."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.maths.effects import Case, Effects

NAMES = st.sampled_from(["a", "b", "c"])
CASES = st.builds(lambda one, two, x: Case({"one": one, "two": two}, {"x": x}), NAMES, NAMES, st.floats(-2, 2))


def test_one_group_gives_the_shrunken_mean():
    effects = Effects({"one": 2.0})
    for value in (1.0, 3.0, 2.0):
        effects.learn(Case({"one": "a"}), value, noise=1.0)
    means, spreads = effects.expect([Case({"one": "a"}), Case({"one": "b"})])
    precision = 3 / 1.0 + 1 / 4.0
    assert means == pytest.approx([6.0 / precision, 0.0])
    assert spreads == pytest.approx([precision**-0.5, 2.0])


def test_effects_add_up_over_groups_that_were_never_seen_together():
    effects = Effects({"one": 1.0, "two": 1.0})
    for one, two, value in (("a", "x", 0.0), ("b", "x", 1.0), ("a", "y", 2.0)):
        effects.learn(Case({"one": one, "two": two}), value, noise=1e-3)
    both, single = effects.expect([Case({"one": "b", "two": "y"}), Case({"one": "b", "two": "z"})])[0]
    assert both > 1.5
    assert both > single


def test_a_slope_goes_on_beyond_what_was_seen():
    effects = Effects({}, {"x": 10.0})
    for x in (1.0, 2.0):
        effects.learn(Case({}, {"x": x}), 0.5 * x, noise=1e-3)
    assert effects.expect([Case({}, {"x": 4.0})])[0] == pytest.approx([2.0], abs=1e-3)


@given(st.lists(st.tuples(CASES, st.floats(-5, 5)), max_size=8), CASES)
def test_more_data_never_makes_less_sure(seen, case):
    effects, last = Effects({"one": 1.0, "two": 0.5}, {"x": 0.3}), np.inf
    for known, value in seen:
        spread = effects.expect([case])[1][0]
        assert spread <= last + 1e-6
        last = spread
        effects.learn(known, value, noise=0.1)


def test_a_case_without_a_group_shares_nothing_with_another_that_lacks_it():
    effects = Effects({"one": 1.0})
    effects.learn(Case({}), 5.0, noise=0.1)
    assert effects.expect([Case({}), Case({"one": "a"})])[0] == pytest.approx([0.0, 0.0])


@pytest.mark.parametrize(("value", "noise"), [(np.nan, 1.0), (np.inf, 1.0), (0.0, 0.0), (0.0, -1.0), (0.0, np.nan)])
def test_what_says_nothing_is_refused(value, noise):
    with pytest.raises(ValueError, match="noise above 0"):
        Effects({"one": 1.0}).learn(Case({"one": "a"}), value, noise)


def test_what_was_seen_on_a_path_screens_what_lies_before_it_from_what_lies_beyond():
    def at(x):
        return Case({"one": "a"}, {"x": x})

    near, far = Effects({"one": 1.0}, paths={"one": "x"}), Effects({"one": 1.0}, paths={"one": "x"})
    for effects, value in ((near, 0.0), (far, 50.0)):
        effects.learn(at(4.0), 0.5, noise=1e-4)
        effects.learn(at(9.0), value, noise=1e-4)
    means = [effects.expect([at(2.0), at(6.0)])[0] for effects in (near, far)]
    assert means[0][0] == pytest.approx(means[1][0], abs=1e-3), "what lies before hears nothing from beyond"
    assert means[1][1] > means[0][1] + 5, "what lies between does"
    assert near.expect([at(2.0)])[0] == pytest.approx([0.5 * (2 / 4) ** 0.5], abs=1e-3)

"""The choice of layers: never over the budget, and as good as trying every choice."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.maths import assignment
from trimtab.maths.assignment import knapsack

THINGS = st.lists(st.tuples(st.floats(-1, 10), st.floats(0, 5)), max_size=9)


def brute(values, weights, budget):
    choices = (np.array(choice, dtype=bool) for choice in product([0, 1], repeat=len(values)))
    return max(sum(values[c]) for c in choices if sum(weights[c]) <= budget)


@given(THINGS, st.floats(0, 12))
def test_as_good_as_trying_every_choice(things, budget):
    values, weights = np.array(things, dtype=float).reshape(-1, 2).T
    taken = knapsack(values, weights, budget)
    assert sum(weights[taken]) <= budget + 1e-9
    assert sum(values[taken]) == pytest.approx(brute(values, weights, budget), abs=1e-6)


@given(st.integers(0, 2**32 - 1))
def test_cut_short_it_is_at_least_greedy(seed):
    rng = np.random.default_rng(seed)
    values, weights = rng.uniform(0.1, 1, 40), rng.uniform(0.1, 1, 40)
    room, greedy = 6.0, 0.0
    for index in np.argsort(-values / weights):
        if weights[index] <= room:
            room, greedy = room - weights[index], greedy + values[index]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignment, "LOOKS", 200)
        taken = knapsack(values, weights, 6.0)
    assert values[taken].sum() >= greedy - 1e-9
    assert weights[taken].sum() <= 6.0 + 1e-9


def test_what_has_no_worth_is_left_and_what_weighs_nothing_is_taken():
    assert knapsack([1.0, 0.0, -2.0, 3.0], [0.0, 0.0, 0.0, 2.0], 1.0).tolist() == [True, False, False, False]
    assert knapsack([], [], 1.0).tolist() == []


@pytest.mark.parametrize(("values", "weights"), [([1], [-1]), ([np.nan], [1]), ([1, 2], [1]), ([[1]], [[1]])])
def test_numbers_that_are_none(values, weights):
    with pytest.raises(ValueError, match="values"):
        knapsack(values, weights, 1.0)

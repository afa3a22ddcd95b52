"""The frontier, and why it is walked and not picked from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri

from trimtab.maths.intervals import clopper_pearson
from trimtab.maths.noninferiority import noninferior, tango_z
from trimtab.maths.pareto import fixed_sequence, frontier

points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20)


@given(points)
@settings(max_examples=50, deadline=None)
def test_every_point_is_on_the_frontier_or_beaten_by_one_that_is(found):
    kept = frontier(found, ["min", "max"]).tolist()
    best = [found[i] for i in kept]
    assert len(set(best)) == len(best)
    for cost, gain in found:
        assert any(a <= cost and b >= gain for a, b in best)
    for a, b in best:
        assert not any((x <= a and y >= b) and (x, y) != (a, b) for x, y in found)


def test_a_missing_figure_is_no_win():
    with pytest.raises(ValueError, match="NaN"):
        frontier([[1.0, np.nan]], ["min", "max"])
    with pytest.raises(ValueError, match="a column"):
        frontier([[1.0, 2.0]], ["min"])


def test_the_walk_reads_no_further_than_its_first_failure():
    read = []

    def verdicts():
        for accepted in (True, True, False, True):
            read.append(accepted)
            yield accepted

    assert fixed_sequence(verdicts()) == 1
    assert len(read) == 3
    assert fixed_sequence([False, True]) is None
    assert fixed_sequence([]) is None


@pytest.mark.slow
def test_best_of_fifty_bad_ones():
    """Fifty candidates, each exactly too bad: picked naively most searches 'prove' one; walked, 5% do."""
    rng = np.random.default_rng(0)
    n, margin, discordance, searches = 1000, 0.01, 0.05, 150
    shares = [(discordance + margin) / 2, (discordance - margin) / 2, 1 - discordance]
    validation = rng.multinomial(n, shares, size=(searches, 50))
    sealed = rng.multinomial(n, shares, size=(searches, 50))
    z = tango_z(validation[..., 0], validation[..., 1], n, margin)
    naive = np.mean(z.min(axis=1) < ndtri(0.05))
    certified = 0
    for order, tables in zip(np.argsort(z, axis=1), sealed, strict=True):
        walk = (noninferior(int(tables[i, 0]), int(tables[i, 1]), n, margin).accepted for i in order)
        certified += fixed_sequence(walk) is not None
    assert naive > 0.8
    assert clopper_pearson(certified, searches, 0.99)[0] <= 0.05

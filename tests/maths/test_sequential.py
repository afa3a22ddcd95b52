"""Looking after every example costs no error."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.maths.intervals import clopper_pearson
from trimtab.maths.sequential import accept_process, drop_process

ALPHA = 0.05


def drawn(rng, discordance, loss, n):
    shares = [(discordance + loss) / 2, (discordance - loss) / 2, 1 - discordance]
    return rng.choice([1.0, -1.0, 0.0], p=shares, size=n)


@pytest.mark.slow
@pytest.mark.parametrize(("discordance", "margin"), [(0.02, 0.02), (0.05, 0.02), (0.5, 0.1)])
@pytest.mark.parametrize("process", [accept_process, drop_process])
def test_optional_stopping_keeps_the_error(process, discordance, margin):
    """A loss of exactly the margin, and the most hostile stopping rule: the first crossing."""
    rng = np.random.default_rng(0)
    crossed = sum(process(drawn(rng, discordance, margin, 1500), margin).max() >= 1 / ALPHA for _ in range(800))
    assert clopper_pearson(int(crossed), 800, 0.99)[0] <= ALPHA


def test_capital_is_a_martingale_at_the_margin():
    rng = np.random.default_rng(1)
    final = [accept_process(drawn(rng, 0.5, 0.1, 20), 0.1)[-1] for _ in range(4000)]
    assert np.mean(final) == pytest.approx(1.0, abs=5 * np.std(final) / np.sqrt(4000))


@given(st.lists(st.floats(-1, 1), max_size=60), st.floats(-0.9, 0.9))
@settings(max_examples=50, deadline=None)
def test_capital_stays_positive_and_never_looks_ahead(differences, margin):
    for process in (accept_process, drop_process):
        path = process(differences, margin)
        assert (path > 0).all()
        half = len(differences) // 2
        assert np.array_equal(process(differences[:half], margin), path[:half])
    assert np.allclose(accept_process(differences, margin), drop_process(-np.array(differences), -margin))


def test_it_decides_early():
    rng = np.random.default_rng(2)
    assert accept_process(drawn(rng, 0.02, 0.0, 5000), 0.01).max() >= 20
    assert drop_process(drawn(rng, 0.05, 0.05, 2000), 0.01).max() >= 20
    assert drop_process([0.0] * 10, 0.01).max() < 20
    assert len(drop_process([], 0.01)) == 0


def test_a_long_certain_run_does_not_overflow():
    assert np.isfinite(drop_process(np.ones(20_000), 0.0)).all()


@pytest.mark.parametrize("arguments", [([2.0], 0.1), ([np.nan], 0.1), ([0.0], 1.0)])
@pytest.mark.parametrize("process", [accept_process, drop_process])
def test_what_does_not_fit_is_refused(process, arguments):
    with pytest.raises(ValueError, match=r"between|fraction"):
        process(*arguments)

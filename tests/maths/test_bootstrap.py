"""The weighted bootstrap against scipy's, and where it must own that it knows nothing."""

import numpy as np
import pytest
from scipy import stats

from trimtab.maths.bootstrap import Resampling, bca, weights


def mean(rows, weights):
    return weights @ rows[:, 0] / weights.sum(axis=1)


def f1(rows, weights):
    true, false, missed = (weights @ rows).T
    return 2 * true / (2 * true + false + missed)


def test_it_is_scipys_bca_within_monte_carlo_error():
    sample = np.random.default_rng(0).lognormal(size=60)
    wanted = stats.bootstrap(
        (sample,), np.mean, n_resamples=8000, confidence_level=0.9, rng=np.random.default_rng(1)
    ).confidence_interval
    found = bca(mean, sample[:, None], np.arange(60), Resampling(confidence=0.9, resamples=8000))
    width = wanted.high - wanted.low
    assert found.value == pytest.approx(sample.mean())
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.06 * width)


def test_f1_keeps_pairs_together():
    counts = np.random.default_rng(2).multinomial(1, [0.6, 0.2, 0.2], size=400).astype(float)
    both = np.hstack([counts, counts])
    same = bca(lambda r, w: f1(r[:, 3:], w) - f1(r[:, :3], w), both, np.arange(400))
    assert same.degenerate
    alone = bca(f1, counts, np.arange(400))
    assert alone.low < alone.value < alone.high < alone.value + 0.1


def test_copies_in_a_cluster_are_no_new_evidence():
    sample = np.random.default_rng(3).normal(size=(80, 1))
    once = bca(mean, sample, np.arange(80))
    copied = bca(mean, np.repeat(sample, 5, axis=0), np.repeat(np.arange(80), 5))
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))


def test_groups_left_out_give_the_same_acceleration_within_error():
    sample = np.random.default_rng(4).exponential(size=(3000, 1))
    found = bca(mean, sample, np.arange(3000), Resampling(resamples=4000))
    error = 1.96 * sample.std() / np.sqrt(3000)
    assert (found.low, found.high) == pytest.approx((found.value - error, found.value + error), abs=0.1 * error)


def test_blocks_hold_all_resamples_and_whole_clusters():
    clusters = np.repeat(["a", "b", "c"], 20_000)
    blocks = list(weights(clusters, 50, np.random.default_rng(0)))
    assert len(blocks) > 1
    assert sum(map(len, blocks)) == 50
    assert all((block[:, :20_000] == block[:, :1]).all() for block in blocks)
    assert all((block.sum(axis=1) == 60_000).all() for block in blocks)


def test_rows_that_never_differ_are_flagged_and_bounded():
    found = bca(mean, np.zeros((300, 1)), np.arange(300))
    assert found.degenerate
    assert (found.low, found.high) == (0.0, 0.0)
    assert found.widened(1.0).high == pytest.approx(1 - 0.05 ** (1 / 300))
    usual = bca(mean, np.arange(300.0)[:, None], np.arange(300))
    assert usual.widened(1.0) is usual


def test_one_side_is_the_two_sided_bound_at_twice_the_error():
    sample = np.random.default_rng(5).normal(size=(100, 1))
    both = bca(mean, sample, np.arange(100), Resampling(confidence=0.9))
    upper = bca(mean, sample, np.arange(100), Resampling(confidence=0.95, side="upper"))
    lower = bca(mean, sample, np.arange(100), Resampling(confidence=0.95, side="lower"))
    assert (lower.low, upper.high) == pytest.approx((both.low, both.high))
    assert (upper.low, lower.high) == (-np.inf, np.inf)


def test_a_statistic_without_a_value_is_an_error():
    with pytest.raises(ValueError, match="not finite"):
        bca(lambda rows, weights: np.full(len(weights), np.nan), np.ones((3, 1)), np.arange(3))
    with pytest.raises(ValueError, match="shape"):
        bca(mean, np.ones((3, 1)), np.arange(4))

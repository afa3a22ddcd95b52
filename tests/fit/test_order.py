from collections import Counter

import numpy as np
import pytest

from trimtab.fit.order import Order, lengths
from trimtab.values.task import Example


def examples(sizes):
    return [Example(str(i), {"ids": np.zeros(n, np.int64)}, 0) for i, n in enumerate(sizes)]


@pytest.mark.parametrize("sizes", [[3] * 50, [*range(1, 51)]])
def test_each_epoch_sees_each_example_once_in_a_new_order(sizes):
    order, twin, other = (Order(examples(sizes), 8, seed) for seed in (0, 0, 1))
    epochs = [[order.chosen(7 * epoch + step) for step in range(7)] for epoch in (0, 1)]
    for epoch in epochs:
        assert Counter(i for batch in epoch for i in batch) == Counter(range(50))
        assert {len(batch) for batch in epoch} == {7, 8}
    assert epochs[0] != epochs[1]
    assert twin.chosen(9) == epochs[1][2]
    assert order.chosen(2) == epochs[0][2]
    assert [other.chosen(step) for step in range(7)] != epochs[0]


def test_like_lengths_share_a_batch_and_batches_come_in_any_order():
    sizes = np.random.default_rng(0).integers(1, 100, 640)
    order = Order(examples(sizes), 16, 0)
    now, before = order.padding()
    assert now < 0.1 < 0.3 < before
    means = [sizes[order.chosen(step)].mean() for step in range(40)]
    assert sorted(means) != means
    assert [sizes[i] for i in order.by_length()] == sorted(sizes)


def test_examples_of_one_shape_are_left_unsorted():
    order = Order(examples([4] * 10), 3, 0)
    assert lengths(examples([4] * 10)) is None
    assert order.padding() == (0.0, 0.0)
    assert order.by_length() == list(range(10))

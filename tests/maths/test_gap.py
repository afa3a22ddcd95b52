"""The one measure of sameness: finite where answers can be compared, and never small where they cannot."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.maths.gap import gap

numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20)


@given(numbers, st.floats(-10, 10))
def test_it_is_the_greatest_difference_beside_the_greatest_number(values, shift):
    theirs = np.array(values)
    difference, largest = gap(theirs + shift, theirs)
    assert difference == pytest.approx(abs(shift), abs=1e-9)
    assert largest == max(map(abs, values))
    assert gap(theirs, theirs)[0] == 0.0


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (np.zeros(3), np.zeros(4)),
        (np.array([1.0, 0.0]), np.array([1.0, -np.inf])),
        (np.array([1.0, np.inf]), np.array([1.0, -np.inf])),
        (np.array([1.0, np.nan]), np.array([1.0, 2.0])),
        (np.array([1, 2]), np.array([1, 3])),
        (np.array([True]), np.array([False])),
    ],
)
def test_what_cannot_be_compared_is_never_the_same(ours, theirs):
    assert not gap(ours, theirs)[0] <= 1e300


def test_what_stands_in_the_same_places_is_the_same():
    for array in (np.array([1.0, -np.inf, np.nan]), np.array([True, False]), np.array([3, 4]), np.zeros((0, 2))):
        assert gap(array.copy(), array)[0] == 0.0

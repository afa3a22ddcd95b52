"""Agreement of sequences and of boxes, from rows that stand side by side."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.maths.agreement import (
    BoxAgreement,
    BoxF1,
    BoxRecall,
    StepAgreement,
    StepGap,
    box_rows,
    overlaps,
    step_rows,
)

A, B, FAR = [0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [50.0, 50.0, 60.0, 60.0]
NEAR_A = [1.0, 0.0, 11.0, 10.0]


def boxes(*several):
    return np.array(several, dtype=float).reshape(-1, 4)


def side_by_side(ours, base):
    truth = [boxes()] * len(ours)
    return np.hstack([box_rows(ours, truth, 4), box_rows(base, truth, 4)])


def test_padding_behind_a_sequence_counts_for_nothing():
    lengths = np.array([3, 1])
    ours = step_rows(np.array([[0.9, 0.1, 0.6], [0.2, 0.9, 0.9]]), lengths, 5)
    base = step_rows(np.array([[0.8, 0.6, 0.7], [0.1, 0.0, 0.0]]), lengths, 5)
    rows = np.hstack([ours, base])
    assert StepAgreement().values(rows).tolist() == [2 / 3, 1.0]
    assert np.allclose(StepGap().values(rows), [0.7 / 3, 0.1])
    assert np.allclose(StepAgreement().reduce(rows, np.array([[1.0, 1.0], [0.0, 2.0]])), [5 / 6, 1.0])
    assert StepAgreement(threshold=0.65).values(rows).tolist() == [2 / 3, 1.0]


def test_a_step_without_a_number_agrees_with_nothing():
    rows = [step_rows(np.array([[value, 0.9]]), np.array([2]), 2) for value in (np.nan, 0.1)]
    for pair in (rows, rows[::-1]):
        assert StepAgreement().values(np.hstack(pair)).tolist() == [0.5]
        assert np.isnan(StepGap().values(np.hstack(pair))).all()


@pytest.mark.parametrize(
    ("answers", "lengths", "message"),
    [
        (np.zeros((2, 3, 2)), [1, 1], "one answer a step"),
        (np.zeros((2, 3)), [4, 1], "1 to 5 steps, got 1 to 4 and 3"),
        (np.zeros((2, 3)), [0, 1], "got 0 to 1"),
        (np.zeros((1, 9)), [7], "1 to 5 steps"),
    ],
)
def test_answers_that_are_no_sequence(answers, lengths, message):
    with pytest.raises(ValueError, match=message):
        step_rows(answers, np.array(lengths), 5)


def test_rows_come_in_pairs():
    with pytest.raises(ValueError, match="5 columns: not even"):
        StepAgreement().values(np.zeros((2, 5)))


def test_boxes_agree_when_each_has_its_own_and_none_is_left():
    ours = [boxes(A, B), boxes(NEAR_A, B), boxes(A), boxes(A, FAR), boxes(), boxes()]
    base = [boxes(B, A), boxes(A, B), boxes(A, B), boxes(A, B), boxes(), boxes(A)]
    rows = side_by_side(ours, base)
    assert BoxAgreement().values(rows).tolist() == [1, 1, 0, 0, 1, 0]
    assert np.allclose(BoxF1().values(rows), [1, 1, 2 / 3, 0.5, 1, 0])
    assert BoxAgreement(overlap=0.9).values(rows).tolist() == [1, 0, 0, 0, 1, 0]


def test_two_boxes_over_one_count_once():
    rows = side_by_side([boxes(A, NEAR_A)], [boxes(A)])
    assert BoxAgreement().values(rows).tolist() == [0]
    assert np.allclose(BoxF1().values(rows), [2 / 3])


def test_recall_knows_the_truth_and_only_the_first_boxes():
    rows = box_rows([boxes(A, FAR), boxes(), boxes(B)], [boxes(A, B), boxes(A), boxes()], most=2)
    assert rows[:, :2].tolist() == [[1, 2], [0, 1], [0, 0]]
    assert BoxRecall().reduce(rows, np.ones((1, 3))).tolist() == [1 / 3]
    assert BoxRecall().support(rows).tolist() == [2], "examples, not boxes"
    assert np.isnan(BoxRecall().reduce(rows, np.array([[0.0, 0.0, 1.0]]))).all()
    assert box_rows([boxes(A, B, FAR)], [boxes()], most=2).shape == (1, 10)


@settings(max_examples=50)
@given(st.lists(st.tuples(*[st.integers(0, 20)] * 2, *[st.integers(1, 9)] * 2), max_size=4), st.integers(0, 9))
def test_agreement_is_the_same_seen_from_either_side_and_blind_to_order(places, seed):
    ours = boxes(*[(x, y, x + w, y + h) for x, y, w, h in places])
    chance = np.random.default_rng(seed)
    base = boxes(*chance.permutation(ours)) + chance.integers(0, 4, (len(ours), 1))
    one, other = (BoxF1().values(side_by_side(*pair))[0] for pair in (([ours], [base]), ([base], [ours])))
    assert one == pytest.approx(other)
    assert 0 <= one <= 1
    if len({*map(tuple, ours)}) == len(ours):
        assert BoxAgreement().values(side_by_side([ours], [chance.permutation(ours)])).tolist() == [1]


def test_overlap_of_boxes_that_do_not_touch_or_have_no_area():
    assert overlaps(boxes(A, FAR), boxes(A, [5.0, 5.0, 5.0, 5.0])).round(3).tolist() == [[1, 0], [0, 0]]

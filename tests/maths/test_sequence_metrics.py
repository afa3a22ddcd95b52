import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.maths.sequence_metrics import ANSWER, edit_distance, sequence_metrics, sequence_rows

WORD = st.lists(st.integers(0, 3), max_size=6)


@pytest.mark.slow
@given(WORD, WORD, WORD)
@settings(max_examples=100, deadline=None)
def test_the_edit_distance_is_a_distance(a, b, c):
    assert edit_distance(a, b) == edit_distance(b, a)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))
    assert (edit_distance(a, b) == 0) == (a == b)


def test_edits_are_counted():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == 3
    assert edit_distance("flaw", "lawn") == 2


def test_errors_of_words_and_tokens():
    rows = sequence_rows([(1, 2, 3), (1, 2), ()], [[(1, 2, 3)], [(1, 9, 2)], [(4, 5)]])
    whole = {m.name: m.reduce(rows, np.ones((1, 3)))[0] for m in sequence_metrics("word_error", "phoneme_error")[:2]}
    assert whole == pytest.approx({"word_error": 2 / 3, "phoneme_error": 3 / 8})
    weighted = sequence_metrics("word_error", "phoneme_error")[1].reduce(rows, np.array([[0.0, 2.0, 1.0]]))
    assert weighted == pytest.approx([4 / 8])


def test_the_nearest_right_answer_counts_and_of_equals_the_longest():
    (row,) = sequence_rows([(1, 2)], [[(1, 3), (1, 2, 3), (7, 8, 9)]])
    assert row[[0, 2, 3]].tolist() == [1, 3, 1]
    assert sequence_rows([(1, 2)], [[(9,), (1, 2)]])[0, [0, 2, 3]].tolist() == [0, 2, 0]


def test_answers_agree_when_they_are_the_same():
    ours = sequence_rows([(1, 2), (1, 2), ()], [[(1,)]] * 3)
    base = sequence_rows([(1, 2), (1, 3), ()], [[(1,)]] * 3)
    agreement = sequence_metrics("word_error", "phoneme_error")[2]
    assert agreement.values(np.hstack([ours, base])).tolist() == [1, 0, 1]
    assert (ours[:, ANSWER] >= 0).all()

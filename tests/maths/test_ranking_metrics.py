import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from trimtab.maths.ranking_metrics import NDCG, RECALL, ranking_metrics, ranking_rows


@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_ndcg_is_what_scikit_learn_makes_of_distinct_scores(seed, things, top):
    random = np.random.default_rng(seed)
    scores = random.permutation(things)[None].astype(float)
    wanted = random.random((1, things)) < 0.3
    wanted[0, random.integers(things)] = True
    rows = ranking_rows(scores, wanted, np.zeros_like(wanted), top)
    assert rows[0, NDCG] == pytest.approx(ndcg_score(wanted.astype(float), scores, k=top))
    found = wanted[0][np.argsort(-scores[0])[:top]].sum()
    assert rows[0, RECALL] == pytest.approx(found / min(top, wanted.sum()))


def test_what_is_left_out_is_ranked_last_and_ties_go_to_the_lower_number():
    wanted = np.array([[False, True, False, True]])
    rows = ranking_rows(np.array([[9.0, 1.0, 9.0, 1.0]]), wanted, np.array([[True, False, True, False]]), 2)
    assert rows.tolist() == [[1, 1]]
    tied = ranking_rows(np.zeros((1, 4)), wanted, np.zeros((1, 4), bool), 2)
    assert tied[0].tolist() == pytest.approx([1 / np.log2(3) / (1 + 1 / np.log2(3)), 0.5])


def test_scores_that_are_no_number_find_nothing():
    wanted = np.array([[False, False, True]])
    assert ranking_rows(np.array([[1.0, 2.0, np.nan]]), wanted, np.zeros((1, 3), bool), 2).tolist() == [[0, 0]]


def test_a_row_that_wants_nothing_is_named():
    with pytest.raises(ValueError, match="row 1 wants nothing"):
        ranking_rows(np.zeros((2, 3)), np.array([[True, False, False], [False] * 3]), np.zeros((2, 3), bool), 2)


def test_metrics_are_means_that_are_better_when_higher():
    rows = np.array([[0.5, 0.2], [1.0, 0.4]])
    found = {metric.name: metric.reduce(rows, np.ones((1, 2)))[0] for metric in ranking_metrics(10)}
    assert found == pytest.approx({"ndcg_10": 0.75, "recall_10": 0.3})
    assert {metric.better for metric in ranking_metrics(10)} == {"higher"}

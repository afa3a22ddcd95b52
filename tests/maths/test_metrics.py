import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax as scipy_log_softmax
from sklearn import metrics as oracle

from trimtab.maths.metrics import (
    CORRECT,
    IN_TOP_K,
    LOG_LOSS,
    NO_ANSWER,
    PREDICTED,
    SQUARED_ERROR,
    TARGET,
    Agreement,
    classification_metrics,
    classification_rows,
    regression_metrics,
    regression_rows,
    words,
)

CLASSES = 4
LABELS = ("ant", "bee", "cat", "dog")
NAMED = {metric.name: metric for metric in classification_metrics(LABELS, top_k=2)}


@st.composite
def scored(draw):
    """Logits, targets and whole-number weights: a weight of two stands for the row twice."""
    count = draw(st.integers(2, 12))
    logits = draw(arrays(np.float64, (count, CLASSES), elements=st.integers(-3, 3).map(float)))
    targets = draw(arrays(np.int64, count, elements=st.integers(0, CLASSES - 1)))
    weights = draw(arrays(np.int64, (3, count), elements=st.integers(0, 3)).filter(lambda w: w.sum(axis=1).all()))
    return logits, targets, weights


def reduced(name, rows, weights):
    return NAMED[name].reduce(rows, weights.astype(float))


@pytest.mark.slow
@given(scored())
@settings(max_examples=30, deadline=None)
def test_every_metric_is_scikit_learns_on_the_rows_repeated(sample):
    logits, targets, weights = sample
    rows = classification_rows(logits, targets, top_k=2)
    predicted = logits.argmax(axis=1)
    got = {name: reduced(name, rows, weights) for name, metric in NAMED.items() if not metric.paired}
    for draw, weight in enumerate(weights):
        true, said, scores = (np.repeat(array, weight, axis=0) for array in (targets, predicted, logits))
        assert got["accuracy"][draw] == pytest.approx(oracle.accuracy_score(true, said))
        macro = oracle.precision_recall_fscore_support(true, said, average="macro", zero_division=0)
        assert [got[f"{name}_macro"][draw] for name in ("precision", "recall", "f1")] == pytest.approx(macro[:3])
        loss = oracle.log_loss(true, np.exp(scipy_log_softmax(scores, axis=1)), labels=range(CLASSES))
        assert got["log_loss"][draw] == pytest.approx(loss)
        each = oracle.precision_recall_fscore_support(true, said, labels=range(CLASSES), zero_division=0)
        for place, score in enumerate(("precision", "recall", "f1")):
            for index, label in enumerate(LABELS):
                mine = got[f"{score}_{label}"][draw]
                if index in true or index in said:
                    assert mine == pytest.approx(each[place][index])
                else:
                    assert math.isnan(mine)


@given(arrays(np.float64, (8, CLASSES), elements=st.floats(-50, 50), unique=True), st.integers(2, 3))
@settings(max_examples=40, deadline=None)
def test_top_k_is_scikit_learns_where_no_scores_tie(logits, k):
    targets = np.arange(8) % CLASSES
    rows = classification_rows(logits, targets, top_k=k)
    expected = oracle.top_k_accuracy_score(targets, logits, k=k, labels=range(CLASSES))
    assert rows[:, IN_TOP_K].mean() == pytest.approx(expected)


@pytest.mark.slow
@given(scored())
@settings(max_examples=30, deadline=None)
def test_means_are_the_weighted_mean_of_their_values(sample):
    logits, targets, weights = sample
    rows = classification_rows(logits, targets)
    for name in ("accuracy", "top_2_accuracy", "log_loss"):
        values = NAMED[name].values(rows)
        expected = [np.average(values, weights=weight) for weight in weights]
        assert reduced(name, rows, weights) == pytest.approx(expected)
    assert NAMED["f1_macro"].values(rows) is None


def test_ties_go_to_the_lower_class_in_every_column():
    rows = classification_rows(np.zeros((3, 3)), np.array([0, 1, 2]), top_k=2)
    assert rows[:, PREDICTED].tolist() == [0, 0, 0]
    assert rows[:, CORRECT].tolist() == [1, 0, 0]
    assert rows[:, IN_TOP_K].tolist() == [1, 1, 0]


def test_huge_logits_neither_overflow_nor_vanish():
    rows = classification_rows(np.array([[1e4, 0.0], [0.0, 1e4]], dtype=np.float32), np.array([1, 1]))
    assert rows[:, LOG_LOSS].tolist() == [1e4, 0.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_answer_that_is_no_number_is_wrong_and_agrees_with_nothing(bad):
    rows = classification_rows(np.array([[bad, 0.0], [1.0, 0.0]]), np.array([0, 0]))
    assert rows[0].tolist() == [0, NO_ANSWER, 0, 0, math.inf]
    assert Agreement().values(np.hstack([rows, rows])).tolist() == [0, 1]


def test_a_class_ruled_out_by_minus_infinity_is_a_good_answer():
    rows = classification_rows(np.array([[-math.inf, 0.0]]), np.array([1]))
    assert rows[0].tolist() == [1, 1, 1, 1, 0]


def test_without_labels_only_the_prediction_is_known():
    rows = classification_rows(np.array([[0.0, 2.0]]), None)
    assert rows[0, PREDICTED] == 1
    assert np.isnan(rows[0, [TARGET, CORRECT, IN_TOP_K, LOG_LOSS]]).all()


def test_agreement_pairs_model_and_base():
    ours, base = (classification_rows(np.eye(3)[order], None) for order in ([0, 1, 2, 2], [0, 2, 2, 2]))
    pairs = np.hstack([ours, base])
    assert Agreement().values(pairs).tolist() == [1, 0, 1, 1]
    assert Agreement().reduce(pairs, np.array([[1.0, 1, 1, 1], [0, 1, 0, 0]])).tolist() == [0.75, 0]
    with pytest.raises(ValueError, match="side by side"):
        Agreement().values(ours)


def test_regressions_agree_within_the_tolerance_in_every_output():
    ours = regression_rows(np.array([[1.0, 1.0], [1.0, 1.0]]), None)
    base = regression_rows(np.array([[1.1, 0.9], [1.0, 1.3]]), None)
    assert Agreement(tolerance=0.2).values(np.hstack([ours, base])).tolist() == [1, 0]


@given(arrays(np.float64, (6, 2), elements=st.floats(-9, 9)), arrays(np.float64, (6, 2), elements=st.floats(-9, 9)))
@settings(max_examples=30, deadline=None)
def test_regression_errors_are_scikit_learns(outputs, targets):
    rows = regression_rows(outputs, targets)
    mse, mae = regression_metrics()
    one = np.ones((1, 6))
    assert mse.reduce(rows, one)[0] == pytest.approx(oracle.mean_squared_error(targets, outputs))
    assert mae.reduce(rows, one)[0] == pytest.approx(oracle.mean_absolute_error(targets, outputs))


def test_a_column_of_outputs_matches_flat_targets():
    rows = regression_rows(np.array([[1.0], [2.0]]), np.array([0.0, 2.0]))
    assert rows[:, SQUARED_ERROR].tolist() == [1, 0]


def test_weights_of_nothing_give_nan_not_a_pass():
    rows = classification_rows(np.eye(2), np.array([0, 1]))
    nothing = np.zeros((1, 2))
    assert all(np.isnan(metric.reduce(rows, nothing)).all() for metric in NAMED.values() if not metric.paired)


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (np.zeros(3), np.zeros(3, int), r"\[examples, classes\]"),
        (np.zeros((3, 2)), np.zeros(2, int), r"need targets of shape \[3\]"),
        (np.zeros((2, 2)), np.array([0, 2]), "from 0 to 2, the model gives 2 classes"),
        (np.zeros((2, 2)), np.array([-1, 0]), "from -1"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(logits, targets, message):
    with pytest.raises(ValueError, match=message):
        classification_rows(logits, targets)


def test_regression_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\[2, 2\], targets \[2, 1\]"):
        regression_rows(np.zeros((2, 2)), np.zeros(2))


def test_names_of_classes_are_fit_for_a_promise():
    assert words(("Ankle boot", "T-shirt/top")) == ("ankle_boot", "t_shirt_top")
    assert words(("macro", "b")) == words(("C", "C#")) == words(("?", "b")) == ("0", "1")


def test_top_k_is_offered_only_where_it_says_something():
    assert "top_2_accuracy" not in {metric.name for metric in classification_metrics(("a", "b"), top_k=2)}
    assert "top_2_accuracy" in NAMED
    assert [metric.name for metric in regression_metrics(0.5)] == ["mse", "mae", "agreement"]

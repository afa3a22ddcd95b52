from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import DataError, Refused
from trimtab.fit.thresholds import SLACK, Answers, answers, at, check_gain, check_objective, choose
from trimtab.run.program import drive
from trimtab.values.facts import Facts
from trimtab.values.model import Model, Part, Signature, TensorSpec


@st.composite
def seen(draw):
    """Answers of two stages to 200 to 400 examples, the first right more often where it is surer."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(200, 400))
    sure = np.round(random.uniform(0.3, 1, n), draw(st.integers(1, 6)))
    targets = random.integers(0, 4, n)
    off = random.integers(1, 4, n)
    first = np.where(random.uniform(size=n) < sure ** draw(st.floats(0.05, 2)), targets, (targets + off) % 4)
    whole = np.where(random.uniform(size=n) < draw(st.floats(0.5, 1)), targets, (targets + off) % 4)
    return Answers(sure, first, whole, targets)


@settings(max_examples=30)
@given(seen(), st.floats(0, 1.1), st.floats(0, 1.1))
def test_a_higher_threshold_never_agrees_less_nor_stops_more(answers, one, other):
    low, high = (at(threshold, answers) for threshold in sorted((one, other)))
    assert high.agreement >= low.agreement
    assert high.stops <= low.stops
    assert high.made_wrong_at_most <= low.made_wrong_at_most


@settings(max_examples=30)
@given(seen(), st.sampled_from([0.0, 0.002, 0.05]))
def test_the_choice_keeps_the_loss_as_counted_anew(answers, loss):
    try:
        choice = choose(answers, loss)
    except Refused:
        return
    stop = answers.confidence >= choice.threshold
    cascade = np.where(stop, answers.first, answers.whole)
    right = [(given == answers.targets).mean() for given in (answers.whole, cascade)]
    assert right[0] - right[1] <= loss + 1e-12
    assert choice.agreement == pytest.approx((cascade == answers.whole).mean())
    assert choice.stops == pytest.approx(stop.mean())
    assert choice.stops > 0
    assert choice.made_wrong_at_most <= loss + SLACK


def test_takes_the_smallest_threshold_and_refuses_what_nothing_supports():
    n = 400
    sure, targets = np.linspace(0.2, 1, n), np.zeros(n, int)
    first = np.where(sure < 0.5, 1, 0)
    given = Answers(sure, first, targets, targets)
    choice = choose(given, 0.0)
    assert 0.5 <= choice.threshold < 0.52
    assert choice.loss == 0
    assert choice.program("logits").shares == (1.0, 1 - choice.stops)
    with pytest.raises(
        Refused, match=r"no threshold loses at most 0 on 400 validation examples: where 0.2% stop, 0.25%"
    ):
        choose(replace(given, first=np.ones(n, int)), 0.0)
    few = Answers(*(column[-50:] for column in (sure, first, targets, targets)))
    with pytest.raises(Refused, match=r"on 50 validation examples.*up to 5.82% may be made wrong.*more validation"):
        choose(few, 0.0)


def test_thresholds_say_where_nothing_is_gained_and_what_they_cannot_take():
    choice = at(0.5, Answers(np.array([0.4, 0.6]), *np.zeros((3, 2), int)))
    check_gain(choice, 10, 100, 100)
    with pytest.raises(Refused, match=r"50% of the examples stop.*takes 110 operations.*the model alone takes 100"):
        check_gain(choice, 60, 100, 100)
    view = SimpleNamespace(task=SimpleNamespace(name="prices", objective="mse"), split=lambda name: [])
    with pytest.raises(Refused, match="the objective of prices is mse, it takes cross_entropy"):
        check_objective(view, "cascade")
    with pytest.raises(DataError, match="the validation split of prices is empty"):
        answers(view, None, None, lambda: None)


def test_the_driver_stops_where_the_choice_said(tmp_path):
    random = np.random.default_rng(3)
    small, large = random.normal(size=(2, 60, 3)).astype(np.float32) * 2
    top = np.exp(small - small.max(1, keepdims=True))
    given = Answers(1 / top.sum(1), small.argmax(1), large.argmax(1), large.argmax(1))
    choice = at(0.7, given)
    spec = {"logits": TensorSpec("output", "float32", ("batch", 3)), "row": TensorSpec("row", "int64", ("batch",))}
    part = Part("null", tmp_path, Signature((spec["row"],), (spec["logits"],)), Facts("null", 10, 100))
    model = Model({"first": replace(part, facts=Facts("null", 5, 20)), "main": part}, choice.program("output"))
    run = lambda inputs, part: {"output": (small if part == "first" else large)[inputs["row"]]}  # noqa: E731
    answer = drive(model, SimpleNamespace(run=run), {"row": np.arange(60)})
    assert (answer["stage"] == 0).mean() == pytest.approx(choice.stops)
    assert (answer["output"].argmax(1) == large.argmax(1)).mean() == pytest.approx(choice.agreement)
    assert model.facts.operations == round(20 + 100 * (1 - choice.stops))
    assert model.facts.parameters == 15

"""What the result says of answers that changed, whatever the rows of the task look like."""

from types import SimpleNamespace

import numpy as np
import pytest

from trimtab import result
from trimtab.maths.metrics import CORRECT, Mean, classification_rows
from trimtab.request import Request
from trimtab.values.promise import Limit
from trimtab.values.task import Example, Task
from trimtab.verify import Evidence, Judgement


class Kept(Task):
    """A task of one's own."""

    name, objective, labels, metrics = "kept", "cross_entropy", ("no", "yes"), ()

    def split(self, name):
        raise NotImplementedError

    collate = score = split


def flips(metric, base, trimmed, targets):
    task = Kept()
    task.metrics = (metric,)
    examples = tuple(Example(f"e{number}", {}, target) for number, target in enumerate(targets))
    evidence = Evidence(task, examples, base, trimmed)
    search = SimpleNamespace(workshop=SimpleNamespace(task=task))
    return result.Outcome(None, search, [], None, False).flips(result.Tested(None, (), evidence))


def test_answers_of_a_classification_are_named():
    targets = np.array([0, 1, 1])
    base, trimmed = (classification_rows(np.eye(2)[said], targets) for said in ([0, 1, 0], [1, 1, 1]))
    assert flips(Mean("accuracy", CORRECT, binary=True), base, trimmed, targets) == {
        "metric": "accuracy",
        "right_to_wrong": 1,
        "wrong_to_right": 1,
        "examples": [
            {"id": "e0", "target": "no", "base": "no", "trimmed": "yes"},
            {"id": "e2", "target": "yes", "base": "no", "trimmed": "yes"},
        ],
    }


@pytest.mark.parametrize("targets", [(0, 1), ([1, 2], [3])])
@pytest.mark.parametrize("columns", [1, 5])
def test_other_rows_have_no_answers_to_show(columns, targets):
    base, trimmed = np.zeros((2, columns)), np.zeros((2, columns))
    base[:, 0], trimmed[:, 0] = (0.0, 1.0), (1.0, 1.0)
    found = flips(Mean("word_error", 0, "lower", binary=True), base, trimmed, targets)
    assert (found["right_to_wrong"], found["wrong_to_right"]) == (1, 0)
    assert found["examples"] == [{"id": "e0"}]


def judged(promise, verdict, more=None):
    where = "class=7" if "[" in promise else ""
    return Judgement(promise, where, verdict, 0.9, 0.9, 0.0, -0.1, 0.1, -0.01, "share", 100, "", more_examples=more)


def outcome(judgements=(), beyond=(), timed=False):
    """Return what a search found that tested one candidate, or none; limits in `beyond` are broken by every model."""
    aim = SimpleNamespace(beyond=lambda figures: list(beyond), objective="latency_ms")
    bench = SimpleNamespace(base_figures={}, failing=lambda: "")
    search = SimpleNamespace(aim=aim, bench=bench, trials=[], base_cost=1.0)
    trial = SimpleNamespace(candidate=SimpleNamespace(name="small"))
    tested = [result.Tested(trial, tuple(judgements), None)] if judgements else []
    request = Request("m", "t", ("accuracy >= base - 0.01",))
    return result.Outcome(request, search, tested, tested[0] if timed else None, False)


@pytest.mark.parametrize(
    ("judgements", "timed", "said"),
    [
        ((), False, "Nothing was worth trying."),
        ((judged("accuracy >= base - 0.01", "PASS"),), True, "small keeps the promise, but timed afresh it is beyond"),
    ],
)
def test_a_base_beyond_the_limit_is_no_answer(judgements, timed, said):
    assert outcome(judgements, timed=timed).verdict == "BASE"
    found = outcome(judgements, [Limit.parse("size_mb <= 1")], timed)
    assert found.verdict == "INFEASIBLE"
    assert f"within size_mb <= 1, nor does the base. {said}" in found.sentence()


def test_the_promise_that_was_refuted_is_blamed():
    undecided = judged("accuracy >= base - 0.01", "UNDECIDED")
    failed = judged("accuracy[class=7] >= base - 0.1", "FAIL")
    assert "small, fails accuracy[class=7] >= base - 0.1" in outcome([undecided, failed]).sentence()


def test_more_examples_are_asked_for_where_they_are_wanting():
    judgements = [judged("accuracy >= base - 0.01", "PASS"), judged("accuracy[class=7] >= base - 0.1", "UNDECIDED", 40)]
    assert "about 40 more test examples of class=7 would decide" in outcome(judgements).sentence()

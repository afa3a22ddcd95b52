"""What the result says of answers that changed, whatever the rows of the task look like."""

from types import SimpleNamespace

import numpy as np
import pytest

from trimtab import result
from trimtab.maths.metrics import CORRECT, Mean, classification_rows
from trimtab.values.task import Example, Task
from trimtab.verify import Evidence


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

"""Inputs longer than a model takes are named before anything is built on it, with what works and how to mend it."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from small_texts import Sentences
from trimtab.errors import DataError
from trimtab.run.lengths import check_lengths
from trimtab.values.task import TaskView


class Counted(Sentences):
    """Sentences that come with their number of words."""

    def collate(self, examples):
        batch = super().collate(examples)
        lengths = np.array([len(example.inputs["ids"]) for example in examples])
        return replace(batch, inputs={**batch.inputs, "length": lengths})


@dataclass
class Table:
    """Answers up to a length, and to numbers below 3; remembers what it was asked."""

    rows: int
    words: int = 3

    def __post_init__(self):
        self.asked = []

    def __call__(self, batch):
        assert batch.inputs["ids"].shape == batch.inputs["mask"].shape
        self.asked.append(batch.inputs["ids"])
        if batch.inputs["ids"].shape[1] > self.rows or batch.inputs["ids"].max() >= self.words:
            raise IndexError("index out of range in self\nmore")


def test_a_model_that_takes_all_is_asked_once():
    model = Table(9)
    check_lengths(model, TaskView(Sentences()), True)
    assert len(model.asked) == 1


@pytest.mark.parametrize("rows", [3, 4, 6, 8])
def test_lengths_that_fail_and_that_work_are_named_with_the_remedy(rows):
    said = rf"up to 9 long \(ids\).*index out of range in self\); up to {rows} it answers them: say max_length={rows}"
    with pytest.raises(DataError, match=said) as caught:
        check_lengths(Table(rows), TaskView(Sentences()), True)
    assert "MODEL | truncate" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_of_the_sealed_split_lengths_alone_are_read():
    model = Table(8)
    with pytest.raises(DataError):
        check_lengths(model, TaskView(Sentences()), True)
    assert max(ids.max() for ids in model.asked) < 2


def test_truncate_is_named_only_where_it_takes_the_model():
    with pytest.raises(DataError) as caught:
        check_lengths(Table(4), TaskView(Sentences()), False)
    assert "truncate" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "task"),
    [
        (Table(2), Sentences()),  # none works: it is not the length
        (Table(9, words=1), Sentences(((3, 5), (9,), (9,)))),  # the longest has a number that is not known
        (Table(2), Sentences(((5, 5), (5,), (5,)))),
        (Table(9), Sentences(padding=9)),
        (Table(2), Sentences(((), (), ()))),
    ],
)
def test_nothing_is_said_where_it_is_not_the_length(model, task):
    check_lengths(model, TaskView(task), True)


def test_inputs_of_one_length_are_not_tried():
    for task in (Sentences(((5, 5), (5,), (5,))), Sentences(padding=9)):
        model = Table(2)
        check_lengths(model, TaskView(task), True)
        assert not model.asked


def test_numbers_that_count_the_steps_say_the_new_length():
    asked = []
    counted = Counted(((3, 5), (4,), (9,)))
    check_lengths(lambda batch: asked.append(batch.inputs["length"].tolist()), TaskView(counted), True)
    assert asked == [[9]]

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fit_toys import Backwards, greedy
from trimtab.fit import teacher as taught
from trimtab.fit.program import Net
from trimtab.fit.teacher import Teacher, valid
from trimtab.values.task import TaskView


class Counted(nn.Module):
    """Counts the examples that it answers."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.asked = 0

    def forward(self, image):
        self.asked += len(image)
        return self.net(image)


@pytest.fixture(autouse=True)
def _forget():
    taught._LAST.clear()


@pytest.fixture
def still(view):
    """Return the digits as a task that leaves its examples as they are."""
    kind = type("Still", (type(view.task),), {"augment": lambda self, batch, seed: batch})
    return TaskView(kind())


def never():
    """Have all the time there is."""


def test_a_teacher_is_asked_once_and_answers_in_any_order(still):
    net = Counted()
    teacher = Teacher(net, still)
    teacher.prepare(range(200), never)
    assert (net.asked, teacher.note) == (200, "")
    chosen = [5, 199, 64]
    batch = still.task.collate([still.split("train")[i] for i in chosen])
    with torch.no_grad():
        expected = net.net(torch.from_numpy(batch.inputs["image"]))
    torch.testing.assert_close(teacher.answer(batch, chosen, True), expected)
    assert net.asked == 200
    teacher.answer(batch, chosen, False)
    assert net.asked == 203


def test_the_next_training_finds_the_answers_of_the_same_teacher_and_task(still):
    first, same, other = Counted(), Counted(), Counted(1)
    for net in (first, same, other):
        Teacher(net, still).prepare(range(200), never)
    assert (first.asked, same.asked, other.asked) == (200, 0, 200)
    fresh = Counted(1)
    Teacher(fresh, TaskView(type(still.task)())).prepare(range(200), never)
    assert fresh.asked == 200


def test_says_why_answers_are_not_kept(view, still, monkeypatch):
    changing = Teacher(Counted(), view)
    changing.prepare(range(200), never)
    assert "examples change from epoch to epoch" in changing.note
    monkeypatch.setattr(taught, "LIMIT_MB", 0.001)
    large = Teacher(Counted(), still)
    large.prepare(range(200), never)
    assert "more than 0.001 MB" in large.note
    assert not changing.rows
    assert not large.rows


def test_time_ends_before_the_answers_are_there(still):
    def over():
        raise TimeoutError("over")

    with pytest.raises(TimeoutError):
        Teacher(Counted(), still).prepare(range(200), over)


def test_answers_of_a_decoder_are_kept_to_their_length(tmp_path):
    view = TaskView(Backwards())
    teacher = Teacher(Net.load(greedy(tmp_path)), view)
    teacher.prepare(range(120), never)
    chosen = [3, 1, 7, 8]
    batch = view.task.collate([view.split("train")[i] for i in chosen])
    kept, asked = teacher.answer(batch, chosen, True), teacher.answer(batch, chosen, False)
    counted = valid(batch, asked)
    assert torch.equal(counted, torch.from_numpy(batch.targets >= 0))
    torch.testing.assert_close(kept[counted], asked[counted], atol=1e-6, rtol=1e-4)
    assert valid(replace(batch, targets=np.zeros(4)), asked) is None

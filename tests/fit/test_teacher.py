from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fit_toys import Backwards, greedy
from trimtab.fit import teacher as taught
from trimtab.fit.loop import fit
from trimtab.fit.order import Order
from trimtab.fit.program import Net
from trimtab.fit.settings import Settings
from trimtab.fit.teacher import Teacher, valid
from trimtab.tasks._labelled import stacked
from trimtab.values.task import Batch, Example, TaskView


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


def order(view, count=200):
    """Return the batches of the first training examples."""
    return Order([view.split("train")[i] for i in range(count)], 16, 0)


def never():
    """Have all the time there is."""


def test_a_teacher_is_asked_once_and_answers_in_any_order(still):
    net = Counted()
    teacher = Teacher(net, still)
    teacher.prepare(order(still), 100, never)
    assert (net.asked, teacher.note, teacher.period) == (200, "", 0)
    chosen = [5, 199, 64]
    batch = still.task.collate([still.split("train")[i] for i in chosen])
    with torch.no_grad():
        expected = net.net(torch.from_numpy(batch.inputs["image"]))
    torch.testing.assert_close(teacher.answer(batch, chosen, 0, never), expected)
    assert net.asked == 200
    seldom = Counted(2)
    Teacher(seldom, still).prepare(order(still), 13, never)
    assert seldom.asked == 0, "in one epoch every example comes once"


def test_changed_batches_come_again_and_are_asked_once_for_all_trainings(view, monkeypatch):
    ordered, nets = order(view), (Counted(), Counted())

    def changed(step):
        plain = view.task.collate([view.split("train")[i] for i in ordered.chosen(step)])
        return view.task.augment(plain, step)

    for net in nets:
        teacher = Teacher(net, view)
        teacher.prepare(ordered, 10, never)
        assert teacher.period == taught.VIEWS * 13
        assert "come again after 4 epochs" in teacher.note
        for step in (1, 0, 50, 1):
            answers = teacher.answer(changed(step), ordered.chosen(step), step, changed)
            with torch.no_grad():
                alone = net.net(torch.from_numpy(changed(step).inputs["image"]))
            torch.testing.assert_close(answers, alone)
    first = sum(len(changed(step)) for step in (*range(4), *range(48, 52)))
    assert [net.asked for net in nets] == [first + 1, 1], "four batches at once, and one example to see how large it is"
    monkeypatch.setattr(taught, "LIMIT_MB", 0.001)
    crowded = Teacher(Counted(1), view)
    crowded.prepare(ordered, 10, never)
    for _ in range(2):
        crowded.answer(changed(0), ordered.chosen(0), 0, changed)
    assert not crowded.kept.batches
    assert crowded.batch(0, changed) is not crowded.batch(0, changed)
    assert not crowded.kept.inputs
    assert crowded.net.parts[0].asked == 2 * len(changed(0)) + 1


def test_a_batch_is_made_once_and_what_a_net_does_to_it_is_not_seen_again(view):
    ordered, asked = order(view), list[int]()

    def changed(step):
        asked.append(step)
        plain = view.task.collate([view.split("train")[i] for i in ordered.chosen(step)])
        return view.task.augment(plain, step)

    teacher = Teacher(Counted(), view)
    teacher.prepare(ordered, 10, never)
    first = teacher.batch(3, changed)
    first.inputs["image"][:] = -1.0
    again = teacher.batch(3, changed)
    assert asked == [3]
    np.testing.assert_array_equal(again.inputs["image"], changed(3).inputs["image"])


def test_a_distilled_net_sees_batches_again_after_the_period(view, monkeypatch):
    monkeypatch.setattr(taught, "VIEWS", 1)
    seen: list[bytes] = []

    class Watched(Counted):
        def forward(self, image):
            if self.training:
                seen.append(image.numpy().tobytes())
            return super().forward(image)

    batches = Order(view.split("train"), 16, 0).batches
    teacher = Counted(1)
    fit(Watched(), view, Settings(steps=2 * batches, alpha=0.5), teacher=teacher)
    steps = seen[: 2 * batches]
    assert steps[:batches] == steps[batches:]
    assert len(set(steps)) == batches
    assert teacher.asked <= len(view.split("train")) + 1


def test_the_next_training_finds_the_answers_of_the_same_teacher_and_task(still):
    first, same, other = Counted(), Counted(), Counted(1)
    for net in (first, same, other):
        Teacher(net, still).prepare(order(still), 100, never)
    assert (first.asked, same.asked, other.asked) == (200, 0, 200)
    fresh = Counted(1)
    Teacher(fresh, TaskView(type(still.task)())).prepare(order(still), 100, never)
    assert fresh.asked == 200


def test_says_why_answers_are_not_kept(still, monkeypatch):
    monkeypatch.setattr(taught, "LIMIT_MB", 0.001)
    large = Teacher(Counted(), still)
    large.prepare(order(still), 100, never)
    assert "more than 0.001 MB" in large.note
    assert not large.kept.rows


def test_answers_to_each_step_without_targets_are_asked_anew():
    class Steps(type(TaskView(Backwards()).task)):
        def split(self, name):
            rows = np.random.default_rng(0).normal(size=(40, 9, 2)).astype(np.float32)
            return [Example(f"{n}", {"sequence": row[: 3 + n % 7]}) for n, row in enumerate(rows)]

        def collate(self, examples):
            return Batch({"sequence": stacked([one.inputs["sequence"] for one in examples])}, None)

        def augment(self, batch, seed):
            return batch

    class Sums(nn.Module):
        def forward(self, sequence):
            return sequence.sum(2)

    view = TaskView(Steps())
    teacher = Teacher(Sums(), view)
    teacher.prepare(order(view, 40), 100, never)
    assert "the valid length of its answers is not known" in teacher.note


def test_time_ends_before_the_answers_are_there(still):
    def over():
        raise TimeoutError("over")

    with pytest.raises(TimeoutError):
        Teacher(Counted(), still).prepare(order(still), 100, over)


def test_answers_of_a_decoder_are_kept_to_their_length(tmp_path):
    view = TaskView(Backwards())
    teacher = Teacher(Net.load(greedy(tmp_path)), view)
    teacher.prepare(order(view, 120), 100, never)
    chosen = [3, 1, 7, 8]
    batch = view.task.collate([view.split("train")[i] for i in chosen])
    kept, asked = teacher.answer(batch, chosen, 0, never), teacher._asked(batch)
    counted = valid(batch, asked)
    assert torch.equal(counted, torch.from_numpy(batch.targets >= 0))
    torch.testing.assert_close(kept[counted], asked[counted], atol=1e-6, rtol=1e-4)
    assert valid(replace(batch, targets=np.zeros(4)), asked) is None

import pytest

from trimtab.errors import DataError
from trimtab.fit import pace
from trimtab.fit.effort import step_seconds
from trimtab.values.machine import Machine
from trimtab.values.registry import registry
from trimtab.values.task import TaskView

MACHINE = Machine("m", 1, (), peak_gflops={"fp32": 50.0})


@pytest.fixture
def opened(tmp_path):
    view = TaskView(registry("tasks").take("digits")())
    return registry("sources").take("zoo")().open("resnet(width=8)", tmp_path, view), view


def test_the_pace_is_what_a_step_took_over_what_was_expected(opened, monkeypatch):
    model, view = opened
    expected = step_seconds(model.facts, MACHINE, pace.BATCH)
    for took, found in ((3 * expected, 3.0), (1e-9, pace.FASTEST), (1e9, pace.SLOWEST)):
        monkeypatch.setattr(pace, "step_time", lambda *_, took=took: took)
        assert pace.measured(model, view, MACHINE, 0, 1) == pytest.approx(found)


def test_what_cannot_be_timed_is_taken_as_expected(opened, monkeypatch):
    model, view = opened
    assert pace.measured(model, view, Machine("unknown", 1), 0, 1) == 1.0

    def fails(*_):
        raise DataError("no targets")

    monkeypatch.setattr(pace, "step_time", fails)
    assert pace.measured(model, view, MACHINE, 0, 1) == 1.0


def test_a_step_is_really_timed(opened):
    model, view = opened
    assert pace.FASTEST <= pace.measured(model, view, MACHINE, 0, 1) <= pace.SLOWEST

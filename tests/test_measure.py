from types import SimpleNamespace

import numpy as np
import pytest

from trimtab import measure
from trimtab.apply import Workshop, check_answers
from trimtab.errors import DataError
from trimtab.maths.metrics import regression_metrics
from trimtab.measure import Bench, gains
from trimtab.meters.energy import Energy
from trimtab.meters.latency import Latency
from trimtab.meters.throughput import Throughput
from trimtab.race import Race
from trimtab.recipe import bind_runtime
from trimtab.values.figure import Figure
from trimtab.values.model import Model, Signature, TensorSpec
from trimtab.values.store import Store
from trimtab.values.task import Example, Task, TaskView


@pytest.fixture
def bench(toy_view, machine, tmp_path):
    return Bench(Workshop(toy_view.task, Store(tmp_path), machine), SimpleNamespace(), SimpleNamespace())


@pytest.mark.parametrize(
    ("value", "low", "fails"), [(0.3, 0.2, True), (0.5, 0.3, True), (0.6, 0.5, False), (0.9, 0.8, False)]
)
def test_a_base_that_knows_the_most_frequent_class_only_is_doubted(bench, toy_view, value, low, fails):
    targets = np.array([example.target for example in toy_view.split("validation")])
    assert 0.3 < np.bincount(targets).max() / len(targets) < 0.5
    bench.base_figures = {"accuracy": Figure("accuracy", value, "share", low, 1.0)}
    doubt = bench.doubt()
    assert bool(doubt) is fails
    if fails:
        assert f"{value:.1%} of its answers are right" in doubt
        assert "train(epochs=5)" in doubt
        assert "Train it first" not in bench.failing(), "the sentence says what is wrong, not how to mend it"
        assert doubt.startswith(bench.failing())


def test_a_race_that_one_model_gave_no_figure_says_nothing_of_a_gain(bench, monkeypatch):
    read = Figure("energy_j", 3.0, "J per 1000")
    monkeypatch.setattr(measure, "cheap_first", lambda: [Energy()])
    monkeypatch.setattr(Bench, "base_worker", SimpleNamespace(pause=lambda: None))
    for figures in (((read,), ()), ((read,), (read,))):
        monkeypatch.setattr(Bench, "_race", lambda *words, figures=figures: Race(figures, ({},)))
        costs = bench.against_base(None, None, None)
        assert (costs.base, costs.ratios) == ({"energy_j": read}, {})


class Numbers(Task):
    """The numbers from 0 to 99."""

    name, objective, metrics = "numbers", "mse", regression_metrics()

    def split(self, name):
        return [Example(str(number), {}, float(number)) for number in range(100)]

    collate = score = None


@pytest.mark.parametrize(
    ("mse", "high", "mae", "fails"),
    [(833.0, 900.0, None, True), (800.0, 834.0, 26.0, True), (800.0, 833.0, 26.0, False), (900.0, None, 24.0, False)],
)
def test_a_regression_that_is_no_better_than_the_mean_is_doubted(bench, mse, high, mae, fails):
    """The variance of 0 to 99 is 833.25, and they are 25 from their mean, in the mean."""
    bench.workshop.task = Numbers()
    bench.view = TaskView(Numbers())
    bench.base_figures = {"mse": Figure("mse", mse, "squared unit", 0.0, high)}
    bench.base_figures |= {"mae": Figure("mae", mae, "unit")} if mae else {}
    doubt = bench.doubt()
    assert bool(doubt) is fails
    if fails:
        assert (
            f"its mse is {mse:g}, which cannot be told from always answering the mean of the targets (833.2)" in doubt
        )
        assert "the unit of the targets" in doubt


def test_other_tasks_are_not_doubted(bench):
    assert bench.doubt() == "", "nothing is measured yet"
    bench.base_figures = {"rmse": Figure("rmse", 1.0, "1")}
    assert bench.doubt() == ""


def test_what_was_raced_has_the_interval_of_its_own_ratio():
    base = [Figure("latency_ms", 2.0, "ms"), Figure("latency_p90_ms", 3.0, "ms")]
    ours = [Figure("latency_ms", 1.0, "ms"), Figure("latency_p90_ms", 2.9, "ms")]
    raced = {"latency_p90_ms": Figure("latency_p90_ms_ratio", 1.03, "1", 0.9, 1.2, 10)}
    found = gains(Latency(), base, ours, raced)
    assert (found["latency_ms"].value, found["latency_ms"].low) == (2.0, None)
    tail = found["latency_p90_ms"]
    assert (tail.value, tail.low, tail.high, tail.n, tail.unit) == (1.03, 0.9, 1.2, 10, "x")
    rate = "throughput_per_s"
    faster = {rate: Figure(f"{rate}_ratio", 0.5, "1", 0.4, 0.8, 10)}
    times = gains(Throughput(), [Figure(rate, 10.0, "/s")], [Figure(rate, 20.0, "/s")], faster)[rate]
    assert (times.value, times.low, times.high) == (2.0, 1.25, 2.5)


def answering(*shape):
    specs = (TensorSpec("output", "float32", shape),)
    return Model({"main": SimpleNamespace(signature=Signature((), specs))})


def test_a_classifier_has_an_answer_for_each_class(toy_view):
    check_answers(answering("batch", 3), toy_view.task)
    check_answers(answering("batch", 1000), toy_view.task)
    check_answers(answering("batch", "classes"), toy_view.task)
    with pytest.raises(DataError, match=r"answers with 2 numbers, and toy has 3 classes \(a, b, c"):
        check_answers(answering("batch", 2), toy_view.task)


def test_models_are_compared_on_a_part_that_the_seed_alone_draws(bench, toy_view):
    whole = [example.id for example in toy_view.split("validation")]
    bench.draw(20)
    part = [example.id for example in bench.view.split("validation")]
    assert len(part) == bench.view.size("validation") == len(set(part) & set(whole)) == 20
    bench.draw(len(whole))
    every = [example.id for example in bench.view.split("validation")]
    assert sorted(every) == sorted(whole)
    assert every != whole, "in no order that the data has: what stops early must not meet one class first"
    bench.draw(20)
    assert [example.id for example in bench.view.split("validation")] == part
    twin = Bench(bench.workshop, bench.base, bench.runtime)
    twin.draw(20)
    assert twin.view == bench.view
    bench.unseal()
    assert bench.view.size("validation") == 20
    assert len(bench.view.split("test")) == len(toy_view.task.split("test"))


def test_rows_of_a_part_are_taken_from_those_of_the_whole(toy_view, machine, tmp_path):
    workshop = Workshop(toy_view.task, Store(tmp_path), machine)
    made = workshop.open("null:linear")
    whole, part = (Bench(workshop, made, bind_runtime("null")) for _ in range(2))
    with whole:
        rows = whole.base_rows("validation")
    part.draw(20)
    places = list(part.view.drawn["validation"])
    with part:
        assert np.array_equal(part.base_rows("validation"), rows[places])
        assert part._base_worker is None, "nothing is scored again"


def test_another_pace_does_not_score_validation_again_but_the_sealed_split(toy_view, machine, tmp_path, monkeypatch):
    workshop, scored = Workshop(toy_view.task, Store(tmp_path), machine), []
    made = workshop.open("null:linear")
    plain = measure.score_rows

    def score(session, view, split, stop):
        scored.append(split)
        return plain(session, view, split, stop)

    monkeypatch.setattr(measure, "score_rows", score)
    with Bench(workshop, made, bind_runtime("null")) as bench:
        bench.unseal()
        for runtime in ("null", "null(threads=2)", "null(delay_ms=0.01)"):
            for split in ("validation", "test"):
                bench.rows(made, None, bind_runtime(runtime), split)
    assert scored == ["validation", "test", "test", "validation", "test"]

"""Every check finds the fault that it is there for; the things that keep their contract are in test_registries.py."""

import shutil
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from trimtab.meters import Meter, Probe, Reading
from trimtab.passes import Context, Pass
from trimtab.runtimes.null import Null
from trimtab.sources.null import Null as NullSource
from trimtab.testing import (
    check_meter,
    check_pass,
    check_ranks,
    check_repeats,
    check_runtime,
    check_scores,
    check_source,
    check_task,
)
from trimtab.values.figure import Axis, Figure
from trimtab.values.model import Model
from trimtab.values.task import Batch


@dataclass(frozen=True)
class Copy(Pass):
    """Copies a null model, with one fault to order."""

    fault: str = ""

    formats: ClassVar = {"null": "null"}
    stage: ClassVar = "precision"

    @classmethod
    def name(cls):
        return "copy"

    def predict(self, facts, machine):
        return replace(facts, format="onnx" if self.fault == "format" else "null", cut=2.0 * (self.fault == "facts"))

    def apply(self, model, context):
        if self.fault != "deadline":
            context.check_time()
        context.progress("copying", 50 if self.fault == "progress" else 0.5)
        part = model.main
        folder = context.scratch / "main"
        shutil.copytree(part.path, folder)
        if self.fault == "seed":
            (folder / "more").write_text(str(context.seed))
        if self.fault == "input":
            (part.path / "more").write_text("x")
        outside = self.fault == "outside"
        return model.map_parts({"main": part if outside else replace(part, path=folder)})


FAULTS = {
    "format": "facts of the format",
    "facts": "shares of 1",
    "deadline": "calls context.check_time",
    "progress": "from 0 to 1",
    "input": "leaves its input alone",
    "outside": "lies in the scratch folder",
}


@pytest.fixture
def model(make_null):
    return Model.open(make_null())


@pytest.fixture
def context(toy_view, tmp_path, machine):
    return Context(toy_view, tmp_path, machine)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_pass(model, context, fault):
    with pytest.raises(AssertionError, match=FAULTS[fault]):
        check_pass(Copy(fault), model, context)


def test_a_pass_that_uses_what_it_does_not_say(model, context, tmp_path):
    check_repeats(Copy(), model, context, check_pass(Copy(), model, context))
    shutil.rmtree(tmp_path / "main")
    first = check_pass(Copy("seed"), model, context)
    with pytest.raises(AssertionError, match="repeats to the byte, with base, seed, machine changed"):
        check_repeats(Copy("seed"), model, context, first)


class Faulty:
    """A session with one fault, around that of the null runtime."""

    def __init__(self, session, fault):
        self.session, self.fault, self.kept = session, fault, np.zeros((5, 3), np.float32)

    def run(self, inputs, part="main"):
        output = self.session.run(inputs, part)["output"]
        if self.fault == "company":
            output = output - output.mean(axis=0)
        if self.fault == "input":
            inputs["features"][:] = 0
        if self.fault == "type":
            output = output.astype(np.float64)
        if self.fault == "memory":
            self.kept[: len(output)] = output
            output = self.kept[: len(output)]
        return {"other" if self.fault == "name" else "output": output[:2] if self.fault == "rows" else output}


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("company", "the same alone as in company"),
        ("input", "is left as it was"),
        ("type", "output output is float32"),
        ("name", "output output is there"),
        ("rows", "has every example"),
        ("memory", "not changed by a later call"),
    ],
)
def test_faults_of_a_session(model, toy_view, machine, monkeypatch, fault, sentence):
    load = Null.load
    monkeypatch.setattr(Null, "load", lambda *given: Faulty(load(*given), fault))
    batch = next(toy_view.batches("validation", 5))
    batch = Batch({"features": np.roll(batch.inputs["features"], 1, axis=0)}, batch.targets)
    with pytest.raises(AssertionError, match=sentence):
        check_runtime(Null(), model, batch, machine)


def test_a_source_that_opens_to_something_else_each_time(toy_view, tmp_path):
    class Restless(NullSource):
        """Opens to other weights each time."""

        def open(self, ref, scratch, task):
            model = super().open(ref, scratch, task)
            (scratch / "main" / "stamp").write_text(str(scratch))
            return model

    with pytest.raises(AssertionError, match="opens to the same bytes"):
        check_source(Restless(), "linear", tmp_path, toy_view.task)


def test_faults_of_a_task(toy_view):
    class Twice(type(toy_view.task)):
        """The same example in every split."""

        def split(self, name):
            return [*super().split(name), super().split("train")[0]]

    class Restless(type(toy_view.task)):
        """Another change each time."""

        def augment(self, batch, seed):
            return replace(batch, inputs={k: v + np.float32(np.random.random()) for k, v in batch.inputs.items()})

    check_task(toy_view.task)
    with pytest.raises(AssertionError, match="no identifier stands twice"):
        check_task(Twice())
    with pytest.raises(AssertionError, match="one seed augments in one way"):
        check_task(Restless())


def check_both(task, right, wrong, batch):
    check_scores(task, wrong, batch)
    check_ranks(task, right, wrong, batch)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"reduce": lambda self, rows, weights: np.full(len(weights), rows.mean())}, "as an example that comes twice"),
        ({"values": lambda self, rows: 1 - rows[:, 0]}, "is the mean of its values"),
        ({"unit": ""}, "has a direction and a unit"),
        ({"better": "lower"}, "does not prefer wrong answers"),
    ],
)
def test_faults_of_a_metric(toy_view, monkeypatch, change, sentence):
    task, batch = toy_view.task, next(toy_view.batches("validation", 50))
    right = {"output": np.eye(3)[batch.targets]}
    wrong = {"output": np.eye(3)[np.where(np.arange(50) < 40, (batch.targets + 1) % 3, batch.targets)]}
    check_both(task, right, wrong, batch)
    for name, value in change.items():
        monkeypatch.setattr(type(task.metrics[0]), name, value)
    with pytest.raises(AssertionError, match=sentence):
        check_both(task, right, wrong, batch)


@pytest.mark.parametrize(
    ("reading", "sentence"),
    [
        (Reading((Figure("speed", 1.0, "m"),)), "unit that is declared"),
        (Reading((Figure("size", 1.0, "m"),)), "figures that are declared"),
        (Reading((Figure("speed", float("nan"), "m/s"),)), "is finite"),
        (Reading((Figure("speed", 1.0, "m/s", low=1.1),)), "lies in its interval"),
        (Reading((Figure("speed", 1.0, "m/s", high=0.9),)), "lies in its interval"),
        (Reading(()), "says why it has none"),
        (Reading((Figure("speed", 1.0, "m/s"),), rows=np.zeros((3, 1))), "one an example of the split"),
    ],
)
def test_faults_of_a_meter(toy_view, model, machine, reading, sentence):
    class Given(Meter):
        """Reads what it was given."""

        figures: ClassVar = {"speed": Axis("m/s", "higher")}

        def read(self, session, probe):
            return reading

    with pytest.raises(AssertionError, match=sentence):
        check_meter(Given(), None, Probe(toy_view, "validation", model, machine))

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from small_texts import tokenizer_text, write_reviews
from trimtab.errors import DataError
from trimtab.meters import Probe, energy
from trimtab.meters.cost import Cost
from trimtab.meters.energy import Energy, modelled_w, power_counter
from trimtab.meters.latency import Latency
from trimtab.meters.memory import Memory
from trimtab.meters.operations import Operations
from trimtab.meters.quality import Quality
from trimtab.meters.size import Size
from trimtab.meters.throughput import Throughput
from trimtab.run.client import open_worker
from trimtab.run.timing import MANY, call_seconds, real_batches, shape_conditions
from trimtab.runtimes.null import Null
from trimtab.values.model import Cascade, Model
from trimtab.values.registry import registry
from trimtab.values.task import TaskView


class Scripted:
    """A session whose calls take times from a list; it remembers the batches that it was given."""

    def __init__(self, seconds, pid=0, cpu_seconds=0.0):
        self.seconds, self.pid, self.cpu_seconds, self.given = list(seconds), pid, cpu_seconds, []

    def run(self, inputs):
        self.given.append(inputs)
        return {"output": inputs["features"][:, :3]}

    def time(self, inputs, seconds):
        self.given.append(inputs)
        return np.array(self.seconds)

    def usage(self):
        used = {"peak_memory_mb": 90.0, "base_memory_mb": 60.0, "pid": float(self.pid)}
        return used | {"cpu_seconds": self.cpu_seconds}


@pytest.fixture
def probe(toy_view, make_null, machine):
    return Probe(toy_view, "validation", Model.open(make_null()), machine, batch=2, seconds=0.01)


def test_meters_on_a_real_worker(make_null, machine, probe):
    with open_worker(make_null(), Null(delay_ms=1), machine) as session:
        quality = Quality().read(session, probe)
        latency = Latency().read(session, probe)
        throughput = Throughput().read(session, probe)
        memory = Memory().read(session, probe)
        used = Energy().read(session, probe)
        cost = Cost().read(session, probe)
    assert [(f.name, f.value, f.n) for f in quality.figures] == [("accuracy", 1.0, 100)]
    assert latency.figures[0].value >= 1.0
    assert 32 < throughput.figures[0].value < 32_000
    assert memory.figures[0].value > memory.figures[1].value
    assert used.figures[0].origin == cost.figures[0].origin == "modelled"
    assert used.figures[0].value > 0
    assert cost.figures[0].value > 0


def test_quality_keeps_rows_in_the_order_of_the_split(probe):
    wrong = np.roll(np.arange(3), 1)

    class Mistaken(Scripted):
        def run(self, inputs):
            answer = super().run(inputs)["output"]
            return {"output": np.where(np.arange(len(answer))[:, None] % 2, answer, answer[:, wrong])}

    session = Mistaken([])
    reading = Quality().read(session, probe)
    assert [len(batch["features"]) for batch in session.given] == [64, 36]
    assert reading.rows.shape == (100, 2)
    assert reading.rows[:, 0].tolist() == [0.0, 1.0] * 50
    (accuracy,) = reading.figures
    assert (accuracy.value, accuracy.unit, accuracy.conditions["split"]) == (0.5, "share", "validation")


def test_quality_of_nothing_is_an_error(probe, toy_view):
    class Empty(type(toy_view.task)):
        def split(self, name):
            return []

    with pytest.raises(DataError, match="empty"):
        Quality().read(Scripted([]), replace(probe, view=replace(toy_view, task=Empty())))


def test_latency_is_in_milliseconds_over_several_real_batches(probe, toy_view):
    session = Scripted([0.0001] * 9 + [0.0002])
    reading = Latency().read(session, probe)
    median, high = reading.figures
    assert (median.name, median.unit, high.name) == ("latency_ms", "ms", "latency_p90_ms")
    assert median.value == pytest.approx(0.1)
    assert 0.1 < high.value < 0.2
    assert len(session.given) == 8, "each of eight batches is timed"
    expected = np.stack([example.inputs["features"] for example in toy_view.split("validation")[2:4]])
    assert np.array_equal(session.given[1]["features"], expected)
    assert median.conditions["batch"] == 2
    assert median.conditions["shapes"] == {"features": [2, 5]}
    assert reading.samples.shape == (80,)


def test_where_some_examples_take_the_long_way_latency_is_the_mean_of_many(probe):
    class Uneven(Scripted):
        def time(self, inputs, seconds):
            self.given.append(inputs)
            return np.array([0.001 if len(self.given) % 3 else 0.01])

    staged = replace(probe.model, program=Cascade(("first", "main"), (0.9,), "output", (1.0, 0.3)))
    session = Uneven([])
    mean, high = Latency().read(session, replace(probe, model=staged, batch=1)).figures
    assert len(session.given) == MANY
    assert (mean.name, mean.value) == ("latency_ms", pytest.approx(4.0)), "the median is 1 ms"
    assert mean.low < 4.0 < mean.high
    assert (mean.conditions["statistic"], high.value) == ("mean", pytest.approx(10.0))
    assert "statistic" not in high.conditions


def test_a_slow_model_is_timed_on_the_same_batches_and_bounds_only_what_it_can(probe):
    session = Scripted([0.02])
    median, high = Latency().read(session, probe).figures
    assert len(session.given) == 8
    assert median.n == 8
    assert high.high is None


def test_throughput_counts_examples_of_a_larger_batch(probe):
    session = Scripted([0.01] * 20)
    (figure,) = Throughput().read(session, probe).figures
    assert figure.value == pytest.approx(3200)
    assert figure.conditions["batch"] == 32
    assert {len(batch["features"]) for batch in session.given} == {32}


def test_a_slow_model_is_timed_on_fewer_large_batches(probe):
    view = TaskView(registry("tasks").take("toy")(examples=1200))
    whole = min(8, view.size("validation") // 32)
    assert whole > 2
    for example_s, batches in ((0.0, whole), (0.001, whole), (0.03, 2), (0.5, 1)):
        session = Scripted([0.01] * 20)
        Throughput().read(session, replace(probe, view=view, example_s=example_s))
        assert len(session.given) == batches, example_s


def test_memory_tells_the_models_share(probe):
    session = Scripted([])
    whole, own = Memory().read(session, probe).figures
    assert (whole.value, own.value) == (90.0, 30.0)
    assert len(session.given) == 1, "a batch is answered first"


def test_size_counts_files_and_operations_read_the_facts(probe):
    session = Scripted([])
    (size,) = Size().read(session, probe).figures
    file = probe.model.parts["main"].path / "weights.npz"
    assert size.value == file.stat().st_size / 1e6
    operations, parameters = Operations().read(session, probe).figures
    assert (operations.value, operations.unit, parameters.value) == (15, "MAC", 18)
    twice = replace(probe, model=Model({"a": probe.model.parts["main"], "b": probe.model.parts["main"]}))
    assert Size().read(session, twice).figures[0].value == size.value, "a shared file counts once"


def test_cost_charges_the_share_that_is_held(probe):
    (figure,) = Cost().read(Scripted([0.036]), probe).figures
    # 0.036 s for two answers on one of two cores at 0.1 USD an hour
    assert figure.value == pytest.approx(0.036 / 2 * 1e6 / 3600 * 0.1 / 2)
    free = replace(probe, machine=replace(probe.machine, usd_per_hour=0.0))
    reading = Cost().read(Scripted([0.036]), free)
    assert reading.figures == ()
    assert "no usd_per_hour" in reading.details["reason"]


def test_modelled_power_is_idle_for_what_is_held_and_more_for_what_is_busy(machine):
    assert modelled_w(machine, 2, 2.0) == machine.full_w
    assert modelled_w(machine, 1, 0.0) == machine.idle_w / 2
    assert modelled_w(machine, 1, 1.0) == machine.full_w / 2
    assert modelled_w(machine, 4, 9.0) == machine.full_w


def test_energy_by_a_meter_is_measured(probe, monkeypatch, tmp_path):
    (tmp_path / "intel-rapl:0").mkdir()
    file = tmp_path / "intel-rapl:0" / "energy_uj"
    file.write_text("5000000\n")
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)

    class Drawing(Scripted):
        def time(self, inputs, seconds):
            file.write_text(str(int(file.read_text()) + 1_000_000))
            return super().time(inputs, seconds)

    metered = replace(probe, machine=replace(probe.machine, power_meter="rapl"))
    (figure,) = Energy().read(Drawing([0.02]), metered).figures
    assert figure.origin == "measured"
    assert figure.value == pytest.approx(figure.conditions["power_w"] * 0.02 / 2 * 1000)
    assert figure.conditions["meter"] == "rapl"
    (still,) = Energy().read(Scripted([0.02]), metered).figures
    assert still.origin == "modelled", "a counter that does not move measures nothing"
    dark = replace(metered, machine=replace(metered.machine, full_w=0.0))
    assert Energy().read(Drawing([0.02]), dark).figures[0].origin == "measured"
    assert Energy().read(Scripted([0.02]), dark).figures == ()


def test_without_a_meter_and_watts_there_is_no_energy(probe):
    session, dark = Scripted([0.02]), replace(probe, machine=replace(probe.machine, full_w=0.0))
    reading = Energy().read(session, dark)
    assert (reading.figures, session.given) == ((), [])
    assert "no full_w" in reading.details["reason"]


def test_an_accelerators_meter_counts_only_for_workers_on_it(monkeypatch):
    fake = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetComputeRunningProcesses=lambda device: [SimpleNamespace(pid=10 + device)],
        nvmlDeviceGetTotalEnergyConsumption=lambda device: 1000 * (device + 1),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    counter, name = power_counter("nvml", 11)
    assert (counter(), name) == (2.0, "nvml")
    assert power_counter("nvml", 99)[1] == ""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert power_counter("nvml", 11)[1] == ""


def test_timing_takes_full_batches_or_one_smaller(toy_view):
    sizes = [len(inputs["features"]) for inputs in real_batches(toy_view, "validation", 30)]
    assert sizes == [30, 30, 30]
    assert [len(inputs["features"]) for inputs in real_batches(toy_view, "validation", 300)] == [100]
    with pytest.raises(ValueError, match="at least one batch"):
        call_seconds(Scripted([]), [], 1.0)


@pytest.fixture
def texts(tmp_path):
    """Texts of 3 to 10 tokens, in an order that has nothing to do with their length."""
    (tmp_path / "tokenizer.json").write_text(tokenizer_text())
    path = write_reviews(tmp_path / "reviews.csv")
    named = {"target": "label", "text": "review", "tokenizer": str(tmp_path), "max_length": 9}
    return lambda **more: TaskView(registry("tasks").take("text")(str(path), **named | more))


def test_texts_alone_are_timed_from_short_to_long_at_their_own_length(probe, texts):
    session = Scripted([0.001])
    (median, _) = Latency().read(session, replace(probe, view=texts(), split="train", batch=1)).figures
    lengths = [batch["input_ids"].shape[1] for batch in session.given]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]
    assert all(batch["attention_mask"].all() for batch in session.given)
    every = [len(example.inputs["input_ids"]) for example in texts().split("train")]
    assert abs(np.mean(lengths) - np.mean(every)) < 0.5, "eighths stand for all"
    said = median.conditions
    assert said["shapes"]["input_ids"] == [1, f"{lengths[0]}-{lengths[-1]}"]
    assert said["mean_length"] == pytest.approx(np.mean(lengths), abs=0.06)
    assert said["padding_share"] == 0


def test_padding_is_part_of_the_conditions(probe, texts):
    session = Scripted([0.01])
    (figure,) = Throughput().read(session, replace(probe, view=texts(), split="train")).figures
    masks = np.concatenate([batch["attention_mask"].ravel() for batch in session.given])
    assert 0 < figure.conditions["padding_share"] == pytest.approx(1 - masks.mean(), abs=1e-3)
    assert figure.conditions["order"] == "as in the split"
    session, whole = Scripted([0.01]), replace(probe, view=texts(padding="max"), split="train", batch=1)
    (median, _) = Latency().read(session, whole).figures
    masks = np.concatenate([batch["attention_mask"].ravel() for batch in session.given])
    assert median.conditions["shapes"]["input_ids"] == [1, 9]
    assert median.conditions["padding_share"] == pytest.approx(1 - masks.mean(), abs=1e-3)


def test_sequences_have_lengths_too():
    inputs = {"sequence": np.zeros((2, 6, 3)), "length": np.array([4, 6])}
    said = shape_conditions([inputs])
    assert (said["mean_length"], said["padding_share"]) == (5.0, 0.167)
    assert "mean_length" not in shape_conditions([{"image": np.zeros((2, 1, 8, 8))}])

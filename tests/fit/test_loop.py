import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from trimtab.errors import DataError, Refused
from trimtab.fit.checkpoint import CHECKPOINT_FILE
from trimtab.fit.loop import TIMED_STEPS, evaluate, fit, step_time
from trimtab.fit.optimizer import settled
from trimtab.fit.settings import Settings, Surroundings
from trimtab.maths.metrics import Agreement
from trimtab.values.task import TaskView

SETTINGS = Settings(epochs=3, batch=64, lr=0.01, clip=5.0)
LONGER = Settings(epochs=8, lr=0.01)
SETTINGS_OPEN = Settings(steps=8)


def net(seed=0):
    """Return a small net with everything that carries state: channels last, batch norm, dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 24, 3)]
        return nn.Sequential(*body, nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(96, 10))


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Stop(Exception):
    pass


def stopping_after(count):
    calls = []

    def progress(what, share):
        calls.append(share)
        if len(calls) == count:
            raise Stop

    return progress


def test_learns(view):
    module = net()
    report = fit(module, view, LONGER, Surroundings(seed=3))
    assert report.history[-1]["accuracy"] > 0.65
    assert report.history[-1]["accuracy"] == evaluate(module, view, "validation", view.task.metrics[0])
    assert not module.training


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_seed_gives_one_net(view, precision):
    one, other, third = net(), net(), net()
    settings = Settings(steps=6, lr=0.01, precision=precision)
    for module, seed in ((one, 3), (other, 3), (third, 4)):
        fit(module, view, settings, Surroundings(seed=seed))
    assert same(state(one), state(other))
    assert not same(state(one), state(third))
    assert {value.dtype for value in state(one).values() if value.is_floating_point()} == {torch.float32}


def test_what_is_left_open_suits_the_net():
    narrow, wide = (nn.TransformerEncoderLayer(width, 4) for width in (16, 1024))
    found = [settled(Settings(), module) for module in (net(), nn.LSTM(2, 2), narrow, wide)]
    assert [(settings.lr, settings.clip) for settings in found] == [
        (0.002, None),
        (0.002, 1.0),
        (0.002, 1.0),
        (0.0001, 1.0),
    ]
    given = Settings(lr=0.5, clip=9.0)
    assert settled(given, wide) == given


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("stop", [1, 6])
def test_interrupted_training_ends_with_the_same_bits(view, tmp_path, monkeypatch, optimizer, stop):
    # A checkpoint at each step, so that the run goes on in the middle of an epoch.
    monkeypatch.setattr("trimtab.fit.loop.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("trimtab.fit.loop.CHECKPOINT_SHARE", 1e9)
    settings = replace(SETTINGS, optimizer=optimizer)
    whole, broken, resumed = net(), net(), net()
    expected = fit(whole, view, settings)
    with pytest.raises(Stop):
        fit(broken, view, settings, Surroundings(keep=tmp_path, progress=stopping_after(stop)))
    report = fit(resumed, view, settings, Surroundings(keep=tmp_path))
    assert report.notes == (f"resumed at step {stop}",)
    assert same(state(whole), state(resumed))
    assert report.history == expected.history


def test_a_torn_checkpoint_is_ignored_and_said(view, tmp_path):
    whole, broken, resumed = net(), net(), net()
    fit(whole, view, SETTINGS)
    with pytest.raises(Stop):
        fit(broken, view, SETTINGS, Surroundings(keep=tmp_path, progress=stopping_after(6)))
    path = tmp_path / CHECKPOINT_FILE
    path.write_bytes(path.read_bytes()[:-100])
    report = fit(resumed, view, SETTINGS, Surroundings(keep=tmp_path))
    assert "not usable; started afresh" in report.notes[0]
    assert same(state(whole), state(resumed))


def test_a_checkpoint_of_another_run_is_ignored_and_said(view, tmp_path):
    whole, resumed = net(), net()
    fit(net(), view, SETTINGS, Surroundings(keep=tmp_path))
    other = replace(SETTINGS, lr=0.02)
    fit(whole, view, other)
    report = fit(resumed, view, other, Surroundings(keep=tmp_path))
    assert "other settings or data" in report.notes[0]
    assert same(state(whole), state(resumed))


def test_a_deadline_leaves_a_checkpoint(view, tmp_path):
    left = iter(range(3))

    def check_time(needed_s):
        assert needed_s == 0  # a training that may be gone on with is not given up early
        if next(left, None) is None:
            raise TimeoutError("over")

    whole, cut, resumed = net(), net(), net()
    fit(whole, view, SETTINGS)
    with pytest.raises(TimeoutError):
        fit(cut, view, SETTINGS, Surroundings(keep=tmp_path, check_time=check_time))
    report = fit(resumed, view, SETTINGS, Surroundings(keep=tmp_path))
    assert report.notes == ("resumed at step 3",)
    assert same(state(whole), state(resumed))


def test_a_recovery_that_would_not_end_in_time_is_given_up_early(view):
    told = []

    def check_time(needed_s):
        told.append(needed_s)
        if needed_s:
            raise TimeoutError("over")

    with pytest.raises(TimeoutError):
        fit(net(), view, replace(SETTINGS, epochs=100), Surroundings(check_time=check_time), net(1))
    assert not any(told[:TIMED_STEPS])
    assert told[-1] > 0


def test_early_stopping_keeps_the_best_weights(view):
    module = net()
    report = fit(module, view, Settings(epochs=40, batch=32, lr=0.05, schedule="constant", warmup=0.0, patience=2))
    values = [entry["accuracy"] for entry in report.history]
    assert len(values) < 40
    assert values[-3] == max(values)
    assert evaluate(module, view, "validation", view.task.metrics[0]) == max(values)
    assert report.notes == (f"stopped early at step {report.steps} of 280",)


def test_patience_needs_a_metric_of_the_model_alone(view):
    paired = TaskView(type("Paired", (type(view.task),), {"metrics": (Agreement(),)})())
    with pytest.raises(DataError, match=r"patience watches a metric of the model alone, and .* has none"):
        fit(net(), paired, replace(SETTINGS, patience=2))


def test_a_metric_that_is_no_number_is_not_the_best(view, monkeypatch):
    values = iter([float("nan"), 0.3, 0.2, 0.1, 0.1])
    monkeypatch.setattr("trimtab.fit.loop.evaluate", lambda *_: next(values))
    report = fit(net(), view, Settings(epochs=40, batch=32, patience=3))
    assert [entry["accuracy"] for entry in report.history][1:] == [0.3, 0.2, 0.1, 0.1]


def test_a_loss_that_explodes_says_what_to_lower(view):
    with pytest.raises(Refused, match=r"loss became (nan|inf) at step \d+ of 21; lower lr"):
        fit(net(), view, replace(SETTINGS, lr=1e30, optimizer="sgd", clip=None, warmup=0.0, batch=32))


@pytest.mark.slow
def test_a_teacher_needs_no_labels(view):
    teacher, pupil = net(), net(1)
    fit(teacher, view, LONGER)
    unlabelled = TaskView(type("Unlabelled", (type(view.task),), {"augment": blank})())
    fit(pupil, unlabelled, replace(LONGER, alpha=1.0), teacher=teacher)
    assert evaluate(pupil, view, "validation", view.task.metrics[0]) > 0.65
    with pytest.raises(DataError, match="no targets"):
        fit(net(), unlabelled, SETTINGS)


def blank(self, batch, seed):
    return replace(batch, targets=None)


def test_the_outside_world_is_left_as_it_was(view):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    module = net()
    module[0].weight.requires_grad_(False)
    frozen = module[0].weight.clone()
    fit(module, view, replace(SETTINGS, epochs=1), Surroundings(threads=2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(module[0].weight, frozen)
    assert module[0].weight.is_contiguous()


class Places(nn.Module):
    """A sum of learnt numbers for words and for their first four places."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(3, 1), nn.Embedding(4, 1)

    def forward(self, ids, mask):
        return (self.words(ids) + self.places(torch.arange(ids.shape[1]))).sum((1, 2))


def test_sequences_longer_than_the_net_takes_are_named():
    from small_texts import Sentences  # the file is also run where `tests` is not on the path

    view = TaskView(Sentences(((3, 5), (4,), (5,))))
    with pytest.raises(DataError, match=r"up to 5 long \(ids\).*up to 4 it answers them: say max_length=4"):
        fit(Places(), view, SETTINGS)
    none = Places()
    none.places = nn.Embedding(1, 1)
    with pytest.raises(IndexError, match="out of range"):
        fit(none, view, SETTINGS)


def test_empty_training_data_is_said(view):
    with pytest.raises(DataError, match="train split of small_digits is empty"):
        fit(net(), TaskView(replace(view.task, train=0)), SETTINGS)


SCRIPT = """
import importlib.util, sys
from pathlib import Path
def load(name):
    spec = importlib.util.spec_from_file_location(name, Path({here!r}) / (name + ".py"))
    module = importlib.util.module_from_spec(spec); sys.modules[name] = module; spec.loader.exec_module(module)
    return module
conftest, tests = load("conftest"), load("test_loop")
import torch
from trimtab.fit import loop, tensors
torch.set_num_threads(1)
loop.CHECKPOINT_SECONDS, loop.CHECKPOINT_SHARE = 0.0, 1.0
module = tests.net()
around = tests.Surroundings(keep=Path(sys.argv[1]), progress=lambda what, share: print(share, flush=True))
loop.fit(module, tests.TaskView(conftest.SmallDigits()), tests.Settings(epochs=12, lr=0.01), around)
tensors.write(Path(sys.argv[2]), module.state_dict())
"""


@pytest.mark.slow
def test_killed_training_goes_on_to_the_same_bits(tmp_path):
    script = SCRIPT.format(here=str(Path(__file__).parent))

    def start(keep, out):
        command = [sys.executable, "-c", script, str(tmp_path / keep), str(tmp_path / out)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})

    whole = start("whole", "whole.safetensors")
    whole.communicate(timeout=200)
    for wait in (0.02, 0.3):
        broken = start("broken", "broken.safetensors")
        broken.stdout.readline()
        time.sleep(wait)
        broken.send_signal(signal.SIGKILL)
        broken.communicate(timeout=60)
        assert not (tmp_path / "broken.safetensors").exists()
    start("broken", "broken.safetensors").communicate(timeout=200)
    assert (tmp_path / "broken.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_the_time_of_a_step_is_that_of_steps_that_were_taken(view, monkeypatch):
    module, times = net(), iter([0.0, 9.0, 10.0, 12.0, 20.0, 21.5, 30.0, 34.0])
    before = state(module)
    monkeypatch.setattr("trimtab.fit.loop.time.monotonic", lambda: next(times))
    assert step_time(module, view, SETTINGS, Surroundings(seed=3)) == 9.0, "one step took more than all may"
    assert not same(before, state(module))
    times = iter([0.0, 0.3, 1.0, 1.2, 2.0, 2.5, 3.0, 3.4])
    assert step_time(module, view, SETTINGS, Surroundings(seed=3)) == pytest.approx(0.2)


def test_recoveries_are_gentle_with_deep_nets_and_are_not_evaluated_on_the_way(view):
    deep = nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(20)), nn.Flatten(), nn.LazyLinear(10))
    deep(torch.zeros(1, 1, 8, 8))
    assert settled(SETTINGS_OPEN, deep, recovering=True).lr < settled(SETTINGS_OPEN, deep).lr
    assert settled(SETTINGS_OPEN, net(), recovering=True).lr == settled(SETTINGS_OPEN, net()).lr
    told = fit(net(1), view, Settings(steps=3, batch=64), Surroundings(seed=3), net())
    assert "accuracy" not in told.history[-1]
    patient = fit(net(1), view, Settings(steps=3, batch=64, patience=1), Surroundings(seed=3), net())
    assert "accuracy" in patient.history[-1]

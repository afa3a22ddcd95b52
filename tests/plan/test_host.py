"""A machine's profile: steps told from operators, costs that are never negative, and files that are checked."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab import machines
from trimtab.errors import CorruptFile, OutputError, UsageError
from trimtab.plan import host
from trimtab.plan.host import Check, Costs, Profile, Steps

ADD, BIG, VIEW = "aten.add.Tensor(float32[10])", "aten.add.Tensor(float32[20])", "aten.view.default(float32[10])"
MUL = "aten.mul.Tensor(float32[10])"
WORK = {MUL: (0.0, 40e3), ADD: (0.0, 80e3), BIG: (0.0, 160e3), VIEW: (0.0, 0.0)}


def steps_of(adds=3, views=2, modules=1, allocated=1e6, name=ADD):
    return Steps({name: adds, VIEW: views}, WORK, modules, allocated, 2e6, 3e6)


def profile_of(costs=None):
    profile = Profile("cpu", 2, "2.13.0", "2026-01-01", {"1": {ADD: 11e-6, VIEW: 1e-6}}, {ADD: WORK[ADD], VIEW: (0, 0)})
    profile.costs["train-1"] = costs or Costs(1e-4, 1e-6, 2e-6, 1e-9)
    profile.base_bytes, profile.held = {"train": 1e8}, {"train": 2.0}
    return profile


def test_a_step_is_its_operators_and_what_they_do_not_show():
    profile, steps = profile_of(), steps_of()
    assert profile.seconds(steps, "train", 1) == pytest.approx(1e-4 + 3 * 10e-6 + 5 * 1e-6 + 2e-6 + 1e-3)
    assert profile.bytes(steps, "train") == 1e8 + 2 * (3e6 + 2e6)
    assert profile.timed_share(steps, 1) == 1.0


def test_what_was_not_timed_is_scaled_from_its_like():
    profile = profile_of()
    assert profile.alone(steps_of(1, name=BIG), 1)[BIG] == pytest.approx(20e-6)
    assert profile.timed_share(steps_of(name=BIG), 1) == 0.0
    assert profile.alone(steps_of(1, name=MUL), 1)[MUL] == pytest.approx(5e-6)


@given(
    step=st.floats(0, 1e-3),
    operator=st.floats(-5e-6, 1e-4),
    module=st.floats(0, 1e-4),
    byte=st.floats(0, 1e-9),
    shapes=st.lists(st.tuples(st.integers(1, 50), st.integers(1, 9), st.floats(1e3, 1e8)), min_size=5, max_size=9),
)
def test_costs_are_found_again(step, operator, module, byte, shapes):
    profile, costs = profile_of(), Costs(step, operator, module, byte)
    nets = [steps_of(adds, 1, modules, allocated) for adds, modules, allocated in shapes]
    true = [Profile.seconds(profile_of(costs), steps, "train", 1) for steps in nets]
    profile.costs["train-1"] = host.fitted(zip(nets, true, strict=True), profile, 1)
    found = profile.costs["train-1"]
    assert min(found.step, found.module, found.byte, found.operator + 5e-6) >= 0
    for steps, seconds in zip(nets, true, strict=True):
        assert profile.seconds(steps, "train", 1) == pytest.approx(seconds, rel=1e-3)


def test_costs_are_never_negative():
    profile = profile_of()
    fitted = host.fitted([(steps_of(), 1e-6), (steps_of(9), 1e-6)], profile, 1)
    assert (fitted.step, fitted.module, fitted.byte) == (0.0, 0.0, 0.0)
    assert fitted.operator == -5e-6


def test_intervals_come_from_what_others_were_off():
    profile = profile_of()
    assert profile.interval(1.0, "train") == (0.5, 2.0)
    profile.checks = [Check("a", "train", 1, 1, measured, 1.0, 0, 0) for measured in (0.9, 1.0, 1.2)]
    low, high = profile.interval(10.0, "train")
    assert 9.0 <= low < 10 < high <= 12.0
    assert profile.memory_interval(1.0, "train") == (0.5, 2.0), "none of them has its memory measured"
    profile.checks = [replace(one, measured_bytes=9.0, predicted_bytes=10.0) for one in profile.checks]
    assert profile.memory_interval(10.0, "train") == (9.0, 10.0)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    return tmp_path


def saved():
    here = machines.here()
    profile = profile_of()
    profile.cpu, profile.cores = here.cpu, here.cores
    profile.checks = [Check("a", "train", 1, 1, 2.0, 1.0, 3.0, 4.0)]
    return profile, host.save(profile)


def test_profiles_come_back(cache):
    profile, path = saved()
    assert path.is_relative_to(cache)
    assert host.load(machines.here(), "2.13.0").to_json() == json.loads(json.dumps(profile.to_json()))


def test_another_release_of_torch_is_another_machine(cache):
    saved()
    with pytest.raises(UsageError, match=r"measured with torch 2\.13\.0, here is 9\.0"):
        host.load(machines.here(), "9.0")


def test_without_a_profile_the_way_to_one_is_told(cache):
    with pytest.raises(UsageError, match="trimtab calibrate"):
        host.load(machines.here(), "2.13.0")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:40],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: json.dumps({**json.loads(text), "version": 0}),
        lambda text: json.dumps({**json.loads(text), "extra": 0}),
        lambda text: json.dumps({**json.loads(text), "costs": {"train-1": {"operator": 1}}}),
    ],
)
def test_damaged_profiles_are_told(cache, change):
    _, path = saved()
    path.write_text(change(path.read_text()))
    with pytest.raises(CorruptFile, match="writes it anew"):
        host.load(machines.here(), "2.13.0")


def test_a_full_disk_leaves_the_profile_that_was_there(cache, monkeypatch):
    profile, path = saved()
    before = path.read_text()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OutputError, match="cannot write"):
        host.save(profile)
    monkeypatch.undo()
    assert path.read_text() == before

"""This machine is measured, and what steps of nets take on it is told; words that mean nothing there are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from trimtab import calibrate, machines, planner
from trimtab.cli import main
from trimtab.errors import DataError, UnknownName, UsageError
from trimtab.plan import host
from trimtab.values.tab import read_tab

pytestmark = pytest.mark.slow
WORDS = {"model": "zoo:mlp(width=32)", "task": "digits", "on": ["here"]}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A calibration with few, small nets, too short to be right; the profile of it is in the cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_CACHE", str(folder))
        patch.setattr(calibrate, "SUITE", (("zoo:mlp", "images"), ("zoo:lstm(width=8)", "sequences")))
        patch.setattr(calibrate, "BATCHES", {"train": (4,), "infer": (4,)})
        patch.setattr(machines, "here", lambda probe=machines.here: replace(probe(), cores=1))
        yield calibrate.calibrate(["zoo:vgg(width=4)"], "digits", 8, effort=0.02)


def test_a_calibration_tells_how_far_off_it_is(measured):
    checks = measured["checks"]
    assert {(one["model"], one["phase"], one["batch"]) for one in checks} == {
        (model, phase, batch)
        for model, batch in (("zoo:mlp", 4), ("zoo:lstm(width=8)", 4), ("zoo:vgg(width=4)", 8))
        for phase in ("train", "infer")
    }
    assert all(one["measured_s"] > 0 and one["predicted_s"] > 0 for one in checks)
    assert all(0.7 < one["predicted_bytes"] / one["measured_bytes"] < 1.3 for one in checks)
    assert measured["operators"]["1"] > 50
    json.dumps(measured, allow_nan=False)


def test_a_step_here_is_planned(measured):
    found = planner.train({**WORDS, "samples": "1000x2", "batch": 8})
    plan = found["plans"][0]
    figures = plan["figures"]
    assert found["kind"] == "step"
    assert figures["step_ms"]["low"] <= figures["step_ms"]["value"] <= figures["step_ms"]["high"]
    assert figures["samples_per_s"]["value"] == pytest.approx(8e3 / figures["step_ms"]["value"])
    assert figures["hours"]["value"] * 3.6e6 == pytest.approx(250 * figures["step_ms"]["value"])
    assert sum(plan["time_parts"].values()) == pytest.approx(1)
    assert sum(plan["memory_parts"].values()) == pytest.approx(figures["memory_gib"]["value"])
    assert all(figure["origin"] == "predicted" for figure in figures.values())
    assert all(figure["low"] <= figure["value"] <= figure["high"] for figure in figures.values())


def test_operators_of_a_measured_net_are_known(measured):
    own = planner.train({**WORDS, "model": "zoo:vgg(width=4)", "batch": 8})["plans"][0]
    other = planner.train({**WORDS, "model": "zoo:vgg(width=6)", "batch": 8})["plans"][0]
    known, less = (one["figures"]["step_ms"]["conditions"]["timed_share"] for one in (own, other))
    assert known == 1.0
    assert less < 1.0


def test_answers_take_less_than_steps(measured):
    serving = planner.serve({**WORDS, "batch": 8})["plans"][0]["figures"]
    training = planner.train({**WORDS, "batch": 8})["plans"][0]["figures"]
    assert serving["step_ms"]["value"] < training["step_ms"]["value"]
    assert serving["memory_gib"]["value"] <= training["memory_gib"]["value"]
    assert "hours" not in serving


def test_the_command_line_shows_and_writes(measured, tmp_path, capsys):
    page, run = tmp_path / "page.html", tmp_path / "run"
    words = ["plan", "train", "zoo:mlp(width=32)", "--task", "digits", "--on", "here", "--page", str(page)]
    assert main([*words, "--out", str(run)]) == 0
    assert "zoo:mlp(width=32)" in capsys.readouterr().out
    assert "a step on this machine" in page.read_text()
    record = read_tab(run / "tab.jsonl").of("planned")[0]
    assert record["figures"]["step_ms"]["origin"] == "predicted"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"count": "8"}, "--count"),
        ({"tp": 2}, "--tp"),
        ({"on": ["here", "l4"]}, "stands alone"),
        ({"model": "gpt:175b"}, "no net that can be opened here"),
        ({"task": None}, "needs examples"),
        ({"model": "onnx:model.onnx"}, "no net that can be opened here"),
    ],
)
def test_words_that_mean_nothing_here(measured, words, message):
    with pytest.raises((UsageError, DataError), match=message):
        planner.train({**WORDS, **words})


def test_nets_are_planned_for_chips_too():
    found = planner.train({**WORDS, "on": ["h100-sxm"], "samples": "1000x2", "count": "1"})
    assert found["parameters"] == 64 * 32 + 32 + 32 * 32 + 32 + 32 * 10 + 10
    assert found["plans"][0]["chip"] == "h100-sxm-80gb"
    with pytest.raises(UsageError, match="this machine only"):
        planner.serve({**WORDS, "on": ["h100-sxm"]})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "gpt:22b", "--tokens", "1e9", "--task", "digits"], "--task do not apply"),
        (["serve", "llama3:8b", "--task", "digits"], "--task do not apply"),
        (["train", "zoo:mlp", "--task", "digits", "--samples", "9", "--on", "l4", "--lora"], "--lora do not apply"),
        (["choose", "llama3:8b", "--lora"], "--lora do not apply to serving"),
        (["choose", "zoo:mlp", "--task", "digits", "--tokens", "9"], "--tokens do not apply to zoo:mlp"),
        (["train", "gpt:22b", "--tokens", "1e9", "--explain-miss"], "give them with --measured"),
        (["train", "gpt:22b", "--measured", "runs.csv", "--page", "x.html"], "--page do not apply to --measured"),
    ],
)
def test_words_that_would_be_ignored_are_refused(words, message, capsys):
    assert main(["plan", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_model_that_cannot_be_opened_is_told_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    told = []
    with pytest.raises(UnknownName, match="unknown zoo net 'nonsense'"):
        calibrate.calibrate(["zoo:nonsense"], "digits", tell=lambda what, _: told.append(what))
    assert told == ["measuring zoo:nonsense, 1 threads"]
    assert not (tmp_path / "profiles").exists()


def test_a_calibration_that_was_stopped_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    monkeypatch.setattr(calibrate, "SUITE", (("zoo:mlp", "images"), ("zoo:lstm(width=8)", "sequences")))
    monkeypatch.setattr(calibrate, "BATCHES", {"train": (4,), "infer": (4,)})
    monkeypatch.setattr(machines, "here", lambda probe=machines.here: replace(probe(), cores=2))
    times, timed = [], calibrate.timed

    def apart(call, *arguments):
        if call is not timed:
            return 1e8
        times.append((arguments[0].model, arguments[0].threads))
        if len(times) == 4:
            raise KeyboardInterrupt
        return timed(*arguments)

    monkeypatch.setattr(calibrate, "apart", apart)
    with pytest.raises(KeyboardInterrupt):
        calibrate.calibrate(effort=0.02)
    [part] = (tmp_path / "profiles").iterdir()
    found = calibrate.calibrate(effort=0.02)
    assert times[3:] == [("zoo:lstm(width=8)", 2)] * 2, "only what was interrupted is measured again"
    checks = [(one["model"], one["phase"], one["threads"]) for one in found["checks"]]
    assert len(checks) == len(set(checks)) == 2 * 2 * 2
    assert not part.exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"profile": {"version": 1}, "measured": {}}'])
def test_what_was_begun_and_is_damaged_is_begun_anew(tmp_path, monkeypatch, text):
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    fresh = host.Profile("cpu", 1, "2", "2026-01-01")
    path = calibrate.Begun(fresh, "").path
    path.parent.mkdir()
    path.write_text(text)
    assert calibrate.Begun.open(fresh, "").profile is fresh


@pytest.mark.parametrize(("name", "same"), [("date", False), ("torch", False), ("held", True)])
def test_what_was_begun_on_another_day_or_torch_is_begun_anew(tmp_path, monkeypatch, name, same):
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    fresh = host.Profile("cpu", 1, "2", "2026-01-01")
    begun = calibrate.Begun(replace(fresh, **{name: {"train": 1.0} if same else "other"}), "")
    begun.path.parent.mkdir()
    begun.path.write_text(json.dumps({"profile": begun.profile.to_json(), "measured": {}}))
    assert (calibrate.Begun.open(fresh, "").profile is fresh) is not same


def test_a_machine_that_was_not_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="trimtab calibrate"):
        planner.train(WORDS)
    with pytest.raises(DataError, match="--task TASK"):
        calibrate.calibrate(["zoo:mlp"])


def test_made_up_examples_are_read_as_classes(tmp_path):
    tasks = calibrate.made_up(tmp_path)
    net, view = calibrate.opened("zoo:gru(width=4)", tasks["sequences"])
    steps = calibrate.steps_of(net, view, "train", 4)
    assert view.task.objective == "cross_entropy"
    assert steps.resident == 16 * sum(each.numel() for each in net.parameters())
    assert steps.operations > 0
    assert np.isfinite(steps.peak)
    assert host.path_of("Some CPU @ 2.0", 2).name == "some-cpu---2-0-2.json"

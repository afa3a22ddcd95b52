"""The workloads of the benchmark: nine of them, well written, and one run end to end at a tiny size."""

import shutil

import pytest

import workloads
from trimtab import api
from trimtab.recipe import split_model
from trimtab.values.promise import Promise
from trimtab.values.store import Store
from workbench import PROMISE, TOY, finished_run

NINE = {
    "cnn-small",
    "cnn-pretrained",
    "encoder-short",
    "encoder-long",
    "rnn-classifier",
    "rnn-seq2seq",
    "onnx-recurrent",
    "onnx-detector",
    "recommender",
}


def test_all_nine_are_there_and_can_be_read():
    assert set(workloads.WORKLOADS) == NINE
    for workload in (*workloads.WORKLOADS.values(), *workloads.chosen(["all"], quick=True)):
        ref, recipe = split_model(workload.model)
        assert ":" in ref
        assert {step.name for step in recipe.steps} <= {"train"}
        assert [str(Promise.parse(text)) for text in workload.promises] == list(workload.promises)


def test_a_quick_size_is_another_run():
    full, quick = workloads.WORKLOADS["cnn-small"], workloads.chosen(["cnn-small"], quick=True)[0]
    assert (quick.id, quick.task, quick.within) == ("quick-cnn-small", "digits", "30s")
    assert workloads.folder(full) != workloads.folder(quick)
    assert workloads.folder(full, 1) != workloads.folder(full)


def test_unknown_names_are_told():
    with pytest.raises(SystemExit, match="no workload 'cnn'; there are all, cnn-small"):
        workloads.chosen(["cnn"])


@pytest.mark.slow
def test_every_seed_searches_from_the_same_base(linear, monkeypatch):
    asked = []

    def run(request, out, progress, store):
        asked.append((request, out))
        return api.Result({})

    monkeypatch.setattr(workloads.api, "run", run)
    one = workloads.Workload("one", "mlp", linear, "toy(features=8)", ("accuracy >= base - 0.1",), "20s")
    workloads.run(one)
    workloads.run(one, seed=2, within="1m")
    (first, place), (second, other) = asked
    base = workloads.prepare(one)
    assert (first.model, second.model) == (linear, str(base.folder))
    assert (first.seed, second.seed, first.within_s, second.within_s) == (0, 2, 20.0, 60.0)
    assert [path.name for path in (place, other)] == ["one-seed0", "one-seed2"]


def test_a_failure_is_told_and_the_next_workload_has_its_turn(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    lost = {
        name: workloads.Workload(name, "cnn", "onnx:nowhere.onnx", "toy", ("accuracy >= base - 0.1",))
        for name in ("first", "second")
    }
    monkeypatch.setattr(workloads, "WORKLOADS", lost)
    assert workloads.main(["prepare", "all"]) == 1
    told = capsys.readouterr().err
    assert "first: DataError: there is no file nowhere.onnx" in told
    assert "second: DataError" in told


@pytest.mark.slow
def test_what_seeds_chose_is_raced(tmp_path, monkeypatch):
    run = finished_run().bundle.parent
    monkeypatch.setattr(workloads, "runs", lambda: tmp_path)
    one = workloads.Workload("one", "mlp", "null:linear", TOY, (PROMISE,))
    shutil.copytree(run, workloads.folder(one, 0))
    assert list(workloads.by_seed(one)) == [], "there is nothing to race against"
    shutil.copytree(run, workloads.folder(one, 3))
    lines = list(workloads.by_seed(one, Store(tmp_path / "store")))
    assert [line["name"] for line in lines] == ["seed_0", "gain_0", "seed_3", "gain_3", "apart"]
    first, gain, second, _, apart = lines
    assert first["recipe"] == second["recipe"] == finished_run().recipe
    assert gain["value"] == finished_run().document["ratios"]["latency_ms"]["value"]
    slow, fast = sorted([first["value"], second["value"]], reverse=True)
    assert apart["value"] == pytest.approx(slow / fast - 1)

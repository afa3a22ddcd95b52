"""A whole trim run in seconds: null models, a toy task, and passes that are good, bad, broken or slow to order."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from rich.console import Console

import trimtab
from trimtab import measure, trimmer
from trimtab import result as results
from trimtab.api import run
from trimtab.errors import (
    Busy,
    DataError,
    OutputError,
    PromiseError,
    SessionError,
    UnknownName,
    UsageError,
    WorkerDied,
    WorkerHung,
)
from trimtab.machines import here
from trimtab.passes import Pass
from trimtab.report.faces import FACES
from trimtab.request import Request
from trimtab.trimmer import dry_run
from trimtab.values.registry import registry
from trimtab.values.store import Store, folder_bytes
from trimtab.values.tab import TAB_FILE, Tab, read_tab
from trimtab.verify import Judgement

TOY = "toy(examples=1200, features=64, spread=0.7)"
SLOW = pytest.mark.slow


@dataclass(frozen=True)
class Shrink(Pass):
    """Writes the weights with fewer bits; below 16 it is too bold, and `mode` makes it misbehave."""

    bits: int = 16
    mode: str = ""

    formats: ClassVar = {"null": "null"}
    stage: ClassVar = "precision"

    @classmethod
    def choices(cls, facts, machine):
        return (cls(32), cls(16), cls(8))

    @classmethod
    def name(cls):
        return "shrink"

    def predict(self, facts, machine):
        return replace(facts, weight_bits=float(self.bits), quality_loss=0.001 if self.bits > 8 else 0.02)

    def apply(self, model, context):
        if self.mode == "error":
            raise DataError("told to fail")
        if self.mode == "slow":
            raise TimeoutError("told to be late")
        if self.mode == "memory":
            raise MemoryError("told to be fat")
        if self.mode == "bug":
            raise ZeroDivisionError("a library's own error")
        part = model.main
        folder = context.scratch / "main"
        folder.mkdir()
        with np.load(part.path / "weights.npz") as file:
            weights = {name: file[name] for name in file}
        kind = {32: np.float32, 16: np.float16, 8: np.int8}[self.bits]
        np.savez(folder / "weights.npz", **{name: array.astype(kind) for name, array in weights.items()})
        facts = self.predict(part.facts, context.machine)
        return model.map_parts({"main": replace(part, path=folder, facts=facts)})


@pytest.fixture(scope="module", autouse=True)
def shrink():
    registry("passes").add("shrink", Shrink)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("BLOCK_SECONDS", 0.005), ("QUICK_BLOCKS", 2), ("FINAL_BLOCKS", 3)):
            patch.setattr(measure, name, value)
        yield
    del registry("passes")._added["shrink"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


def request(**changes) -> Request:
    settings = {"objective": "size", "within_s": 120.0, "train": False}
    return Request(
        "null:linear", TOY, ("accuracy >= base - 0.03", "accuracy[class=*] >= base - 0.1"), **settings | changes
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory, store):
    out = tmp_path_factory.mktemp("runs") / "x"
    return run(request(), out, store=store)


def test_the_cheapest_that_keeps_the_promise_is_certified(finished):
    document = finished.document
    assert (finished.verdict, finished.recipe) == ("PASS", "shrink @ null")
    assert {j["verdict"] for j in document["promises"]} == {"PASS"}
    assert document["ratios"]["size_mb"]["value"] > 1.5
    assert document["conditions"]["test_openings"] == 1
    assert "Certified at 95%" in document["sentence"]
    statuses = {c["recipe"]: c["status"] for c in document["candidates"]}
    assert statuses["shrink @ null"] == "certified"
    assert statuses["shrink(bits=8) @ null"] in ("dropped", "dominated")
    assert json.loads((Path(document["run"]) / "result.json").read_text()) == document


def test_a_confidence_is_said_as_it_was_asked_for():
    said = Judgement("", "", "UNDECIDED", None, 0.0, None, 0.0, 0.0, 0.0, "share", 1, "", more_examples=7)
    search = SimpleNamespace(bench=SimpleNamespace(failing=lambda: ""))
    outcome = results.Outcome(request(confidence=0.999), search, [results.Tested(None, (said,), None)], None, False)
    assert outcome.sentence().startswith("Undecided at 99.9%:")


def test_a_doubt_about_the_base_is_part_of_the_sentence():
    failing = "the base does not do its own task: 33.1% are right; a promise is worth as little."
    said = []
    for told in ("", failing):
        search = SimpleNamespace(bench=SimpleNamespace(failing=lambda told=told: told))
        judgement = Judgement("", "", "UNDECIDED", None, 0.0, None, 0.0, 0.0, 0.0, "share", 1, "")
        tested = [results.Tested(None, (judgement,), None)]
        said.append(results.Outcome(request(), search, tested, None, False).sentence())
    assert said[1] == f"{said[0]} But the base does not do its own task: 33.1% are right; a promise is worth as little."


def test_the_bundle_answers_and_carries_its_proof(finished):
    task = trimtab.tasks.open_task(TOY)
    examples = task.split("test")[:20]
    with trimtab.load(finished.bundle) as bundle:
        answer = bundle.predict(np.stack([example.inputs["features"] for example in examples]))
        assert bundle.verdict == "PASS"
    right = [label == task.labels[example.target] for label, example in zip(answer["label"], examples, strict=True)]
    assert np.mean(right) > 0.8
    about = json.loads((finished.bundle / "bundle.json").read_text())
    assert about["command"].startswith("trimtab trim null:linear")
    assert about["recipe"] == "shrink @ null"


def test_a_finished_run_is_not_run_again(finished, store):
    lines = len((Path(finished.document["run"]) / TAB_FILE).read_text().splitlines())
    again = run(request(), Path(finished.document["run"]), store=store)
    assert again.document == finished.document
    assert len((Path(finished.document["run"]) / TAB_FILE).read_text().splitlines()) == lines


def test_another_request_does_not_fit_into_the_folder(finished, store):
    with pytest.raises(UsageError, match="another seed"):
        run(request(seed=1), Path(finished.document["run"]), store=store)


@pytest.mark.slow
def test_other_data_behind_the_same_words_does_not_fit_into_the_folder(tmp_path, store):
    rng = np.random.default_rng(0)

    def write(seed: int) -> None:
        centres = np.random.default_rng(seed).normal(size=(3, 8)) * 3
        labels = np.arange(900) % 3
        np.savez(tmp_path / "d.npz", features=(centres[labels] + rng.normal(size=(900, 8))), target=labels)

    write(1)
    mine = replace(request(), task=str(tmp_path / "d.npz"), promises=("accuracy >= base - 0.05",))
    first = run(mine, tmp_path / "x", store=store)
    write(2)
    with pytest.raises(UsageError, match="another content of the"):
        run(mine, tmp_path / "x", store=store)
    assert json.loads((tmp_path / "x" / "result.json").read_text()) == first.document


@pytest.mark.slow
def test_a_limit_may_name_a_meter_and_a_lost_base_is_opened_again(tmp_path, store, monkeypatch):
    from trimtab.search import Search

    attempt = Search.attempt

    def lose_the_base(self, candidate):
        if not self.trials:
            self.bench.base_worker.close()
        return attempt(self, candidate)

    monkeypatch.setattr(Search, "attempt", lose_the_base)
    result = run(request(limits=("size <= 100",)), tmp_path / "x", store=store)
    assert (result.verdict, result.recipe) == ("PASS", "shrink @ null")


@pytest.mark.slow
@pytest.mark.parametrize("error", [ValueError("no ratio of zero"), pytest.param(DataError("bad"), marks=SLOW)])
def test_a_gain_that_cannot_be_explained_costs_no_certificate(tmp_path, store, monkeypatch, error):
    monkeypatch.setattr(trimmer, "explain", lambda bench, winner: (_ for _ in ()).throw(error))
    result = run(request(), tmp_path / "x", store=store)
    assert (result.verdict, result.document["gain"]) == ("PASS", [])
    [cell] = [cell for cell in result.document["empty_cells"] if cell["what"] == "where the gain comes from"]
    assert cell["reason"] == f"{type(error).__name__}: {error}"
    assert result.bundle.is_dir()


@pytest.fixture
def failing(monkeypatch):
    """Return a function that makes a candidate fail on the sealed split, and the list of those tested there."""
    rows, tested = measure.Bench.rows, []

    def fail(error: Exception, recipe: str) -> list[str]:
        def read(bench, made, worker, runtime, split, stop=None):
            if split == "test" and made.key != bench.base.key:
                tested.append(made.model.lineage[-1])
                if recipe in (tested[-1], "any"):
                    raise error
            return rows(bench, made, worker, runtime, split, stop)

        monkeypatch.setattr(measure.Bench, "rows", read)
        return tested

    return fail


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [SessionError, pytest.param(DataError, marks=SLOW), pytest.param(IndexError, marks=SLOW)]
)
def test_a_candidate_that_fails_on_the_sealed_split_is_not_certified(tmp_path, store, failing, monkeypatch, kind):
    from trimtab.search import Search

    monkeypatch.setattr(Search, "walk_order", lambda self: sorted(self.eligible(), key=lambda t: -self.cost(t)))
    tested = failing(kind("no such id"), "shrink")
    result = run(request(tries=("shrink(32) @ null",)), tmp_path / "x", store=store)
    assert (result.verdict, result.recipe) == ("PASS", "shrink(bits=32) @ null")
    assert tested[-1] == "shrink", "the bolder one, after the mild one has passed"
    [line] = [c for c in result.document["candidates"] if c["recipe"] == "shrink @ null"]
    assert (line["status"], line["test"]) == ("not certified", {})
    assert line["reason"].startswith("could not be tested: ")
    assert line["reason"].endswith("no such id")


@pytest.mark.slow
def test_where_none_can_be_tested_nothing_is_proved(tmp_path, store, failing):
    failing(SessionError("no such id"), "any")
    result = run(request(), tmp_path / "x", store=store)
    assert (result.verdict, result.bundle, result.document["promises"]) == ("UNDECIDED", None, [])
    assert "could not be tested: no such id." in result.document["sentence"]
    shown = io.StringIO()
    Console(file=shown, width=300).print(FACES["result"](result.document))
    assert "could not be tested" in shown.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [WorkerDied, WorkerHung, TimeoutError])
def test_a_passing_fault_on_the_sealed_split_is_tried_once_more(tmp_path, store, failing, kind):
    tested = failing(kind("gone"), "any")
    for out, again in (("x", True), ("y", False)):
        with pytest.raises(kind):
            run(request(), tmp_path / out, store=store)
        if again:
            assert run(request(), tmp_path / out, store=store).verdict == "UNDECIDED"
        else:
            failing(kind("gone"), "none")
            assert run(request(), tmp_path / out, store=store).verdict == "PASS"
    assert [len(read_tab(tmp_path / out / TAB_FILE).of("fault")) for out in "xy"] == [1, 1]
    assert len(tested) > 3


@pytest.mark.slow
def test_a_model_without_a_certificate_leaves_no_bundle(tmp_path, store):
    result = run(request(objective="parameters"), tmp_path / "x", store=store)
    assert result.verdict == "BASE"
    assert not (tmp_path / "x" / "bundle").exists()


@pytest.mark.slow
def test_memory_is_read_in_fresh_workers_so_a_model_is_not_cheaper_than_itself(tmp_path, store, monkeypatch):
    monkeypatch.setattr(Shrink, "choices", classmethod(lambda cls, facts, machine: ()))  # nothing that breaks a promise
    result = run(request(objective="memory", tries=("shrink(32) @ null",)), tmp_path / "x", store=store)
    assert result.verdict == "BASE"


def test_an_objective_that_cannot_be_read_is_one_clear_line(tmp_path, store):
    machine = tmp_path / "free.toml"
    machine.write_text(f"cores = {here().cores}\n")
    with pytest.raises(UsageError, match="usd_per_million cannot be read"):
        run(request(objective="cost", on=str(machine)), tmp_path / "x", store=store)


def test_a_second_process_is_refused(tmp_path, store):
    with Tab.open(tmp_path), pytest.raises(Busy):
        run(request(), tmp_path, store=store)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["bug", "error", "slow", "memory"])
def test_a_candidate_that_fails_is_a_reason_not_the_end(tmp_path, store, mode):
    result = run(request(tries=(f"shrink(mode='{mode}') @ null",)), tmp_path / "x", store=store)
    assert result.verdict == "PASS"
    [line] = [c for c in result.document["candidates"] if mode in c["recipe"]]
    assert line["status"] in ("refused", "failed")
    assert "told to" in line["reason"] or "own error" in line["reason"]
    assert any(mode in cell["what"] for cell in result.document["empty_cells"])


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["crash", *(pytest.param(f, marks=SLOW) for f in ("memory", "load"))])
def test_a_worker_that_fails_is_a_reason_not_the_end(tmp_path, store, fault):
    tries = (f"shrink @ null(fail='{fault}')",)
    result = run(request(tries=tries, memory_limit_mb=600.0), tmp_path / "x", store=store)
    assert result.verdict == "PASS"
    [line] = [c for c in result.document["candidates"] if fault in c["recipe"]]
    assert line["status"] in ("refused", "failed")
    assert line["reason"]


@pytest.mark.slow
def test_passing_faults_are_tried_again_and_verdicts_are_not(tmp_path, store):
    out = tmp_path / "x"
    tries = ("shrink(mode='memory') @ null", "shrink(mode='error') @ null")
    run(request(tries=tries), out, store=store)
    cut_after_candidates(out)
    run(request(tries=tries), out, store=store)
    tried = [record["recipe"] for record in read_tab(out / TAB_FILE).of("candidate")]
    assert tried.count("shrink(mode='memory') @ null") == 2
    assert tried.count("shrink(mode='error') @ null") == 1
    assert len(tried) == len(set(tried)) + 1


def cut_after_candidates(out: Path) -> None:
    """Put a run folder back to where a kill before verification would have left it."""
    lines = (out / TAB_FILE).read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["kind"] in ("base", "candidate")]
    (out / TAB_FILE).write_bytes(b"".join(kept) + b'{"kind":"candi')
    (out / "result.json").unlink()


@pytest.mark.slow
def test_a_model_that_cannot_keep_the_promise_is_infeasible(tmp_path, store):
    only_bad = request(tries=("shrink(8) @ null",), limits=("size_mb <= 0.00074",))
    result = run(only_bad, tmp_path / "x", store=store)
    assert result.verdict in ("INFEASIBLE", "BASE")
    assert result.bundle is None
    assert "shrink" in result.document["sentence"] or "keep the base" in result.document["sentence"]


@pytest.mark.slow
def test_nothing_beats_the_base(tmp_path, store):
    result = run(request(objective="parameters"), tmp_path / "x", store=store)
    assert result.verdict == "BASE"
    assert "keep the base" in result.document["sentence"]
    assert {"latency_ms", "throughput_per_s", "memory_mb", "accuracy"} <= set(result.document["base"])


@pytest.mark.slow
def test_too_short_a_time_says_so(tmp_path, store):
    with pytest.raises(UsageError, match="too short"):
        run(request(within_s=0.01), tmp_path / "x", store=store)
    assert run(request(within_s=120.0), tmp_path / "x", store=store).verdict == "PASS"


def test_a_dry_run_lists_predictions_and_what_can_be_decided(store):
    plan = dry_run(request(), store=store)
    assert {"shrink @ null", "shrink(bits=8) @ null"} <= {c["recipe"] for c in plan["candidates"]}
    assert all(c["predicted"]["size_mb"]["origin"] == "predicted" for c in plan["candidates"])
    assert len(plan["decidable"]) == 4
    assert "can be decided" in plan["decidable"][0]["sentence"]


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"promises": ()}, PromiseError, "needs a promise"),
        ({"promises": ("accuracy >= base - 0.0001",)}, PromiseError, "never can"),
        ({"promises": ("accuracy[sex=*] >= base - 0.1",)}, PromiseError, "this task has: class"),
        ({"objective": "latensy"}, UnknownName, "did you mean latency"),
        ({"limits": ("sise_mb <= 1",)}, UnknownName, "did you mean size_mb"),
        ({"tries": ("shrink",)}, UsageError, "names no runtime"),
        ({"confidence": 1.0}, UsageError, "between 0.5 and 0.999"),
        ({"on": "nowhere"}, UnknownName, "machine"),
        ({"model": "zo:resnet"}, UnknownName, "did you mean zoo"),
        ({"model": "resnet"}, DataError, "names no source"),
        ({"task": "tox"}, UnknownName, "did you mean toy"),
    ],
)
def test_wrong_requests_are_one_clear_line(tmp_path, store, change, error, said):
    with pytest.raises(error, match=said):
        run(replace(request(), **change), tmp_path / "x", store=store)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_loses_nothing(tmp_path, store):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        (small / "filler").write_bytes(b"x" * 20_000)
        with pytest.raises(OutputError, match="no space left"):
            run(request(), small / "x", store=store)
        read_tab(small / "x" / TAB_FILE)
        (small / "filler").unlink()
        subprocess.run(["mount", "-o", "remount,size=4m", str(small)], check=True)
        assert run(request(), small / "x", store=store).verdict == "PASS"
    finally:
        subprocess.run(["umount", str(small)], check=True)


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
import test_trimmer
from trimtab.api import run
from trimtab.values.registry import registry
from trimtab.values.store import Store
registry("passes").add("shrink", test_trimmer.Shrink)
run(test_trimmer.request(), Path(sys.argv[1]), store=Store(Path(sys.argv[2])))
"""


def start(out: Path, store: Path) -> subprocess.Popen:
    words = [sys.executable, "-c", SCRIPT, str(out), str(store), str(Path(__file__).parent)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_killed_at_random_moments_it_goes_on_and_loses_nothing(tmp_path):
    out, store = tmp_path / "x", tmp_path / "store"
    random = np.random.default_rng(0)
    known: list[str] = []
    for _ in range(12):
        process = start(out, store)
        time.sleep(random.uniform(0.3, 4.0))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if (out / TAB_FILE).exists():
            found = [record["recipe"] for record in read_tab(out / TAB_FILE).of("candidate")]
            assert found[: len(known)] == known
            assert len(found) == len(set(found))
            known = found
    assert start(out, store).wait() == 0
    assert json.loads((out / "result.json").read_text())["verdict"] == "PASS"
    assert folder_bytes(out / "bundle") > 0
    trimtab.load(out / "bundle")
    assert Store(store).warnings == []
    shutil.rmtree(out)


@pytest.mark.slow
def test_ctrl_c_verifies_and_packs_the_best_so_far(tmp_path, store, monkeypatch):
    from trimtab.search import Search

    attempts = []
    attempt = Search.attempt

    def interrupted(self, candidate):
        if attempts:
            raise KeyboardInterrupt
        attempts.append(candidate)
        return attempt(self, candidate)

    monkeypatch.setattr(Search, "attempt", interrupted)
    result = run(request(tries=("shrink(32) @ null",)), tmp_path / "x", store=store)
    assert (result.verdict, result.recipe) == ("PASS", "shrink(bits=32) @ null")
    assert result.document["interrupted"]


@pytest.mark.slow
def test_of_a_slow_model_a_part_of_validation_is_compared_and_all_of_test(tmp_path, store, monkeypatch):
    monkeypatch.setattr(trimmer, "LEAST_COMPARED", 100)
    monkeypatch.setattr(trimmer, "COMPARING", 0.0)
    out = tmp_path / "x"
    asked = replace(request(), promises=("accuracy >= base - 0.03",))
    first = run(asked, out, store=store)
    assert first.document["conditions"]["compared_on"] == 100
    measured = [c["figures"]["accuracy"]["n"] for c in first.document["candidates"] if c["figures"]]
    assert set(measured) == {100}
    assert first.document["promises"][0]["n"] == first.document["conditions"]["splits"]["test"]["n"]
    monkeypatch.setattr(trimmer, "LEAST_COMPARED", 10)
    cut_after_candidates(out)
    again = run(asked, out, store=store)
    assert again.document["conditions"]["compared_on"] == 100, "a run that goes on compares what it compared"
    assert again.recipe == first.recipe
    whole = run(request(), tmp_path / "slices", store=store).document["conditions"]
    assert whole["compared_on"] == whole["splits"]["validation"]["n"], "a part may lack examples of a slice"

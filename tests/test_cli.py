"""Every command as a user calls it: what it prints where, its exit status, and one clear line for each bad input."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from trimtab import api, cli, machines, measure
from trimtab.run.client import open_worker
from trimtab.values.registry import KINDS, registry
from trimtab.values.store import MANIFEST, Store
from trimtab.values.tab import TAB_FILE, Tab, read_tab
from workbench import PROMISE, TOY, finished_run, quick

__all__ = ["quick"]
TRIM = ("trim", "null:linear", TOY, "--for", "size", "--no-train", "--within", "2m", "--promise", PROMISE)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def trimtab(capsys, monkeypatch, cache, tmp_path):
    """Return a function that runs a command in an empty folder: (status, stdout, stderr)."""
    monkeypatch.setenv("TRIMTAB_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)

    def call(*words):
        capsys.readouterr()
        status = cli.main([str(word) for word in words])
        told = capsys.readouterr()
        return status, told.out, told.err

    return call


def complaint(told: tuple[int, str, str], status: int) -> str:
    """Return the one line that an error printed, having checked that it is one."""
    found, out, err = told
    lines = [line for line in err.splitlines() if line.startswith("trimtab: ")]
    assert (found, len(lines), "Traceback" in err) == (status, 1, False), err
    assert err.rstrip().endswith(lines[0])
    if out:
        assert json.loads(out) == {"error": lines[0].removeprefix("trimtab: "), "exit_status": status}
    return lines[0]


def test_trim_prints_one_document_and_progress_elsewhere(trimtab, tmp_path):
    status, out, err = trimtab(*TRIM, "--out", "x", "--json")
    document = json.loads(out)
    assert (status, document["verdict"], document["recipe"]) == (0, "PASS", "narrow @ null")
    for figures in (document["base"], document["chosen"]):
        assert {"value", "unit", "low", "high"} <= set(figures["size_mb"])
    assert {"promise", "candidates", "run", "bundle"} <= set(document)
    assert "measuring the base" in err
    assert {"report.html", "bundle", "result.json", TAB_FILE} <= {path.name for path in (tmp_path / "x").iterdir()}
    again = trimtab(*TRIM, "--out", "x", "--json")
    assert (again[0], json.loads(again[1])) == (0, document)
    assert "PASS" in trimtab(*TRIM, "--out", "x")[1]


@pytest.mark.slow
def test_a_promise_not_kept_exits_with_3(trimtab):
    words = ("--promise", "accuracy >= base - 0.012", "--limit", "size_mb <= 0.00074", "--out", "x", "--json")
    status, out, _ = trimtab(*TRIM, "--try", "narrow(8) @ null", *words)
    assert (status, json.loads(out)["bundle"]) == (3, "")
    assert json.loads(out)["verdict"] in ("INFEASIBLE", "UNDECIDED")


@pytest.mark.slow
def test_a_candidate_that_answers_no_numbers_is_left_out(trimtab):
    tries = ("--try", "narrow(0) @ null", "--promise", "log_loss <= base * 1.05")
    status, out, _ = trimtab(*TRIM, *tries, "--out", "x", "--json")
    document = json.loads(out)
    assert (status, document["recipe"]) == (0, "narrow @ null")
    [found] = [candidate for candidate in document["candidates"] if candidate["recipe"] == "narrow(bits=0) @ null"]
    assert found["status"] != "certified"
    figures = json.loads(trimtab("measure", "narrow(0)", "null:linear", TOY, "--json")[1])["figures"]
    assert "log_loss" not in figures


@pytest.mark.slow
def test_a_figure_that_is_no_number_does_not_end_the_run(trimtab):
    lax = (
        "--promise",
        "accuracy >= base - 0.99",
        "--for",
        "size",
        "--no-train",
        "--within",
        "2m",
        "--out",
        "x",
        "--json",
    )
    status, out, _ = trimtab("trim", "null:linear", TOY, *lax, "--try", "narrow(0) @ null")
    statuses = {candidate["recipe"]: candidate["status"] for candidate in json.loads(out)["candidates"]}
    assert (status, statuses["narrow(bits=0) @ null"]) == (0, "dominated")


@pytest.mark.slow
def test_nothing_to_try_keeps_the_base(trimtab, monkeypatch):
    monkeypatch.delitem(registry("passes")._added, "narrow")
    status, out, _ = trimtab(*TRIM, "--out", "x", "--json")
    assert (status, json.loads(out)["verdict"]) == (0, "BASE")


def test_a_dry_run_touches_no_run_folder(trimtab, tmp_path):
    status, out, _ = trimtab(*TRIM, "--out", "x", "--dry-run", "--json")
    plan = json.loads(out)
    assert status == 0
    assert "narrow @ null" in {candidate["recipe"] for candidate in plan["candidates"]}
    assert "can be decided" in plan["decidable"][0]["sentence"]
    assert not (tmp_path / "x").exists()
    assert "narrow @ null" in trimtab(*TRIM, "--dry-run")[1]


def test_apply_writes_a_model_folder_that_opens_again(trimtab, tmp_path):
    status, out, _ = trimtab("apply", "narrow", "null:linear", TOY, "--out", "a/b", "--json")
    assert (status, json.loads(out)["lineage"]) == (0, ["null:linear", "narrow"])
    assert {path.name for path in (tmp_path / "a/b").iterdir()} == {"model.json", "main"}
    status, out, _ = trimtab("apply", "narrow(32)", "a/b", TOY, "--out", "c", "--json")
    assert (status, json.loads(out)["lineage"]) == (0, ["null:linear", "narrow", "narrow(bits=32)"])


@pytest.mark.slow
def test_only_predictions_are_for_a_machine_that_a_file_tells_of(trimtab, tmp_path):
    bundle = finished_run().bundle
    measuring = (TRIM, ["measure", "@ null", "null:linear", TOY], ["verify", bundle, TOY, "--against", "null:linear"])
    for words in measuring:
        assert "what is measured here holds here only" in complaint(trimtab(*words, "--on", "generic-x86"), 2)
    assert trimtab(*TRIM, "--on", "generic-x86", "--dry-run", "--json")[0] == 0
    assert trimtab("apply", "narrow", "null:linear", TOY, "--on", "generic-x86", "--out", tmp_path / "x")[0] == 0


@pytest.mark.slow
def test_measure_reads_every_figure(trimtab):
    status, out, _ = trimtab("measure", "narrow", "null:linear", TOY, "--json")
    document = json.loads(out)
    assert (status, document["recipe"]) == (0, "narrow @ null")
    assert {"accuracy", "latency_ms", "size_mb", "throughput_per_s"} <= set(document["figures"])
    assert "latency" in trimtab("measure", "@ null(delay_ms=0.1)", "null:linear", TOY)[1]


@pytest.mark.slow
def test_verify_judges_a_bundle_by_its_own_promise_or_another(trimtab):
    bundle = finished_run().bundle
    against = ("verify", bundle, TOY, "--against", "null:linear")
    status, out, _ = trimtab(*against, "--json")
    document = json.loads(out)
    assert (status, document["verdict"], len(document["promises"])) == (0, "PASS", 4)
    assert "PASS at 95%" in document["sentence"]
    assert "never can be proved" in complaint(trimtab(*against, "--promise", "agreement >= 0.9999"), 2)
    status, out, _ = trimtab(*against, "--promise", "log_loss <= 0.00001", "--confidence", "0.975", "--json")
    again = json.loads(out)
    assert (status, again["verdict"], again["test_openings"]) == (3, "FAIL", document["test_openings"] + 1)
    assert "FAIL at 97.5%" in again["sentence"]
    assert f"opened {again['test_openings']} times" in again["sentence"]
    assert "PASS" in trimtab(*against)[1]


def test_report_prints_the_tab_and_writes_the_page(trimtab, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run().document["run"], run)
    (run / "report.html").unlink()
    status, out, err = trimtab("report", run)
    assert (status, "PASS" in out, str(run / "report.html") in err) == (0, True, True)
    assert (run / "report.html").read_text().startswith("<!")
    assert json.loads(trimtab("report", run, "--json")[1]) == finished_run().document


@pytest.mark.parametrize("kind", [*KINDS, "machines"])
def test_list_names_everything_and_tells_of_one(trimtab, kind):
    status, out, _ = trimtab("list", kind, "--json")
    names = list(json.loads(out))
    assert status == 0
    assert set(names) >= ({"here"} if kind == "machines" else set(registry(kind).names()))
    for name in names[-2:]:
        status, out, _ = trimtab("list", kind, name)
        assert (status, name in out) == (0, True)
    assert "did you mean" in complaint(trimtab("list", kind, f"{names[-1]}x"), 2)


def test_doctor_and_cache(trimtab, cache):
    status, out, _ = trimtab("doctor", "--json")
    assert (status, json.loads(out)["machine"][:4]) == (0, "here")
    trimtab("apply", "narrow", "null:linear", TOY, "--out", "a")
    Store(cache / "store").count_opening("a split", "a test")
    entries = [json.loads(trimtab("cache", *words, "--json")[1])["entries"] for words in ((), ("--shrink", 1))]
    assert entries[0] == entries[1] > 0
    assert json.loads(trimtab("cache", "--clear", "--json")[1])["entries"] == 0
    assert Store(cache / "store").count_opening("a split", "a test") == 2


def test_without_words_it_prints_help(trimtab):
    status, out, err = trimtab()
    assert (status, err) == (0, "")
    assert all(
        command in out for command in ("trim", "apply", "measure", "verify", "report", "list", "doctor", "cache")
    )


LINES = [
    (["tirm"], 2, "unknown command 'tirm'; did you mean trim"),
    (["trim"], 2, "required: MODEL, TASK"),
    (["list", "passs"], 2, "did you mean passes"),
    (["trim", "null:linear", "tox", "--promise", PROMISE], 2, "unknown task 'tox'; did you mean toy"),
    (["trim", "null:linear", "", "--promise", PROMISE], 2, "empty"),
    (["trim", "nul:linear", TOY, "--promise", PROMISE], 2, "did you mean null"),
    (["trim", "null:linear", TOY], 2, "needs a promise"),
    ([*TRIM, "--promise", "accurcay >= base - 0.1"], 2, "did you mean accuracy"),
    ([*TRIM, "--promise", "accuracy <= base + 0.1"], 2, "better higher, so write >="),
    ([*TRIM, "--promise", "log_loss >= base - 0.1"], 2, "better lower, so write <="),
    ([*TRIM, "--promise", "accuracy >= base - 5"], 2, "5 points are 0.05 or 5%"),
    ([*TRIM, "--promise", "accuracy >= 2"], 2, "never be proved"),
    ([*TRIM, "--promise", "as good as before"], 2, "cannot read the promise"),
    ([*TRIM, "--within", "soon"], 2, "is no duration"),
    ([*TRIM, "--within", "0.01s"], 2, "too short"),
    ([*TRIM, "--confidence", "95"], 2, "--confidence: takes a number from 0.5"),
    ([*TRIM, "--seed", "-1"], 2, "--seed: takes a whole number from 0"),
    ([*TRIM, "--memory", "nan"], 2, "--memory: takes a number from 0"),
    ([*TRIM, "--limit", "small"], 2, "cannot read the limit"),
    ([*TRIM, "--for", "latensy"], 2, "did you mean latency"),
    ([*TRIM, "--on", "her"], 2, "did you mean here"),
    ([*TRIM, "--try", "prune @ null"], 2, "step 1, prune, takes 'torch' but the model gives 'null'"),
    (["apply", "narow", "null:linear", TOY, "--out", "a"], 2, "did you mean narrow"),
    (["apply", "narrow(bit=8)", "null:linear", TOY, "--out", "a"], 2, "did you mean bits"),
    (["apply", "narrow(", "null:linear", TOY, "--out", "a"], 2, "bracket is not closed"),
    (["apply", "narrow | onnx", "null:linear", TOY, "--out", "a"], 2, "step 2, onnx, takes 'torch' but step 1 gives"),
    (["apply", "narrow", "null:linear", TOY, "--out", "full"], 2, "is not empty"),
    (["apply", "narrow", "null:linear", TOY, "--out", "full/file"], 2, "is a file"),
    (["apply", "narrow", "null:linear", TOY, "--out", "/proc/here"], 1, "cannot make the folder"),
    (["apply", "narrow", "null:linear", TOY, "--out", "full/file/x"], 1, "is a file, not a folder"),
    ([*TRIM, "--out", "full/file"], 1, "is a file, not a folder"),
    (["measure", "@ openvno", "null:linear", TOY], 2, "did you mean openvino"),
    (["measure", "@ onnxruntime", "null:linear", TOY], 2, "serves 'onnx' but the model gives 'null'"),
    (["measure", "@ null(fail='crash')", "null:linear", TOY], 1, "killed by SIGSEGV"),
    (["measure", "@ null(fail='exit')", "null:linear", TOY], 1, "exited with status 7"),
    (["measure", "@ null(fail='load')", "null:linear", TOY], 1, "fail while loading"),
    (["measure", "", "onnx:gone.onnx", TOY], 2, "there is no file gone.onnx"),
    (["measure", "", "onnx:full/file", TOY], 1, "not a complete ONNX file"),
    (["measure", "", "full", TOY], 2, "names no source"),
    (["verify", "gone", TOY, "--against", "null:linear"], 2, "there is no bundle gone"),
    (["verify", "full", TOY, "--against", "null:linear"], 1, "is not a bundle"),
    (["report", "full"], 2, "no run"),
    (["cache", "--shrink", "-1"], 2, "--shrink: takes a number from 0"),
    (["plan", "train", "gpt:175c", "--tokens", "1e9"], 2, "did you mean gpt:175b"),
    (["plan", "train", "gpt:175b"], 2, "give --tokens 300e9"),
    (["plan", "train", "gpt:175b", "--tokens", "1e9", "--zero", "4"], 2, "takes a whole number from 0 to 3"),
    (["plan", "train", "gpt:175b", "--tokens", "1e9", "--on", "a101"], 2, "unknown chip 'a101'"),
    (["plan", "serve", "llama:8b", "--on", "h100-sxm", "--tpot", "1us"], 2, "is no duration"),
    (["forecast", "gone.csv"], 2, "cannot be read"),
    (["validate", "--tables", "full"], 2, "no tables"),
]


@pytest.mark.parametrize(("words", "status", "said"), LINES)
def test_bad_input_is_one_clear_line(trimtab, tmp_path, words, status, said):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("x" * 400)
    told = trimtab(*words, "--json")
    assert told[1]
    assert said in complaint(told, status)
    assert (tmp_path / "full/file").read_text() == "x" * 400
    assert {path.name for path in (tmp_path / "full").iterdir()} == {"file"}


@pytest.fixture
def data(tmp_path):
    """Write data with one thing wrong in each file."""
    rng = np.random.default_rng(0)
    rows = [f"{a:.3f},{b:.3f},{'xy'[i % 2]}" for i, (a, b) in enumerate(rng.normal(size=(80, 2)))]
    broken = {
        "whole.csv": rows,
        "nan.csv": [*rows, "nan,1.0,x"],
        "one.csv": [row[:-1] + "x" for row in rows],
        "empty.csv": [],
        "three.csv": rows[:3],
        "ragged.csv": [*rows, "1.0,x"],
        "split.csv": [row + (",train" if i < 60 else ",validation") for i, row in enumerate(rows)],
    }
    for name, lines in broken.items():
        head = "a,b,label,part" if name == "split.csv" else "a,b,label"
        (tmp_path / name).write_text("\n".join([head, *lines, ""]))
    points, targets = rng.normal(size=(60, 3)), np.arange(60) % 2
    rows = {"split_train": np.arange(40), "split_validation": np.arange(40, 50), "split_test": np.arange(45, 60)}
    np.savez(tmp_path / "overlap.npz", x=points, target=targets, **rows)
    np.savez(tmp_path / "objects.npz", x=points, target=np.array([{}] * 60, dtype=object))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "overlap.npz").read_bytes()[:300])
    return tmp_path


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("whole.csv(target='lable')", "no column 'lable'"),
        ("whole.csv", "takes target='COLUMN'"),
        ("gone.csv(target='label')", "there is no gone.csv"),
        ("nan.csv(target='label')", "missing or not a finite number"),
        ("one.csv(target='label')", "one class only"),
        ("empty.csv(target='label')", "has no rows"),
        ("three.csv(target='label')", "split is empty"),
        ("ragged.csv(target='label')", "has 2 values"),
        ("split.csv(target='label', split_column='part')", "the test split is empty"),
        ("objects.npz", "Python objects are refused"),
        ("cut.npz", "cannot be read"),
        ("overlap.npz", "row 45 is in the splits validation and test"),
    ],
)
def test_bad_data_is_one_clear_line(trimtab, data, task, said):
    words = ("trim", "null:linear", task, "--promise", "accuracy >= base - 0.4", "--dry-run", "--json")
    assert said in complaint(trimtab(*words), 2)


def test_a_corrupt_image_is_one_clear_line(trimtab, tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(8):
            image.fromarray(np.full((4, 4), 9 * number, np.uint8)).save(tmp_path / f"photos/{name}/{number}.png")
    cut = tmp_path / "photos/a/3.png"
    cut.write_bytes(cut.read_bytes()[:40])
    assert "photos/a/3.png" in complaint(trimtab("trim", "null:linear", "photos", "--promise", PROMISE, "--json"), 2)


def test_a_damaged_bundle_or_model_is_refused(trimtab, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(finished_run().bundle, bundle)
    weights = bundle / "model/main/weights.npz"
    good = weights.read_bytes()
    verify = ("verify", bundle, TOY, "--against", "null:linear", "--json")
    weights.write_bytes(good[:-10])
    assert "has changed since it was packed" in complaint(trimtab(*verify), 1)
    assert "does not hold W and b" in complaint(trimtab("measure", "", bundle / "model", TOY, "--json"), 1)
    weights.unlink()
    assert "is missing" in complaint(trimtab(*verify), 1)
    weights.write_bytes(good)
    for text in (
        "",
        "[]",
        "{}",
        '{"parts": {}, "program": {"kind": "single"}, "frontend": {}, "lineage": [], "notes": {}}',
    ):
        (bundle / "model/model.json").write_text(text)
        assert "is not a model folder" in complaint(trimtab("measure", "", bundle / "model", TOY, "--json"), 1)


def test_a_run_folder_in_place_of_its_bundle_is_told(trimtab):
    run = finished_run().document["run"]
    assert f"did you mean {run}/bundle?" in complaint(trimtab("verify", run, TOY, "--against", "null:linear"), 1)


def test_a_corrupt_store_entry_is_rebuilt(trimtab, cache):
    trimtab("apply", "narrow", "null:linear", TOY, "--out", "a")
    for path in (cache / "store/objects").glob("*/main/weights.npz"):
        path.write_bytes(b"junk")
    status, _, _ = trimtab("apply", "narrow", "null:linear", TOY, "--out", "b")
    assert status == 0
    assert (Path("a/main/weights.npz").read_bytes()) == Path("b/main/weights.npz").read_bytes()


@pytest.mark.slow
def test_a_wrong_word_does_not_hold_the_run_folder(trimtab):
    complaint(trimtab(*TRIM, "--out", "x", "--on", "her"), 2)
    assert trimtab(*TRIM, "--out", "x")[0] == 0
    assert "holds a run with another seed" in complaint(trimtab(*TRIM, "--out", "x", "--seed", "1"), 2)


@pytest.mark.parametrize("name", ["result.json", "run.json", TAB_FILE])
def test_a_damaged_run_folder_is_one_clear_line(trimtab, tmp_path, name):
    shutil.copytree(finished_run().document["run"], tmp_path / "x")
    request = json.loads((tmp_path / "x/run.json").read_text())
    words = [word for promise in request["promises"] for word in ("--promise", promise)]
    (tmp_path / "x" / name).write_text("{\n")
    told = trimtab(*TRIM[:-2], *words, "--out", "x", "--json")
    assert f"x/{name}" in complaint(told, 1)
    if name == "result.json":
        assert "is not a result" in complaint(trimtab("report", "x"), 1)


def test_a_second_process_is_told_to_wait(trimtab, tmp_path):
    with Tab.open(tmp_path / "x"):
        assert "in use by another trimtab process" in complaint(trimtab(*TRIM, "--out", "x", "--json"), 1)


@pytest.mark.slow
def test_a_worker_that_hangs_is_one_clear_line(trimtab, monkeypatch):
    monkeypatch.setattr(measure, "open_worker", lambda *words: open_worker(*words[:4], seconds=1.0))
    told = trimtab("measure", "@ null(fail='hang')", "null:linear", TOY, "--json")
    assert "gave no answer to run" in complaint(told, 1)


@contextlib.contextmanager
def small_disk(folder: Path, size: str):
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_clear_line_and_nothing_is_lost(trimtab, tmp_path, monkeypatch):
    with small_disk(tmp_path / "disk", "64k"):
        (tmp_path / "disk/filler").write_bytes(b"x" * 60_000)
        told = trimtab("apply", "narrow", "null:linear", TOY, "--out", "disk/a", "--json")
        assert "no space left" in complaint(told, 1)
        assert not (tmp_path / "disk/a").exists()
        assert "no space left" in complaint(trimtab(*TRIM, "--out", "disk/x", "--json"), 1)
        read_tab(tmp_path / "disk/x" / TAB_FILE)
        monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "disk"))
        told = trimtab("apply", "narrow", "null:linear", f"toy(seed={os.getpid()}, features=2000)", "--out", "b")
        assert "no space left" in complaint(told, 1)


def test_a_folder_that_is_read_only_is_one_clear_line(trimtab, tmp_path):
    with small_disk(tmp_path / "disk", "64k"):
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        assert "read-only" in complaint(trimtab(*TRIM, "--out", "disk/x", "--json"), 1)
        assert "read-only" in complaint(trimtab("apply", "", "null:linear", TOY, "--out", "disk/a", "--json"), 1)


def test_ctrl_c_is_one_line_and_130(trimtab, monkeypatch):
    def interrupted(*words):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "run", interrupted)
    assert "interrupted" in complaint(trimtab(*TRIM, "--json"), 130)


def test_errors_of_ours_keep_their_traceback(trimtab, monkeypatch):
    def wrong(*words):
        raise ZeroDivisionError

    monkeypatch.setattr(api, "run", wrong)
    with pytest.raises(ZeroDivisionError):
        trimtab(*TRIM)


@pytest.mark.slow
def test_the_seed_of_verify_is_the_bundles(trimtab, monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "workshop", lambda words: seen.append(words.seed) or contextlib.nullcontext())
    monkeypatch.setattr("trimtab.certify.verify_bundle", lambda *words: {"verdict": "PASS"})
    for words in ((), ("--seed", "7")):
        trimtab("verify", finished_run().bundle, TOY, "--against", "null:linear", "--json", *words)
    assert seen == [0, 7]


def test_the_confidence_of_verify_is_the_bundles(trimtab, monkeypatch):
    seen = []
    monkeypatch.setattr("trimtab.pack.check", lambda folder: {"confidence": 0.9})
    monkeypatch.setattr(cli, "workshop", lambda words: contextlib.nullcontext())
    monkeypatch.setattr("trimtab.certify.verify_bundle", lambda *words: seen.append(words[3]) or {"verdict": "PASS"})
    for words in ((), ("--confidence", "0.99")):
        trimtab("verify", "bundle", TOY, "--against", "null:linear", "--json", *words)
    assert seen == [0.9, 0.99]


def test_machines_in_full(trimtab):
    assert json.loads(trimtab("list", "machines", "here", "--json")[1])["here"]["cores"] == machines.here().cores


BLOCKED = """
import sys
from trimtab import cli
sys.modules.update({name: None for name in ("torch", "openvino", "PIL")})
toy, shared = sys.argv[1:3]
commands = (
    ["measure", "", "zoo:mlp", toy],
    ["measure", "@ openvino", "null:linear", toy],
    ["trim", "null:linear", shared, "--promise", "accuracy >= base - 0.1"],
    ["apply", "@ null", "null:linear", toy, "--out", shared + "/out", "--json"],
)
print([cli.main(words) for words in commands][:3], file=sys.stderr)
"""


@pytest.mark.slow
def test_a_missing_library_names_its_pip_line(tmp_path):
    (tmp_path / "photos/a").mkdir(parents=True)
    words = [sys.executable, "-c", BLOCKED, TOY, str(tmp_path / "photos")]
    environment = {**os.environ, "TRIMTAB_CACHE": str(tmp_path)}
    found = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    lines = [line for line in found.stderr.splitlines() if line.startswith("trimtab: ")]
    assert found.stderr.strip().endswith("[2, 2, 2]"), found.stderr
    for line, extra in zip(lines, ("torch", "openvino", "data"), strict=True):
        assert f"pip install 'trimtab[{extra}]'" in line
    assert json.loads(found.stdout)["facts"]["format"] == "null"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--json", "quantize"])
def test_a_closed_pipe_ends_it_quietly(how):
    words = [sys.executable, "-m", "trimtab.cli", "list", "passes", how]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    told = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), told) == (1, "")


SLOW = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite run in the background inherits that it is ignored
sys.path.insert(0, sys.argv[1])
from workbench import working
from trimtab import cli
with working():
    sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_ctrl_c_while_measuring_still_gives_one_document(tmp_path):
    tries = ["--try", "narrow(32) @ null", "--try", "narrow @ null(delay_ms=400)"]
    words = [*TRIM, *tries, "--out", str(tmp_path / "x"), "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(Path(__file__).parent), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TRIMTAB_CACHE": str(tmp_path)},
        process_group=0,
    )
    tab = tmp_path / "x" / TAB_FILE
    while not (tab.is_file() and read_tab(tab).of("candidate")):
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate()
    document = json.loads(out)
    assert (process.returncode, document["verdict"], document["interrupted"]) == (0, "PASS", True)
    assert document["recipe"] == "narrow(bits=32) @ null"
    assert MANIFEST not in {path.name for path in (tmp_path / "x/bundle").rglob("*")}


def test_a_plan_as_a_document_and_a_page(trimtab, tmp_path):
    page = tmp_path / "plan.html"
    words = ["plan", "choose", "llama:8b", "--on", "h100-sxm,l4", "--tpot", "50ms", "--page", str(page), "--json"]
    status, out, _ = trimtab(*words)
    assert status == 0
    assert json.loads(out)["kind"] == "serve"
    assert page.read_text().startswith("<!doctype html>")
    status, out, _ = trimtab("plan", "choose", "gpt:7.5b", "--tokens", "1e11", "--on", "a100-sxm-80gb", "--json")
    assert json.loads(out)["kind"] == "train"

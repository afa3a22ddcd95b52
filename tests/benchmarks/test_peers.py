"""The harness of peers, with stand-ins for the tools: scripts of a few lines, run by this very interpreter."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import contest
import environments
import harness
import kit
import neutral
import numpy as np
import pytest
import table
from environments import Environment, NoEnvironment

import tabs
import workloads
from trimtab.run import onnx_files
from trimtab.values.model import Model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
HEADER = '# /// script\n# dependencies = [\n#     "numpy==2.4.6",\n# ]\n# ///\n'
SCRIPT = f"""{HEADER}
import sys
sys.path.insert(0, {str(BENCHMARKS / "peers")!r})
import shutil, time
import kit

def work(job):
    what = job.variant
    if what == "unable":
        raise kit.Unable("it knows no such layers")
    if what == "error":
        raise RuntimeError("first line\\nsecond line")
    if what == "crash":
        import os
        print("the last words", flush=True)
        os._exit(3)
    if what == "hang":
        time.sleep(60)
    if what == "forgets":
        job.ship("onnx")
    for part in job.parts:
        shutil.copyfile(job.onnx(part), job.folder(part) / "model.onnx")
        if what == "broken":
            import numpy as np, onnx
            proto = onnx.load(job.onnx(part))
            weights = onnx.numpy_helper.to_array(proto.graph.initializer[0])
            proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.roll(weights, 1, 1), "w"))
            onnx.save(proto, job.folder(part) / "model.onnx")
    assert len(job.feeds(job.parts[0], 5)) == 5 and job.left > 0 and kit.Yardstick(job).keeps(1.0)
    job.ship("onnx", ["copied"], knob=what)

kit.main(work)
"""
VARIANTS = ("good", "broken", "unable", "error", "crash", "forgets")


@pytest.fixture
def fake(tmp_path, monkeypatch, linear):
    """A workload of one linear ONNX net, and peers of every kind."""
    (tmp_path / "fake.py").write_text(SCRIPT)
    this = Environment(Path(sys.prefix), ())
    monkeypatch.setattr(harness, "made", lambda script: this)
    peers = {name: harness.Peer("fake", name, tmp_path) for name in VARIANTS}
    monkeypatch.setattr(harness, "PEERS", peers)
    promise = ("accuracy >= base - 0.1",)
    one = workloads.Workload("one", "mlp", linear, "toy(features=8)", promise, "40s")
    monkeypatch.setattr(workloads, "WORKLOADS", {"one": one})
    return one


@pytest.mark.slow
def test_the_neutral_folder_holds_what_every_peer_needs(fake):
    stand = harness.Stand(fake, 20.0)
    given = stand.given()
    about = json.loads((given / "meta.json").read_text())
    assert about["parts"]["main"]["inputs"] == [{"name": "features", "dtype": "float32", "shape": ["batch", 8]}]
    assert (about["kind"], about["promises"], about["base"]) == ("mlp", ["accuracy >= base - 0.1"], stand.base.key)
    onnx_files.load(given / "parts" / "main.onnx")
    rows = np.load(given / "base_rows.npy")
    assert len(rows) == len(stand.shop.task.split("validation"))
    feeds = kit.Job(given, given, 1.0).feeds("main")
    train = {example.inputs["features"].tobytes() for example in stand.shop.task.split("train")}
    assert len(feeds) == 300
    assert all(feed["features"].shape == (1, 8) and feed["features"].tobytes() in train for feed in feeds)
    written = (given / "calibration.npz").stat().st_mtime_ns
    assert stand.given() == given
    assert (given / "calibration.npz").stat().st_mtime_ns == written


@pytest.mark.slow
def test_the_contest_from_artefacts_to_the_table(fake, tmp_path, capsys):
    assert harness.main(["one"]) == 0
    verdict = workloads.finished(fake)["verdict"]
    assert workloads.main(["record"]) == 0
    recorded = [json.loads(line) for line in (tmp_path / "tabs/workloads.jsonl").read_text().splitlines()]
    assert [line["value"] for line in recorded if line["name"] == "verdict"] == [verdict]
    assert {"base_latency_ms", "total_s"} <= {line["name"] for line in recorded}
    held = json.loads((tmp_path / "cache/bench/one-peers/contest.json").read_text())
    found = {known["name"]: known for known in held["entrants"]}
    assert list(found) == ["trimtab", "base", *VARIANTS]
    assert found["unable"]["dash"] == "it knows no such layers"
    assert found["error"]["dash"] == "it fails with RuntimeError: first line second line"
    assert found["crash"]["dash"] == "its script ended with status 3: the last words"
    assert "one: crash: its script ended with status 3" in capsys.readouterr().err
    assert found["forgets"]["dash"] == "it wrote no model.onnx for main"
    assert (found["base"]["verdict"], found["good"]["verdict"], found["broken"]["verdict"]) == ("PASS", "PASS", "FAIL")
    assert found["good"]["runtime"] in found["good"]["tried"]
    assert {"base", "good", "broken"} <= set(held["race"]["latency"])
    before = held["race"]
    assert harness.main(["one", "--only", "contest"]) == 0  # the same artefacts: nothing is timed again
    assert json.loads((tmp_path / "cache/bench/one-peers/contest.json").read_text())["race"] == before
    rows = [json.loads(line) for line in (tmp_path / "tabs/artefacts.jsonl").read_text().splitlines()]
    assert {row["name"]: row["value"] for row in rows if row["name"] in ("good", "broken", "unable")} == {
        "good": "PASS",
        "broken": "FAIL",
        "unable": "–",
    }


@pytest.mark.slow
def test_a_peer_that_hangs_is_ended_and_asked_again_next_time(fake, monkeypatch):
    monkeypatch.setattr(harness, "GRACE_S", 0.0)
    monkeypatch.setitem(harness.PEERS, "hang", harness.Peer("fake", "hang", Path.cwd()))
    stand = harness.Stand(fake, 2.0)
    about = harness.work(stand, "hang", harness.PEERS["hang"])
    assert about == {"dash": "it gave nothing in 3 s"}
    assert not (stand.folder / "hang" / "artefact.json").exists()


@pytest.mark.slow
def test_an_environment_that_pip_cannot_fill_is_a_dash(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setattr(harness, "made", environments.made)
    (tmp_path / "fake.py").write_text(SCRIPT.replace("numpy==2.4.6", "no-such-package==1"))
    about = harness.work(harness.Stand(fake, 20.0), "good", harness.PEERS["good"])
    assert about["dash"].startswith("no environment: pip failed: ERROR: ")
    assert "no-such-package" in about["dash"]
    assert not list((tmp_path / "cache" / "peers").glob("*/ready.json"))


@pytest.mark.parametrize(("kind", "offered"), [("Identity", False), ("DynamicQuantizeLinear", True)])
def test_a_peers_int8_graph_is_tried_with_the_settings_that_ours_is(make_onnx, tmp_path, machine, kind, offered):
    floats = [("features", "float32", ["batch", 4])], [("output", "float32", ["batch", 4])]
    like = make_onnx(tmp_path / "base", [("Identity", "features", "output", {})], *floats, {})
    nodes = {
        "Identity": [("Identity", "features", "output", {})],
        "DynamicQuantizeLinear": [
            ("DynamicQuantizeLinear", "features", "codes scale zero", {}),
            ("DequantizeLinear", "codes scale zero", "output", {}),
        ],
    }
    made = make_onnx(tmp_path / "peer" / "main", nodes[kind], *floats, {})
    part = harness._part("onnx", made.path, like)
    Model({"main": part}).save(tmp_path / "peer")
    ring = SimpleNamespace(shop=SimpleNamespace(machine=machine))
    found = list(map(str, contest.choices(contest.Entrant("peer", tmp_path / "peer"), ring)))
    assert ("onnxruntime(precise_int8=True)" in found) is offered
    assert "onnxruntime(threads=2)" in found
    assert any(name.startswith("openvino") for name in found) is bool(find_spec("openvino"))
    assert part.facts.operations == like.facts.operations


def test_headers_are_read_as_the_standard_says(tmp_path):
    path = tmp_path / "tool.py"
    path.write_text(f'"""Docs."""\n{HEADER}import this\n')
    assert environments.requirements(path) == ("numpy==2.4.6",)
    path.write_text("import this\n")
    with pytest.raises(NoEnvironment, match=r"tool.py has no header"):
        environments.requirements(path)
    path.write_text(HEADER.replace("==2.4.6", ""))
    with pytest.raises(NoEnvironment, match=r"tool.py does not pin numpy"):
        environments.requirements(path)


def test_every_peer_pins_what_it_needs_and_has_an_environment_of_its_own():
    folders = {peer.path: environments.environment(peer.path).folder for peer in harness.PEERS.values()}
    assert len(set(folders.values())) == len(folders)
    assert all(not folder.is_relative_to(environments.ROOT) for folder in folders.values())


def test_an_environment_that_would_bring_cuda_is_refused(tmp_path, monkeypatch):
    packages = [{"metadata": {"name": name}} for name in ("torch", "nvidia-cublas", "triton", "nvidia-ml-py")]

    def run(command):
        Path(command[command.index("--report") + 1]).write_text(json.dumps({"install": packages}))
        return ""

    monkeypatch.setattr(environments, "_run", run)
    with pytest.raises(NoEnvironment, match=r"would bring 2 packages of CUDA \(nvidia-cublas"):
        environments._refuse_cuda(Environment(tmp_path, ()), ["torch==2.13.0"])


def held(name, ratios, dashes=()):
    """Return a contest in which each peer is so many times slower than ours; None breaks the promise."""
    judgement = {"promise": "accuracy >= base - 0.01", "base": 0.9, "trimmed": 0.9, "difference": 0.0}
    figure = {"value": 1.0, "unit": "ms", "low": 0.9, "high": 1.1, "n": 10}
    entrants = [
        {"name": peer, "verdict": "PASS" if ratio else "FAIL", "runtime": "onnxruntime", "size_mb": 1.0}
        | {"judgements": [judgement]}
        for peer, ratio in {"trimtab": 1.0, **ratios}.items()
    ]
    race = {
        "first": "trimtab",
        "latency": {known["name"]: figure for known in entrants},
        "ratios": {
            peer: {"value": ratio or 0.5, "unit": "x", "low": None, "high": None} for peer, ratio in ratios.items()
        },
        "load": {"load_average": 0.1},
    }
    entrants += [{"name": peer, "dash": "it cannot"} for peer in dashes]
    return {"workload": name, "machine": {"cpu": "a chip"}, "race": race, "entrants": entrants}


def test_the_table_means_only_over_certified_artefacts(tmp_path, monkeypatch):
    monkeypatch.setattr(tabs, "TABS", tmp_path / "tabs")
    contests = [held("a", {"base": 8.0, "p": 2.0, "q": None}), held("b", {"base": 2.0, "p": 8.0, "q": 3.0}, ["r"])]
    for one in contests:
        (tmp_path / f"{one['workload']}-peers").mkdir()
        (tmp_path / f"{one['workload']}-peers" / "contest.json").write_text(json.dumps(one))
    peers, artefacts = table.write(tmp_path, ["a", "b", "c"], ["p", "q", "r"])
    lines = [json.loads(line) for line in peers.read_text().splitlines()]
    cell = {(line["name"], line["group"]): line for line in lines}
    assert cell["p", "geometric-mean"]["value"] == pytest.approx(4.0)
    assert cell["base", "geometric-mean"]["value"] == pytest.approx(4.0)
    assert cell["q", "geometric-mean"]["value"] == pytest.approx(3.0)
    assert cell["q", "geometric-mean"]["n"] == 1
    assert cell["q", "a"]["value"].startswith("FAIL (")
    assert (cell["r", "b"]["value"], cell["r", "b"]["reason"]) == ("–", "it cannot")
    assert cell["r", "geometric-mean"]["value"] == "–"
    assert [cell["best-peer", group]["value"] for group in "ab"] == [2.0, 3.0]
    assert cell["best-peer", "geometric-mean"]["value"] == pytest.approx(6**0.5)
    reasons = [json.loads(line) for line in artefacts.read_text().splitlines()]
    assert [line["reason"] for line in reasons if line["name"] == "r"] == ["it cannot"]
    (tmp_path / "a-peers" / "contest.json").write_text(json.dumps(held("a", {"base": 8.0, "p": 4.0})))
    (tmp_path / "b-peers" / "contest.json").unlink()
    peers, _ = table.write(tmp_path, ["a", "b", "c"], ["p", "q", "r"])
    again = {(line["name"], line["group"]): line for line in map(json.loads, peers.read_text().splitlines())}
    assert again["p", "a"]["value"] == 4.0
    assert again["p", "b"] == cell["p", "b"], "what was measured elsewhere stays"
    assert ("q", "a") not in again
    assert again["p", "geometric-mean"]["value"] == pytest.approx(32**0.5)


def test_a_ratio_is_turned_round_with_its_interval():
    from trimtab.values.figure import Figure

    turned = contest._inverse(Figure("latency_ms_ratio", 0.5, "1", 0.4, 0.8, n=10))
    assert (turned["value"], turned["low"], turned["high"]) == (2.0, 1.25, 2.5)


def test_calls_beyond_the_limit_are_left_out(monkeypatch):
    monkeypatch.setattr(neutral, "LIMIT_BYTES", 100)
    calls = [{"x": np.zeros(10, np.float32)} for _ in range(5)]
    assert len(neutral._within(calls)) == 2
    assert len(neutral._within([{"x": np.zeros(100, np.float32)}])) == 1

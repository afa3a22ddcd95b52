"""Holds trimtab beside the tools a user would pick instead: same base, data, machine and time; one table in the end.

    python benchmarks/peers/harness.py all --within 5m             every workload and peer, the contest, the tabs
    python benchmarks/peers/harness.py cnn-small --peer nncf       one workload, one peer
    python benchmarks/peers/harness.py all --only environments     makes the peers' virtual environments, nothing else
    python benchmarks/peers/harness.py all --only contest          judges and times what lies there, then the tabs
    python benchmarks/peers/harness.py all --only table            only writes tabs/peers.jsonl and tabs/artefacts.jsonl

Everything finished lies in bench/WORKLOAD-peers of the user's cache and is not done again; the same command goes on
after a kill.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import contest
import neutral
import table
from contest import Entrant, Ring
from environments import ROOT, NoEnvironment, made

import workloads
from trimtab.api import parse_duration
from trimtab.apply import Made, Workshop, set_quiet_threads
from trimtab.errors import TrimtabError
from trimtab.measure import Bench, choose_runtime, native_runtimes
from trimtab.recipe import bind_runtime
from trimtab.run import onnx_facts, onnx_files
from trimtab.values.model import Model, Part
from trimtab.values.store import write_atomically
from workloads import Workload

HERE = Path(__file__).resolve().parent
GRACE, GRACE_S = 1.5, 120.0
"""A peer that is not done after so many times its time, and so many seconds, is ended."""
QUIET = {"CI": "true", "OLIVE_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
"""No tool reports to its makers from here."""
OURS, BASE = "trimtab", "base"
SCREENED = 500
"""Validation examples on which the settings of an artefact are tried."""
FAILED = "failed.json"


@dataclass(frozen=True)
class Peer:
    """A tool, and the way in which it is driven."""

    script: str
    variant: str = ""
    folder: Path = HERE

    @property
    def path(self) -> Path:
        """Its script."""
        return self.folder / f"{self.script}.py"


PEERS = {
    "onnxruntime-dynamic": Peer("ort", "dynamic"),
    "onnxruntime-static": Peer("ort", "static"),
    "openvino": Peer("ov"),
    "openvino-fp16": Peer("ov", "fp16"),
    "nncf": Peer("ptq", "quantize"),
    "nncf-overflow": Peer("ptq", "overflow"),
    "nncf-accuracy": Peer("ptq", "accuracy"),
    "neural-compressor": Peer("inc"),
    "olive": Peer("auto", "int8"),
    "olive-fp32": Peer("auto", "fp32"),
    "torch-pruning": Peer("pruner"),
    "torchao-dynamic": Peer("ao", "dynamic"),
    "torchao-weights": Peer("ao", "weights"),
}


@dataclass
class Stand:
    """One workload's place: its base, the neutral folder and everything made from it."""

    workload: Workload
    seconds: float
    seed: int = 0

    def __post_init__(self) -> None:
        self.folder = (workloads.runs() / f"{self.workload.id}-peers").resolve()
        self.shop: Workshop = workloads.workshop(self.workload)
        self.base: Made = self.shop.open(self.workload.model)

    def given(self) -> Path:
        """Return the folder that peers are given, written once."""
        return neutral.write(self.workload, self.base, self.shop, self.folder / "given")

    def plain(self) -> Model:
        """Return the base in ONNX, whose signatures and program the peers' artefacts take over."""
        return Model.open(Path(json.loads((self.given() / "plain.json").read_text())))


def work(stand: Stand, name: str, peer: Peer) -> dict[str, Any]:
    """Let a peer make its artefact; return what its `artefact.json` says: a format, or a dash and the reason."""
    out = stand.folder / name
    about = out / "artefact.json"
    given = stand.given()
    about_base = (given / neutral.META).read_text()
    asked = {"given": about_base, "seconds": stand.seconds, "script": peer.path.read_text()}
    if about.is_file() and (out / "asked.json").is_file() and json.loads((out / "asked.json").read_text()) == asked:
        return json.loads(about.read_text())
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    try:
        python = made(peer.path).python
    except NoEnvironment as reason:
        return _failed(out, f"no environment: {reason}")
    took, failure = _call([str(python), str(peer.path), str(given), str(out)], stand.seconds, peer.variant)
    if failure and not about.is_file():
        return _failed(out, failure)
    found = json.loads(about.read_text()) | {"took_s": round(took, 1)}
    write_atomically(about, json.dumps(found, indent=1))
    if not found.get("again"):
        write_atomically(out / "asked.json", json.dumps(asked))
    return found


def _failed(out: Path, reason: str) -> dict[str, Any]:
    """Keep the reason for the table; the peer is asked again next time, because this may pass."""
    found = {"dash": reason}
    write_atomically(out / FAILED, json.dumps(found))
    return found


def _call(command: list[str], seconds: float, variant: str) -> tuple[float, str]:
    """Run a peer's script in a process group of its own; return the time it took, and how it failed."""
    command = [*command, str(seconds), *([variant] if variant else [])]
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, **QUIET, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment.pop("OMP_NUM_THREADS", None)  # the tool may use every core
    log, start = Path(command[3]) / "log.txt", time.monotonic()
    with log.open("wb") as file, tempfile.TemporaryDirectory() as scratch:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=environment, cwd=scratch, start_new_session=True
        )
        try:
            status = process.wait(GRACE * seconds + GRACE_S)
        except subprocess.TimeoutExpired:
            return time.monotonic() - start, f"it gave nothing in {GRACE * seconds + GRACE_S:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    last = log.read_text(errors="replace").strip().splitlines()[-1:]
    return time.monotonic() - start, f"its script ended with status {status}: {' '.join(last)[:300]}" if status else ""


def adopt(stand: Stand, name: str, peer: Peer, about: dict[str, Any]) -> Entrant:
    """Make a peer's files a model folder: the base's program, the files as they are.

    Raises:
        TrimtabError: a file is not what it says.
    """
    out, plain = stand.folder / name, stand.plain()
    parts = {part: _part(about["format"], out / part, plain.parts[part]) for part in plain.parts}
    replace(plain, parts=parts, lineage=(name,), notes={}).save(out)
    if about["format"] != "torch":
        return Entrant(name, out)
    needs = about["needs"]
    return Entrant(name, out, made(peer.path).python, tuple(needs["imports"]), needs["variables"])


def _part(form: str, folder: Path, like: Part) -> Part:
    """Return a peer's part: as the base's, but for the bits of an ONNX graph, by which runtimes choose their settings.

    That a graph quantizes as it goes is left out, so that such a one is tried in OpenVINO too.
    """
    folder, facts = folder.resolve(), replace(like.facts, format=form)
    if form == "onnx":
        onnx_files.check_external(folder / onnx_files.MODEL)
        read = onnx_facts.facts(onnx_files.parse(folder / onnx_files.MODEL))
        facts = replace(facts, weight_bits=read.weight_bits, activation_bits=read.activation_bits)
    return replace(like, format=form, path=folder, facts=facts)


def entrants(stand: Stand) -> Iterator[tuple[Entrant | None, dict[str, Any]]]:
    """Yield ours, the base and each peer's artefact with what is known of it; None where there is no artefact."""
    result = workloads.finished(stand.workload, stand.seed)
    if result and result["bundle"]:
        about = json.loads((Path(result["bundle"]) / "bundle.json").read_text())
        folder = Path(result["bundle"]) / "model"
        yield Entrant(OURS, folder, runtime=about["runtime"]), {"name": OURS, "recipe": result["recipe"]}
    else:
        why = f"{result['verdict']}: {result['sentence']}" if result else "not trimmed yet"
        yield None, {"name": OURS, "dash": why}
    yield Entrant(BASE, stand.base.folder), {"name": BASE}
    for name in PEERS:
        files = [stand.folder / name / file for file in ("artefact.json", FAILED)]
        about = next((json.loads(path.read_text()) for path in files if path.is_file()), {"dash": "not made yet"})
        known = {"name": name, **about}
        if "format" not in known:
            yield None, known
            continue
        try:
            yield adopt(stand, name, PEERS[name], about), known
        except (TrimtabError, NoEnvironment) as error:
            yield None, {"name": name, "dash": str(error)}


def compete(stand: Stand, judging_s: float = math.inf) -> None:
    """Judge every artefact that there is, race them all, and keep what was found in the workload's folder.

    After so many seconds no further one is judged; it has a dash that says so, until the same command goes on.
    """
    deadline = time.monotonic() + judging_s
    with Bench(stand.shop, stand.base, choose_runtime(stand.base, stand.shop)) as bench:
        bench.draw(SCREENED)
        screen = bench.view
        bench.unseal()
        rows = {split: bench.base_rows(split) for split in ("validation", "test")}  # type: ignore[arg-type]
    ring = Ring(stand.shop, stand.workload.promises, rows, screen)
    found, racers = [], []
    for entrant, known in entrants(stand):
        if entrant is not None:
            _say(f"{stand.workload.id}: judging {entrant.name}")
            known |= _judged(stand, entrant, ring, time.monotonic() > deadline)
            if "runtime" in known:
                racers.append((entrant, bind_runtime(known["runtime"])))
        found.append(known)
    known_by = [[entrant.name, contest.identity(entrant, ring), str(at)] for entrant, at in racers]
    key = json.dumps([known_by, contest.BLOCKS, contest.LONGEST_S])
    _say(f"{stand.workload.id}: racing {len(racers)} artefacts")
    race = contest.kept(stand.folder / "race.json", key, lambda: contest.final(racers, ring))
    machine = stand.shop.machine.to_json()
    text = json.dumps({"workload": stand.workload.id, "machine": machine, "race": race, "entrants": found}, indent=1)
    write_atomically(stand.folder / "contest.json", text)


def _judged(stand: Stand, entrant: Entrant, ring: Ring, late: bool) -> dict[str, Any]:
    """Return the judgement, kept unless it is a dash: that may have been a passing fault."""
    settings = native_runtimes(stand.base.model, stand.shop) if entrant.name == BASE else ()
    path = stand.folder / "judged" / f"{entrant.name}.json"
    if late and not path.is_file():
        return {"dash": "not judged: the time for that was over"}
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        found = contest.kept(path, contest.identity(entrant, ring), lambda: contest.judged(entrant, ring, settings))
    except TrimtabError as error:
        return {"dash": str(error)}
    if "dash" in found:
        path.unlink()
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def environments(peers: Sequence[str]) -> bool:
    """Make the peers' environments; tell of each."""
    good = True
    for script in dict.fromkeys(PEERS[name].path for name in peers):
        try:
            print(f"{script.stem}: {made(script).folder}", flush=True)
        except NoEnvironment as reason:
            print(f"{script.stem}: – {reason}", flush=True)
            good = False
    return good


def hold(workload: Workload, peers: Sequence[str], asked: argparse.Namespace) -> bool:
    """Do one workload as far as was asked for; a failure is told, and the next one's turn comes."""
    try:
        if asked.only in ("", "artefacts") and not asked.without_ours:
            workloads.run(workload, asked.seed, asked.within)
        stand = Stand(workload, parse_duration(asked.within or workload.within), asked.seed)
        for name in peers if asked.only in ("", "artefacts") else ():
            _say(f"{workload.id}: {name} works")
            about = work(stand, name, PEERS[name])
            _say(f"{workload.id}: {name}: {about.get('dash') or about['format']}")
        if asked.only in ("", "contest"):
            compete(stand, parse_duration(asked.judging) if asked.judging else math.inf)
    except Exception as error:  # the other workloads' turn comes whatever this one's fault is
        traceback.print_exc()
        _say(f"{workload.id}: {type(error).__name__}: {error}")
        return False
    return True


def main(words: list[str] | None = None) -> int:
    """Carry out what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="workloads, or all")
    parser.add_argument("--peer", action="append", choices=PEERS, help="only this one; may be repeated")
    parser.add_argument("--within", default="", help="time for our search and for each peer, such as 5m")
    parser.add_argument("--judging", default="", help="time after which no further artefact is judged, such as 1h")
    parser.add_argument("--seed", type=int, default=0, help="which of our runs takes part")
    parser.add_argument("--only", default="", choices=("environments", "artefacts", "contest", "table"))
    parser.add_argument("--without-ours", action="store_true", help="do not search, take the run that lies there")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; no tab is written")
    asked = parser.parse_args(words)
    set_quiet_threads()
    peers = asked.peer or list(PEERS)
    wanted = workloads.chosen(asked.names, asked.quick)
    if asked.only == "environments":
        return 0 if environments(peers) else 1
    good = [hold(workload, peers, asked) for workload in (wanted if asked.only != "table" else ())]
    if not asked.quick:
        table.write(workloads.runs(), list(workloads.WORKLOADS), list(PEERS))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())

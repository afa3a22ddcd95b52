"""Judges and times artefacts on equal terms: the same meter, alternating blocks, processes of their own, one split.

Each artefact first gets its best runtime and thread count among those that serve its format; it is then certified on
the sealed test split with the workload's own promise, and in the end all artefacts race each other in one race.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kit
import numpy as np
from environments import ROOT
from numpy.typing import NDArray

from trimtab import measure
from trimtab.apply import LIBRARIES, Workshop, digest, folder_hash, versions
from trimtab.errors import SessionError, TrimtabError
from trimtab.meters import Probe
from trimtab.race import race
from trimtab.recipe import available, bind_runtime
from trimtab.run.client import Worker
from trimtab.run.score import score_rows
from trimtab.runtimes import Runtime
from trimtab.values.figure import Figure
from trimtab.values.model import Model
from trimtab.values.promise import Promise
from trimtab.values.store import folder_bytes, write_atomically
from trimtab.values.task import TaskView
from trimtab.verify import Evidence, judge, overall

CALL_S = 300.0
"""Time limit of one call to a worker; compiling counts."""
BLOCKS, LONGEST_S = 30, 240.0
"""Blocks of the race between all, and the seconds for which there may be fewer."""
START = """
import os, sys
os.environ.update({variables!r})
sys.path.insert(0, {source!r})
sys.path.append({scripts!r})
{imports}
from trimtab.run.worker import main
main()
"""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Entrant:
    """An artefact that takes part."""

    name: str
    folder: Path
    """Of a whole model: `model.json` and its parts."""
    python: Path | None = None
    """The interpreter of its own environment, where it needs that one's libraries."""
    imports: tuple[str, ...] = ()
    """Modules that must be imported before it loads."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of its process."""
    runtime: str = ""
    """The one runtime that it was made for; empty for the best of all."""

    @property
    def model(self) -> Model:
        """The model as it lies there."""
        return Model.open(self.folder.resolve())

    @property
    def size_mb(self) -> float:
        """What is shipped, in megabytes (1e6 bytes): every file of the parts."""
        folders = {part.path for part in self.model.parts.values()}
        return sum(folder_bytes(folder) for folder in folders) / 1e6


@dataclass
class Ring:
    """Where the contest takes place: task, machine, and the base that promises are held against."""

    shop: Workshop
    promises: tuple[str, ...]
    base_rows: dict[str, Floats]
    """The base's score rows on `screen` (under `validation`) and `test`."""
    screen: TaskView
    """The part of validation on which the settings of an artefact are tried; every verdict is on all of test."""
    confidence: float = 0.95
    opened: bool = False

    def view(self, split: Any) -> TaskView:
        """Return what a split is scored on; the opening of test is counted once."""
        if split != "test":
            return self.screen
        if not self.opened:
            self.shop.store.count_opening(self.shop.fingerprint("test"), "benchmarks/peers")
            self.opened = True
        return TaskView(self.shop.task, frozenset({"train", "validation", "test"}))

    def probe(self, model: Model, runtime: Runtime) -> Probe:
        """Say what the meter measures on: as the search does."""
        machine = self.shop.machine
        view, seconds = self.shop.view, measure.BLOCK_SECONDS
        return Probe(view, "validation", model, machine, seconds=seconds, threads=runtime.threads)


@contextlib.contextmanager
def serving(entrant: Entrant, runtime: Runtime, ring: Ring) -> Iterator[Worker]:
    """Load an artefact in a worker, of its own environment where it has one."""
    command: list[str] = []
    if entrant.python is not None:
        imports = "\n".join(f"import {name}" for name in entrant.imports)
        places = {"source": str(ROOT / "src"), "scripts": str(Path(__file__).resolve().parent)}
        start = START.format(imports=imports, variables=dict(entrant.variables), **places)
        command = [str(entrant.python), "-P", "-c", start, str(os.getpid())]
    with Worker(runtime.threads, CALL_S, f"{entrant.name} @ {runtime}", command) as worker:
        worker.load(entrant.folder, runtime, ring.shop.machine)
        yield worker


def choices(entrant: Entrant, ring: Ring) -> list[Runtime]:
    """Return every setting of every runtime that serves the artefact here."""
    if entrant.runtime:
        return [bind_runtime(entrant.runtime)]
    model, machine = entrant.model, ring.shop.machine
    kinds = [kind for kind in available("runtimes")[0].values() if model.format in kind.formats]  # type: ignore[attr-defined]
    found = [choice for kind in kinds for choice in kind.choices(model.facts, machine)]  # type: ignore[attr-defined]
    return [choice for choice in found if choice.refuses(model, machine) is None]


def judged(entrant: Entrant, ring: Ring, settings: Sequence[Runtime] = ()) -> dict[str, Any]:
    """Return the best runtime, the verdict on the sealed split and the size; or the reason why there is none."""
    wanted = list(settings) or choices(entrant, ring)
    if not wanted:
        return {"dash": f"no runtime here serves the format {entrant.model.format!r}"}
    ranked, tried = ranking(entrant, ring, wanted)
    if not ranked:
        return {"dash": next(iter(tried.values()))}
    runtime, rows = _sound(entrant, ring, ranked, tried)
    if rows is None:
        return {"dash": tried[str(ranked[0])]}
    judgements = _judge(ring, _rows(entrant, runtime, ring, "test"), "test")
    return {
        "runtime": str(runtime),
        "tried": tried,
        "verdict": overall(judgements),
        "judgements": [judgement.to_json() for judgement in judgements],
        "size_mb": entrant.size_mb,
        "format": entrant.model.format,
    }


def ranking(entrant: Entrant, ring: Ring, wanted: Sequence[Runtime]) -> tuple[list[Runtime], dict[str, str]]:
    """Race the settings against each other; return them fastest first, and what each gave, in words."""
    tried: dict[str, str] = {}
    meter = measure.axes().meters["latency"]
    with contextlib.ExitStack() as stack:
        racers = []
        for runtime in wanted:
            try:
                worker = stack.enter_context(serving(entrant, runtime, ring))
                worker.run(next(ring.shop.view.batches("validation", 1)).inputs)
                racers.append((runtime, worker))
            except TrimtabError as error:
                tried[str(runtime)] = f"it does not run: {kit.short(error)}"
        if not racers:
            return [], tried
        contestants = [(worker, ring.probe(entrant.model, runtime)) for runtime, worker in racers]
        figures = race(contestants, meter, measure.QUICK_BLOCKS).figures
    values = {runtime: found[0].value for (runtime, _), found in zip(racers, figures, strict=True)}
    tried |= {str(runtime): f"{value:.4g} ms" for runtime, value in values.items()}
    return sorted(values, key=lambda runtime: values[runtime]), tried


def _sound(
    entrant: Entrant, ring: Ring, ranked: Sequence[Runtime], tried: dict[str, str]
) -> tuple[Runtime, Floats | None]:
    """Return the fastest setting that does not break the promise on validation data, else the fastest that scores."""
    scored: list[tuple[Runtime, Floats]] = []
    for runtime in ranked:
        try:
            rows = _rows(entrant, runtime, ring, "validation")
        except TrimtabError as error:
            tried[str(runtime)] = f"it cannot be scored: {kit.short(error)}"
            continue
        if overall(_judge(ring, rows, "validation")) != "FAIL":
            return runtime, rows
        tried[str(runtime)] += ", breaks the promise on validation data"
        scored.append((runtime, rows))
    return scored[0] if scored else (ranked[0], None)


def _rows(entrant: Entrant, runtime: Runtime, ring: Ring, split: Any) -> Floats:
    with serving(entrant, runtime, ring) as worker:
        rows, _ = score_rows(worker, ring.view(split), split)
    if not np.isfinite(rows).all() and np.isfinite(ring.base_rows[split]).all():
        raise SessionError("its answers are not finite numbers")
    return rows


def _judge(ring: Ring, rows: Floats, split: Any) -> Any:
    evidence = Evidence(ring.shop.task, tuple(ring.view(split).split(split)), ring.base_rows[split], rows)
    return judge([Promise.parse(text) for text in ring.promises], evidence, ring.confidence)


def final(entrants: Sequence[tuple[Entrant, Runtime]], ring: Ring) -> dict[str, Any]:
    """Race all artefacts, the first against each other one; return latencies, ratios (other / first) and the load."""
    meter = measure.axes().meters["latency"]
    with contextlib.ExitStack() as stack:
        contestants = [
            (stack.enter_context(serving(entrant, runtime, ring)), ring.probe(entrant.model, runtime))
            for entrant, runtime in entrants
        ]
        found = race(contestants, meter, BLOCKS, LONGEST_S)
    names = [entrant.name for entrant, _ in entrants]
    latencies = {name: figures[0].to_json() for name, figures in zip(names, found.figures, strict=True)}
    ratios = {name: _inverse(ratio) for name, ratio in zip(names[1:], found.ratios, strict=True)}
    return {"first": names[0], "latency": latencies, "ratios": ratios, "load": dict(found.conditions)}


def _inverse(ratio: Figure) -> dict[str, Any]:
    """The race says first / other; asked is how many times slower the other is."""
    low, high = ratio.low, ratio.high
    return Figure(
        "times_slower",
        1 / ratio.value,
        "x",
        1 / high if high else None,
        1 / low if low else None,
        ratio.n,
        conditions=ratio.conditions,
    ).to_json()


def kept(path: Path, key: str, make: Any) -> dict[str, Any]:
    """Return what was found before under this key, or find it now and keep it."""
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        if found.get("key") == key:
            return found
    found = {"key": key, **make()}
    write_atomically(path, json.dumps(found, indent=1))
    return found


def identity(entrant: Entrant, ring: Ring) -> str:
    """Return what a judgement belongs to: the artefact, how it is loaded, the machine, the promises, the libraries."""
    needs = [str(entrant.python), entrant.imports, dict(entrant.variables), entrant.runtime]
    return digest(folder_hash(entrant.folder), needs, ring.shop.machine.cpu, ring.promises, versions(LIBRARIES))

"""The verb `trim`: the cheapest model found that keeps the promise, certified, packed, with the tab.

    base      open or train it, and find its best thread count
    search    predicted candidates, measured in the order of their expected gain (`trimtab.search`)
    verify    the likely ones, mild to bold, on the sealed test split, up to the first that fails (`trimtab.verify`)
    finish    time the winner afresh against the base, pack it, write result.json and report.html

Everything learned is on the tab before the next step begins, so the same command goes on where a killed run stopped.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from trimtab import machines
from trimtab.apply import Made, Workshop, digest
from trimtab.candidates import Candidate, Predictor, candidates, expect
from trimtab.errors import (
    CorruptFile,
    OutputError,
    PromiseError,
    TrimtabError,
    UsageError,
    WorkerDied,
    WorkerHung,
    WorkerMemory,
    one_line,
)
from trimtab.gain import explain
from trimtab.maths.pareto import fixed_sequence
from trimtab.measure import Bench, axes, choose_runtime
from trimtab.pack import pack
from trimtab.recipe import Bound, bind, bind_runtime, check_formats
from trimtab.request import Request
from trimtab.result import Outcome, Tested
from trimtab.runtimes import Runtime
from trimtab.search import Aim, Search, Trial
from trimtab.tasks import open_task
from trimtab.values.figure import Figure
from trimtab.values.machine import Machine
from trimtab.values.promise import Limit, Promise
from trimtab.values.store import Store, write_atomically
from trimtab.values.tab import MEND, TAB_FILE, Tab
from trimtab.values.task import SPLITS, Task
from trimtab.verify import Evidence, check_confidence, check_decidable, decidable, judge, overall
from trimtab.workers import Crew, check_workers, crew

REQUEST_FILE, RESULT_FILE, BUNDLE = "run.json", "result.json", "bundle"
RESERVE, RESERVE_S = 0.2, 20.0
"""Share of the time, and seconds (at most half of it), kept back for verification and the fresh timing."""


ENDING_CALLS = 1500
"""Calls of the base while the winner is timed afresh, and while the way to it is raced."""
PASSING = (WorkerDied, WorkerHung, WorkerMemory, MemoryError, OSError)
"""Faults of a test that may be over when the run goes on; a timeout is an OSError."""
COMPARING, LEAST_COMPARED = 0.1, 500
"""Share of the time that scoring a candidate as slow as the base may take, and how many examples it gets at least."""


class Progress:
    """What to tell while a run goes on; every method may be called often. This one stays silent."""

    def doing(self, what: str, share: float | None = None) -> None:
        """Say what is being done, and how much of it is done in [0, 1]."""

    def searched(self, search: Search, seconds_left: float) -> None:
        """Show how far the search is."""


@dataclass
class Run:
    """One trim run, from request to result."""

    request: Request
    out: Path
    task: Task
    workshop: Workshop
    tab: Tab
    progress: Progress
    objective: str
    started: float = field(default_factory=time.monotonic)
    earlier_s: float = 0.0
    """Seconds spent on this run by processes before this one."""
    crew: Crew | None = None
    ending_s: float = 0.0
    """Seconds that scoring the base on the test split, and timing it afresh, are expected to take."""
    packed: Trial | None = None
    """The trial whose bundle lies in the run folder so far."""
    seconds: dict[str, float] = field(default_factory=lambda: {"training": 0.0, "converting": 0.0, "measuring": 0.0})

    @property
    def elapsed(self) -> float:
        """Seconds spent on this run so far, earlier processes included."""
        return self.earlier_s + time.monotonic() - self.started

    @property
    def deadline(self) -> float:
        """The `time.monotonic()` at which the search ends, keeping back time to verify."""
        within = self.request.within_s
        reserve = max(RESERVE * within, min(RESERVE_S + self.ending_s, within / 2))
        return self.started + max(0.0, within - reserve - self.earlier_s)

    @contextlib.contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Count the time of a block as `training`, `converting` or `measuring`."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[kind] += time.monotonic() - start


def check_request(request: Request, task: Task | None = None) -> tuple[Task, Aim]:
    """Check what can be checked before any work: names, directions, limits, recipes, what the data can decide."""
    if not request.promises:
        raise PromiseError("trim needs a promise, as in --promise 'accuracy >= base - 0.01'")
    check_confidence(request.confidence)
    if request.workers:
        check_workers(request.workers)
        if task is not None:
            raise UsageError("workers open the task by its text, as in reviews.csv(target='y'); this one is in memory")
    known = axes()
    objective = known.figure(request.objective)
    limits = tuple(Limit.parse(text) for text in request.limits)
    limits = tuple(replace(limit, figure=known.figure(limit.figure)) for limit in limits)
    for recipe in request.tries:
        if bind(recipe).runtime is None:
            raise UsageError(f"--try {recipe!r} names no runtime; add one, as in '{recipe} @ onnxruntime(threads=1)'")
    promises = tuple(Promise.parse(text) for text in request.promises)
    task = task or open_task(request.task)
    higher = known.axes[objective].better == "higher"
    aim = Aim(promises, objective, higher, limits, request.confidence)
    check_decidable(task, aim.promises, aim.confidence)
    return task, aim


def trim(
    request: Request,
    out: Path,
    progress: Progress | None = None,
    store: Store | None = None,
    task: Task | None = None,
) -> dict[str, Any]:
    """Run, or go on with, the search for the cheapest model that keeps the promise; return the result document.

    Raises:
        UsageError: something in the request cannot be right; nothing was written.
        Busy: another process works in `out`.
        OutputError: `out` cannot be written.
    """
    task, aim = check_request(request, task)
    workshop = Workshop(task, store or Store(), machines.measurable(request.on), request.seed)
    workshop.threads, workshop.trust = _threads(request), request.trust
    check_folder(out)
    with Tab.open(out) as tab:
        remember(asdict(request) | identity(workshop, request.model), out)
        finished = out / RESULT_FILE
        if finished.is_file():
            return _read_json(finished)
        run = Run(request, out, task, workshop, tab, progress or Progress(), aim.objective)
        workshop.progress = run.progress.doing
        run.earlier_s = max((record.get("elapsed_s", 0.0) for record in tab.read().lines), default=0.0)
        with _bench(run) as bench, _crew(run, bench.base) as run.crew:
            search, order, interrupted = _search(run, aim, bench)
            outcome = _certify(run, search, order, interrupted)
        return _finish(run, outcome)


def _threads(request: Request) -> int:
    """Return the threads that a training gets: all cores here, or its share of them where workers train here too."""
    local = check_workers(request.workers) if request.workers else 1
    return max(1, machines.here().cores // max(1, local))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise CorruptFile(f"{path} is damaged ({error}); remove it, or choose another --out") from error


def check_folder(out: Path) -> None:
    """Raise UsageError where a folder holds something that is no run: a run would write over it."""
    if out.is_dir() and any(out.iterdir()) and not (out / TAB_FILE).is_file():
        raise UsageError(f"{out} holds files that are no run of trimtab; choose another --out, or an empty folder")


def identity(workshop: Workshop, model: str) -> dict[str, str]:
    """Return what a run is about besides its request: the content of model and data, and the kind of machine."""
    machine = workshop.machine
    splits = {f"content of the {name} split": workshop.fingerprint(name) for name in SPLITS}
    return {
        "content of the model": workshop.keys(model)[-1],
        **splits,
        "kind of machine": digest(*machine.kind),
    }


def remember(request: Mapping[str, Any], out: Path) -> None:
    """Write what a run is about into its folder; raises UsageError where a run about something else was begun there."""
    text = json.dumps(dict(request), indent=1)
    path = out / REQUEST_FILE
    if not path.is_file() or not (out / TAB_FILE).stat().st_size:
        write_atomically(path, text)
        return
    before, now = _read_json(path), json.loads(text)
    changed = [name for name in now if before.get(name) != now[name] and name != "within_s"]
    if changed:
        name = changed[0]
        raise UsageError(
            f"{out} holds a run with another {name} ({before.get(name)!r}, not {now[name]!r}); choose another --out"
        )


def recorded(tab: Tab, kind: str, **types: type) -> Mapping[str, Any] | None:
    """Return the last record of a kind, or None; raises CorruptFile where it is not what a run writes."""
    records = tab.read().of(kind)
    for name, wanted in types.items() if records else ():
        if not isinstance(records[-1].get(name), wanted):
            raise CorruptFile(f"{tab.path} has a {kind!r} record without {name}; {MEND}")
    return records[-1] if records else None


def asked_for(request: Request, base: Made, machine: Machine) -> list[Candidate]:
    """Return the recipes that the user wants tried; raises RecipeError where one does not fit the base."""
    bound = [bind(recipe) for recipe in request.tries]
    for each in bound:
        check_formats(each, base.model.format)
    return [expect(each, base.model.facts, machine) for each in bound]


def _bench(run: Run) -> Bench:
    """Make the base and the bench that measures against it."""
    base = _base(run)
    asked_for(run.request, base, run.workshop.machine)
    bench = Bench(run.workshop, base, _base_runtime(run, base), run.request.confidence, run.request.memory_limit_mb)
    bench.call_seconds = min(bench.call_seconds, max(30.0, run.request.within_s / 4))
    return bench


def _crew(run: Run, base: Made) -> contextlib.AbstractContextManager[Crew | None]:
    """Start the workers that the request names, if it names any."""
    request = run.request
    if not request.workers:
        return contextlib.nullcontext()
    run.progress.doing(f"starting workers: {request.workers}")
    return crew(request.workers, run.workshop, request.model, request.task, base)


def _search(run: Run, aim: Aim, bench: Bench) -> tuple[Search, list[Trial], bool]:
    """Search until the time is over, nothing is left to gain, or Ctrl-C; return the walk to be verified."""
    base = bench.base
    search = Search(run.workshop, bench, base, aim, Predictor(run.workshop.machine, base.model.facts), run.tab)
    search.clock, search.crew = lambda: run.elapsed, run.crew
    _measure_base(run, search)
    machine = run.workshop.machine
    search.waiting = list(candidates(base.model.facts, machine, run.request.train))
    search.first = asked_for(run.request, base, machine)
    walk = recorded(run.tab, "walk", order=list, interrupted=bool)
    search.resume(walk["order"] if walk else None)
    if walk:
        by_name = {trial.candidate.name: trial for trial in search.trials}
        unknown = [name for name in walk["order"] if name not in by_name]
        if unknown:
            raise CorruptFile(
                f"{run.tab.path} froze the candidate {unknown[0]}, which is not on it; choose another --out"
            )
        return search, [by_name[name] for name in walk["order"]], walk["interrupted"]
    interrupted = _try_candidates(run, search)
    _pack_best_so_far(run, search)
    if not search.trials and not interrupted and search.next(float("inf")):
        raise UsageError(
            f"{run.request.within_s:g} s are too short for one candidate: the base alone took {run.elapsed:.0f} s; "
            "give at least twice that with --within, and the same command goes on from here"
        )
    order = search.walk_order()
    run.tab.append("walk", order=[trial.candidate.name for trial in order], interrupted=interrupted)
    return search, order, interrupted


def _base(run: Run) -> Made:
    run.workshop.deadline = run.started + max(1.0, run.request.within_s - run.earlier_s)
    try:
        with run.timed("training"):
            base = run.workshop.open(run.request.model)
        return replace(base, seconds=0.0, trained_seconds=0.0)
    except TimeoutError as error:
        raise UsageError(
            f"{run.request.within_s:g} s are too short: the base was not ready ({one_line(error)}); "
            "give more with --within, and the same command goes on from its checkpoint"
        ) from error


def _base_runtime(run: Run, base: Made) -> Runtime:
    """Return the base's runtime, as the tab has it if this run goes on."""
    known = recorded(run.tab, "base", runtime=str)
    if known:
        return bind_runtime(known["runtime"])
    run.progress.doing("finding the base's best thread count")
    with run.timed("measuring"):
        return choose_runtime(base, run.workshop, run.objective)


def enough(within_s: float, latency_ms: float) -> int:
    """Return how many validation examples tell candidates apart: of a slow model only as many as leave time to try.

    >>> enough(300, 0.2), enough(300, 100)
    (150000, 500)
    """
    return max(LEAST_COMPARED, round(COMPARING * within_s / latency_ms * 1e3))


def _measure_base(run: Run, search: Search) -> None:
    """Read what the search needs of the base once; it is on the tab when the run goes on."""
    bench = search.bench
    known = recorded(run.tab, "base", figures=dict)
    if known:
        if isinstance(known.get("compared_on"), int):
            bench.draw(known["compared_on"])
        search.pace = float(known.get("pace", 1.0))
        bench.base_figures = {name: Figure.from_json(figure) for name, figure in known["figures"].items()}
    else:
        run.progress.doing("measuring the base")
        with run.timed("measuring"):
            bench.base_figures = bench.base_costs(search.wanted)
            whole = any(promise.slice for promise in search.aim.promises)  # a part may lack the rare ones
            most = enough(run.request.within_s, bench.base_figures["latency_ms"].value)
            bench.draw(bench.view.size("validation") if whole else most)
            bench.base_figures |= bench.quality(bench.base_rows("validation"), "validation")
        figures = {name: figure.to_json() for name, figure in bench.base_figures.items()}
        about = {"recipe": run.request.model, "runtime": str(bench.runtime), "facts": search.base.model.facts.to_json()}
        size = bench.view.size("validation")
        if run.request.train:
            run.progress.doing("timing steps of training")
            with run.timed("training"):
                search.pace = run.workshop.pace(search.base.model)
        run.tab.append("base", **about, figures=figures, compared_on=size, pace=search.pace, elapsed_s=run.elapsed)
        doubt = bench.doubt()
        if doubt:
            run.progress.doing(doubt)
            run.tab.append("warning", sentence=doubt)
    for name in (search.aim.objective, *(limit.figure for limit in search.aim.limits)):
        if name not in bench.base_figures or bench.base_figures[name].value <= 0:
            raise UsageError(f"{name} cannot be read of the base here: the machine's facts lack its price or its power")
    search.predictor.base_latency_ms = bench.base_figures["latency_ms"].value
    run.ending_s = (bench.test_size + ENDING_CALLS) * bench.base_figures["latency_ms"].value / 1e3
    search.predictor.learn(Candidate(Bound((), bench.runtime), search.base.model.facts), bench.base_figures, None)


def _try_candidates(run: Run, search: Search) -> bool:
    """Search; each new best is packed at once, unverified. Return whether Ctrl-C ended it."""

    def tell(search: Search, doing: str) -> None:
        run.progress.doing(doing)
        run.progress.searched(search, run.deadline - time.monotonic())
        _pack_best_so_far(run, search)

    search.tell = tell
    try:
        search.run(run.deadline)
    except KeyboardInterrupt:
        run.progress.doing("interrupted: verifying and packing the best so far")
        return True
    return False


def _pack_best_so_far(run: Run, search: Search) -> None:
    likely = [trial for trial in search.eligible() if trial.chance > 0.5 and search.cost(trial) < search.base_cost]
    if not likely:
        return
    best = min(likely, key=search.price)
    if best is not run.packed:
        about = {
            "verdict": "NOT VERIFIED",
            "sentence": "The best so far of an unfinished search; nothing is proved yet.",
        }
        _pack(run, best, about)
        run.packed = best


def _pack(run: Run, trial: Trial, about: Mapping[str, Any]) -> None:
    runtime = trial.candidate.bound.runtime
    if trial.made is None or runtime is None:
        raise CorruptFile(f"{trial.candidate.name} has no model to pack")
    claim = {
        "recipe": trial.candidate.name,
        "model": run.request.model,
        "task": run.request.task,
        "promise": list(run.request.promises),
        "confidence": run.request.confidence,
        "figures": {name: figure.to_json() for name, figure in trial.figures.items()},
        "machine": run.workshop.machine.to_json(),
        "seed": run.request.seed,
        "command": run.request.command(str(run.out)),
    }
    pack(trial.made, runtime, run.out / BUNDLE, claim | dict(about))


def _certify(run: Run, search: Search, order: list[Trial], interrupted: bool) -> Outcome:
    """Verify the walk on the sealed split; time the boldest that passes afresh, or the next where it shows no gain."""
    tested = _verify(run, search, order)
    kept = fixed_sequence(overall(found.judgements) == "PASS" for found in tested)
    outcome = Outcome(run.request, search, tested, None, interrupted)
    for found in reversed(tested[: 0 if kept is None else kept + 1]):
        outcome = replace(outcome, timed=_time_afresh(run, search, found))
        if outcome.winner is not None:
            run.progress.doing("finding where the gain comes from")
            with run.timed("measuring"):
                return _explained(outcome, found)
    run.progress.doing("reading every figure of the base")
    with run.timed("measuring"):
        search.bench.base_figures = search.bench.base_costs() | search.bench.base_figures
    return outcome


def _explained(outcome: Outcome, winner: Tested) -> Outcome:
    """Add where the gain comes from, or why that is not known: it costs no certificate."""
    try:
        return replace(outcome, gain=explain(outcome.search.bench, winner.trial.candidate.bound))
    except Exception as error:
        return replace(outcome, unexplained=f"{type(error).__name__}: {one_line(error)}")


def _finish(run: Run, outcome: Outcome) -> dict[str, Any]:
    """Pack the winner and write the result."""
    for kind in ("trained", "converted", "measured"):  # by earlier processes too
        run.seconds[kind.replace("ed", "ing")] += sum(getattr(one, f"{kind}_seconds") for one in outcome.search.trials)
    text = json.dumps(outcome.document(run.out, run.elapsed, run.seconds), indent=1, allow_nan=False)
    result: dict[str, Any] = json.loads(text)
    if outcome.winner is not None:
        final = replace(outcome.winner.trial, figures=outcome.winner.figures)
        keys = ("verdict", "sentence", "promises", "conditions", "ratios")
        _pack(run, final, {key: result[key] for key in keys})
    else:
        shutil.rmtree(run.out / BUNDLE, ignore_errors=True)  # the best so far of the search: its test refuted it
    write_atomically(run.out / RESULT_FILE, text)
    run.tab.append("result", verdict=result["verdict"], recipe=result["recipe"])
    return result


def _verify(run: Run, search: Search, order: list[Trial]) -> list[Tested]:
    """Test the walk in its frozen order up to the first that does not pass."""
    tested: list[Tested] = []
    if not order:
        return tested
    search.bench.unseal()
    split = run.workshop.fingerprint("test")
    known = recorded(run.tab, "opening", count=int)
    openings = known["count"] if known else run.workshop.store.count_opening(split, str(run.out))
    if not known:
        run.tab.append("opening", split=split, count=openings)
    for trial in order:
        run.progress.doing(f"verifying on the sealed test split: {trial.candidate.name}")
        with run.timed("measuring"):
            found = _tested(run, search, trial)
        tested.append(replace(found, openings=openings))
        said = [judgement.to_json() for judgement in found.judgements]
        run.tab.append("test", recipe=trial.candidate.name, judgements=said, reason=found.reason)
        if overall(found.judgements) != "PASS":
            break
    return tested


def _tested(run: Run, search: Search, trial: Trial) -> Tested:
    """Test a trial; one that cannot be tested proves nothing, and says why.

    A fault that may pass ends the run the first time; when the run goes on, the trial is tested once more.
    """
    try:
        return _test(search, trial)
    except OutputError:
        raise
    except PASSING as error:
        reason, recipe = one_line(error), trial.candidate.name
        if not any(fault.get("recipe") == recipe for fault in run.tab.read().of("fault")):
            run.tab.append("fault", recipe=recipe, reason=reason)
            raise
    except TrimtabError as error:
        reason = one_line(error)
    except Exception as error:  # a library's own error in one candidate must not end the run
        reason = f"{type(error).__name__}: {one_line(error)}"
    return Tested(trial, (), Evidence(search.workshop.task, (), np.zeros((0, 0)), np.zeros((0, 0))), reason=reason)


def _test(search: Search, trial: Trial) -> Tested:
    runtime = trial.candidate.bound.runtime
    if trial.made is None or runtime is None:
        raise CorruptFile(f"{trial.candidate.name} has no model to verify")
    rows, _ = search.bench.rows(trial.made, None, runtime, "test")
    evidence = search.bench.evidence(rows, "test")
    judgements = judge(search.aim.promises, evidence, search.aim.confidence)
    return Tested(trial, tuple(judgements), evidence)


def _time_afresh(run: Run, search: Search, winner: Tested) -> Tested:
    """Read every figure of the winner against the base again: the best of many timings flatters."""
    run.progress.doing(f"timing the winner afresh: {winner.trial.candidate.name}")
    runtime, made, bench = winner.trial.candidate.bound.runtime, winner.trial.made, search.bench
    if made is None or runtime is None:
        raise CorruptFile(f"{winner.trial.candidate.name} has no model to time")
    rows = winner.evidence.trimmed
    with run.timed("measuring"), bench.worker(made, runtime) as worker:
        costs = bench.against_base(made, runtime, worker)
    quality, base_quality = bench.quality(rows, "test"), bench.quality(winner.evidence.base, "test")
    return replace(
        winner,
        figures={**quality, **costs.figures},
        base_figures={**base_quality, **costs.base},
        ratios=costs.ratios,
        load=costs.load,
    )


def dry_run(request: Request, progress: Progress | None = None, store: Store | None = None) -> dict[str, Any]:
    """Return what a run would try, with predictions, and whether the promise can be decided; only the base is made."""
    task, aim = check_request(request)
    workshop = Workshop(task, store or Store(), machines.load(request.on), request.seed)
    workshop.threads, workshop.trust = machines.here().cores, request.trust
    workshop.progress = (progress or Progress()).doing
    base = workshop.open(request.model)
    predictor = Predictor(workshop.machine, base.model.facts)
    facts, machine = base.model.facts, workshop.machine
    wanted = asked_for(request, base, machine)
    lines: list[dict[str, Any]] = []
    for candidate in (*wanted, *candidates(facts, machine, request.train)):
        predicted = {name: figure.to_json() for name, figure in predictor.figures(candidate).items()}
        lines.append({"recipe": candidate.name, "predicted": predicted})
    lines.sort(key=lambda line: line["predicted"]["latency_ms"]["value"])
    return {
        "model": request.model,
        "task": request.task,
        "decidable": decidable(task, aim.promises, aim.confidence),
        "candidates": lines,
    }

"""The verb `measure`: every figure of a model on a task and a machine, each read in a worker process of its own.

A `Bench` holds the base in one worker, asleep while another works, and reads noisy figures in alternating blocks
against it, so that a slow minute of the machine slows both. Score rows are artefacts of the store: what was scored
once is not scored again, and pairs can be tested later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.apply import Made, Workshop, digest, versions
from trimtab.errors import RecipeError, Refused, UnknownName
from trimtab.maths.intervals import clopper_pearson, mean_interval
from trimtab.maths.metrics import regression_metrics, regression_rows
from trimtab.maths.roofline import under_the_roof
from trimtab.meters import Meter, Probe
from trimtab.race import Race, race
from trimtab.recipe import available, bind, check_formats
from trimtab.run.client import Worker, open_worker
from trimtab.run.score import score_rows
from trimtab.runtimes import Runtime
from trimtab.values.figure import Axis, Figure
from trimtab.values.model import Model
from trimtab.values.task import SPLITS, Metric, Split, TaskView
from trimtab.verify import Evidence

Floats = NDArray[np.float64]
Stop = Callable[[Floats], str]
BLOCK_SECONDS = 0.12
"""Time of one block of a noisy figure."""
QUICK_BLOCKS, FINAL_BLOCKS = 5, 10
"""Blocks for a candidate of the search, and for the winner, timed afresh."""


@dataclass(frozen=True)
class Axes:
    """Every cost figure that some meter gives."""

    meters: Mapping[str, Meter]
    axes: Mapping[str, Axis]
    owners: Mapping[str, str]
    """Figure name -> meter name."""

    def figure(self, name: str) -> str:
        """Return the figure that a meter's or a figure's name means; raises UnknownName."""
        if name in self.axes:
            return name
        if name in self.meters and self.meters[name].figures:
            return next(iter(self.meters[name].figures))
        raise UnknownName("figure", name, {*self.axes, *(n for n, meter in self.meters.items() if meter.figures)})


@cache
def axes() -> Axes:
    """Read the meters' registry."""
    kinds, _ = available("meters")
    meters: dict[str, Meter] = {name: kind() for name, kind in kinds.items()}
    owners = {figure: name for name, meter in meters.items() for figure in meter.figures}
    found = {figure: meters[name].figures[figure] for figure, name in owners.items()}
    return Axes(meters, found, owners)


def native_runtimes(model: Model, workshop: Workshop) -> list[Runtime]:
    """Return the settings of the runtime in which a model of this format comes; raises Refused where there is none."""
    kinds, reasons = available("runtimes")
    native = [kind for kind in kinds.values() if model.format in kind.native]  # type: ignore[attr-defined]
    if not native:
        hint = f" ({'; '.join(reasons.values())})" if reasons else ""
        raise Refused(f"no runtime here serves the format {model.format!r}{hint}")
    choices: list[Runtime] = [
        choice
        for kind in native
        for choice in kind.choices(model.facts, workshop.machine)  # type: ignore[attr-defined]
    ]
    return choices


def cheap_first() -> list[Meter]:
    """Return the meters of costs, those that read once before those that load the worker with large batches."""
    return sorted((meter for meter in axes().meters.values() if meter.figures), key=lambda meter: meter.repeats)


def by_name(figures: Iterable[Figure]) -> dict[str, Figure]:
    """Return the figures by their names."""
    return {figure.name: figure for figure in figures}


def gains(
    meter: Meter, base: Iterable[Figure], ours: Iterable[Figure], raced: Mapping[str, Figure]
) -> dict[str, Figure]:
    """Return how many times cheaper ours is for each figure; those raced have an interval, from paired blocks."""
    found = {}
    for before, after in zip(base, ours, strict=True):
        higher = meter.figures[before.name].better == "higher"
        top, bottom = (after.value, before.value) if higher else (before.value, after.value)
        if bottom > 0:
            found[before.name] = Figure(before.name, top / bottom, "x", origin=after.origin)
    for name in found.keys() & raced.keys():
        ratio = raced[name]
        numbers = (ratio.value, ratio.low, ratio.high)
        if meter.figures[name].better == "higher":
            numbers = (1 / ratio.value, ratio.high and 1 / ratio.high, ratio.low and 1 / ratio.low)
        found[name] = Figure(name, numbers[0], "x", numbers[1], numbers[2], ratio.n, found[name].origin)
    return found


@dataclass(frozen=True)
class Costs:
    """Every cost of a model beside the base's."""

    figures: Mapping[str, Figure]
    base: Mapping[str, Figure]
    ratios: Mapping[str, Figure]
    """Base over model: how many times cheaper; for throughput the other way round."""
    load: Mapping[str, float]


def best_runtime(made: Made, choices: Sequence[Runtime], workshop: Workshop, objective: str) -> Runtime:
    """Race the settings of the base's own runtime for what is to be made cheap, and return the best of them.

    For a figure that is read once, such as the size, it is the fastest at batch 1.
    """
    if len(choices) == 1:
        return choices[0]
    bench = Bench(workshop, made, choices[0])
    owner = axes().meters[axes().owners[objective]]
    meter = owner if owner.repeats else axes().meters[axes().owners["latency_ms"]]
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(bench.worker(made, choice)) for choice in choices]
        probes = [bench.probe(made, choice) for choice in choices]
        found = race(list(zip(workers, probes, strict=True)), meter, QUICK_BLOCKS)
    if not all(found.figures):
        return choices[0]
    best = max if meter.figures[found.figures[0][0].name].better == "higher" else min
    values = [figures[0].value for figures in found.figures]
    return choices[values.index(best(values))]


ROWS = "rows.npy"


@dataclass
class Bench:
    """Measures models on one task and machine, against one base."""

    workshop: Workshop
    base: Made
    runtime: Runtime
    """The base's."""
    confidence: float = 0.95
    memory_limit_mb: float = 0.0
    call_seconds: float = 120.0
    """Time limit of one call to a worker."""
    view: TaskView = field(init=False)
    base_figures: dict[str, Figure] = field(default_factory=dict)
    _example_s: float = 0.0
    _base_worker: Worker | None = None
    _base_rows: dict[Split, Floats] = field(default_factory=dict)
    """Of the examples that `view` has."""
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __post_init__(self) -> None:
        self.view = self.workshop.view

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self._base_worker = None

    @property
    def test_size(self) -> int:
        """How many examples the sealed split has."""
        return len(self.workshop.task.split("test"))

    def unseal(self) -> None:
        """Let this bench score the test split; whoever calls this counts the opening."""
        self.view = replace(self.view, allowed=frozenset(SPLITS))

    def draw(self, most: int) -> None:
        """Compare models on at most so many validation examples, shuffled with the seed of the run.

        What stops early must not read them in an order that the data may have, such as by class.
        """
        size = len(self.workshop.task.split("validation"))
        places = np.random.default_rng(self.workshop.seed).permutation(size)[:most]
        self.view = replace(self.view, drawn={"validation": tuple(places.tolist())})
        self._base_rows.pop("validation", None)

    def worker(self, made: Made, runtime: Runtime) -> contextlib.AbstractContextManager[Worker]:
        """Load a model in a worker of its own; raises Refused where the runtime cannot take it."""
        if made.model.format not in runtime.formats:
            raise RecipeError(
                f"{runtime.name()} serves {', '.join(sorted(runtime.formats))}, not {made.model.format!r}"
            )
        reason = runtime.refuses(made.model, self.workshop.machine)
        if reason:
            raise Refused(f"{runtime.name()}: {reason}")
        return open_worker(made.folder, runtime, self.workshop.machine, self.memory_limit_mb, self.call_seconds)

    @property
    def lost_base(self) -> bool:
        """Whether the base's worker was started and is gone: a failure that is not the candidate's."""
        return self._base_worker is not None and not self._base_worker.alive

    @property
    def base_worker(self) -> Worker:
        """The base's worker, started when first asked for, and again when it was lost."""
        if self._base_worker is None or not self._base_worker.alive:
            self._base_worker = self._stack.enter_context(self.worker(self.base, self.runtime))
        return self._base_worker

    def rows(
        self, made: Made, worker: Worker | None, runtime: Runtime, split: Split, stop: Stop | None = None
    ) -> tuple[Floats, str]:
        """Return the score rows of a split, and the sentence of `stop` where it ended the scoring early.

        Complete rows are kept in the store under the model, the runtime, its libraries and the examples scored. On
        validation settings that change the pace alone share theirs; on the sealed split the very setting is asked.
        """
        shop, places = self.workshop, self.view.drawn.get(split)
        libraries = versions(("trimtab", *runtime.libraries))
        machine = (shop.machine.cpu, shop.machine.isa)  # int8 answers differ between kinds of processor
        asked = runtime.answering if split == "validation" else runtime
        about = ("rows", made.key, str(asked), libraries, machine, shop.fingerprint(split), shop.asked)
        whole = digest(*about)
        key = whole if places is None else digest(*about, places)
        if found := shop.store.get(key):
            return _load(found), ""
        if places is not None and (found := shop.store.get(whole)):
            return _load(found)[list(places)], ""
        with contextlib.ExitStack() as stack:
            session = worker or self._own(made, runtime) or stack.enter_context(self.worker(made, runtime))
            rows, reason = score_rows(session, self.view, split, stop)
        if not reason:
            shop.store.make(key, lambda folder: np.save(folder / ROWS, rows))
        return rows, reason

    def _own(self, made: Made, runtime: Runtime) -> Worker | None:
        """The base's worker, if it is the base that is asked for."""
        return self.base_worker if (made.key, runtime) == (self.base.key, self.runtime) else None

    def base_rows(self, split: Split) -> Floats:
        """Return the base's score rows, read once: a candidate is held against them after every batch."""
        if split not in self._base_rows:
            self._base_rows[split] = self.rows(self.base, None, self.runtime, split)[0]
        return self._base_rows[split]

    def evidence(self, rows: Floats, split: Split) -> Evidence:
        """Put rows beside the base's."""
        return Evidence(self.workshop.task, tuple(self.view.split(split)), self.base_rows(split), rows)

    def quality(self, rows: Floats, split: Split) -> dict[str, Figure]:
        """Return every metric of the task that is a number as a figure, with an interval where one is exact."""
        base = self.base_rows(split)
        conditions = {"split": split, "confidence": self.confidence}
        figures = by_name(
            quality_figure(metric, np.hstack([rows, base]) if metric.paired else rows, conditions)
            for metric in self.workshop.task.metrics
        )
        return {name: figure for name, figure in figures.items() if np.isfinite(figure.value)}

    def base_costs(self, wanted: Collection[str] | None = None) -> dict[str, Figure]:
        """Return costs of the base: all, or the wanted and those cheap to read."""
        figures: dict[str, Figure] = {}
        worker = self.base_worker
        for meter in cheap_first():
            if not _due(meter, wanted):
                continue
            if meter.repeats:
                found = race([(worker, self.probe(self.base, self.runtime))], meter, QUICK_BLOCKS).figures[0]
            else:
                found = self._read(meter, self.base, self.runtime, worker)
            figures |= self._seen(found)
        worker.pause()
        return figures

    def _seen(self, found: Iterable[Figure]) -> dict[str, Figure]:
        """Return figures of the base by name, and note its latency, which says how much others can be asked for."""
        named = by_name(found)
        if "latency_ms" in named:
            self._example_s = named["latency_ms"].value / 1e3
        return named

    def failing(self) -> str:
        """Say where the base fails its own task: it cannot be told from one that always gives the same answer."""
        classes = self.workshop.task.objective == "cross_entropy"
        said = self._one_class() if classes else self._one_number()
        return said and f"the base does not do its own task: {said}; what keeps a promise to it is worth as little."

    def doubt(self) -> str:
        """Say where the base fails its own task, and what may mend that."""
        said = self.failing()
        what = "the order of the classes" if self.workshop.task.labels else "the unit of the targets"
        remedy = (
            f"Train it first (MODEL | train(epochs=5)), or see whether inputs and {what} are what it was trained on"
        )
        return said and f"{said} {remedy}"

    def _one_class(self) -> str:
        """Say where the base's accuracy may be that of the most frequent class."""
        task, found = self.workshop.task, self.base_figures.get("accuracy")
        if found is None:
            return ""
        targets = [int(example.target) for example in self.view.split("validation")]
        often = max(set(targets), key=targets.count)
        share = targets.count(often) / len(targets)
        if (found.value if found.low is None else found.low) > share:
            return ""
        name = task.labels[often] if often < len(task.labels) else str(often)
        right = f"{found.value:.1%} of its answers are right"
        return f"{right}, which cannot be told from always answering {name!r} ({share:.1%})"

    def _one_number(self) -> str:
        """Say where every error of a regression may be that of the mean of the targets."""
        offered, read = self.workshop.task.metrics, self.base_figures
        known = [metric for metric in regression_metrics() if metric in offered and metric.name in read]
        if not known:
            return ""
        targets = np.array([example.target for example in self.view.split("validation")], dtype=np.float64)
        rows = regression_rows(np.broadcast_to(targets.mean(axis=0), targets.shape), targets)
        plain = {metric.name: float(metric.reduce(rows, np.ones((1, len(rows))))[0]) for metric in known}
        for name, error in plain.items():
            high = read[name].high
            if (read[name].value if high is None else high) < error:
                return ""
        name = known[0].name
        off = f"its {name} is {read[name].value:.4g}"
        return f"{off}, which cannot be told from always answering the mean of the targets ({plain[name]:.4g})"

    def costs(self, made: Made, runtime: Runtime, worker: Worker, wanted: Collection[str]) -> dict[str, Figure]:
        """Return the costs that are wanted, noisy ones raced briefly against the base, and those cheap to read."""
        figures: dict[str, Figure] = {}
        for meter in cheap_first():
            if not _due(meter, wanted):
                continue
            if not meter.repeats:
                figures |= by_name(self._read(meter, made, runtime, worker))
            else:
                figures |= by_name(self._race(meter, made, runtime, worker, QUICK_BLOCKS).figures[1])
        self.base_worker.pause()
        return figures

    def against_base(self, made: Made, runtime: Runtime, worker: Worker) -> Costs:
        """Return every cost figure of a model and of the base, in alternating blocks, and how many times cheaper."""
        ours: dict[str, Figure] = {}
        base: dict[str, Figure] = {}
        ratios: dict[str, Figure] = {}
        load: dict[str, float] = {}
        for meter in cheap_first():
            raced: Mapping[str, Figure] = {}
            if meter.repeats:
                found = self._race(meter, made, runtime, worker, FINAL_BLOCKS)
                (theirs, mine), raced, load = found.figures, found.every_ratio[0], dict(found.conditions)
            else:
                theirs = self._read(meter, self.base, self.runtime, self.base_worker)
                mine = self._read(meter, made, runtime, worker)
            base |= self._seen(theirs)
            ours |= by_name(mine)
            if raced or not meter.repeats:  # a race without a ratio did not read both throughout
                ratios |= gains(meter, theirs, mine, raced)
        self.base_worker.pause()
        return Costs(ours, base, ratios, load)

    def _read(self, meter: Meter, made: Made, runtime: Runtime, worker: Worker) -> tuple[Figure, ...]:
        """Read a meter once, in a worker of its own if what this one did before would show."""
        if not meter.fresh:
            return meter.read(worker, self.probe(made, runtime)).figures
        with self.worker(made, runtime) as own:
            return meter.read(own, self.probe(made, runtime)).figures

    def _race(self, meter: Meter, made: Made, runtime: Runtime, worker: Worker, blocks: int) -> Race:
        base = (self.base_worker, self.probe(self.base, self.runtime))
        return race([base, (worker, self.probe(made, runtime))], meter, blocks)

    def probe(self, made: Made, runtime: Runtime) -> Probe:
        """Say what a meter is to measure on."""
        latency = self.base_figures.get("latency_ms")
        return Probe(
            self.view,
            "validation",
            made.model,
            self.workshop.machine,
            seconds=BLOCK_SECONDS,
            confidence=self.confidence,
            threads=runtime.threads,
            example_s=latency.value / 1e3 if latency else self._example_s,
        )


def _load(folder: Path) -> Floats:
    return np.asarray(np.load(folder / ROWS, allow_pickle=False), dtype=np.float64)


def _due(meter: Meter, wanted: Collection[str] | None) -> bool:
    """Tell whether a meter is to be read: it is cheap to read, or one of its figures is wanted; None: all are."""
    dear = meter.repeats or meter.fresh
    return not dear or wanted is None or bool(set(wanted) & set(meter.figures))


def quality_figure(metric: Metric, rows: Floats, conditions: Mapping[str, Any]) -> Figure:
    """Return a metric of score rows as a figure: exact interval for shares, Student's for means, none for sets."""
    value = float(metric.reduce(rows, np.ones((1, len(rows))))[0])
    values, low, high = metric.values(rows), None, None
    if values is not None and metric.binary:
        low, high = clopper_pearson(int(values.sum()), len(values), conditions["confidence"])
    elif values is not None and np.isfinite(values).all() and len(values) > 1:
        _, low, high = mean_interval(values, conditions["confidence"])
    return Figure(metric.name, value, metric.unit, low, high, len(rows), conditions=conditions)


def choose_runtime(made: Made, workshop: Workshop, objective: str = "latency_ms") -> Runtime:
    """Return the runtime that the model's text names, or the best setting of its format's own."""
    return made.runtime or best_runtime(made, native_runtimes(made.model, workshop), workshop, objective)


def measure(model: str, recipe: str, workshop: Workshop) -> dict[str, Any]:
    """Apply a recipe and read every figure of the result beside the base's, on validation data.

    The runtime is the recipe's; without one, the fastest setting of the result's own format.
    """
    bound = bind(recipe)
    base = workshop.open(model)
    check_formats(bound, base.model.format)
    made = workshop.apply(base, bound.passes, base)
    runtime = bound.runtime or choose_runtime(made, workshop)
    with Bench(workshop, base, choose_runtime(base, workshop)) as bench, bench.worker(made, runtime) as worker:
        rows, _ = bench.rows(made, worker, runtime, "validation")
        costs = bench.against_base(made, runtime, worker)
        ours = {**bench.quality(rows, "validation"), **costs.figures}
        theirs = {**bench.quality(bench.base_rows("validation"), "validation"), **costs.base}
    points = {
        "base": (base.model.facts, theirs["latency_ms"].value),
        "chosen": (made.model.facts, ours["latency_ms"].value),
    }
    return {
        "recipe": f"{bound.recipe}" if bound.runtime else f"{bound.recipe} @ {runtime}".strip(),
        "model": model,
        "base_runtime": str(bench.runtime),
        "figures": {name: figure.to_json() for name, figure in ours.items()},
        "base": {name: figure.to_json() for name, figure in theirs.items()},
        "ratios": {name: figure.to_json() for name, figure in costs.ratios.items()},
        "roofline": under_the_roof(workshop.machine, points),
        "notes": dict(made.model.notes),
        "load": dict(costs.load),
    }

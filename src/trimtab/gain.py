"""Where a gain comes from: the way from the base to a winner, one change at a time.

    base -> its runtime -> its threads -> its precision -> its structure

Each rung is the one before with one more of the winner's choices, and all of them are raced in alternating blocks, so
that the factors multiply to the whole gain. The order is fixed; another order would share a gain out otherwise where
changes help each other (int8 in torch gives nothing, in onnxruntime much), so the table shows every rung as measured.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from trimtab.apply import Made
from trimtab.errors import Refused, TrimtabError
from trimtab.measure import QUICK_BLOCKS, Bench, axes
from trimtab.passes import Pass
from trimtab.race import race
from trimtab.recipe import Bound
from trimtab.runtimes import Runtime
from trimtab.values.figure import Figure

LATENCY = "latency_ms"
MAKING_S = 60.0
"""Time for the stops that the search has not made: exports and quantized forms of the base."""


@dataclass(frozen=True)
class Rung:
    """One stop on the way: what was changed last, and the recipe there."""

    changed: tuple[str, ...]
    bound: Bound


def ladder(start: Runtime, end: Bound) -> list[Rung]:
    """Return the stops from the base in `start` to a winner; a change that changes nothing has no stop.

    `end` must name a runtime, as every candidate does.
    """
    if end.runtime is None:
        raise Refused(f"{end} names no runtime, so there is no way to it")
    export = tuple(step for step in end.passes if _converts(step))
    precise = tuple(step for step in end.passes if _converts(step) or step.stage == "precision")
    exact: dict[str, Any] = {
        setting.name: setting.default for setting in fields(end.runtime) if setting.name not in end.runtime.paces
    }
    plain = replace(end.runtime, **exact)
    stops: list[tuple[str, tuple[Pass, ...], Runtime]] = [
        ("base", (), start),
        ("runtime", export, replace(plain, threads=start.threads)),
        ("threads", export, plain),
        ("precision", precise, end.runtime),
        ("structure", end.passes, end.runtime),
    ]
    rungs: list[Rung] = []
    for name, passes, runtime in stops:
        bound = Bound(passes, runtime)
        if not rungs or str(bound) != str(rungs[-1].bound):
            rungs.append(Rung((name,), bound))
    return rungs


def _converts(step: Pass) -> bool:
    """Tell whether a pass only brings the same program to another runtime: an export that keeps the format does not."""
    kept = any(before == after for before, after in step.formats.items())
    return step.stage == "graph" or (step.stage == "export" and not kept)


def explain(bench: Bench, winner: Bound) -> list[dict[str, Any]]:
    """Race the stops from the base to the winner; return their latency, gain so far, and the factor of each change.

    A stop that cannot be made or served is left out, and what it would have shown is counted with the next.
    """
    meter = axes().meters[axes().owners[LATENCY]]
    bench.workshop.deadline = time.monotonic() + MAKING_S
    with contextlib.ExitStack() as stack:
        stops = list(_reachable(bench, ladder(bench.runtime, winner), stack))
        found = race([(worker, bench.probe(made, runtime)) for _, made, runtime, worker in stops], meter, QUICK_BLOCKS)
    bench.base_worker.pause()
    lines: list[dict[str, Any]] = []
    before = 1.0
    gains = (Figure("", 1.0, "x"), *found.ratios)
    for (rung, _, _, _), figures, gain in zip(stops, found.figures, gains, strict=True):
        lines.append(
            {
                "changed": " and ".join(rung.changed),
                "recipe": str(rung.bound),
                LATENCY: figures[0].to_json(),
                "gain": {"value": gain.value, "low": gain.low, "high": gain.high},
                "factor": gain.value / before,
            }
        )
        before = gain.value
    return lines


def _reachable(
    bench: Bench, rungs: list[Rung], stack: contextlib.ExitStack
) -> Iterator[tuple[Rung, Made, Runtime, Any]]:
    missed: tuple[str, ...] = ()
    for rung in rungs:
        runtime = rung.bound.runtime or bench.runtime
        try:
            made = bench.workshop.apply(bench.base, rung.bound.passes, bench.base)
            at_base = made.key == bench.base.key and runtime == bench.runtime
            worker = bench.base_worker if at_base else stack.enter_context(bench.worker(made, runtime))
        except (TrimtabError, TimeoutError):
            missed += rung.changed
            continue
        yield Rung((*missed, *rung.changed), rung.bound), made, runtime, worker
        missed = ()

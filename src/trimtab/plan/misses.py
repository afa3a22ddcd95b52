"""Measured runs beside what the planner says of them, and which of its terms would have to be another.

A term explains a miss if one factor on it, the same for all runs, lets what is predicted meet what was measured. Of
one run every term can do that; the likeliest is then the one that has to change least. Runs that differ in layout,
batch or chip tell terms apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.optimize import minimize_scalar

from trimtab.errors import DataError, UsageError
from trimtab.plan import trainings
from trimtab.plan.evidence import read_rows
from trimtab.plan.memory import GIB, Memory
from trimtab.values.chip import Chip
from trimtab.values.tab import read_tab

QUANTITIES = ("step_s", "tokens_per_s", "mfu", "memory_gib")
"""What a run may have measured."""
LAYOUT = ("tp", "pp", "dp", "cp", "ep", "zero", "shard", "micro_batch", "interleave")
NUMBERS = (*LAYOUT, "count", "batch", "seq")
"""Columns that are whole numbers, and options of the command too; `on`, `dtype`, `stack` and `recompute` are words."""
OR_NONE = ("zero", "shard")
"""Of them, those that may be 0."""
TAB = ".jsonl"
FURTHEST = math.log(20)
"""Of a factor; what would have to be further off explains nothing by itself."""


@dataclass(frozen=True)
class Miss:
    """One quantity of one run."""

    label: str
    quantity: str
    measured: float
    predicted: float
    low: float
    high: float
    parts: Mapping[str, float]
    """Of a step's seconds, or of memory in GiB."""
    whole: float
    """What the measured value means in the parts' unit."""

    @property
    def error(self) -> float:
        """Signed, as a share of what was measured."""
        return self.predicted / self.measured - 1

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        told = {name: getattr(self, name) for name in ("label", "quantity", "measured", "predicted", "low", "high")}
        return {**told, "error": self.error, "inside": self.low <= self.measured <= self.high}


def read_runs(path: Path) -> list[dict[str, Any]]:
    """Return the runs of a table (CSV, a column an option) or of a tab (one JSON object a line).

    Raises:
        DataError: it cannot be read, has no run, or names no quantity.
    """
    try:
        rows = [dict(row) for row in (read_tab(path).lines if path.suffix == TAB else read_rows(path))]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    runs = [{_named(key): value for key, value in row.items() if value not in ("", None)} for row in rows]
    if not any(map(is_measured, runs)):
        raise DataError(f"{path} has none of the columns {', '.join(QUANTITIES)}: what was measured?")
    for line, run in enumerate(runs, first_line(path)):
        _check(path, line, run)
    return runs


def _named(column: str | None) -> str:
    """Return the name of an option, however a column spells it; cells beyond the last name have none."""
    return str(column or "nameless").strip().lower().replace("-", "_")


def first_line(path: Path) -> int:
    """Return the line of the first run: a table's names stand above it."""
    return 1 if path.suffix == TAB else 2


def is_measured(run: Mapping[str, Any]) -> bool:
    """Tell whether anything was measured of a run; a tab has other records too."""
    return any(name in run for name in QUANTITIES)


def _check(path: Path, line: int, run: dict[str, Any]) -> None:
    """Turn numbers into numbers; raises DataError where they are none."""
    for name in (*QUANTITIES, *NUMBERS):
        if name not in run:
            continue
        try:
            run[name] = float(run[name]) if name in QUANTITIES else int(run[name])
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}, line {line}, {name}: {error}") from error
        least = 0 if name in OR_NONE else 1
        if not (0 < run[name] < math.inf if name in QUANTITIES else least <= run[name]):
            raise DataError(f"{path}, line {line}: {name} is {run[name]}")


def misses_of(order: trainings.Order, chip: Chip, count: int, run: Mapping[str, Any]) -> list[Miss]:
    """Return what was measured of one run beside the plan of its layout.

    Raises:
        UsageError: there is no such layout; says why.
    """
    found = trainings.best(order, chip, count)
    if isinstance(found, str):
        raise UsageError(f"{count} x {chip.name}: {found}")
    job, figures = found.job, found.figures()
    memory = Memory(job)
    label = f"{count} x {chip.name} {job.layout}"
    misses = []
    for name in (name for name in QUANTITIES if name in run):
        figure, measured = figures[name], run[name]
        held = name == "memory_gib"
        parts = {key: value / GIB for key, value in memory.parts.items()} if held else dict(job.parts)
        grows = name in ("tokens_per_s", "mfu")
        whole = measured if held else job.seconds * (figure.value / measured if grows else measured / figure.value)
        ends = (figure.low or 0.0, figure.high or math.inf)
        misses.append(Miss(label, name, measured, figure.value, *ends, parts, whole))
    return misses


def explained(misses: Sequence[Miss]) -> list[dict[str, Any]]:
    """Return each term, time's and memory's: the factor on it that explains most, and the error that is left.

    Errors are root mean squares of log(measured / predicted). Those that leave least come first, and of those that
    leave as little the one whose factor is nearest to one.
    """
    told = []
    for held in (False, True):
        runs = [miss for miss in misses if (miss.quantity == "memory_gib") == held]
        before = _left(runs, "", 0.0)
        for term in dict.fromkeys(name for miss in runs for name in miss.parts):
            best = minimize_scalar(
                lambda log, t=term, r=runs: _left(r, t, log), bounds=(-FURTHEST, FURTHEST), method="bounded"
            )
            factor, left = math.exp(float(best.x)), float(best.fun)
            of, at_end = "memory" if held else "time", abs(float(best.x)) > 0.99 * FURTHEST
            told.append({"of": of, "term": term, "factor": factor, "at_end": at_end, "before": before, "left": left})
    return sorted(told, key=lambda one: (one["of"] == "memory", round(one["left"], 3), abs(math.log(one["factor"]))))


def _left(runs: Sequence[Miss], term: str, log_factor: float) -> float:
    """Return the error that is left with a factor on a term."""
    squares = [
        math.log(miss.whole / (sum(miss.parts.values()) + (math.exp(log_factor) - 1) * miss.parts.get(term, 0.0))) ** 2
        for miss in runs
    ]
    return math.sqrt(sum(squares) / len(squares)) if squares else 0.0

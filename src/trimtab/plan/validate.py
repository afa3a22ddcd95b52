"""The verb `validate`: how far off the planner is on published measurements, beside baselines that need no planner.

Naive baselines scale what the chips' peaks would give: by nothing (`roofline`), by one share of the peak for all chips
(`peak_scaled`), by one for each chip (`constant_mfu`). Their constants are medians over tables of the same kind,
the one that is scored left out.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from scipy.stats import spearmanr

from trimtab.errors import DataError
from trimtab.plan.evidence import GUESSED, Case, read
from trimtab.plan.intervals import WHOLE_RUN, around

TABLES = Path(__file__).resolve().parents[3] / "benchmarks" / "tables"
"""Where a checkout has them."""
EVEN, EVEN_SERVED = 26, 13
"""The byte of the hash that halves the tables most evenly, and that for the tables of served models."""


def validate(folder: Path | None = None) -> dict[str, Any]:
    """Return the document: errors of each table, and how many rows were not scored for which reason.

    Raises:
        DataError: no such folder, no tables, or one that cannot be read.
    """
    folder = folder or TABLES
    if not folder.is_dir():
        raise DataError(f"no folder of tables at {folder}; give one with --tables DIR")
    tables: dict[str, list[Case]] = defaultdict(list)
    skipped: dict[str, Counter[str]] = defaultdict(Counter)
    for file, found in read(folder):
        if isinstance(found, Case):
            tables[found.table].append(found)
        else:
            skipped[Path(file).stem][found.reason] += 1
    scored = []
    for name, cases in sorted(tables.items()):
        left = dict(skipped[name.partition(":")[0]].most_common())
        rows = len(cases) + sum(left.values())
        scored.append({"table": name, "rows": rows, **_scored(name, cases, tables), "not_scored": left})
    whole = sum(skipped.values(), Counter[str]())
    return {"tables": scored, "pooled": _pooled(tables), "not_scored": dict(whole.most_common())}


def _scored(name: str, cases: Sequence[Case], tables: dict[str, list[Case]]) -> dict[str, Any]:
    errors = [case.error for case in cases]
    sizes = [abs(error) for error in errors]
    held = [abs(case.error) for case in cases if not fitted_on(case)]
    seen, told = [case.observed for case in cases], [case.predicted for case in cases]
    varied = len(set(seen)) > 1 and len(set(told)) > 1
    naive = {
        kind: median(abs(value / case.observed - 1) for value, case in pairs) for kind, pairs in _naive(name, tables)
    }
    best = min(naive.values(), default=0.0)
    return {
        "quantity": cases[0].quantity,
        "scored": len(cases),
        "median_ape": median(sizes),
        "held_out_ape": median(held) if held else None,
        "mean_ape": fmean(sizes),
        "max_ape": max(sizes),
        "bias": median(errors),
        "coverage50": _coverage(cases, 50),
        "coverage90": _coverage(cases, 90),
        "rank_correlation": float(spearmanr(seen, told).statistic) if varied else None,
        "naive": naive,
        "skill": 1 - median(sizes) / best if best else None,
    }


def fitted_on(case: Case) -> bool:
    """Tell whether a case's system is in the half that the constants were fitted on: by a hash of its name.

    Trainings whose layout is not told are in none: the planner's own layout is faster than theirs may have been.
    """
    if case.regime in (GUESSED, WHOLE_RUN):
        return False
    return (
        hashlib.sha256(case.system.encode()).digest()[EVEN_SERVED if case.table.startswith("infer") else EVEN] % 2 == 0
    )


def _coverage(cases: Sequence[Case], confidence: int) -> float | None:
    """Return the share of measurements within the interval; that a layout fitted has none."""
    cases = [case for case in cases if case.quantity != "fitted"]
    if not cases:
        return None
    return fmean(covered(case, confidence) for case in cases)


def covered(case: Case, confidence: int) -> bool:
    """Tell whether a measurement lies in the interval around its prediction; a rate by its inverse."""
    time = 1 / case.predicted if case.grows and case.predicted else case.predicted
    low, high = around(time, case.regime, confidence=confidence)
    return low <= (1 / case.observed if case.grows else case.observed) <= high


def _pooled(tables: dict[str, list[Case]]) -> dict[str, Any]:
    everything = [case for cases in tables.values() for case in cases]
    if not everything:
        return {"scored": 0}
    inside = {f"coverage{confidence}": _coverage(everything, confidence) for confidence in (50, 90)}
    return {"scored": len(everything), "median_ape": median(abs(case.error) for case in everything), **inside}


def _naive(name: str, tables: dict[str, list[Case]]) -> list[tuple[str, list[tuple[float, Case]]]]:
    """Return each baseline's values beside the cases of a table."""
    cases = tables[name]
    shares: dict[str, list[float]] = defaultdict(list)
    for other, members in tables.items():
        if other.partition(":")[0] == name.partition(":")[0] or _kind(members[0]) != _kind(cases[0]):
            continue
        for case in members:
            shares[case.chip].append(_share(case))
    everywhere = [share for found in shares.values() for share in found]
    overall = median(everywhere) if everywhere else 1.0
    by_chip = {chip: median(found) for chip, found in shares.items()}
    scaled = [(_at(case, overall), case) for case in cases]
    constant = [(_at(case, by_chip.get(case.chip, overall)), case) for case in cases]
    return [("constant_mfu", constant), ("peak_scaled", scaled), ("roofline", [(case.ideal, case) for case in cases])]


def _share(case: Case) -> float:
    """Return the share of the peak that was reached."""
    return case.observed / case.ideal if case.grows else case.ideal / case.observed


def _at(case: Case, share: float) -> float:
    return case.ideal * share if case.grows else case.ideal / share


def _kind(case: Case) -> str:
    """Tell what shares of the peak may be compared: trainings, prompts read, tokens written, watts, memory, losses."""
    for word in ("first", "token", "w_per_chip", "gib", "fitted", "loss"):
        if word in case.quantity:
            return word if case.table.startswith("infer") or word != "token" else "training"
    return "training"

"""Fits the planner's constants to half of the published systems, and writes them into `plan/constants.toml`.

    python benchmarks/fit_plan.py                fits, prints errors on the half fitted on and on the other
    python benchmarks/fit_plan.py --write        and writes the constants, and the intervals of each regime
    python benchmarks/fit_plan.py --intervals    writes the intervals alone, as where tables were added

Systems (one model on one kind of chip, say) are held out whole, by a hash of their name. Each table weighs the same
whatever its rows are.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import norm, t

from trimtab.plan.evidence import Case, read
from trimtab.plan.intervals import FILE as INTERVALS
from trimtab.plan.intervals import QUANTILES
from trimtab.plan.rates import FILE, Constants, constants, using
from trimtab.plan.validate import fitted_on

TABLES = Path(__file__).resolve().parent / "tables"
TRAININGS = tuple(path.name for path in sorted(TABLES.glob("train_*.csv")) if "published" not in path.name)
"""Tables that constants are fitted on: what whole runs lost is in none of them."""
GROUPS = {
    "training": (
        TRAININGS,
        {
            "product": (0.6, 1.0),
            "product_fp8": (0.6, 1.1),
            "unmeasured": (0.4, 0.95),
            "watts": (0.0, 1.0),
            "traffic": (0.3, 2.5),
            "flash1": (0.2, 1.0),
            "flash2": (0.4, 1.0),
            "foreign": (0.4, 1.0),
            "native": (0.4, 1.0),
            "plain": (0.3, 0.9),
            "delay_us": (3.0, 10.0),
            "optimizer_bytes": (24.0, 40.0),
            "launch_us": (1.0, 15.0),
            "host_us": (20.0, 100.0),
            "exposed": (0.0, 1.0),
            "fp8_traffic": (0.5, 3.0),
            "expert_traffic": (0.2, 8.0),
            "convolution": (0.3, 1.0),
            "activation_bytes": (4.0, 40.0),
            "layer_us": (1.0, 40.0),
        },
    ),
    "serving": (
        ("infer_",),
        {
            "serve_product": (0.5, 1.2),
            "decode_bandwidth": (0.5, 1.0),
            "serve_layer_us": (1.0, 60.0),
            "step_us": (10.0, 6000.0),
            "reduce_us": (2.0, 40.0),
            "ring_us": (10.0, 300.0),
            "expert_us": (0.0, 100.0),
            "queue": (0.0, 3.0),
            "accept_ms": (0.0, 150.0),
        },
    ),
    "power": (
        ("energy_",),
        {
            "gpu_busy": (0.1, 0.8),
            "gpu_arithmetic": (0.0, 1.5),
            "gpu_memory": (0.0, 1.0),
            "host_share": (0.1, 0.6),
            "tpu_busy": (0.1, 0.6),
            "tpu_arithmetic": (0.0, 1.0),
        },
    ),
}
"""What is fitted, and between which values it means something."""
NEAR = 0.2
"""Log errors below it count as squares."""
UNKNOWN = np.array([-0.3, -0.1, 0.1, 0.3])
"""Around the one residual of a regime that has no other."""


def cases(files: Sequence[str]) -> list[Case]:
    return [case for _, case in read(TABLES, files) if isinstance(case, Case)]


def with_values(values: Mapping[str, float]) -> Constants:
    return replace(constants(), **values)


def residuals(values: Sequence[float], group: str, everything: bool) -> np.ndarray:
    files, bounds = GROUPS[group]
    with using(with_values(dict(zip(bounds, map(float, values), strict=True)))):
        found = cases(files)
    chosen = [case for case in found if (everything or fitted_on(case)) and not case.regime.startswith("memory")]
    sizes = defaultdict(int)
    for case in chosen:
        sizes[case.table] += 1
    return np.array([soft(math.log(case.predicted / case.observed)) / sizes[case.table] ** 0.5 for case in chosen])


def soft(error: float) -> float:
    """Return the root of Cauchy's loss: what is far off has other reasons than these constants, and counts little more.

    (Black and Rangarajan 1996, IJCV 19(1):57, section 4, on losses that set outliers aside.)
    """
    return math.copysign(NEAR * math.sqrt(math.log1p((error / NEAR) ** 2)), error)


def tell(values: Mapping[str, float], files: Sequence[str]) -> None:
    with using(with_values(values)):
        found = cases(files)
    for table in dict.fromkeys(case.table for case in found):
        halves = [[abs(c.error) for c in found if c.table == table and fitted_on(c) is half] for half in (True, False)]
        words = [f"{median(half):6.1%} of {len(half):3d}" if half else "     -     " for half in halves]
        print(f"{table:45s} fitted on {words[0]}   held out {words[1]}")


def write(values: Mapping[str, float]) -> None:
    text = FILE.read_text()
    for name, value in values.items():
        text = re.sub(rf"^{name} = \S+", f"{name} = {value:.4g}", text, flags=re.MULTILINE)
    FILE.write_text(text)


def spreads() -> str:
    """Return the intervals' file: quantiles of log(measured / predicted) of each regime, over all systems.

    Few residuals say little of the tails: quantiles are widened as Student's t is beside the normal.
    """
    off: dict[str, list[float]] = defaultdict(list)
    for case in cases(()):
        sign = -1 if case.grows else 1
        if case.quantity != "fitted":
            off[case.regime].append(sign * math.log(case.observed / case.predicted))
    words = ["# Quantiles (5, 25, 75 and 95%) of log(measured / predicted), by benchmarks/fit_plan.py."]
    for regime, values in sorted(off.items()):
        wider = t.ppf(0.95, max(1, len(values) - 1)) / norm.ppf(0.95)
        middle = median(values)
        ends = middle + (np.quantile(values, QUANTILES) - middle) * wider if len(values) > 1 else UNKNOWN + middle
        words.append(f'"{regime}" = [{", ".join(f"{end:.4f}" for end in ends)}]  # {len(values)} rows')
    return "\n".join(words) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], help="of constants; all where none is named")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--intervals", action="store_true", help="fit nothing, and write the intervals")
    parser.add_argument("--everything", action="store_true", help="fit on all systems")
    asked = parser.parse_args()
    with contextlib.ExitStack() as used:  # each group is fitted on top of those before it
        for group in () if asked.intervals else asked.groups or GROUPS:
            values = fitted(group, asked.everything)
            print(*(f"{name} = {value:.4g}{_bound(group, name, value)}" for name, value in values.items()), sep="\n")
            tell(values, GROUPS[group][0])
            used.enter_context(using(with_values(values)))
            if asked.write:
                write(values)
        if asked.write or asked.intervals:
            INTERVALS.write_text(spreads())
    return 0


def _bound(group: str, name: str, value: float) -> str:
    """Say where a constant stands at an end of what it may be: there the data would have it beyond."""
    low, high = GROUPS[group][1][name]
    near = 0.01 * (high - low)
    return "  (at its lower bound)" if value < low + near else "  (at its upper bound)" if value > high - near else ""


def fitted(group: str, everything: bool) -> dict[str, float]:
    bounds = GROUPS[group][1]
    low, high = (np.array(ends) for ends in zip(*bounds.values(), strict=True))
    start = np.clip([asdict(constants())[name] for name in bounds], low + 1e-6, high - 1e-6)
    found = least_squares(
        residuals,
        start,
        bounds=(low, high),
        x_scale=high - low,
        args=(group, everything),
        max_nfev=25,
    )
    return dict(zip(bounds, map(float, found.x), strict=True))


if __name__ == "__main__":
    sys.exit(main())

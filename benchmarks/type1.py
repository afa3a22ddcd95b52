"""How often does each guarantee fail? Exact enumeration where it can be, seeded simulation elsewhere.

    python benchmarks/type1.py --out benchmarks/tabs/type1.jsonl --scale 1

Each line is a figure: name, value, low, high, unit, n, conditions. `n` is the number of simulations, 0 where the
value is an exact sum (low = high = value). Type-I errors are at the boundary: the loss is exactly the margin.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincc, gammaln, ndtri, xlog1py, xlogy

from trimtab.maths.bootstrap import Resampling, bca
from trimtab.maths.intervals import clopper_pearson
from trimtab.maths.noninferiority import exact_tail, noninferior, region_probability, tango_z
from trimtab.maths.pareto import fixed_sequence
from trimtab.maths.sequential import accept_process, drop_process

ALPHA = 0.05
Z_ALPHA = float(ndtri(ALPHA))
Line = dict[str, Any]


def line(name: str, value: float, **conditions: Any) -> Line:
    return {"name": name, "value": value, "low": value, "high": value, "unit": "1", "n": 0, "conditions": conditions}


def simulated(name: str, failures: int, n: int, **conditions: Any) -> Line:
    low, high = clopper_pearson(failures, n)
    return line(name, failures / n, **conditions) | {"low": low, "high": high, "n": n}


def guarded_boundary(n: int, margin: float, c: int, top: int) -> int:
    """Largest b that the guarded test accepts beside this c, or -1."""
    for b in range(min(top, n - c), -1, -1):
        if tango_z(b, c, n, margin) <= Z_ALPHA and exact_tail(b, c, n, margin) <= ALPHA:
            return b
    return -1


def guarded_error(n: int, margin: float, discordances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Exact type-I error of the guarded test at each discordance: sum of the trinomial over its region."""
    q = (discordances - margin) / 2
    largest = n * q.max()
    c = np.arange(0, min(n, int(largest + 6 * np.sqrt(largest) + 10)) + 1)
    top, most = 0, []
    for count in c:
        while top + 1 <= n - count and tango_z(top + 1, count, n, margin) <= Z_ALPHA:
            top += 1
        most.append(guarded_boundary(n, margin, int(count), top))
    return sum_region(n, margin, q, np.array(most))


def sum_region(n: int, margin: float, q: NDArray[np.float64], most: NDArray[np.int64]) -> NDArray[np.float64]:
    c = np.arange(len(most), dtype=float)
    share = ((q + margin) / (1 - q))[:, None]
    within = np.where(most < 0, 0.0, betaincc(most + 1.0, np.maximum(n - c - most, 1e-9), share))
    within = np.where(most >= n - c, 1.0, within)
    count = gammaln(n + 1) - gammaln(c + 1) - gammaln(n - c + 1)
    return (np.exp(count + xlogy(c, q[:, None]) + xlog1py(n - c, -q[:, None])) * within).sum(axis=1)


def paired_lines(scale: float) -> Iterator[Line]:
    """The test of paired proportions, with and without its guard."""
    for n in (100, 200, 500, 1000, 2000, 5000):
        for margin in (0.002, 0.005, 0.01, 0.02, 0.05):
            grid = np.geomspace(margin, min(0.3, 6 * margin + 0.02), max(4, int(24 * scale)))
            for discordance, bare, guarded in zip(
                grid,
                region_probability(Z_ALPHA, n, margin, (grid - margin) / 2),
                guarded_error(n, margin, grid),
                strict=True,
            ):
                at = {"examples": n, "margin": margin, "discordance": round(float(discordance), 5)}
                yield line("type1_tango_bare", float(bare), **at)
                yield line("type1_tango_guarded", float(guarded), **at)

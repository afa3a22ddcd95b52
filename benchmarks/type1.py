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
    chance = np.exp(count + xlogy(c, q[:, None]) + xlog1py(n - c, -q[:, None]))
    return np.asarray((chance * within).sum(axis=1))


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


def refuted_lines(scale: float) -> Iterator[Line]:
    """The mirror: how often a model exactly at the margin is called worse than it."""
    for n in (100, 500, 2000):
        for margin in (0.005, 0.01, 0.02):
            grid = np.geomspace(margin, 0.1, max(4, int(12 * scale)))
            for discordance, error in zip(grid, guarded_error(n, -margin, grid), strict=True):
                at = {"examples": n, "margin": margin, "discordance": round(float(discordance), 5)}
                yield line("type1_refuted_guarded", float(error), **at)


def shares(discordance: float, loss: float) -> list[float]:
    return [(discordance + loss) / 2, (discordance - loss) / 2, 1 - discordance]


def sequential_lines(scale: float) -> Iterator[Line]:
    """The first crossing in 4,000 looks, at a loss of exactly the margin."""
    rng, paths = np.random.default_rng(0), int(4000 * scale)
    for discordance, margin in ((0.01, 0.01), (0.02, 0.01), (0.1, 0.01), (0.3, 0.05)):
        samples = rng.choice([1.0, -1.0, 0.0], p=shares(discordance, margin), size=(paths, 4000))
        for process in (accept_process, drop_process):
            crossed = sum(bool(process(sample, margin).max() >= 1 / ALPHA) for sample in samples)
            at = {"looks": 4000, "margin": margin, "discordance": discordance}
            yield simulated(f"type1_{process.__name__}", crossed, paths, **at)


def selection_lines(scale: float) -> Iterator[Line]:
    """Best of 50 candidates, each exactly too bad: picked on validation, or walked on the sealed split."""
    rng, searches, n, margin, discordance = np.random.default_rng(1), int(1500 * scale), 2000, 0.01, 0.05
    validation, sealed = rng.multinomial(n, shares(discordance, margin), size=(2, searches, 50))
    z = tango_z(validation[..., 0], validation[..., 1], n, margin)
    certified = 0
    for order, tables in zip(np.argsort(z, axis=1), sealed, strict=True):
        walk = (noninferior(int(tables[i, 0]), int(tables[i, 1]), n, margin).accepted for i in order)
        certified += fixed_sequence(walk) is not None
    at = {"examples": n, "margin": margin, "discordance": discordance, "candidates": 50}
    yield simulated("naive_best_of_50", int((z.min(axis=1) < Z_ALPHA).sum()), searches, **at)
    yield simulated("fixed_sequence_walk", certified, searches, **at)


def mean(rows: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(weights @ rows[:, 0] / weights.sum(axis=1))


def missed(samples: Iterator[NDArray[np.float64]], truth: float) -> int:
    """How many one-sided 95% upper bounds lie below the truth."""
    count = 0
    for seed, values in enumerate(samples):
        plan = Resampling(confidence=1 - ALPHA, resamples=1000, seed=seed, side="upper")
        count += bca(mean, values[:, None], np.arange(len(values)), plan).widened(1.0).high < truth
    return count


def bootstrap_lines(scale: float) -> Iterator[Line]:
    """One-sided BCa at 95%, on a skewed mean and on sparse pairs: how often the truth lies beyond the bound."""
    rng, paths = np.random.default_rng(2), int(1000 * scale)
    for n in (50, 200, 1000):
        failures = missed((rng.exponential(size=n) for _ in range(paths)), 1.0)
        yield simulated("type1_bca_upper", failures, paths, examples=n, data="exponential")
    for n, discordance, margin in ((200, 0.02, 0.02), (500, 0.02, 0.01), (1000, 0.01, 0.005), (1000, 0.05, 0.01)):
        chances = shares(discordance, margin)
        samples = (rng.choice([1.0, -1.0, 0.0], p=chances, size=n) for _ in range(paths))
        at = {"examples": n, "margin": margin, "discordance": discordance, "data": "pairs"}
        yield simulated("type1_bca_upper", missed(samples, margin), paths, **at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tabs" / "type1.jsonl")
    parser.add_argument("--scale", type=float, default=1.0, help="of the grids and simulations")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w") as out:
        for part in (paired_lines, refuted_lines, sequential_lines, selection_lines, bootstrap_lines):
            for figure in part(arguments.scale):
                out.write(json.dumps(figure) + "\n")


if __name__ == "__main__":
    main()

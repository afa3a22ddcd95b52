"""Scaling laws: how the loss falls with parameters and data, what a compute budget is best spent on, and how sure.

The law is L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, arXiv 2203.15556, section 3.3), fitted with a
Huber loss on the residuals of log L by L-BFGS from a grid of starts (its appendix D.2; Besiroglu et al. 2024, arXiv
2404.10102, section 3, on what goes wrong). N are parameters, D tokens or samples; C = 6 N D
are the operations of a training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp

Floats = NDArray[np.float64]
DELTA = 1e-3
"""Of the Huber loss: residuals of log L above it count linearly."""
FEWEST = 6
"""Runs below which five numbers cannot be fitted."""
CENTRE = (math.log(1e8), math.log(1e10))
"""Logs of the N and D around which A and B are fitted, so that they do not move with the exponents."""
EXPONENTS = (0.05, 2.0)
STARTS = tuple(product((-1.0, 0.5), (-1.0, 0.5), (0.2, 0.5)))
"""Logs of the two terms at the centre, in turn, and both exponents."""
PER_OPERATION = 6.0
FAR, NEAR, MOST_LEFT_OUT = 8.0, 0.03, 0.05
"""Runs are left out whose log residual is above eight robust deviations and three percent, at most a twentieth.

Besiroglu et al. 2024 (section 2) left out five of Hoffmann's 245 so: models trained on fewer tokens than parameters."""
Columns = tuple[Floats, ...]


@dataclass(frozen=True)
class Law:
    """A fitted law.

    >>> law = Law(E=1.8, A=480.0, alpha=0.35, B=2000.0, beta=0.365)
    >>> round(law.loss(1e9, 2e10), 3)
    2.487
    """

    E: float
    """The loss that stays whatever is spent."""
    A: float
    alpha: float
    B: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        """Return the loss of a model of so many parameters trained on so many tokens."""
        return self.E + self.A * math.pow(parameters, -self.alpha) + self.B * math.pow(tokens, -self.beta)

    def best(self, operations: float) -> tuple[float, float]:
        """Return the parameters and tokens that lose the least for so many operations (Hoffmann 2022, equation 4).

        >>> parameters, tokens = Law(E=1.8, A=480.0, alpha=0.35, B=2000.0, beta=0.365).best(5.76e23)
        >>> round(6 * parameters * tokens / 5.76e23, 6), 10 < tokens / parameters < 40
        (1.0, True)
        """
        together = self.alpha + self.beta
        factor = math.pow(self.alpha * self.A / (self.beta * self.B), 1 / together)
        parameters = factor * math.pow(operations / PER_OPERATION, self.beta / together)
        return parameters, operations / PER_OPERATION / parameters

    def marginal(self, parameters: float, tokens: float) -> dict[str, float]:
        """Return how much one percent more of each lowers the loss: parameters, tokens, or a better algorithm.

        An algorithm that needs one percent fewer operations is worth as much as one percent more compute, best spent.
        """
        of_size = self.alpha * self.A * math.pow(parameters, -self.alpha) / 100
        of_data = self.beta * self.B * math.pow(tokens, -self.beta) / 100
        return {"parameters": of_size, "tokens": of_data, "algorithm": (of_size + of_data) / 2}


HOFFMANN = Law(E=1.8172, A=482.01, alpha=0.3478, B=2085.43, beta=0.3658)
"""Of Hoffmann's runs, as Besiroglu et al. 2024 (section 3) fitted it: dense language models on web text."""


@dataclass(frozen=True)
class Forecast:
    """A law, its bootstrapped relatives, and what the runs cannot tell."""

    law: Law
    others: tuple[Law, ...]
    runs: int
    """Fitted on."""
    left_out: tuple[int, ...]
    """Places of runs that no law fits together with the others."""
    unidentified: tuple[str, ...]
    """What the runs do not pin down, in words."""

    def interval(self, parameters: float, tokens: float, confidence: float = 0.9) -> tuple[float, float]:
        """Return the percentile bootstrap interval of a loss."""
        return self._ends([law.loss(parameters, tokens) for law in self.others], confidence)

    def best_interval(self, operations: float, confidence: float = 0.9) -> tuple[float, float]:
        """Return the interval of the best number of parameters."""
        return self._ends([law.best(operations)[0] for law in self.others], confidence)

    def _ends(self, values: list[float], confidence: float) -> tuple[float, float]:
        low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)


def fit(parameters: Floats, tokens: Floats, losses: Floats) -> Law:
    """Return the law that fits runs best; float64[n] each.

    Raises:
        ValueError: fewer than six runs, or numbers that are not positive and finite.
    """
    data = _checked(parameters, tokens, losses)
    return _law(_robust(data)[0], float(np.min(losses)))


def _robust(data: Columns) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the point that fits the runs which stay, and which those are."""
    point = _from_all_starts(data)
    kept = _kept(point, data)
    return (point if kept.all() else _from_all_starts(tuple(column[kept] for column in data))), kept


def _from_all_starts(data: Columns) -> Floats:
    found = [_descend(np.array([-0.1, a, b, exponent, exponent]), data) for a, b, exponent in STARTS]
    return min(found, key=lambda pair: pair[1])[0]


def _kept(point: Floats, data: Columns) -> NDArray[np.bool_]:
    """Tell which runs stay: the worst are left out, up to a share, where they lie far outside the spread of all."""
    off = np.abs(_residuals(point, *data)[1])
    spread = 1.4826 * float(np.median(off))
    far = off > max(FAR * spread, NEAR)
    far[np.argsort(-off)[int(MOST_LEFT_OUT * len(off)) :]] = False
    return ~far


def forecast(parameters: Floats, tokens: Floats, losses: Floats, resamples: int = 100, seed: int = 0) -> Forecast:
    """Return the law with laws of bootstrapped runs, and what they cannot tell.

    Raises:
        ValueError: as `fit`.
    """
    data = _checked(parameters, tokens, losses)
    start, kept = _robust(data)
    data, draw = tuple(column[kept] for column in data), np.random.default_rng(seed)
    unit = float(np.min(losses))
    law, count = _law(start, unit), int(kept.sum())
    others = []
    for _ in range(resamples):
        rows = draw.integers(0, count, count)
        others.append(_law(_descend(start, tuple(column[rows] for column in data))[0], unit))
    left_out = tuple(int(row) for row in np.flatnonzero(~kept))
    return Forecast(law, tuple(others), count, left_out, tuple(_unidentified(data, others)))


def _unidentified(data: Columns, others: list[Law]) -> list[str]:
    logs = {"parameters": data[0] / math.log(10), "tokens": data[1] / math.log(10)}
    narrow = [name for name, values in logs.items() if np.ptp(values) < 0.7]
    told = [f"{name} span less than a factor of five: their exponent is a guess" for name in narrow]
    if not narrow and abs(float(np.corrcoef(logs["parameters"], logs["tokens"])[0, 1])) > 0.99:
        told.append("parameters and tokens grow together: what each is worth cannot be told apart")
    for name in ("alpha", "beta"):
        low, high = np.quantile([getattr(law, name) for law in others], [0.05, 0.95])
        if high > 2 * low:
            told.append(f"{name} is between {low:.2f} and {high:.2f}: more runs that differ in it would tell")
    return told


def _checked(parameters: Floats, tokens: Floats, losses: Floats) -> Columns:
    columns = [np.asarray(column, dtype=np.float64) for column in (parameters, tokens, losses)]
    if len({len(column) for column in columns}) > 1 or len(columns[0]) < FEWEST:
        raise ValueError(f"a scaling law takes at least {FEWEST} runs, got {min(map(len, columns))}")
    if not all(np.isfinite(column).all() and (column > 0).all() for column in columns):
        raise ValueError("parameters, tokens and losses of runs are above 0 and finite")
    sizes, amounts, heights = (np.log(column) for column in columns)
    return sizes, amounts, heights - heights.min()  # in units of the least loss, so that E has bounds


def _descend(start: Floats, data: Columns) -> tuple[Floats, float]:
    bounds = [(-5.0, 0.0), (-12.0, 6.0), (-12.0, 6.0), EXPONENTS, EXPONENTS]
    found = minimize(_huber, start, args=data, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 200})
    return found.x, float(found.fun)


def _residuals(point: Floats, sizes: Floats, amounts: Floats, losses: Floats) -> tuple[Floats, Floats]:
    """Return the shares of the three terms in the loss, and log residuals, predicted less seen."""
    e, a, b, alpha, beta = point
    terms = np.stack([np.full_like(losses, e), a - alpha * (sizes - CENTRE[0]), b - beta * (amounts - CENTRE[1])])
    total = logsumexp(terms, axis=0)
    return np.exp(terms - total), total - losses


def _huber(point: Floats, sizes: Floats, amounts: Floats, losses: Floats) -> tuple[float, Floats]:
    """Return the Huber loss of log residuals and its gradient; the point: log E, both terms' logs, both exponents."""
    shares, off = _residuals(point, sizes, amounts, losses)
    size, amount = sizes - CENTRE[0], amounts - CENTRE[1]
    inside = np.abs(off) <= DELTA
    value = np.where(inside, 0.5 * off**2, DELTA * (np.abs(off) - 0.5 * DELTA)).sum()
    pull = np.where(inside, off, DELTA * np.sign(off)) * shares
    gradient = [pull[0].sum(), pull[1].sum(), pull[2].sum(), -(pull[1] * size).sum(), -(pull[2] * amount).sum()]
    return float(value) / DELTA, np.array(gradient) / DELTA


def _law(point: Floats, unit: float) -> Law:
    """Return the law of a point whose losses are in a unit."""
    e, a, b, alpha, beta = map(float, point)
    terms = math.exp(a + alpha * CENTRE[0]), math.exp(b + beta * CENTRE[1])
    return Law(unit * math.exp(e), unit * terms[0], alpha, unit * terms[1], beta)

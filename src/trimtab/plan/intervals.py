"""How sure a prediction is: the spread of what was measured around what was predicted, by regime.

`intervals.toml` holds quantiles of log(measured / predicted), written by `benchmarks/fit_plan.py` from published
measurements. What is in no regime gets the widest of its kind.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from trimtab.values.figure import Figure

FILE = Path(__file__).parent / "intervals.toml"
WHOLE_RUN = "whole-run"
"""Of whole trainings, as their papers tell them: hours spent beside hours planned."""
OTHERS = ("first", "decode", "watts", "memory", "loss", "whole")
"""Kinds of regime that are no trainings'."""
QUANTILES = (0.05, 0.25, 0.75, 0.95)
"""Of both intervals: 90% from the outer ones, 50% from the inner ones."""


@lru_cache(maxsize=1)
def spreads() -> Mapping[str, Sequence[float]]:
    """Return the quantiles of each regime."""
    found: dict[str, list[float]] = tomllib.loads(FILE.read_text())
    return found


def around(value: float, *regimes: str, confidence: int = 90) -> tuple[float, float]:
    """Return the interval of a predicted time, or what grows with it; spreads of several regimes add up as squares.

    Raises:
        ValueError: another confidence than 50 or 90%.
    """
    if confidence not in (50, 90):
        raise ValueError(f"intervals are of 50 or 90%, got {confidence}")
    ends = [_ends(regime, confidence) for regime in regimes]
    low, high = (math.hypot(*(min(0.0, end[0]) for end in ends)), math.hypot(*(max(0.0, end[1]) for end in ends)))
    if len(ends) == 1:
        return value * math.exp(ends[0][0]), value * math.exp(ends[0][1])
    return value * math.exp(-low), value * math.exp(high)


def _ends(regime: str, confidence: int) -> tuple[float, float]:
    """Return both ends of log(measured / predicted); a regime that is not known has the widest of its kind."""
    known = spreads()
    kind = regime.partition("-")[0]
    alike = [each for name, each in known.items() if name.partition("-")[0] == kind]
    rest = [each for name, each in known.items() if not name.startswith(OTHERS)]
    quantiles = known.get(regime) or max(alike or rest, key=lambda each: each[-1] - each[0])
    return (quantiles[0], quantiles[-1]) if confidence == 90 else (quantiles[1], quantiles[-2])


def predicted(name: str, value: float, unit: str, *regimes: str, grows: bool = False) -> Figure:
    """Return a predicted figure with its 90% interval; `grows`: a rate, whose inverse has the regime's spread.

    Without a regime there is no interval: nothing like it was held against measurements.
    """
    if not regimes:
        return Figure(name, value, unit, origin="predicted")
    low, high = around(value, *regimes)
    if grows:
        low, high = value * value / high, value * value / low
    conditions = {"confidence": 0.9, "regime": " and ".join(regimes)}
    return Figure(name, value, unit, low, high, origin="predicted", conditions=conditions)

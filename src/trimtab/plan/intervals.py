"""How sure a prediction is: the spread of what was measured around what was predicted, by regime.

`intervals.toml` holds quantiles of log(measured / predicted), written by `benchmarks/fit_plan.py` from published
measurements. What is in no regime gets the widest.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from trimtab.values.figure import Figure

FILE = Path(__file__).parent / "intervals.toml"
QUANTILES = (0.05, 0.25, 0.75, 0.95)
"""Of both intervals: 90% from the outer ones, 50% from the inner ones."""


@lru_cache(maxsize=1)
def spreads() -> Mapping[str, Sequence[float]]:
    """Return the quantiles of each regime."""
    found: dict[str, list[float]] = tomllib.loads(FILE.read_text())
    return found


def around(value: float, regime: str, confidence: int = 90) -> tuple[float, float]:
    """Return the interval of a predicted time, or what grows with it, at 50 or 90%.

    Raises:
        ValueError: another confidence.
    """
    if confidence not in (50, 90):
        raise ValueError(f"intervals are of 50 or 90%, got {confidence}")
    known = spreads()
    quantiles = known.get(regime) or max(known.values(), key=lambda each: each[-1] - each[0])
    low, high = (quantiles[0], quantiles[-1]) if confidence == 90 else (quantiles[1], quantiles[-2])
    return value * math.exp(low), value * math.exp(high)


def predicted(name: str, value: float, unit: str, regime: str, grows: bool = False) -> Figure:
    """Return a predicted figure with its 90% interval; `grows`: a rate, whose inverse has the regime's spread."""
    low, high = around(value, regime)
    if grows:
        low, high = value * value / high, value * value / low
    return Figure(name, value, unit, low, high, origin="predicted", conditions={"confidence": 0.9, "regime": regime})

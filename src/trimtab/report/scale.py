"""Axes of a plot: which span to show, where a value falls, and which ticks a reader expects."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trimtab.report.numbers import plain

TINY, HUGE = 1e-300, 1e300


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] to pixels [start, end]; values outside are held at the edge.

    >>> Scale(1.0, 100.0, 0.0, 200.0, log=True)(10.0)
    100.0
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        share = (self._inner(value) - self._inner(self.low)) / (self._inner(self.high) - self._inner(self.low))
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def _inner(self, value: float) -> float:
        return math.log(max(value, TINY)) if self.log else value

    def holds(self, value: float) -> bool:
        """Say whether a value lies within the span."""
        return self.low <= value <= self.high

    def ticks(self, count: int = 6) -> list[float]:
        """Return round values within the span, about `count` of them and at least two."""
        if self.log:
            for digits in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)):
                ticks = _decades(self.low, self.high, digits)
                if len(ticks) >= max(3, count - 1):
                    return ticks[:: max(1, math.ceil(len(ticks) / (count + 2)))]
        return _even(self.low, self.high, count)


def _decades(low: float, high: float, digits: Sequence[float]) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = (float(f"{digit}e{exponent}") for exponent in exponents for digit in digits)
    return [tick for tick in ticks if low <= tick <= high]


def _even(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * digit for digit in (1, 2, 2.5, 5, 10) if size * digit >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    ticks = [(first + index) * step for index in range(2 * count + 2)]
    return [tick for tick in ticks if low <= tick <= high]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Write ticks with the fewest decimals that tell them apart.

    >>> tick_labels([0.5, 1.0, 2.0]), tick_labels([96.0, 97.0])
    (['0.5', '1', '2'], ['96', '97'])
    """
    return [
        plain(tick, next((p for p in range(7) if abs(round(tick, p) - tick) <= 1e-6 * abs(tick)), 9)) for tick in ticks
    ]


def span(values: Iterable[float], log: bool, pad: float = 0.08) -> tuple[float, float]:
    """Return the span that shows all values with some room; never empty, positive where `log`."""
    kept = [min(max(v, TINY if log else -HUGE), HUGE) for v in values]
    low, high = (min(kept), max(kept)) if kept else (1.0, 1.0)
    if log:
        room = max(math.log(high / low) if high / low < HUGE else 690.0, 0.3) * pad
        return max(low * math.exp(-room), TINY), min(high * math.exp(room), HUGE * 10)
    room = max((high - low) * pad, abs(high) * 1e-4, 1e-12) if high > low else abs(high) * 0.05 or 1.0
    return low - room, high + room

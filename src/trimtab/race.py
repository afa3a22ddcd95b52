"""Races workers against each other in alternating blocks, because noise on a shared machine drifts.

Each contestant is measured for a short block while the others are stopped (SIGSTOP), A B A B ..., after a round
that warms up and is thrown away. Blocks of one round meet the same weather, so contestants are compared as the ratio
of paired blocks; where its interval holds 1, the noise exceeds the effect and nothing is decided.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from trimtab.maths.intervals import median_interval, ratio_interval
from trimtab.meters import Meter, Probe, Reading, Remote
from trimtab.run.timing import known
from trimtab.run.weather import counters, steal_share
from trimtab.values.figure import Figure

BLOCKS = 10
LONGEST_S = 15.0
"""A race of many or slow models has fewer blocks, so that it lasts about this long at the most..."""
FEWEST = 6
"""... but no fewer than a median needs for its interval."""


class Racer(Remote, Protocol):
    """A worker that can be stopped."""

    def pause(self) -> None:
        """Stop taking processor time."""
        ...

    def resume(self) -> None:
        """Go on."""
        ...


@dataclass(frozen=True)
class Race:
    """What a race found; everything is in the order of the contestants."""

    figures: tuple[tuple[Figure, ...], ...]
    """Each contestant's figures: the median over blocks, with its interval over blocks."""
    every_ratio: tuple[Mapping[str, Figure], ...]
    """First contestant / each of the others, for each figure that is above 0: above 1, the other one's is smaller."""
    conditions: Mapping[str, float] = field(default_factory=dict)
    """`blocks`, `load_average` and `steal_share` during the race."""

    @property
    def ratios(self) -> tuple[Figure, ...]:
        """First contestant / each of the others, by the meter's first figure."""
        first = self.figures[0][:1]
        return tuple(found[figure.name] for found in self.every_ratio for figure in first if figure.name in found)


def race(
    contestants: Sequence[tuple[Racer, Probe]], meter: Meter, blocks: int = BLOCKS, longest_s: float = LONGEST_S
) -> Race:
    """Read `meter` on each contestant in turn, up to `blocks` times; a block lasts about its probe's `seconds`.

    Raises:
        ValueError: fewer than one contestant or two blocks.
        SessionError: a worker failed; every other one is left running.
    """
    if not contestants or blocks < 2:
        raise ValueError(f"{len(contestants)} contestants and {blocks} blocks; a race takes 1 or more, and 2 or more")
    if any(probe.varies for _, probe in contestants):
        contestants = [(session, replace(probe, beside_varying=True)) for session, probe in contestants]
    try:
        begun = time.monotonic()
        _round(contestants, meter)
        blocks = max(min(blocks, FEWEST), min(blocks, int(longest_s / (time.monotonic() - begun))))
        before = _weather(contestants[0][0])
        rounds = [_round(contestants, meter) for _ in range(blocks)]
        now = _weather(contestants[0][0])
    finally:
        for session, _ in contestants:
            session.resume()
    steal = steal_share(before, now)
    weather = {"blocks": float(blocks), "load_average": now["load_average"], "steal_share": steal}
    figures = tuple(
        _combine([readings[place] for readings in rounds], probe.confidence, weather)
        for place, (_, probe) in enumerate(contestants)
    )
    return Race(figures, _ratios(rounds, contestants[0][1].confidence, weather), weather)


def _weather(session: Racer) -> dict[str, float]:
    """Return the counters of the machine that the session runs on."""
    return counters() | dict(session.usage())


def _round(contestants: Sequence[tuple[Racer, Probe]], meter: Meter) -> list[Reading]:
    readings = []
    for running, probe in contestants:
        for session, _ in contestants:
            if session is not running:
                session.pause()
        running.resume()
        readings.append(meter.read(running, probe))
    return readings


def _combine(readings: Sequence[Reading], confidence: float, weather: Mapping[str, float]) -> tuple[Figure, ...]:
    """One figure for each that the meter reads: over blocks, since calls within a block are not independent.

    None where a block gave none.
    """
    if not all(reading.figures for reading in readings):
        return ()
    combined = []
    for same in zip(*(reading.figures for reading in readings), strict=True):
        value, low, high = median_interval([figure.value for figure in same], confidence)
        conditions = {**same[0].conditions, **weather, "confidence": confidence}
        calls = sum(figure.n or 1 for figure in same)
        combined.append(
            Figure(
                same[0].name,
                value,
                same[0].unit,
                low=known(low),
                high=known(high),
                n=len(same),
                origin=same[0].origin,
                conditions=conditions | {"calls": calls},
            )
        )
    return tuple(combined)


def _ratios(
    rounds: Sequence[list[Reading]], confidence: float, weather: Mapping[str, float]
) -> tuple[dict[str, Figure], ...]:
    """Ratios of the first contestant to each other one, by blocks of the same round."""
    first, *others = (_above_zero(readings) for readings in zip(*rounds, strict=True))
    conditions = {**weather, "confidence": confidence}
    return tuple(
        {name: _ratio(name, first[name], values, conditions) for name, values in other.items() if name in first}
        for other in others
    )


def _above_zero(readings: Sequence[Reading]) -> dict[str, list[float]]:
    """Return the values of each figure over the blocks; without those that are not all above 0, which have no ratio."""
    if not all(reading.figures for reading in readings):
        return {}
    same = zip(*(reading.figures for reading in readings), strict=True)
    values = {figures[0].name: [figure.value for figure in figures] for figures in same}
    return {name: found for name, found in values.items() if min(found) > 0}


def _ratio(name: str, first: list[float], other: list[float], conditions: Mapping[str, float]) -> Figure:
    ratio, low, high = ratio_interval(first, other, conditions["confidence"])
    return Figure(f"{name}_ratio", ratio, "1", low, high, n=len(other), conditions=conditions)

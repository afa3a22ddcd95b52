"""What a long run costs: interruptions, money, energy and CO2."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from trimtab.maths.cost import JOULES_PER_KWH, energy_j, money_usd
from trimtab.plan.carbon import WORLD, Region, region
from trimtab.plan.intervals import predicted
from trimtab.plan.power import PUE, draw
from trimtab.plan.rates import Constants
from trimtab.values.chip import Chip
from trimtab.values.figure import Figure

CHIP_MTBF_H = 50_700.0
"""Hours between interruptions of one chip: 419 in 54 days on 16,384 H100s (Llama 3, arXiv 2407.21783, 3.3.4)."""
RESTART_S = 600.0
"""From an interruption to the next step: noticing, rescheduling, loading; assumed."""
HOST_CHIPS = 8
STORAGE_GBS = 2.0
"""To storage, each host of eight chips, 1e9 bytes a second; assumed."""
CHECKPOINT_BYTES = 14.0
"""A weight with Adam's state."""
WATTS = "watts-training"
DAY = 86400.0
UNKNOWN = 1e18
"""What counts for a price or an energy that is not known, when runs are compared."""


@dataclass(frozen=True)
class Terms:
    """How things are paid and where they run."""

    place: Region
    pue: float = PUE
    spot: bool = False
    mtbf_h: float = CHIP_MTBF_H
    usd_per_hour: float | None = None
    """Of one chip; None takes the chip's price."""

    @classmethod
    def of(cls, place: str = WORLD, spot: bool = False, usd_per_hour: float | None = None) -> Terms:
        """Return the terms of a place by its name; raises UnknownName."""
        found = region(place)
        return cls(found, found.pue or PUE, spot, CHIP_MTBF_H, usd_per_hour)

    @property
    def told(self) -> dict[str, Any]:
        """The place as a JSON object."""
        place = self.place
        return {"name": place.name, "g_per_kwh": place.g_per_kwh, "pue": self.pue, "source": place.source}

    def price(self, chip: Chip) -> float | None:
        """Return dollars an hour of one chip, None where no price is known."""
        if self.usd_per_hour is not None:
            return self.usd_per_hour
        known = chip.spot_usd_per_hour if self.spot and chip.spot_usd_per_hour else chip.usd_per_hour
        return known or None


def lost_share(chips: int, parameters: float, mtbf_h: float = CHIP_MTBF_H) -> float:
    """Return the share of a long run's time that checkpoints and interruptions take.

    Checkpoints are written every sqrt(2 w M) seconds, w being what one takes and M the time between interruptions
    (Young 1974, CACM 17(9):530); half of that is done again after each.

    >>> round(lost_share(16384, 405e9), 2)
    0.07
    """
    mean = mtbf_h * 3600 / chips
    write = CHECKPOINT_BYTES * parameters / (STORAGE_GBS * 1e9 * max(1, chips / HOST_CHIPS))
    every = math.sqrt(2 * write * mean)
    return min(0.9, write / every + every / 2 / mean + RESTART_S / mean) if every else 0.0


def or_worst(value: float | None) -> float:
    """Return what an amount counts for when ways are compared."""
    return UNKNOWN if value is None else value


@dataclass(frozen=True)
class Limits:
    """What a run may take."""

    budget_usd: float | None = None
    deadline_s: float | None = None


@dataclass(frozen=True)
class Bill:
    """What a run of so many chips takes."""

    chip: Chip
    chips: int
    seconds: float
    arithmetic: float
    """Share of the peak that is used; the memory is taken to be used twice as much."""
    terms: Terms
    fitted: Constants

    @property
    def usd(self) -> float | None:
        """Rent of all chips; None where no price is known."""
        price = self.terms.price(self.chip)
        return None if price is None else money_usd(self.seconds, price * self.chips)

    @property
    def kwh(self) -> float | None:
        """Energy, host and building included; None where the chip's watts are not known."""
        if not self.chip.full_w:
            return None
        found = draw(self.chip, self.arithmetic, min(1.0, 2 * self.arithmetic), self.fitted, self.terms.pue)
        return energy_j(found.site_w * self.chips, self.seconds) / JOULES_PER_KWH

    @property
    def co2_t(self) -> float | None:
        """Tonnes of CO2-equivalents."""
        return None if self.kwh is None else self.kwh * self.terms.place.g_per_kwh / 1e6

    @property
    def amounts(self) -> tuple[float, float, float, float]:
        """Seconds, money, energy and CO2, to be compared: what is not known counts as the worst."""
        usd, kwh, co2 = map(or_worst, (self.usd, self.kwh, self.co2_t))
        return self.seconds, usd, kwh, co2

    def broken(self, limits: Limits) -> list[str]:
        """Return the limits that are not kept, and by how much."""
        found = []
        if limits.deadline_s and self.seconds > limits.deadline_s:
            late = self.seconds / limits.deadline_s
            found.append(f"takes {self.seconds / DAY:.3g} days, {late:.3g} times the deadline")
        if limits.budget_usd and self.usd is None:
            found.append("no price is known; give one with --price")
        elif limits.budget_usd and self.usd is not None and self.usd > limits.budget_usd:
            found.append(f"costs {self.usd:,.0f} USD, {self.usd / limits.budget_usd:.3g} times the budget")
        return found

    def distance(self, limits: Limits) -> float:
        """Return by which factor the limits are missed, the worst of them."""
        late = self.seconds / limits.deadline_s if limits.deadline_s else 0.0
        dear = self.amounts[1] / limits.budget_usd if limits.budget_usd else 0.0
        return max(late, dear)

    def figures(self, *regimes: str) -> list[Figure]:
        """Return what the run takes, predicted, with intervals: the spread of its steps, and of whole runs."""
        hours = self.seconds / 3600
        made = [
            predicted("days", self.seconds / DAY, "d", *regimes),
            predicted("chip_hours", self.chips * hours, "h", *regimes),
        ]
        if self.usd is not None:
            made.append(predicted("money_usd", self.usd, "USD", *regimes))
        if self.kwh is not None and self.co2_t is not None:
            made.append(predicted("power_kw", self.kwh / hours, "kW", WATTS))
            made.append(predicted("energy_mwh", self.kwh / 1e3, "MWh", *regimes, WATTS))
            made.append(predicted("co2_t", self.co2_t, "t", *regimes, WATTS))
        return made

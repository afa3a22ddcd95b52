"""Watts: of a chip by how busy its arithmetic and its memory are, and of the system around it.

Power is not the limit times the hours: a chip that waits for memory draws less, and host, fans, network and the
building draw more. The line from idle to full is Fan, Weber and Barroso's (2007, ISCA, section 3.2), with one slope for
arithmetic and one for memory traffic.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.maths.cost import modelled_power_w
from trimtab.plan.rates import Constants
from trimtab.values.chip import Chip

PUE = 1.1
"""Power usage effectiveness of a large data centre: Patterson et al. 2021 (arXiv 2104.10350), Table 4, 1.09 to 1.12."""
IDLE = 0.1
"""Share of its limit that an idle chip draws, where it is not told."""


@dataclass(frozen=True)
class Draw:
    """Watts for each chip."""

    chip_w: float
    host_w: float
    """Host, fans, network and power supplies."""
    pue: float = PUE

    @property
    def system_w(self) -> float:
        """At the node's plug."""
        return self.chip_w + self.host_w

    @property
    def site_w(self) -> float:
        """At the building's."""
        return self.system_w * self.pue


def draw(chip: Chip, arithmetic: float, memory: float, used: Constants, pue: float = PUE) -> Draw:
    """Return the watts of a chip whose peak arithmetic and memory are used by these shares, and of its system."""
    full = chip.full_w
    idle = chip.idle_w or IDLE * full
    if chip.kind in ("tpu", "asic"):
        share, host = used.tpu_busy + used.tpu_arithmetic * arithmetic, 0.0
    else:
        share = used.gpu_busy + used.gpu_arithmetic * arithmetic + used.gpu_memory * memory
        host = used.host_share * full
    busy = modelled_power_w(idle, full, min(1.0, share))
    return Draw(busy, chip.host_w or host, pue)

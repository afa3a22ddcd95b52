"""How busy a machine is: its load, and the share of its processor time that a hypervisor took."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

STAT = Path("/proc/stat")
COLUMNS, STEAL = 8, 7
"""user, nice, system, idle, iowait, irq, softirq, steal (proc(5)); guests are part of user."""


def counters() -> dict[str, float]:
    """Return `load_average` (one minute), and `total_s` and `steal_s`, which count from the machine's start.

    Where the system does not tell, a value is 0.
    """
    average = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    seconds = _processor_seconds()
    return {"load_average": average, "total_s": sum(seconds), "steal_s": seconds[STEAL]}


def steal_share(before: Mapping[str, float], now: Mapping[str, float]) -> float:
    """Return the share of processor time between two readings that a hypervisor took.

    >>> steal_share({"total_s": 10.0, "steal_s": 1.0}, {"total_s": 20.0, "steal_s": 2.0})
    0.1
    """
    spent = now["total_s"] - before["total_s"]
    return max(0.0, now["steal_s"] - before["steal_s"]) / spent if spent > 0 else 0.0


def _processor_seconds() -> list[float]:
    try:
        ticks = STAT.read_text().partition("\n")[0].split()[1 : COLUMNS + 1]
    except OSError:
        return [0.0] * COLUMNS
    return [int(tick) / os.sysconf("SC_CLK_TCK") for tick in ticks]

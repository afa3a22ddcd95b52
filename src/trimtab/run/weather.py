"""How busy a machine is: its load, and the share of its processor time that a hypervisor took."""

from __future__ import annotations

import os
from collections.abc import Mapping

import psutil


def counters() -> dict[str, float]:
    """Return `load_average` (one minute), and `total_s` and `steal_s`, which count from the machine's start.

    Where the system does not tell, a value is 0.
    """
    times = psutil.cpu_times()
    average = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return {
        "load_average": average,
        "total_s": float(sum(times)),
        "steal_s": float(getattr(times, "steal", 0.0)),
    }


def steal_share(before: Mapping[str, float], now: Mapping[str, float]) -> float:
    """Return the share of processor time between two readings that a hypervisor took.

    >>> steal_share({"total_s": 10.0, "steal_s": 1.0}, {"total_s": 20.0, "steal_s": 2.0})
    0.1
    """
    spent = now["total_s"] - before["total_s"]
    return max(0.0, now["steal_s"] - before["steal_s"]) / spent if spent > 0 else 0.0

"""Machines: one TOML file each, and `here`, which is probed.

A probe reads what the system tells (cores and memory allowed, instruction sets, frequency, power meters) and takes
the rest - watts, price, memory bandwidth - per core from the file of the nearest processor family. Every fact says
in `sources` where it comes from; what is assumed is called so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import psutil

from trimtab.errors import UnknownName
from trimtab.machines import _probe
from trimtab.values.machine import Machine

HERE = "here"


def names() -> tuple[str, ...]:
    """Return the names of the machines that have a file, and `here`."""
    return tuple(sorted({HERE, *(path.stem for path in Path(__file__).parent.glob("*.toml"))}))


def load(name: str) -> Machine:
    """Return the machine of that name, of that TOML file, or `here`.

    Raises:
        UnknownName: no such machine; names the nearest.
        DataError: the file cannot be read.
    """
    if name == HERE:
        return here()
    if name in names():
        return Machine.from_toml(Path(__file__).parent / f"{name}.toml")
    if name.endswith(".toml"):
        return Machine.from_toml(Path(name))
    raise UnknownName("machine", name, names())


def here() -> Machine:
    """Probe this machine, in a few milliseconds and without running anything."""
    processor = _probe.processor()
    cores, memory_gb = _probe.cores(), _probe.memory_gb()
    family = load(_probe.family(processor))
    share = cores / family.cores
    accelerator, meter = _probe.accelerator(), _probe.power_meter()
    told = {
        "cpu": "/proc/cpuinfo or the system's own name",
        "cores": "processor affinity and control group quota",
        "memory_gb": "physical memory and control group limit",
        "peak_gflops": f"computed from {processor.mhz:.0f} MHz and {', '.join(processor.isa) or 'no known ISA'}",
    }
    taken = {key: f"per core from {family.name}: {family.sources[key]}" for key in _probe.FAMILY_FACTS}
    return Machine(
        name=HERE,
        cores=cores,
        isa=processor.isa,
        memory_gb=memory_gb,
        peak_gflops=_probe.peaks(processor, cores),
        bandwidth_gbs=family.bandwidth_gbs * share,
        idle_w=family.idle_w * share,
        full_w=family.full_w * share,
        usd_per_hour=family.usd_per_hour * share,
        cpu=processor.model,
        accelerator=accelerator,
        power_meter=meter,
        sources=told | taken,
    )


def load_now(since: Mapping[str, float] | None = None) -> dict[str, float]:
    """Return `load_average` (one minute) and `steal_share`, the share of processor time that a hypervisor took.

    The share is since an earlier answer of this function, or else since the machine started; `total_s` and
    `steal_s` are the counters it is computed from. Where the system does not tell, a value is 0.
    """
    times = psutil.cpu_times()
    total, steal = float(sum(times)), float(getattr(times, "steal", 0.0))
    before = since or {"total_s": 0.0, "steal_s": 0.0}
    spent = total - before["total_s"]
    share = max(0.0, steal - before["steal_s"]) / spent if spent > 0 else 0.0
    average = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return {"load_average": average, "steal_share": share, "total_s": total, "steal_s": steal}

"""Energy: joules for a thousand answers, from a power meter where there is one, else from a model of the machine.

RAPL counters measure whole processor packages and NVML a whole accelerator, so whatever else runs there is in the
figure. Without a meter the energy is the time taken times a modelled power: the machine's idle power for the share
of it that the threads hold, plus the busy share of the rest, where busy is the processor time that was really used.
That is labelled `modelled`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from trimtab.maths.cost import energy_j
from trimtab.meters import Meter, Probe, Reading, Remote
from trimtab.run.timing import call_seconds
from trimtab.values.figure import Axis, Figure, Origin
from trimtab.values.machine import Machine

POWERCAP = Path("/sys/class/powercap")
ANSWERS = 1000
Joules = Callable[[], float]
"""A counter that runs on; it may wrap round, then it is smaller than before."""


class Energy(Meter):
    """Reads a power meter around timed calls, or models their power."""

    figures: ClassVar[Mapping[str, Axis]] = {"energy_j": Axis("J per 1000")}
    repeats = True

    def read(self, session: Remote, probe: Probe) -> Reading:
        """Return mean power while calling, times mean time of an answer; nothing, and why, without meter and watts."""
        batches, machine = probe.batches(), probe.machine
        counter, meter = power_counter(machine.power_meter, int(session.usage().get("pid", 0)))
        reason = f"machine {machine.name} has no full_w, and no power meter that reads"
        if not meter and machine.full_w <= 0:
            return Reading((), details={"reason": reason})
        used, joules, begin = session.usage()["cpu_seconds"], counter(), time.perf_counter()
        seconds = call_seconds(session, batches, probe.seconds)
        elapsed = time.perf_counter() - begin
        spent, busy = counter() - joules, session.usage()["cpu_seconds"] - used
        origin: Origin = "measured" if meter and spent > 0 else "modelled"
        if origin == "modelled" and machine.full_w <= 0:
            return Reading((), details={"reason": reason})
        measured = spent / elapsed if origin == "measured" else None
        power_w = modelled_w(machine, probe.threads, busy / elapsed) if measured is None else measured
        samples = ANSWERS / probe.batch * energy_j(power_w, 1.0) * seconds
        conditions = {
            "batch": probe.batch,
            "threads": probe.threads,
            "power_w": power_w,
            "meter": meter if origin == "measured" else "none",
        }
        figure = Figure(
            "energy_j", float(samples.mean()), "J per 1000", n=len(samples), origin=origin, conditions=conditions
        )
        return Reading((figure,), samples=samples)


def modelled_w(machine: Machine, threads: int, busy_cores: float) -> float:
    """Watts charged to a worker that holds `threads` cores and keeps `busy_cores` of them busy.

    The line from idle to full power of Fan, Weber and Barroso (2007), ISCA, section 3.2, divided by cores.
    """
    held = min(1.0, threads / machine.cores)
    busy = min(1.0, max(0.0, busy_cores) / machine.cores)
    return machine.idle_w * held + (machine.full_w - machine.idle_w) * busy


def power_counter(kind: str, pid: int) -> tuple[Joules, str]:
    """Return a counter of joules and the meter's name; a counter of nothing and '' where no meter sees the worker."""
    if kind == "rapl":
        files = [path for path in POWERCAP.glob("intel-rapl:?/energy_uj") if _readable(path)]
        if files:
            return lambda: sum(int(path.read_text()) for path in files) / 1e6, "rapl"
    if kind == "nvml":
        return _nvml_counter(pid)
    return lambda: 0.0, ""


def _readable(path: Path) -> bool:
    try:
        return path.read_text().strip().isdigit()
    except OSError:
        return False


def _nvml_counter(pid: int) -> tuple[Joules, str]:
    """The energy of the accelerators on which the worker really runs; most runtimes here run on none."""
    try:
        import pynvml

        pynvml.nvmlInit()
        devices = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        ours = [d for d in devices if pid in {p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(d)}]
    except Exception:  # no library, no driver, no right to ask: there is no meter
        return lambda: 0.0, ""
    return lambda: sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(d) for d in ours) / 1e3, "nvml" if ours else ""

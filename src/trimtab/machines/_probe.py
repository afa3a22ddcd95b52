"""What the system tells of the machine it runs on; every function falls back where it tells nothing."""

from __future__ import annotations

import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

PROC, SYS = Path("/proc"), Path("/sys")
ISA = (
    *("sse4_2", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve"),
)
FAMILY_FACTS = ("bandwidth_gbs", "idle_w", "full_w", "usd_per_hour")
USUAL_MHZ = 2500.0
UNLIMITED_BYTES = 1 << 60


@dataclass(frozen=True)
class Processor:
    """What kernels depend on."""

    model: str
    isa: tuple[str, ...]
    mhz: float
    """Frequency now; a virtual machine tells the base frequency."""


def processor(proc: Path = PROC) -> Processor:
    """Return the processor from /proc/cpuinfo; on other systems from their own names."""
    try:
        text = (proc / "cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return _other_processor()
    flags = set(_entry(text, "flags").split()) | set(_entry(text, "Features").split())
    model = _entry(text, "model name") or platform.processor() or platform.machine()
    family, number = _entry(text, "cpu family"), _entry(text, "model")
    kind = f" (family {family} model {number})" if family else ""
    return Processor(model + kind, tuple(name for name in ISA if name in flags), _mhz(text))


def family(of: Processor) -> str:
    """Return the name of the machine file nearest to the processor."""
    model, arm = of.model.lower(), "asimd" in of.isa
    if "apple" in model:
        return "apple-silicon"
    if "epyc" in model:
        return "amd-epyc"
    if "xeon" in model:
        return "intel-xeon"
    return "generic-arm" if arm or platform.machine() in ("arm64", "aarch64") else "generic-x86"


def peaks(of: Processor, cores: int) -> dict[str, float]:
    """Return dense peaks in 1e9 operations a second: 2 x SIMD lanes x FMA units x frequency x cores.

    Two FMA units are assumed; AMD's Zen 4 splits 512-bit instructions in two, so counts as 256 bits wide. int8 dot
    products (VNNI, asimddp) do four times as many as fp32, int8 without them two times; AMX 1024 bf16 and 2048 int8
    multiply-accumulates a cycle (Intel 64 and IA-32 Optimization Manual, chapter 20).
    """
    isa = set(of.isa)
    lanes = 16 if "avx512f" in isa and "AMD" not in of.model else 8 if "avx2" in isa else 4
    per_core = of.mhz / 1e3 * cores
    fp32 = 2.0 * lanes * 2 * per_core
    dots = isa & {"avx512_vnni", "avx_vnni", "asimddp"}
    bf16 = fp32 * (2 if isa & {"avx512_bf16", "bf16"} else 1)
    return {
        "fp32": fp32,
        "bf16": 2 * 1024 * per_core if "amx_bf16" in isa else bf16,
        "int8": 2 * 2048 * per_core if "amx_int8" in isa else fp32 * (4 if dots else 2),
    }


def cores(proc: Path = PROC, system: Path = SYS) -> int:
    """Return how many processors may be used: the affinity, or less where a control group has a quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _groups(proc, system) if (quota := _quota(folder)) is not None]
    return max(1, min([allowed, *(math.ceil(quota) for quota in quotas)]))


def memory_gb(proc: Path = PROC, system: Path = SYS) -> float:
    """Return the memory that may be used, in 1e9 bytes."""
    limits = [
        int(text)
        for folder in _groups(proc, system)
        for name in ("memory.max", "memory.limit_in_bytes")
        if (text := _read(folder / name)).isdigit() and int(text) < UNLIMITED_BYTES
    ]
    smallest = int(min([psutil.virtual_memory().total, *limits]))
    return round(smallest / 1e9, 3)


def accelerator(proc: Path = PROC) -> str:
    """Return the accelerators' names, as NVIDIA's driver tells them; empty where there is none."""
    found = [
        _entry(_read(path), "Model") or "NVIDIA" for path in sorted((proc / "driver/nvidia/gpus").glob("*/information"))
    ]
    counts = {name: found.count(name) for name in found}
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in counts.items())


def power_meter(system: Path = SYS, proc: Path = PROC) -> str:
    """Return `rapl` where its counters can be read, `nvml` where there is an NVIDIA driver, or nothing."""
    if any(_read(path).isdigit() for path in (system / "class/powercap").glob("intel-rapl:*/energy_uj")):
        return "rapl"
    return "nvml" if accelerator(proc) else ""


def _other_processor() -> Processor:
    arm = platform.machine().lower() in ("arm64", "aarch64")
    model = _sysctl("machdep.cpu.brand_string") if sys.platform == "darwin" else ""
    told = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    mhz = float(told.current) if told and told.current > 100 else USUAL_MHZ
    isa = ("asimd", "asimddp") if arm else ("sse4_2", "avx2", "fma")
    return Processor(model or platform.processor() or platform.machine(), isa, mhz)


def _sysctl(key: str) -> str:
    try:
        return subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, timeout=2).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _mhz(text: str) -> float:
    """The highest frequency if the system tells, else that of now, else a usual one."""
    highest = _read(SYS / "devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    if highest.isdigit():
        return int(highest) / 1e3
    now = _entry(text, "cpu MHz")
    return float(now) if now else USUAL_MHZ


def _entry(text: str, key: str) -> str:
    found = re.search(rf"^{key}\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _groups(proc: Path, system: Path) -> Iterator[Path]:
    """Folders of this process's control group and those above it, version 2 and then 1."""
    for line in _read(proc / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for root in [system / "fs/cgroup" / controllers] if controllers else [system / "fs/cgroup"]:
            folder = root / path.lstrip("/")
            yield from (each for each in (folder, *folder.parents) if each.is_relative_to(root))


def _quota(folder: Path) -> float | None:
    """Processors' worth of time: `cpu.max` of version 2, `cpu.cfs_*` of version 1."""
    both = _read(folder / "cpu.max").split() or [
        _read(folder / "cpu.cfs_quota_us"),
        _read(folder / "cpu.cfs_period_us"),
    ]
    quota, period = (*both, "")[:2]
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None

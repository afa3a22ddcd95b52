"""Machines: one TOML file each, `here`, which is probed, and `ssh:HOST`, which is probed over there.

A probe reads what the system tells (cores and memory allowed, instruction sets, frequency, power meters) and takes
the rest - watts, price, memory bandwidth - per core from the file of the nearest processor family. Every fact says
in `sources` where it comes from; what is assumed is called so.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from trimtab.errors import UnknownName, UsageError
from trimtab.machines import _probe
from trimtab.run.address import PREFIX, Address
from trimtab.values.machine import HERE, Machine

LIBRARIES = ("trimtab", "onnxruntime", "openvino", "torch")
"""What answers depend on: where two machines both have one, its version is the same."""


def names() -> tuple[str, ...]:
    """Return the names of the machines that have a file, and `here`."""
    return tuple(sorted({HERE, *(path.stem for path in Path(__file__).parent.glob("*.toml"))}))


def load(name: str) -> Machine:
    """Return the machine of that name, of that TOML file, of that address, or `here`.

    Raises:
        UnknownName: no such machine; names the nearest.
        DataError: the file cannot be read.
        UsageError: the address cannot be read, or has no trimtab like ours.
        SessionError: the address cannot be reached.
    """
    if name == HERE:
        return here()
    if name.startswith(PREFIX):
        return there(name)
    if name in names():
        return Machine.from_toml(Path(__file__).parent / f"{name}.toml")
    if name.endswith(".toml"):
        return Machine.from_toml(Path(name))
    raise UnknownName("machine", name, names())


def measurable(name: str) -> Machine:
    """Return a machine that figures can be measured on: `here`, one at an address, or this one as a file tells of it.

    What a file leaves open of the processor is filled in from the probe, so that figures are labelled with where they
    were read.

    Raises:
        UsageError: the file's processor, instruction sets or cores are not those of this machine.
        UnknownName, DataError, UsageError, SessionError: as `load`.
    """
    found = load(name)
    if name == HERE or name.startswith(PREFIX):
        return found
    ours = here()
    lacking = [each for each in found.isa if each not in ours.isa]
    other = (found.cpu and found.cpu != ours.cpu) or found.cores != ours.cores or lacking
    if other:
        raise UsageError(
            f"{name} tells of {_hardware(found)}, and this machine is {_hardware(ours)}; what is measured here holds "
            "here only: --on here, --on ssh:HOST to measure there, or trim --dry-run to predict"
        )
    return replace(found, cpu=ours.cpu, isa=ours.isa)


def _hardware(machine: Machine) -> str:
    return f"{machine.cores} cores of {machine.cpu or 'some processor'} ({', '.join(machine.isa) or 'no vectors'})"


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


def there(name: str) -> Machine:
    """Probe the machine at an address (`trimtab.run.remote`), whose name that stays.

    Raises:
        UsageError, SessionError: as `Address.tell`, or the libraries that a verdict depends on differ.
    """
    address = Address.parse(name)
    told, ours = address.tell(), versions()
    for library in LIBRARIES:
        own = ours.get(library)
        theirs = told["versions"].get(library, own)
        if own and theirs != own:
            raise UsageError(
                f"{address.host} has {library} {theirs}, here it is {own}; a verdict holds for one version: "
                f"{address.python} -m pip install {library}=={own}"
            )
    found = Machine.from_json(told["machine"])
    unread = {"power_meter": "left out: it is not read from afar"} if found.power_meter else {}
    return replace(found, name=name, power_meter="", sources={**found.sources, **unread})


def versions() -> dict[str, str]:
    """Return the versions of trimtab and of the runtimes' libraries, as far as they are installed; builds left out."""
    found = {}
    for library in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[library] = metadata.version(library).partition("+")[0]
    return found

"""What there is: one thing of a registry in full, and what this machine and installation can do."""

from __future__ import annotations

import inspect
import os
import platform
import shutil
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from trimtab import __version__, machines
from trimtab.apply import LIBRARIES, versions
from trimtab.recipe import available
from trimtab.values.machine import Machine
from trimtab.values.registry import KINDS, registry
from trimtab.values.store import Store


def describe(kind: str, name: str) -> str:
    """Return the documentation of one thing, then its arguments with their defaults."""
    thing = registry(kind).take(name)
    words = inspect.getdoc(inspect.getmodule(thing)) or ""
    lines = [words, "", inspect.getdoc(thing) or ""]
    if is_dataclass(thing):
        lines += ["", *(f"  {f.name}: {f.type}{_default(f)}" for f in fields(thing))]
    for fact in ("formats", "stage", "figures"):
        value = getattr(thing, fact, None)
        if value:
            shown = ", ".join(value) if not isinstance(value, str) else value
            lines.append(f"  ({fact}: {shown})")
    return "\n".join(lines)


def _default(field: Any) -> str:
    if field.default is not MISSING:
        return f" = {field.default!r}"
    return "" if field.default_factory is MISSING else f" = {field.default_factory()!r}"


def doctor() -> dict[str, Any]:
    """Return the machine's facts, the libraries' versions, what is missing and how to get it, and the store's state."""
    here = machines.here()
    report: dict[str, Any] = {
        "trimtab": __version__,
        "python": platform.python_version(),
        "machine": f"{here.name}, {here.cores} cores, {here.memory_gb:.0f} GB",
        "instruction sets": list(here.isa),
        "int8": _int8(here),
        "accelerator": here.accelerator or "none",
        "energy": f"measured by {here.power_meter}" if here.power_meter else "modelled: no power meter is readable",
        "threads": f"OMP_WAIT_POLICY={os.environ.get('OMP_WAIT_POLICY', 'unset (spinning threads slow shared cores)')}",
        "libraries": versions(LIBRARIES),
    }
    for kind in KINDS:
        things, missing = available(kind)
        report[kind] = list(things)
        report |= {f"missing {kind}/{name}": reason for name, reason in missing.items()}
    store = Store()
    free = shutil.disk_usage(store.root).free / 1e9
    return report | {"store": f"{store.root}, {len(store.entries())} entries, {free:.0f} GB free on its disk"}


def _int8(machine: Machine) -> str:
    if machine.saturates:
        return "no VNNI: 8-bit sums may saturate; each artefact is checked on its runtime here"
    return "exact and fast (VNNI)" if any(name.startswith("avx") for name in machine.isa) else "unknown"

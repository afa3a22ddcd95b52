"""A machine as facts: what it can compute, hold, draw and cost. Read from TOML, or probed (`trimtab.machines`)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from trimtab.errors import DataError

HERE = "here"
"""The name of the machine that this runs on."""


@dataclass(frozen=True)
class Machine:
    """Facts about one machine; rates are for the whole of it, prices and watts too."""

    name: str
    cores: int
    isa: tuple[str, ...] = ()
    """Instruction sets that matter to kernels: avx2, avx512f, avx512_vnni, avx_vnni, amx_int8, ..."""
    memory_gb: float = 0.0
    peak_gflops: Mapping[str, float] = field(default_factory=dict)
    """Dense peak by dtype (fp32, bf16, int8), in 1e9 operations a second; a multiply-accumulate is two."""
    bandwidth_gbs: float = 0.0
    """Main memory bandwidth, 1e9 bytes a second."""
    idle_w: float = 0.0
    full_w: float = 0.0
    usd_per_hour: float = 0.0
    cpu: str = ""
    """The processor's model name: a verdict belongs to one kind of processor."""
    accelerator: str = ""
    power_meter: str = ""
    """`rapl`, `nvml`, or empty: then energy is modelled from `idle_w` and `full_w`."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where each of the facts comes from."""

    @property
    def is_here(self) -> bool:
        """Whether it is the machine that this runs on."""
        return self.name == HERE

    @property
    def kind(self) -> tuple[str, int, tuple[str, ...]]:
        """What machines share on which the same takes as long."""
        return self.cpu, self.cores, self.isa

    @property
    def saturates(self) -> bool:
        """Whether 8-bit products add up in 16 bits there, without notice: x86 with neither VNNI nor AMX."""
        x86 = any(name.startswith("avx") for name in self.isa)
        return x86 and not any("vnni" in name or name.startswith("amx_int8") for name in self.isa)

    @property
    def summary(self) -> str:
        """The facts in one line."""
        price = f", {self.usd_per_hour:g} USD an hour" if self.usd_per_hour else ""
        return f"{self.cores} cores, {self.idle_w:g} to {self.full_w:g} W{price}; {', '.join(self.isa) or 'no vectors'}"

    def to_json(self) -> dict[str, Any]:
        """Return the facts as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Machine:
        """Read facts from a JSON or TOML object; raises DataError on names it does not know."""
        known = {f.name for f in fields(cls)}
        strange = sorted(set(data) - known)
        if strange:
            raise DataError(f"machine has unknown facts {', '.join(strange)}; known: {', '.join(sorted(known))}")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        return cls(**values)

    @classmethod
    def from_toml(cls, path: Path) -> Machine:
        """Read a machine's TOML file; its stem is the name."""
        try:
            return cls.from_json({"name": path.stem, **tomllib.loads(path.read_text())})
        except (OSError, tomllib.TOMLDecodeError, TypeError) as error:
            raise DataError(f"cannot read machine file {path}: {error}") from error

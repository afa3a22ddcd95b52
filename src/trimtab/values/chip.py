"""An accelerator as facts: what one chip computes, holds, moves, draws and costs. Read from TOML, by the planner."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from trimtab.errors import DataError

DTYPE_BYTES = {"fp32": 4.0, "tf32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5}
"""Bytes of a number."""
TWINS = {"fp16": "bf16", "bf16": "fp16"}
"""Formats that run at each other's rate."""


@dataclass(frozen=True)
class Chip:
    """Facts about one chip (a board where several dies share one); rates are dense, without sparsity.

    >>> toy = Chip("toy", {"bf16": 100.0}, memory_gb=16.0, bandwidth_gbs=900.0, matmul_tflops={"bf16": 80.0})
    >>> toy.matmul("fp16"), toy.has("fp8")
    (80.0, False)
    """

    name: str
    peak_tflops: Mapping[str, float]
    """Dense peak by number format (fp32, tf32, bf16, fp8, int8, fp4), 1e12 operations a second."""
    vendor: str = ""
    kind: str = "gpu"
    """gpu, tpu, asic, fpga or cpu."""
    released: str = ""
    """Year and month."""
    memory_gb: float = 0.0
    """1e9 bytes."""
    bandwidth_gbs: float = 0.0
    """Of its memory, 1e9 bytes a second."""
    link_gbs: float = 0.0
    """To its neighbours in a node, each direction, 1e9 bytes a second."""
    link_chips: int = 1
    """Chips that such links join: the node."""
    network_gbs: float = 0.0
    """Between nodes, each chip's share, 1e9 bytes a second."""
    full_w: float = 0.0
    """Power limit, watts."""
    idle_w: float = 0.0
    host_w: float = 0.0
    """What host, fans and network draw for each chip, watts; 0: as usual for its kind."""
    matmul_tflops: Mapping[str, float] = field(default_factory=dict)
    """The fastest matrix product measured on it, by number format."""
    usd_per_hour: float = 0.0
    spot_usd_per_hour: float = 0.0
    price_date: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where each of the facts comes from."""

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self) if f.type == "float"):
            if not _is_amount(getattr(self, name)):
                raise DataError(f"chip {self.name}: {name} is a number from 0 on, got {getattr(self, name)!r}")
        for name in ("peak_tflops", "matmul_tflops"):
            rates = getattr(self, name)
            if not isinstance(rates, Mapping) or not all(_is_amount(rate) and rate for rate in rates.values()):
                raise DataError(f"chip {self.name}: {name} gives rates above 0 by number format, got {rates!r}")
            strange = sorted(set(rates) - set(DTYPE_BYTES))
            if strange:
                raise DataError(f"chip {self.name}: {name} has {strange[0]!r}; formats: {', '.join(DTYPE_BYTES)}")
        if not isinstance(self.link_chips, int) or self.link_chips < 1:
            raise DataError(f"chip {self.name}: link_chips is a whole number from 1 on, got {self.link_chips!r}")
        needed = {"peak_tflops": self.peak_tflops, "memory_gb": self.memory_gb, "bandwidth_gbs": self.bandwidth_gbs}
        missing = [name for name, value in needed.items() if not value]
        if missing:
            raise DataError(f"chip {self.name}: {' and '.join(missing)} cannot be left out")

    def __hash__(self) -> int:
        """Agree with equality, without the tables of rates, which have no hash."""
        return hash((self.name, self.memory_gb, self.bandwidth_gbs, self.link_chips, self.network_gbs, self.full_w))

    def has(self, dtype: str) -> bool:
        """Tell whether the chip multiplies a number format."""
        return dtype in self.peak_tflops or TWINS.get(dtype) in self.peak_tflops

    def peak(self, dtype: str) -> float:
        """Return the dense peak of a number format, 1e12 operations a second.

        Raises:
            DataError: the chip has none; names those it has.
        """
        if not self.has(dtype):
            raise DataError(f"{self.name} has no {dtype} rate; it has {', '.join(self.peak_tflops)}")
        return self.peak_tflops.get(dtype) or self.peak_tflops[TWINS[dtype]]

    def matmul(self, dtype: str) -> float | None:
        """Return the fastest product measured in a number format, 1e12 operations a second; None where none was."""
        return self.matmul_tflops.get(dtype) or self.matmul_tflops.get(TWINS.get(dtype, dtype))

    @classmethod
    def from_toml(cls, path: Path) -> Chip:
        """Read a chip's TOML file; its stem is the name.

        Raises:
            DataError: the file cannot be read, has facts that there are not, or lacks some that are needed.
        """
        try:
            data: dict[str, Any] = tomllib.loads(path.read_text())
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read chip file {path}: {error}") from error
        known = {f.name for f in fields(cls)} - {"name"}
        strange = sorted(set(data) - known)
        if strange:
            raise DataError(f"{path} has unknown facts {', '.join(strange)}; known: {', '.join(sorted(known))}")
        try:
            return cls(name=path.stem, **data)
        except TypeError as error:
            raise DataError(f"{path}: {error}") from error


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0

"""An accelerator as facts: what one chip computes, holds, moves, draws and costs. Read from TOML, by the planner."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from trimtab.errors import DataError

DTYPE_BYTES = {"fp32": 4.0, "tf32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5}
"""Bytes of a number."""
LIKE = {"fp16": "bf16"}
"""Formats that run at another's rate."""


@dataclass(frozen=True)
class Chip:
    """Facts about one chip (a board where several dies share one); rates are dense, without sparsity.

    >>> Chip("toy", peak_tflops={"bf16": 100.0}, matmul_tflops={"bf16": 80.0}).matmul("fp16")
    80.0
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
        numbers = {f.name: getattr(self, f.name) for f in fields(self) if f.type == "float"}
        wrong = [name for name, value in numbers.items() if not isinstance(value, int | float) or value < 0]
        if wrong:
            raise DataError(f"chip {self.name}: {wrong[0]} is a number from 0 on, got {numbers[wrong[0]]!r}")
        if not self.peak_tflops or (not self.memory_gb and self.name != "toy"):
            raise DataError(f"chip {self.name}: peak_tflops and memory_gb are needed")

    def peak(self, dtype: str) -> float:
        """Return the dense peak of a number format, 1e12 operations a second.

        Raises:
            DataError: the chip has none; names those it has.
        """
        found = self.peak_tflops.get(LIKE.get(dtype, dtype))
        if not found:
            raise DataError(f"{self.name} has no {dtype} rate; it has {', '.join(self.peak_tflops)}")
        return found

    def matmul(self, dtype: str) -> float | None:
        """Return the fastest product measured in a number format, 1e12 operations a second; None where none was."""
        return self.matmul_tflops.get(LIKE.get(dtype, dtype))

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

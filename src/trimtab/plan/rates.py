"""How fast a chip does each kind of work: its facts, corrected by what long trainings reach of them."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trimtab.maths.collectives import Wires
from trimtab.maths.transformer import Product
from trimtab.values.chip import Chip

A100_WATTS = 400 / 312
"""Watts for 1e12 bf16 operations a second at the peak: chips with fewer slow down when all of it is used."""
USUAL_WATTS = 0.7
"""Of a chip whose power limit is not told: as of an H100."""
USUAL_NETWORK_GBS = 3.125
"""Between nodes, a chip's share, where it is not told: 25 Gbit/s, assumed."""
NATIVE_SINCE = "2022-08"
"""Chips from then on have matrix instructions that older attention kernels do not use (wgmma of Hopper)."""


@dataclass(frozen=True)
class Constants:
    """What is fitted, and a few that are assumed; `constants.toml` says what each is."""

    product: float
    product_fp8: float
    unmeasured: float
    watts: float
    bandwidth: float
    traffic: float
    flash1: float
    flash2: float
    foreign: float
    native: float
    plain: float
    link: float
    network: float
    delay_us: float
    launch_us: float
    host_us: float
    exposed: float
    optimizer_bytes: float
    fp8_traffic: float
    expert_traffic: float
    convolution: float
    activation_bytes: float
    layer_us: float
    evaluation: float
    serve_product: float
    decode_bandwidth: float
    serve_layer_us: float
    step_us: float
    reduce_us: float
    ring_us: float
    expert_us: float
    queue: float
    accept_ms: float
    gpu_busy: float
    gpu_arithmetic: float
    gpu_memory: float
    host_share: float
    tpu_busy: float
    tpu_arithmetic: float


FILE = Path(__file__).parent / "constants.toml"
_in_use: list[Constants] = []


def constants() -> Constants:
    """Return the constants that were fitted, or those in use."""
    if not _in_use:
        _in_use.append(Constants(**tomllib.loads(FILE.read_text())))
    return _in_use[-1]


@contextlib.contextmanager
def using(others: Constants) -> Iterator[None]:
    """Use other constants, while they are fitted."""
    _in_use.append(others)
    try:
        yield
    finally:
        _in_use.remove(others)


@dataclass(frozen=True)
class Rates:
    """A chip's rates; all times in seconds."""

    chip: Chip
    constants: Constants

    def product_rate(self, dtype: str) -> float:
        """Return the operations a second that large matrix products reach in a long run."""
        found = self.chip.matmul(dtype)
        if found is None:
            others = [found / self.chip.peak(name) for name, found in self.chip.matmul_tflops.items()]
            found = self.chip.peak(dtype) * (others[0] if others else self.constants.unmeasured)
        share = self.constants.product_fp8 if dtype == "fp8" else self.constants.product
        return 1e12 * min(found * share, self.chip.peak(dtype)) * self._sustained

    @cached_property
    def _sustained(self) -> float:
        if self.chip.kind == "tpu":  # their clock does not move with the load
            return 1.0
        watts = self.chip.full_w / self.chip.peak("bf16") if self.chip.full_w else USUAL_WATTS
        return float(min(1.0, (watts / A100_WATTS) ** self.constants.watts))

    @cached_property
    def bandwidth(self) -> float:
        """Bytes a second of elementwise operations."""
        return self.chip.bandwidth_gbs * 1e9 * self.constants.bandwidth

    @cached_property
    def wires(self) -> Wires:
        """What joins this chip to others."""
        chip, used = self.chip, self.constants
        network = chip.network_gbs or min(chip.link_gbs or USUAL_NETWORK_GBS, USUAL_NETWORK_GBS)
        link = chip.link_gbs or network
        delay = used.delay_us * 1e-6
        return Wires(link * 1e9 * used.link, network * 1e9 * used.network, chip.link_chips, delay)

    def product(self, *products: Product, dtype: str) -> float:
        """Return the time of matrix products: arithmetic, memory traffic and launch, one after the other."""
        rate, launch = self.product_rate(dtype), self.constants.launch_us * 1e-6
        return sum(p.operations / rate + 2 * p.elements / self.bandwidth + launch for p in products)

    def stream(self, size: float) -> float:
        """Return the time in which elementwise operations move so many bytes."""
        return size * self.constants.traffic / self.bandwidth

    def attention_rate(self, kind: str) -> float:
        """Return the operations a second of attention's scores and sums, which stay in bf16."""
        used, rate = self.constants, self.product_rate("bf16")
        if kind == "plain":
            return rate * used.plain
        newer = self.chip.vendor == "NVIDIA" and self.chip.has("fp8") and self.chip.released >= NATIVE_SINCE
        if kind == "native" and newer:
            return rate * used.native
        return rate * (used.flash1 if kind == "flash1" else used.flash2) * (used.foreign if newer else 1.0)

"""How fast a runtime is expected to be before anything is run: a roofline with two constants measured per runtime.

    seconds = max(operations / (efficiency x peak), bytes / bandwidth) + call + layers x layer

Peak is the share of the threads; one thread draws at most `LONE_CORE_GBS`. The constants were fitted by eye to seven
float32 nets at batch 1 and one thread on two shared AMD EPYC (Zen 4) cores: two MLPs, four CNNs of 3 to 260 million
multiply-accumulates and a transformer encoder, 0.01 to 25 ms. There the predictions are 0.6 to 1.6 times the
measurements, but up to 2.5 times that of the smallest MLP. A prediction ranks candidates and promises nothing; its
error is a figure of its own. Source of the roofline: `trimtab.maths.roofline`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trimtab.maths.roofline import roofline_s
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine

STATIC, DYNAMIC = 1.5, 3.0
"""Times the cost of a float layer: one whose activations are quantized, and one that first finds their range."""
LEAST_BITS = 3.5
"""No kernel here multiplies weights of fewer bits."""
OVER_FLOAT: Mapping[str, float] = {"bf16": 2.0, "int8": 4.0}
"""Times the peak of float32 that a lower precision is expected to reach at most, as vector instructions do.
Tiles (AMX) have peaks 32 and 64 times as high, which nets at batch 1 come nowhere near: on a Xeon with them MiniLM at
20 words reached 0.9 and 1.9 times that of float32, a detector of narrow convolutions half of it."""
LONE_CORE_GBS = 25.0
"""Bandwidth of one thread that streams weights, in 1e9 bytes a second, as measured with an MLP of 23 MB."""


@dataclass(frozen=True)
class Speed:
    """What sets one runtime apart from the machine's peak.

    >>> machine = Machine("m", cores=2, peak_gflops={"fp32": 200.0}, bandwidth_gbs=40.0)
    >>> facts = Facts("onnx", 1_000_000, 10_000_000, {"linear": 4})
    >>> speed = Speed(efficiency=0.5, call_us=10.0, layer_us=5.0)
    >>> round(speed.latency_ms(facts, machine, threads=1), 2)
    0.43
    """

    efficiency: float
    """Share of the peak reached by dense layers."""
    call_us: float
    """Cost of a call whatever the net, in microseconds."""
    layer_us: float
    """Cost of each layer whatever its size, in microseconds."""

    def latency_ms(self, facts: Facts, machine: Machine, threads: int) -> float:
        """Return the expected milliseconds of one example; 0 where the machine's rates are not known."""
        share, bits = min(threads, machine.cores) / machine.cores, _working_bits(facts)
        peak = _peak(facts, bits, machine.peak_gflops) * 1e9 * share * self.efficiency
        if not peak or not machine.bandwidth_gbs:
            return 0.0
        extra = DYNAMIC if facts.dynamic else STATIC if facts.activation_bits <= 8 else 1.0
        overhead = (self.call_us + extra * self.layer_us * facts.reached * sum(facts.layers.values())) / 1e6
        bandwidth = min(machine.bandwidth_gbs, LONE_CORE_GBS * threads) * 1e9
        streamed = facts.parameters - facts.parameters_by.get("embedding", 0)  # of a table, a few rows are read
        moved = facts.reached * streamed * bits / 8
        return 1e3 * facts.calls * roofline_s(2.0 * facts.operations, moved, peak, bandwidth, overhead)


def _working_bits(facts: Facts) -> float:
    """Return the mean bits of the weights that are multiplied: a table of embeddings often stays in float."""
    table = facts.parameters_by.get("embedding", 0) / max(facts.parameters, 1)
    others = (facts.weight_bits - 32.0 * table) / (1 - table) if table < 1 else facts.weight_bits
    return others if others >= LEAST_BITS else facts.weight_bits


def expected_peak(precision: str, peaks: Mapping[str, float]) -> float:
    """Return the rate that a precision below float32 is expected to reach, in 1e9 operations a second.

    >>> expected_peak("int8", {"fp32": 300.0, "int8": 20_000.0}), expected_peak("bf16", {"fp32": 300.0})
    (1200.0, 300.0)
    """
    plain = peaks.get("fp32", 0.0)
    return min(peaks.get(precision, plain), OVER_FLOAT[precision] * plain)


def _peak(facts: Facts, bits: float, peaks: Mapping[str, float]) -> float:
    """Return the rate at which a mix of 8-bit and float products is computed; the mean bits tell the mix."""
    plain, whole = peaks.get("fp32", 0.0), expected_peak("int8", peaks)
    if facts.activation_bits > 8 or not plain or not whole:
        return plain
    share = min(1.0, max(0.0, (32.0 - bits) / 24.0))
    return 1 / (share / whole + (1 - share) / plain)

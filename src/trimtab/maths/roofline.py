"""The least time a piece of work can take: its arithmetic or its memory traffic, whichever is slower.

Source: Williams, Waterman and Patterson (2009), CACM 52(4):65.
"""

from collections.abc import Mapping
from typing import Any

from trimtab.values.facts import Facts
from trimtab.values.machine import Machine


def roofline_s(
    operations: float, moved_bytes: float, peak_rate: float, bandwidth: float, overhead_s: float = 0.0
) -> float:
    """Seconds for `operations` at `peak_rate` (1/s) and `moved_bytes` at `bandwidth` (bytes/s), overlapped.

    `overhead_s` is added: what each launch or call costs whatever its size.

    >>> roofline_s(operations=2e9, moved_bytes=1e8, peak_rate=1e11, bandwidth=1e10)
    0.02

    Raises:
        ValueError: if an amount is negative, or a rate not positive.
    """
    if min(operations, moved_bytes, overhead_s) < 0 or min(peak_rate, bandwidth) <= 0:
        raise ValueError(
            f"operations {operations}, bytes {moved_bytes}, peak {peak_rate}, bandwidth {bandwidth}; "
            "amounts must be 0 or more and rates above 0"
        )
    return max(operations / peak_rate, moved_bytes / bandwidth) + overhead_s


def intensity_ridge(peak_rate: float, bandwidth: float) -> float:
    """Operations per byte above which arithmetic, not memory, is the limit.

    >>> intensity_ridge(1e11, 1e10)
    10.0
    """
    return peak_rate / bandwidth


def under_the_roof(machine: Machine, points: Mapping[str, tuple[Facts, float]]) -> dict[str, Any]:
    """Return where models lie under the machine's roof: name -> (facts, milliseconds of one example).

    Intensity counts the weights as the bytes moved, which is the least: what stays in the caches between calls, and
    activations that do not, move a point to the right or to the left. Source: Williams, Waterman and Patterson (2009).
    """
    peaks, bandwidth = dict(machine.peak_gflops), machine.bandwidth_gbs
    ridges = {kind: intensity_ridge(peak, bandwidth) for kind, peak in peaks.items() if peak and bandwidth}
    lines = []
    for name, (facts, latency_ms) in points.items():
        moved = facts.parameters * facts.weight_bits / 8
        if moved <= 0 or latency_ms <= 0 or not facts.operations:
            continue
        precision = "int8" if facts.weight_bits < 16 and facts.activation_bits <= 8 else "fp32"
        intensity, rate = 2 * facts.operations / moved, 2 * facts.operations * facts.calls / latency_ms / 1e6
        roof = min(peaks.get(precision, 0.0), intensity * bandwidth)
        line = {"name": name, "operations": 2 * facts.operations, "bytes": moved, "intensity": intensity}
        lines.append(line | {"gflops": rate, "precision": precision, "share_of_roof": rate / roof if roof else None})
    return {"peak_gflops": peaks, "bandwidth_gbs": bandwidth, "ridge": ridges, "points": lines}

"""Trains any net on samples: operations and activations of one sample are all that is asked of it.

A convolutional net's products reach less of a chip than a transformer's, and between them its activations are written
and read: by the convolution, the normalization and the activation, forward and backward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from trimtab.errors import DataError
from trimtab.plan.costs import Bill, Limits, Terms
from trimtab.plan.intervals import predicted
from trimtab.plan.rates import Constants, Rates, constants
from trimtab.values.chip import Chip


@dataclass(frozen=True)
class Work:
    """What one sample takes, forward."""

    name: str
    operations: float
    """Additions and multiplications."""
    activations: float
    """Numbers written by layers that multiply."""
    parameters: float
    layers: int
    """Layers that multiply."""

    def __post_init__(self) -> None:
        if min(self.operations, self.activations, self.parameters, self.layers) <= 0:
            raise DataError(f"{self.name}: operations, activations, parameters and layers are above 0, got {self}")


RESNET50 = Work("resnet50", operations=8.18e9, activations=11.1e6, parameters=25.6e6, layers=54)
"""ResNet-50 at 224 pixels: 4.09e9 multiply-accumulates (He et al. 2016), activations as Radosavovic et al. 2020
(arXiv 2003.13678, Table 2) count them."""
NETS = {RESNET50.name: RESNET50}
KEPT_BYTES = 5.0
"""Memory for each activation between the passes: its two bytes, and those of normalization and activation beside it."""


@dataclass(frozen=True)
class NetTraining:
    """A net trained with data parallelism."""

    work: Work
    chip: Chip
    batch: int
    """Samples of a step, all chips together."""
    chips: int = 1
    dtype: str = "bf16"
    fitted: Constants = field(default_factory=constants)

    @cached_property
    def rates(self) -> Rates:
        """What the chip does a second."""
        return Rates(self.chip, self.fitted)

    @cached_property
    def parts(self) -> dict[str, float]:
        """Seconds of a step by what they are spent on."""
        local, work, used = self.batch / self.chips, self.work, self.fitted
        rate = self.rates.product_rate(self.dtype) * used.convolution
        talk = self.rates.wires.reduce_s(2 * work.parameters, self.chips)
        compute = 3 * work.operations * local / rate
        traffic = used.activation_bytes * work.activations * local / self.rates.bandwidth
        spread = 1 + math.log2(self.chips / self.chip.link_chips) if self.chips > self.chip.link_chips else 1.0
        return {
            "products": compute,
            "elementwise": traffic,
            "data-parallel talk": max(0.0, talk - 0.5 * (compute + traffic)),
            "launching": work.layers * used.layer_us * 1e-6 * spread,
            "optimizer": work.parameters * used.optimizer_bytes / self.rates.bandwidth,
        }

    @property
    def seconds(self) -> float:
        """Of a step."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class NetOrder:
    """A net to be trained on samples."""

    work: Work
    samples: float
    """Of the whole training: samples times epochs."""
    batch: int = 256
    """Samples of a step on each chip."""
    dtype: str = "bf16"
    terms: Terms = field(default_factory=Terms.of)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class NetPlan:
    """One choice of chips for it."""

    order: NetOrder
    job: NetTraining

    @property
    def bill(self) -> Bill:
        """What the whole training takes, evaluation included."""
        job, order = self.job, self.order
        seconds = order.samples / job.batch * job.seconds * (1 + job.fitted.evaluation)
        peak = job.chips * job.chip.peak(job.dtype) * 1e12
        busy = 3 * job.work.operations * job.batch / job.seconds / peak
        return Bill(job.chip, job.chips, seconds, busy, order.terms, job.fitted)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as a JSON object."""
        job = self.job
        rate = predicted("samples_per_s", job.batch / job.seconds, "1/s", "resnet", grows=True)
        figures = [*self.bill.figures("resnet"), predicted("step_s", job.seconds, "s", "resnet"), rate]
        return {
            "chip": job.chip.name,
            "count": job.chips,
            "layout": f"dp={job.chips} batch={job.batch}",
            "figures": {figure.name: figure.to_json() for figure in figures},
            "time_parts": {name: value / job.seconds for name, value in job.parts.items()},
        }


def ways(order: NetOrder, chip: Chip, counts: Sequence[int]) -> list[NetPlan | str]:
    """Return a plan for each number of chips, or the reason why there is none."""
    if chip.kind == "cpu" or not chip.has(order.dtype) or not chip.has("bf16"):
        return ["a host processor, not an accelerator" if chip.kind == "cpu" else f"has no {order.dtype} products"]
    held = order.batch * order.work.activations * KEPT_BYTES + 16 * order.work.parameters
    if held > chip.memory_gb * 1e9:
        return [f"{order.batch} samples a chip need {held / 1e9:.0f} GB, it has {chip.memory_gb:g}: a smaller --batch"]
    return [NetPlan(order, NetTraining(order.work, chip, order.batch * count, count, order.dtype)) for count in counts]

"""The verb `plan serve`: how many sequences at once keep the latencies that were asked for, on what, at what price.

Of each chip and number of chips, the largest batch is taken that fits and keeps the limits: it is the cheapest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.errors import UsageError
from trimtab.maths.cost import JOULES_PER_KWH, money_usd, per_million
from trimtab.maths.pareto import frontier
from trimtab.plan.costs import Terms, or_worst
from trimtab.plan.intervals import predicted
from trimtab.plan.memory import GIB
from trimtab.plan.power import Draw, draw
from trimtab.plan.serving import FREE, Serving
from trimtab.values.architecture import Architecture
from trimtab.values.chip import Chip
from trimtab.values.figure import Figure

BATCHES = tuple(1 << power for power in range(13))
TPS = (1, 2, 4, 8)
WATTS = "watts-serving"


@dataclass(frozen=True)
class ServeOrder:
    """What is to be served, and within which limits."""

    arch: Architecture
    prompt: int = 1024
    output: int = 256
    weights: str = "bf16"
    ttft_s: float | None = None
    """Time to the first token."""
    tpot_s: float | None = None
    """Time of each further one."""
    batch: int = 0
    """Sequences at once; 0: as many as keep the limits."""
    tp: int = 0
    terms: Terms = field(default_factory=Terms.of)


@dataclass(frozen=True)
class ServePlan:
    """One way to serve."""

    order: ServeOrder
    job: Serving

    @property
    def usd_per_million(self) -> float | None:
        """Rent for a million written tokens."""
        price = self.order.terms.price(self.job.chip)
        if price is None:
            return None
        return per_million(money_usd(1.0, price * self.job.tp), self.job.tokens_per_s)

    @property
    def draw(self) -> Draw | None:
        """Watts of each chip and its share of the host; None where the chip's are not known."""
        if not self.job.chip.full_w:
            return None
        return draw(self.job.chip, *self.job.busy, self.job.fitted, self.order.terms.pue)

    def broken(self) -> list[str]:
        """Return the limits that are not kept."""
        job, order = self.job, self.order
        limits = {"first token": (job.waiting_s, order.ttft_s), "each token": (job.token_s, order.tpot_s)}
        return [
            f"{name} takes {value * 1e3:.4g} ms, {value / limit:.3g} times what is allowed"
            for name, (value, limit) in limits.items()
            if limit and value > limit
        ]

    def figures(self) -> dict[str, Figure]:
        """Return every figure, predicted, with its 90% interval."""
        job = self.job
        kind = "moe" if job.arch.experts else "dense"
        made = [
            predicted("ttft_ms", job.waiting_s * 1e3, "ms", f"first-{kind}"),
            predicted("tpot_ms", job.token_s * 1e3, "ms", f"decode-{kind}"),
            predicted("tokens_per_s", job.tokens_per_s, "1/s", f"decode-{kind}", grows=True),
            predicted("requests_per_s", job.tokens_per_s / job.output, "1/s", f"decode-{kind}", grows=True),
            predicted("memory_gib", job.memory_bytes / GIB, "GiB"),
            predicted("cache_gib", job.batch * (job.prompt + job.output) * job.token_bytes / GIB, "GiB"),
        ]
        if self.draw is not None:
            power_w = self.draw.site_w * job.tp
            per_token = power_w / job.tokens_per_s
            made.append(predicted("power_w", power_w, "W", WATTS))
            made.append(predicted("energy_j_per_token", per_token, "J", f"decode-{kind}", WATTS))
            grams = per_million(per_token / JOULES_PER_KWH * self.order.terms.place.g_per_kwh, 1.0)
            made.append(predicted("co2_g_per_million", grams, "g", f"decode-{kind}", WATTS))
        if self.usd_per_million is not None:
            made.append(predicted("usd_per_million", self.usd_per_million, "USD", f"decode-{kind}"))
        return {figure.name: figure for figure in made}

    def to_json(self) -> dict[str, Any]:
        """Return the plan as a JSON object."""
        job = self.job
        cached = job.memory_bytes - job.weight_bytes
        return {
            "chip": job.chip.name,
            "count": job.tp,
            "layout": f"tp={job.tp} batch={job.batch} weights={job.weights}",
            "figures": {name: figure.to_json() for name, figure in self.figures().items()},
            "memory_parts": {"weights": job.weight_bytes / GIB, "keys and values": cached / GIB},
        }


def ways(order: ServeOrder, chip: Chip) -> Iterator[ServePlan | str]:
    """Yield the best way for each number of chips, or the reason why there is none."""
    if chip.kind == "cpu" or not chip.has("bf16"):
        yield "a host processor, not an accelerator" if chip.kind == "cpu" else "has no products of 16 bits"
        return
    for tp in (order.tp,) if order.tp else [tp for tp in TPS if tp <= max(1, chip.link_chips)]:
        if order.arch.heads % tp:
            yield f"tp={tp} does not divide the {order.arch.heads} heads of {order.arch.name}"
            continue
        yield _best(order, chip, tp)


def _sequences(batch: int) -> str:
    return "one sequence" if batch == 1 else f"{batch} sequences"


def _best(order: ServeOrder, chip: Chip, tp: int) -> ServePlan | str:
    kept: ServePlan | str = ""
    for batch in (order.batch,) if order.batch else BATCHES:
        job = Serving(order.arch, chip, order.prompt, order.output, batch, tp, order.weights)
        if job.memory_bytes > FREE * chip.memory_gb * 1e9:
            have, need = FREE * chip.memory_gb * 1e9 / GIB, job.memory_bytes / GIB
            return kept or f"tp={tp}: needs {need:.0f} GiB a chip for {_sequences(batch)}, {have:.0f} are free"
        found = ServePlan(order, job)
        if found.broken():
            return kept or f"tp={tp}: {'; '.join(found.broken())}"
        kept = found
    return kept


def plan_serving(order: ServeOrder, chips: Sequence[Chip]) -> dict[str, Any]:
    """Return the document: ways to serve that keep the limits, which of them none beats, and why not the others.

    Raises:
        UsageError: none keeps the limits; tells reasons.
    """
    kept: list[ServePlan] = []
    rejected = []
    for chip in chips:
        found = list(ways(order, chip))
        good = [one for one in found if isinstance(one, ServePlan)]
        kept += good
        if not good:
            rejected.append({"chip": chip.name, "why": str(found[-1])})
    if not kept:
        reasons = "; ".join(f"{one['chip']}: {one['why']}" for one in rejected[:3])
        raise UsageError(f"no way to serve {order.arch.name} keeps the limits ({reasons})")
    kept.sort(key=lambda one: or_worst(one.usd_per_million))
    points = [[one.job.waiting_s, one.job.token_s, or_worst(one.usd_per_million)] for one in kept]
    return {
        "kind": "serve",
        "model": order.arch.name,
        "parameters": order.arch.parameters,
        "prompt": order.prompt,
        "output": order.output,
        "dtype": order.weights,
        "place": order.terms.told,
        "plans": [one.to_json() for one in kept],
        "pareto": sorted(map(int, frontier(points, ["min"] * 3))),
        "rejected": rejected,
    }

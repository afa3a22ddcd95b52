"""The verb `plan train`: the fastest layout of a training on each choice of chips, and which choices none beats.

A layout is searched among powers of two (and divisors of the layers for stages); the least recomputation that fits is
taken, because more of it is only slower. What does not fit or keeps no limit is told with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any, Protocol

from trimtab.errors import UsageError
from trimtab.maths.pareto import frontier
from trimtab.maths.scaling import HOFFMANN, PER_OPERATION
from trimtab.plan.costs import Bill, Limits, Terms, lost_share
from trimtab.plan.intervals import WHOLE_RUN, predicted
from trimtab.plan.layout import Layout
from trimtab.plan.memory import GIB, Memory
from trimtab.plan.stack import Stack, stack
from trimtab.plan.training import Training, regime_of
from trimtab.values.architecture import Architecture
from trimtab.values.chip import Chip
from trimtab.values.figure import Figure

COUNTS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Chips that are tried where no number is given."""
BATCH_TOKENS = ((1e9, 0.5e6), (1e10, 2e6), (float("inf"), 4e6))
"""Tokens of a step by parameters, as GPT-3's Table 2.1 has them (arXiv 2005.14165), where none are given."""
MICRO, MANY = (1, 2, 4, 8), (16, 32, 64)
"""Sequences of a micro-batch that are tried, and those of models that are small."""
SMALL = 3e9
MOST_SHARED = 8
"""Chips that share a layer, at most."""
LONG, CONTEXTS = 32768, (1, 2, 4, 8, 16)
"""Tokens of a sequence from which groups of chips are tried that share one out, and how many."""


@dataclass(frozen=True)
class Order:
    """What is to be trained, and within which limits."""

    arch: Architecture
    tokens: float
    seq: int = 2048
    batch: int = 0
    """Sequences of a step; 0: as usual for the size."""
    dtype: str = "bf16"
    program: str = ""
    """Name of the stack; empty: the usual of each chip."""
    fixed: dict[str, Any] = field(default_factory=dict)
    """Fields of the layout that the user wants so."""
    terms: Terms = field(default_factory=Terms.of)
    limits: Limits = field(default_factory=Limits)
    frozen: bool = False
    """Only small adapters are trained (LoRA); the weights stay."""

    @cached_property
    def sequences(self) -> int:
        """Of a step."""
        if self.batch:
            return self.batch
        tokens = next(tokens for size, tokens in BATCH_TOKENS if self.arch.parameters < size)
        return 1 << max(0, round(tokens / self.seq).bit_length() - 1)

    def on(self, count: int) -> Order:
        """Return the order with a batch that so many chips can share, where the user gives none."""
        odd = count // (count & -count)
        if self.batch or odd == 1:
            return self
        return replace(self, batch=odd << max(0, round(math.log2(self.sequences / odd))))

    def job(self, chip: Chip, layout: Layout) -> Training:
        """Return the training in a layout."""
        return Training(
            self.arch, chip, self.sequences, self.seq, layout, self.stack(chip), self.dtype, frozen=self.frozen
        )

    def stack(self, chip: Chip) -> Stack:
        """Return the program that a chip runs."""
        return stack(self.program, chip.kind)


@dataclass(frozen=True)
class Plan:
    """One choice of chips with its fastest layout."""

    order: Order
    job: Training

    @property
    def steps(self) -> float:
        """Of the whole training."""
        return self.order.tokens / (self.job.batch * self.job.seq)

    @property
    def seconds(self) -> float:
        """Of the whole training, interruptions included."""
        lost = lost_share(self.job.layout.chips, self.job.arch.parameters, self.order.terms.mtbf_h)
        return self.steps * self.job.seconds / (1 - lost)

    @property
    def mfu(self) -> float:
        """Model operations a second as a share of the peak (Chowdhery et al. 2022, PaLM, appendix B)."""
        job = self.job
        return job.operations / job.seconds / (job.layout.chips * job.chip.peak(job.dtype) * 1e12)

    @property
    def bill(self) -> Bill:
        """What the whole training takes."""
        job = self.job
        busy = self.mfu * (4 / 3 if job.layout.recompute == "full" else 1)
        return Bill(job.chip, job.layout.chips, self.seconds, busy, self.order.terms, job.fitted)

    def figures(self) -> dict[str, Figure]:
        """Return every figure, predicted, with its 90% interval."""
        job = self.job
        regime = regime_of(job)
        made = [
            *self.bill.figures(regime, WHOLE_RUN),
            predicted("step_s", job.seconds, "s", regime),
            predicted("tokens_per_s", job.batch * job.seq / job.seconds, "1/s", regime, grows=True),
            predicted("mfu", self.mfu, "share", regime, grows=True),
            predicted("memory_gib", Memory(job).total / GIB, "GiB", "memory-peak"),
        ]
        return {figure.name: figure for figure in made}

    def to_json(self) -> dict[str, Any]:
        """Return the plan as a JSON object."""
        layout = self.job.layout
        return {
            "chip": self.job.chip.name,
            "count": layout.chips,
            "layout": str(layout),
            "batch": self.job.batch,
            "stack": self.job.stack.name,
            "memory_verdict": Memory(self.job).verdict,
            "figures": {name: figure.to_json() for name, figure in self.figures().items()},
            "time_parts": {name: value / self.job.seconds for name, value in self.job.parts.items()},
            "memory_parts": {name: value / GIB for name, value in Memory(self.job).parts.items()},
        }


def best(order: Order, chip: Chip, count: int) -> Plan | str:
    """Return the fastest plan on so many chips, or the reason why there is none."""
    if chip.kind == "cpu":
        return "a host processor, not an accelerator"
    if not chip.has(order.dtype) or not chip.has("bf16"):
        return f"has no products of both {order.dtype} and 16 bits"
    order = order.on(count)
    found: list[Training] = []
    nearest: Memory | None = None
    for memory in tried(order, chip, count):
        if memory.verdict != "does not fit":
            found.append(memory.job)
        elif nearest is None or memory.total < nearest.total:
            nearest = memory
    if found:
        return Plan(order, min(found, key=lambda job: job.seconds))
    if nearest is None:
        return _no_layout(order, chip, count)
    return (
        f"needs {nearest.total / GIB:.0f} GiB a chip in the layouts tried, it has {nearest.room / GIB:.0f} "
        f"({nearest.job.layout}): more chips, or a larger memory"
    )


def _no_layout(order: Order, chip: Chip, count: int) -> str:
    """Return the first rule that the nearest layout breaks."""
    shape = next(_shapes(order, chip, count, checked=False), None)
    rules = list(shape.broken(order.arch, order.sequences)) if shape else []
    fixed = " ".join(f"{name}={value}" for name, value in order.fixed.items())
    return rules[0] if rules else f"{count} chips cannot be laid out as {fixed or 'any layout that is tried'}"


def tried(order: Order, chip: Chip, count: int) -> Iterator[Memory]:
    """Yield what layouts keep in memory, all of which keep the rules; of recomputations, up to the least that fits.

    Where none fits, larger micro-batches of that layout are left out: they keep more.
    """
    plain = order.stack(chip).attention == "plain"
    periods = ("none", "selective", "full") if plain else ("none", "operators", "full")
    too_large: set[tuple[int, ...]] = set()
    for shape in _shapes(order, chip, count):
        key = (shape.tp, shape.pp, shape.cp, shape.ep, shape.zero, shape.shard)
        if key in too_large:
            continue
        verdict = ""
        for period in (order.fixed["recompute"],) if "recompute" in order.fixed else periods:
            memory = Memory(order.job(chip, replace(shape, recompute=period)))
            verdict = memory.verdict
            yield memory
            if verdict == "fits":
                break
        if verdict == "does not fit":
            too_large.add(key)


def _shapes(order: Order, chip: Chip, count: int, checked: bool = True) -> Iterator[Layout]:
    arch, fixed = order.arch, order.fixed
    node = min(chip.link_chips, MOST_SHARED)
    parts = _choices(fixed, "cp", CONTEXTS if order.seq >= LONG else (1,))
    for tp, cp in product(_choices(fixed, "tp", [n for n in (1, 2, 4, 8) if n <= node]), parts):
        for pp in _choices(fixed, "pp", _stages(arch.layers, count // tp)):
            dp, left = divmod(count, tp * pp * cp)
            if left or not dp or fixed.get("dp", dp) != dp:
                continue
            near = [n for n in dict.fromkeys((node // tp, chip.link_chips // tp)) if dp * cp > n > 1]
            degrees = product(
                _choices(fixed, "micro_batch", (*MICRO, *MANY) if arch.parameters < SMALL else MICRO),
                _choices(fixed, "zero", _sharing(order, chip, pp)),
                _choices(fixed, "ep", _expert_ranks(arch, dp * cp * tp, chip.link_chips)),
            )
            for micro, zero, ep in degrees:
                interleave = fixed.get("interleave", _pieces(arch.layers, pp))
                for shard in _choices(fixed, "shard", (0, *near) if zero == 3 else (0,)):
                    layout = Layout(tp, pp, dp, cp, ep, micro, interleave, zero, shard, sequence=tp > 1)
                    if not checked or not any(layout.broken(arch, order.sequences)):
                        yield layout


def _choices(fixed: dict[str, Any], name: str, usual: Sequence[int]) -> Sequence[int]:
    return (fixed[name],) if name in fixed else usual


def _sharing(order: Order, chip: Chip, pp: int) -> Sequence[int]:
    """Return what replicas may share out: all where a program does that only, or where there is no pipeline."""
    if "shard" in order.fixed:
        return (3,)
    if order.stack(chip).name.startswith(("fsdp", "deepspeed", "eager", "xla")) and pp == 1:
        return (3,)
    return (1, 3) if pp == 1 else (1,)


def _stages(layers: int, most: int) -> list[int]:
    """Return numbers of stages: powers of two, the largest stage deciding, and others that divide the layers."""
    even = [pp for pp in (3, 5, 6, 7, 9, 12, 35) if layers % pp == 0]
    return [pp for pp in (1, 2, 4, 8, 16, 32, 64, *even) if pp <= min(most, layers)]


def _pieces(layers: int, pp: int) -> int:
    """Return into how many pieces a stage is cut: as many as divide it, up to four."""
    return max((n for n in (1, 2, 3, 4) if pp > 1 and layers % (pp * n) == 0), default=1)


def _expert_ranks(arch: Architecture, ranks: int, node: int) -> Sequence[int]:
    """Return over how many chips experts may lie: as many as links join, or eight times as many."""
    if not arch.experts:
        return (1,)
    fits = [n for n in (1, 2, 4, 8, 16, 32, 64) if arch.experts % n == 0 and ranks % n == 0]
    near = max(n for n in fits if n <= max(1, node))
    return tuple(dict.fromkeys((near, max(n for n in fits if n <= 8 * near))))


def plan(order: Order, chips: Sequence[Chip], counts: Sequence[int] = COUNTS) -> dict[str, Any]:
    """Return the document: plans that keep the limits, which of them none beats, and why not the others.

    Raises:
        UsageError: none keeps the limits: tells the nearest.
    """
    about = {"kind": "train", "model": order.arch.name, "parameters": order.arch.parameters, "tokens": order.tokens}
    if not order.arch.experts and not order.frozen:
        about["advice"] = advice(order.arch.parameters, order.tokens)
    about |= {"seq": order.seq, "dtype": order.dtype}
    return choose(about, order.limits, ((chip, [best(order, chip, count) for count in counts]) for chip in chips))


def advice(parameters: float, tokens: float) -> dict[str, Any]:
    """Return what a dense language model is expected to lose after so many tokens, and what would lower that most."""
    best = HOFFMANN.best(PER_OPERATION * parameters * tokens)
    return {
        "loss": HOFFMANN.loss(parameters, tokens),
        "best": {"parameters": best[0], "tokens": best[1], "loss": HOFFMANN.loss(*best)},
        "marginal": HOFFMANN.marginal(parameters, tokens),
        "source": "Besiroglu et al. 2024 (arXiv 2404.10102), of Hoffmann's runs",
    }


class Choice(Protocol):
    """A way to do it, with what it takes."""

    @property
    def bill(self) -> Bill:
        """What it takes."""

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""


def choose(
    about: dict[str, Any], limits: Limits, found: Iterable[tuple[Chip, Sequence[Choice | str]]]
) -> dict[str, Any]:
    """Return the document of what was found on each chip: plans, or reasons why there are none.

    Raises:
        UsageError: none keeps the limits: tells the nearest.
    """
    kept: list[Choice] = []
    missed: list[Choice] = []
    rejected: list[dict[str, str]] = []
    for chip, choices in found:
        plans = [one for one in choices if not isinstance(one, str)]
        good = [one for one in plans if not one.bill.broken(limits)]
        kept += good
        if not good:
            missed += plans
            near = min(plans, key=lambda one: one.bill.distance(limits), default=None)
            reasons = [one for one in choices if isinstance(one, str)]
            why = "; ".join(near.bill.broken(limits)) if near else _telling(reasons)
            rejected.append({"chip": chip.name, "why": why})
    if not kept:
        raise UsageError(_infeasible(str(about["model"]), limits, missed, rejected))
    kept.sort(key=lambda one: (one.bill.amounts[1], one.bill.seconds))
    terms = kept[0].bill.terms
    unbeaten = sorted(map(int, frontier([list(one.bill.amounts) for one in kept], ["min"] * 4)))
    plans_told = [one.to_json() for one in kept]
    return {**about, "place": terms.told, "plans": plans_told, "pareto": unbeaten, "rejected": rejected}


def _telling(reasons: Sequence[str]) -> str:
    """Return the reason that tells the most: what memory lacks, as it is with the most chips, else the last."""
    return next((one for one in reversed(reasons) if one.startswith("needs")), reasons[-1] if reasons else "not tried")


def _infeasible(model: str, limits: Limits, missed: Sequence[Choice], rejected: Sequence[dict[str, str]]) -> str:
    if not missed:
        return f"no plan for {model}: " + "; ".join(f"{one['chip']}: {one['why']}" for one in rejected[:3])
    near = min(missed, key=lambda one: one.bill.distance(limits))
    where = f"{near.bill.chips} x {near.bill.chip.name}"
    return f"no plan keeps the limits; the nearest, {where}, {' and '.join(near.bill.broken(limits))}: raise that limit"

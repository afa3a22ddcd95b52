"""What could be tried, and what each is expected to give, before any work is done.

Candidates come from the registries: each pass offers `choices` in its stage, each runtime its own, so the search knows
none of them by name. Predictions chain `Pass.predict` over `Facts` and end in `Runtime.predict`; they are corrected by
what has been measured so far (`Predictor.learn`), and every one of them is labelled predicted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean, pstdev

from trimtab.apply import TRAINING
from trimtab.passes import STAGES, Pass
from trimtab.recipe import Bound, available
from trimtab.runtimes import Runtime
from trimtab.values.facts import Facts
from trimtab.values.figure import Figure
from trimtab.values.machine import Machine

Z90 = 1.645
PRIOR_SPREAD = 0.5
"""Standard deviation of log(measured / predicted latency) before anything was measured with that runtime."""

UNKNOWN_SPREAD = 1.0
"""The same where the runtime predicts nothing."""


@dataclass(frozen=True)
class Candidate:
    """A recipe that ends in a runtime, and the facts expected of its model."""

    bound: Bound
    facts: Facts

    @property
    def name(self) -> str:
        """The canonical recipe."""
        return str(self.bound)

    @property
    def structure(self) -> str:
        """The steps that change the network itself: what candidates of like quality share."""
        return " | ".join(str(step) for step in self.bound.passes if step.stage in TRAINING)

    @property
    def steps(self) -> str:
        """All steps: what candidates that differ in their runtime alone share."""
        return " | ".join(str(step) for step in self.bound.passes)

    @property
    def serving(self) -> tuple[str, bool]:
        """The runtime and whether weights are quantized: what candidates with a like speed error share."""
        return str(self.bound.runtime), self.facts.weight_bits < 16


def candidates(facts: Facts, machine: Machine, train: bool = True) -> Iterator[Candidate]:
    """Yield every chain of choices, each once: one pass at most from a stage, and a runtime.

    The base in its own runtime is left out: the fastest of those settings became the base.
    """
    passes, _ = available("passes")
    runtimes, _ = available("runtimes")
    for chain, after in _chains((), facts, machine, tuple(passes.values()) if train else untrained(passes.values())):
        for kind in runtimes.values():
            raced = not chain and after.format in kind.native  # type: ignore[attr-defined]
            if after.format in kind.formats and not raced:  # type: ignore[attr-defined]
                for runtime in kind.choices(after, machine):  # type: ignore[attr-defined]
                    yield Candidate(Bound(chain, runtime), after)


def untrained(passes: Iterable[type]) -> tuple[type, ...]:
    """Leave out the passes of stages that fit weights, or need passes that do."""
    return tuple(kind for kind in passes if kind.stage not in TRAINING)  # type: ignore[attr-defined]


def expect(bound: Bound, facts: Facts, machine: Machine) -> Candidate:
    """Return the candidate of a recipe that a user wrote, its facts predicted step by step."""
    for step in bound.passes:
        facts = step.predict(facts, machine)
    return Candidate(bound, facts)


def _chains(
    chain: tuple[Pass, ...], facts: Facts, machine: Machine, passes: tuple[type, ...], stage: int = 0
) -> Iterator[tuple[tuple[Pass, ...], Facts]]:
    if stage == len(STAGES):
        yield chain, facts
        return
    yield from _chains(chain, facts, machine, passes, stage + 1)
    for kind in passes:
        if kind.stage == STAGES[stage] and facts.format in kind.formats:  # type: ignore[attr-defined]
            for choice in kind.choices(facts, machine):  # type: ignore[attr-defined]
                after = choice.predict(facts, machine)
                yield from _chains((*chain, choice), after, machine, passes, stage + 1)


@dataclass
class Predictor:
    """Expected figures of candidates, corrected by those measured."""

    machine: Machine
    base_facts: Facts
    speed_errors: dict[tuple[str, bool], list[float]] = field(default_factory=dict)
    """log(measured / predicted latency) by runtime and precision."""
    base_latency_ms: float = 1.0
    """What is expected of a runtime that predicts nothing."""
    quality_errors: dict[str, list[float]] = field(default_factory=dict)
    """Measured minus predicted loss of quality, by steps, and by structure from those measured in full."""

    def figures(self, candidate: Candidate) -> dict[str, Figure]:
        """Return the predicted latency, size, counts and loss of quality, with 90% intervals."""
        latency, spread = self._latency(candidate)
        loss, doubt = self.loss(candidate)
        facts = candidate.facts
        wide = math.exp(Z90 * spread)
        plain = {
            "latency_ms": (latency, "ms", latency / wide, latency * wide),
            "size_mb": (facts.size_mb, "MB", None, None),
            "parameters": (float(facts.parameters), "", None, None),
            "operations": (float(facts.operations), "MAC", None, None),
            "quality_loss": (loss, "share", loss - Z90 * doubt, loss + Z90 * doubt),
        }
        return {name: Figure(name, *entry, origin="predicted") for name, entry in plain.items()}

    def loss(self, candidate: Candidate) -> tuple[float, float]:
        """Return the expected loss of quality and its standard deviation, as shares."""
        known = self.quality_errors
        seen = known.get(candidate.steps) or known.get(f"structure {candidate.structure}") or []
        prior = candidate.facts.quality_loss
        return prior + (fmean(seen) if seen else 0.0), 0.004 if seen else 0.004 + prior / 2

    def learn(self, candidate: Candidate, figures: Mapping[str, Figure], loss: float | None) -> None:
        """Take in what was measured; without figures it was dropped, and says nothing of its structure's kin."""
        raw = self._raw(candidate)
        if raw > 0 and "latency_ms" in figures:
            self.speed_errors.setdefault(candidate.serving, []).append(math.log(figures["latency_ms"].value / raw))
        if loss is not None:
            error = loss - candidate.facts.quality_loss
            for key in (candidate.steps, f"structure {candidate.structure}")[: 2 if figures else 1]:
                self.quality_errors.setdefault(key, []).append(error)

    def _raw(self, candidate: Candidate) -> float:
        runtime: Runtime | None = candidate.bound.runtime
        return runtime.predict(candidate.facts, self.machine).get("latency_ms", 0.0) if runtime else 0.0

    def _latency(self, candidate: Candidate) -> tuple[float, float]:
        raw = self._raw(candidate)
        if raw <= 0:
            return self.base_latency_ms, UNKNOWN_SPREAD
        seen = self.speed_errors.get(candidate.serving, [])
        if seen:
            spread = max(0.1, pstdev(seen)) if len(seen) > 1 else 0.25
            return raw * math.exp(fmean(seen)), spread
        kin = [fmean(errors) for key, errors in self.speed_errors.items() if key[0] == candidate.serving[0]]
        return raw * math.exp(fmean(kin)) if kin else raw, PRIOR_SPREAD


def improvement(cost: tuple[float, float], best: float) -> float:
    """Expected gain in log cost below `best`, for a log-normal cost of (median, spread).

    Source: Jones, Schonlau & Welch (1998), J. Global Optimization 13:455, equation 15, on the log scale.

    >>> improvement((1.0, 0.1), 10.0) > improvement((5.0, 0.1), 10.0) > improvement((20.0, 0.1), 10.0)
    True
    """
    median, spread = cost
    gap = math.log(best / median)
    z = gap / spread
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return gap * normal_cdf(z) + spread * density


def normal_cdf(z: float) -> float:
    """Return the standard normal distribution function."""
    return 0.5 * math.erfc(-z / math.sqrt(2))

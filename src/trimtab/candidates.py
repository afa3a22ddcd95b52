"""What could be tried, and what each is expected to give, before any work is done.

Candidates come from the registries: each pass offers `choices` in its stage, each runtime its own, so the search knows
none of them by name. Predictions chain `Pass.predict` over `Facts` and end in `Runtime.predict`; they are corrected by
what has been measured so far (`Predictor.learn`), and every one of them is labelled predicted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile

from trimtab.apply import TRAINING
from trimtab.maths.effects import Case, Effects
from trimtab.passes import STAGES, Pass
from trimtab.recipe import Bound, available
from trimtab.runtimes import Runtime
from trimtab.values.facts import Facts
from trimtab.values.figure import Figure
from trimtab.values.machine import Machine

Z90 = 1.645
MOST_OF_STRUCTURE = 2
"""Passes that cut the structure one after the other, each of another kind, before it is recovered."""
UNKNOWN_SPREAD = 1.0
"""Standard deviation of log(measured / expected latency) where the runtime predicts nothing."""


@dataclass(frozen=True)
class Candidate:
    """A recipe that ends in a runtime, and the facts expected of its model."""

    bound: Bound
    facts: Facts

    @cached_property
    def name(self) -> str:
        """The canonical recipe."""
        return str(self.bound)

    @cached_property
    def structure(self) -> str:
        """The steps that change the network itself: what candidates of like quality share."""
        return " | ".join(map(str, fitted(self.bound.passes)))

    @cached_property
    def answers(self) -> str:
        """What candidates share that give the same answers, each at its own pace."""
        runtime = self.bound.runtime
        return f"{self.steps} @ {runtime.answering if runtime else ''}"

    @cached_property
    def steps(self) -> str:
        """All steps: what candidates that differ in their runtime alone share."""
        return " | ".join(str(step) for step in self.bound.passes)


def candidates(facts: Facts, machine: Machine, train: bool = True) -> Iterator[Candidate]:
    """Yield every chain of choices, each once: one pass at most from a stage, two that cut, and a runtime.

    The base in its own runtime is left out: the fastest of those settings became the base.
    """
    passes, _ = available("passes")
    allowed = tuple(passes.values()) if train else untrained(passes.values(), facts)
    yield from _served(_chains((), facts, machine, allowed), machine)


def _served(chains: Iterable[tuple[tuple[Pass, ...], Facts]], machine: Machine) -> Iterator[Candidate]:
    """Yield each chain in every setting of every runtime that takes its format."""
    runtimes, _ = available("runtimes")
    for chain, facts in chains:
        for kind in runtimes.values():
            raced = not chain and facts.format in kind.native  # type: ignore[attr-defined]
            if facts.format in kind.formats and not raced:  # type: ignore[attr-defined]
                for runtime in kind.choices(facts, machine):  # type: ignore[attr-defined]
                    yield Candidate(Bound(chain, runtime), facts)


def further(trained: tuple[Pass, ...], facts: Facts, machine: Machine, deeper: bool) -> Iterator[Candidate]:
    """Yield the recipes that recover a net once more, or cut it `deeper`, by passes of the kinds that did so before.

    `facts` are those of the base. A net that was cut in small steps, each recovered, loses less than one cut as deep at
    once (Molchanov et al. 2017, arXiv 1611.06440, section 2.1). What was recovered twice in a row is only cut.
    """
    known = {step.name() for step in trained}
    passes = tuple(kind for name, kind in available("passes")[0].items() if kind.stage not in TRAINING or name in known)  # type: ignore[attr-defined]
    so_far = expect(Bound(trained, None), facts, machine).facts
    chains = _chains(trained, so_far, machine, passes, (STAGES.index("structure" if deeper else "recover"), 0))
    grown = cuts if [step.stage for step in trained[-2:]] == ["recover", "recover"] else fitted
    yield from _served((one for one in chains if len(grown(one[0])) > len(grown(trained))), machine)


def fitted(chain: Sequence[Pass]) -> tuple[Pass, ...]:
    """Return the passes of a chain that change the network itself."""
    return tuple(step for step in chain if step.stage in TRAINING)


def cuts(chain: Sequence[Pass]) -> list[Pass]:
    """Return the passes of a chain that cut."""
    return [step for step in chain if step.stage == "structure"]


def untrained(passes: Iterable[type], facts: Facts) -> tuple[type, ...]:
    """Leave out the passes of stages that fit weights; of torch models also what needs such a pass behind it."""
    fits = TRAINING if facts.format == "torch" else TRAINING - {"structure"}
    return tuple(kind for kind in passes if kind.stage not in fits)  # type: ignore[attr-defined]


def expect(bound: Bound, facts: Facts, machine: Machine) -> Candidate:
    """Return the candidate of a recipe that a user wrote, its facts predicted step by step."""
    for step in bound.passes:
        facts = step.predict(facts, machine)
    return Candidate(bound, facts)


def _chains(
    chain: tuple[Pass, ...],
    facts: Facts,
    machine: Machine,
    passes: tuple[type, ...],
    place: tuple[int, int] = (0, 0),
) -> Iterator[tuple[tuple[Pass, ...], Facts]]:
    """Yield every chain from a place on, (stage, first pass that may come): one pass from a stage, two of structure."""
    stage, first = place
    if stage == len(STAGES):
        yield chain, facts
        return
    yield from _chains(chain, facts, machine, passes, (stage + 1, 0))
    if first and len([*takewhile(lambda step: step.stage == STAGES[stage], reversed(chain))]) == MOST_OF_STRUCTURE:
        return
    for number, kind in enumerate(passes[first:], first):
        if kind.stage == STAGES[stage] and facts.format in kind.formats:  # type: ignore[attr-defined]
            onward = (stage, number + 1) if STAGES[stage] == "structure" else (stage + 1, 0)
            for choice in kind.choices(facts, machine):  # type: ignore[attr-defined]
                after = choice.predict(facts, machine)
                yield from _chains((*chain, choice), after, machine, passes, onward)


@dataclass
class Predictor:
    """Expected figures of candidates, corrected by those measured: what they share tells how (`maths.effects`).

    Learned are log(measured / predicted) of the latency, and the loss of quality beyond the predicted one in units of
    its own doubt.
    """

    machine: Machine
    base_facts: Facts
    base_latency_ms: float = 1.0
    """What is expected of a runtime that predicts nothing."""
    speed: Effects = field(default_factory=lambda: Effects(SPEED_SPREADS, SPEED_SLOPES))
    quality: Effects = field(default_factory=lambda: Effects(QUALITY_SPREADS, paths=QUALITY_PATHS))
    _least: float = 0.0
    """The least loss that was seen, or none: no candidate is expected to lose less."""
    _seen: list[Candidate] = field(default_factory=list)
    """Cut nets that were measured."""
    _forms: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Structure -> the expected loss of each of its forms whose loss was seen, and the noise of that."""
    _known: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)
    """Candidate -> latency, its log spread, loss, its doubt: valid until something is learned."""

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        """Work out the predictions of many candidates at once: far quicker than one by one."""
        new = [candidate for candidate in candidates if candidate.name not in self._known]
        if not new:
            return
        errors, spreads = self.speed.expect([self._speed_case(candidate) for candidate in new])
        losses = self._losses(new)
        for number, candidate in enumerate(new):
            raw = self._raw(candidate)
            latency = raw * math.exp(float(errors[number])) if raw > 0 else self.base_latency_ms
            spread = math.hypot(float(spreads[number]), LEFT_OVER) if raw > 0 else UNKNOWN_SPREAD
            self._known[candidate.name] = (latency, spread, *losses[number])

    def _losses(self, candidates: Sequence[Candidate]) -> list[tuple[float, float]]:
        """Return the expected loss and the doubt of each.

        What is expected to lose less than a net that was seen, cut by the same passes, loses less in proportion.
        Another form of a net that was seen is doubted no more than their expected losses differ.
        """
        harder: dict[str, list[tuple[float, float]]] = {}
        for candidate, (loss, _) in zip(self._seen, self._learned(self._seen), strict=True):
            harder.setdefault(_kinds(candidate), []).append((self._expected_loss(candidate), max(loss, 0.0)))
        found = []
        for candidate, (loss, doubt) in zip(candidates, self._learned(candidates), strict=True):
            raw, known = self._expected_loss(candidate), harder.get(_kinds(candidate), ())
            limits = (seen * raw / worse for worse, seen in known if worse > raw)
            forms = self._forms.get(candidate.structure, ())
            doubts = (math.hypot(noise, PLAIN_DOUBT + abs(raw - other)) for other, noise in forms)
            found.append((min([loss, *limits]), min([doubt, *doubts])))
        return found

    def _learned(self, candidates: Sequence[Candidate]) -> Iterator[tuple[float, float]]:
        errors, doubts = self.quality.expect([self._quality_case(candidate) for candidate in candidates])
        for candidate, error, doubt in zip(candidates, errors, doubts, strict=True):
            scale = self._doubt(candidate)
            loss = max(self._expected_loss(candidate) + scale * float(error), self._least)
            yield loss, max(scale * float(doubt), LEAST_DOUBT)

    def figures(self, candidate: Candidate) -> dict[str, Figure]:
        """Return the predicted latency, size, counts and loss of quality, with 90% intervals."""
        self.prepare([candidate])
        latency, spread, loss, doubt = self._known[candidate.name]
        facts = candidate.facts
        wide = math.exp(Z90 * spread)
        plain = {
            "latency_ms": (latency, "ms", latency / wide, latency * wide),
            "size_mb": (facts.size_mb, "MB", None, None),
            "parameters": (float(facts.parameters), "", None, None),
            "operations": (float(facts.operations * facts.calls), "MAC", None, None),
            "quality_loss": (loss, "share", loss - Z90 * doubt, loss + Z90 * doubt),
        }
        return {name: Figure(name, *entry, origin="predicted") for name, entry in plain.items()}

    def loss(self, candidate: Candidate) -> tuple[float, float]:
        """Return the expected loss of quality and its standard deviation, as shares."""
        self.prepare([candidate])
        return self._known[candidate.name][2:]

    def learn(
        self, candidate: Candidate, figures: Mapping[str, Figure], loss: float | None, score_error: float = 0.0
    ) -> None:
        """Take in what was measured; the loss of one that was dropped (no figures) is known only roughly.

        `score_error`: standard error of the loss, as a share.
        """
        raw = self._raw(candidate)
        if raw > 0 and "latency_ms" in figures:
            error = math.log(figures["latency_ms"].value / raw)
            self.speed.learn(self._speed_case(candidate), error, TIMING_NOISE)
        if loss is not None:
            scale, noise = self._doubt(candidate), max(score_error, SCORE_NOISE if figures else 4 * SCORE_NOISE)
            error = (loss - self._expected_loss(candidate)) / scale
            ruined = bool(candidate.structure) and error > RUINED
            self._least = min(self._least, loss)
            case = self._quality_case(candidate, ruined)
            self.quality.learn(case, error, noise / scale)
            if candidate.structure:
                self._seen += [candidate] if figures else []
                self._forms.setdefault(candidate.structure, []).append((self._expected_loss(candidate), noise))
        self._known.clear()

    def _raw(self, candidate: Candidate) -> float:
        runtime: Runtime | None = candidate.bound.runtime
        return runtime.predict(candidate.facts, self.machine).get("latency_ms", 0.0) if runtime else 0.0

    def _speed_case(self, candidate: Candidate) -> Case:
        runtime, facts = candidate.bound.runtime, candidate.facts
        name = runtime.name() if runtime else ""
        precision = f"{facts.format} {facts.weight_bits < 32} {facts.activation_bits < 16} {facts.dynamic}"
        groups = {
            "all": "",
            "runtime": name,
            "settings": str(runtime),
            "precision": f"{name} {precision}",
            "settings and precision": f"{runtime} {precision}",
            "structure": candidate.structure,
            "steps": candidate.steps,
        }
        return Case(groups, {"work": math.log(self._work_left(facts))})

    def _quality_case(self, candidate: Candidate, ruined: bool = False) -> Case:
        trained = fitted(candidate.bound.passes)
        others = [str(step) for step in candidate.bound.passes if step.stage not in TRAINING]
        again = [n for n in range(1, len(trained)) if trained[n - 1].stage == "recover"]
        groups = {
            "kinds": _kinds(candidate),
            "cut": " | ".join(map(str, cuts(trained))),
            "begins": " | ".join(map(str, trained[: again[-1]] if again else trained)),
            "recovery": str(trained[-1]) if trained and trained[-1].stage == "recover" and not ruined else "",
            "structure": candidate.structure,
            "conversion": "" if ruined else " | ".join(others),
            "steps": candidate.steps,
        }
        return Case({kind: group for kind, group in groups.items() if group}, {"depth": 1 + self._halvings(candidate)})

    def _work_left(self, facts: Facts) -> float:
        """Return the operations of an example over the base's."""
        ours, base = (max(each.operations * each.calls, 1) for each in (facts, self.base_facts))
        return ours / base

    def _expected_loss(self, candidate: Candidate) -> float:
        """Return what the passes expect to be lost, and what a net so small is expected to lack."""
        return candidate.facts.quality_loss + self._lack(candidate)

    def _doubt(self, candidate: Candidate) -> float:
        """Return the doubt about an expected loss: more where more is expected."""
        return PLAIN_DOUBT + candidate.facts.quality_loss / 2 + self._lack(candidate)

    def _lack(self, candidate: Candidate) -> float:
        return LACK * self._halvings(candidate) ** 2

    def _halvings(self, candidate: Candidate) -> float:
        """Return how often the base's operations were halved."""
        return max(0.0, -math.log2(self._work_left(candidate.facts)))


SPEED_SPREADS: Mapping[str, float] = {
    "all": 0.3, "runtime": 0.3, "settings": 0.2, "precision": 0.25, "settings and precision": 0.15, "structure": 0.1,
    "steps": 0.1,
}  # fmt: skip
"""Standard deviations of log(measured / predicted latency) that cases share before anything was measured."""
SPEED_SLOPES: Mapping[str, float] = {"work": 0.15}
"""The same for each e-fold of operations below the base's."""
QUALITY_SPREADS: Mapping[str, float] = {
    "kinds": 0.8, "cut": 0.3, "begins": 0.3, "recovery": 0.2, "structure": 0.3, "conversion": 0.5, "steps": 0.3
}  # fmt: skip
"""Standard deviations of the loss beyond the predicted one, in units of the doubt about it."""
QUALITY_PATHS: Mapping[str, str] = {"kinds": "depth"}
"""What a cut loses tells most of cuts nearly as deep, and of less deep ones whatever deeper ones lost."""
TIMING_NOISE, LEFT_OVER = 0.08, 0.1
"""Noise of a timing, and what no shared property explains, both as standard deviations of a log."""
LACK = 0.00015
"""Share of the score that a net with half the operations lacks however long it is fitted; it grows with the square of
the number of halvings. Seen on small residual nets, and corrected by what is measured."""
RUINED = 8.0
"""A loss so far beyond the expected one, in units of the doubt, of a net whose structure was cut, says nothing of how
well its recovery or its conversion would do on another."""
SCORE_NOISE, PLAIN_DOUBT, LEAST_DOUBT = 0.002, 0.004, 0.001
"""Least noise of a loss read on validation, doubt about one that is expected to be none, and least doubt, as shares."""


def _kinds(candidate: Candidate) -> str:
    """Return the names of the passes that change the network itself."""
    return " ".join(dict.fromkeys(step.name() for step in fitted(candidate.bound.passes)))


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
    return max(0.0, gap * normal_cdf(z) + spread * density)  # the sum of what cancels may end below


def normal_cdf(z: float) -> float:
    """Return the standard normal distribution function."""
    return 0.5 * math.erfc(-z / math.sqrt(2))

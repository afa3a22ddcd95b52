"""The search: which candidate next, what it gave, and which of those measured are worth taking to the sealed test.

Each turn takes the candidate with the largest expected gain a second: the chance that it keeps the promise, times the
expected improvement of the objective, over the time it is expected to need. Every finished candidate goes on the tab
and is forced to disk before the next begins, so a killed search goes on where it stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.apply import TRAINING, Made, Workshop
from trimtab.candidates import Candidate, Predictor, cuts, fitted, further, improvement
from trimtab.chance import USUAL_LOSS, chance_of_passing, expected_chance, sealed_error
from trimtab.errors import CorruptFile, OutputError, SessionError, TrimtabError, WorkerDied, one_line
from trimtab.maths.pareto import frontier
from trimtab.maths.sequential import drop_process
from trimtab.measure import Bench
from trimtab.passes import Overrun, Pass
from trimtab.values.facts import Facts
from trimtab.values.figure import Figure
from trimtab.values.promise import Limit, Promise
from trimtab.values.tab import MEND, Tab
from trimtab.verify import LIKELY_DISCORDANCE, Judgement, judge
from trimtab.workers import Crew

Floats = NDArray[np.float64]
Bars = tuple[Sequence[tuple[float, float]], Mapping[str, Sequence["Trial"]]]
Z95 = 1.645
WORTH_TRYING = 0.005
"""The search is over when no candidate's expected gain in log cost, times its chance, is above this."""
MOST_DOUBT = 0.1
"""Doubt about a loss, as a share, of which more is no reason to hope: what is expected to be ruined is."""
WORTH_GOING_ON = 0.5
"""What is less likely than this to pass is not cut once more."""
WORTH_TESTING = 0.1
"""Candidates less likely than this to pass are not taken to the sealed test; a bold one that fails there costs its time
alone, because those before it have passed."""
SAME_COST, SAME_CHANCE = 1.05, 0.05
"""Times the cost that half the size makes up for, and difference of chances up to which two are about the same."""
USUAL_TOLERANCE = 0.02
"""The loss, as a share, that is taken to be allowed where no promise says."""
STATUSES = ("measured", "dropped", "refused", "failed")
"""How a trial can end that is not tried again."""
PATIENCE = 2.0
"""Times the expected duration after which a recovery that has long to go is put off; taken up again, it may end."""
BROKEN = 1e6
"""How many times dearer a base that breaks a limit counts than it is."""
TINY_MB = 1e-6
"""No model is smaller."""
MEASURING = "measuring"
"""What measuring is called among the passes."""
GUESS_SECONDS = {
    "fit": 30.0, "structure": 3.0, "recover": 20.0, "export": 5.0, "graph": 3.0, "precision": 3.0, "program": 1.0
}  # fmt: skip
"""Expected time of a pass that cannot tell, by stage."""


@dataclass(frozen=True)
class Aim:
    """What the search is after."""

    promises: tuple[Promise, ...]
    objective: str
    """Name of the cost figure, lower or higher being better as its axis says."""
    higher: bool
    limits: tuple[Limit, ...]
    confidence: float

    def cost(self, value: float) -> float:
        """Return the objective as a cost: positive, smaller is better."""
        value = max(value, 1e-12)
        return 1 / value if self.higher else value

    def beyond(self, figures: Mapping[str, Figure]) -> list[Limit]:
        """Return the limits that the figures break; a missing figure breaks its limit."""
        return [one for one in self.limits if one.figure not in figures or not one.kept(figures[one.figure].value)]


@dataclass(frozen=True)
class Trial:
    """A candidate with all that was learned of it."""

    candidate: Candidate
    status: str
    """`measured`, `dropped` (hopeless early), `refused`, `failed`, or `fault` (passing: tried again when resumed)."""
    reason: str = ""
    predicted: Mapping[str, Figure] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)
    chance: float = 0.0
    """Of passing the sealed test, judged from validation."""
    seconds: float = 0.0
    trained_seconds: float = 0.0
    """The part of `seconds` spent in passes that fit weights."""
    converted_seconds: float = 0.0
    """The part spent in all other passes: exporting, quantizing."""
    measured_seconds: float = 0.0
    """The part spent on the result in a worker."""
    made: Made | None = None
    judgements: tuple[Judgement, ...] = ()
    loss: float | None = None
    """Loss of quality seen on validation, as a share; of a dropped one as far as it was scored."""
    put_off: bool = False
    """It takes so much longer than expected that others come first."""
    refused_at: int = 0
    """The step that refused, counted from 1; 0 where none did, or the runtime."""

    @property
    def size_mb(self) -> float:
        """Size of the weights, as made or else as expected, in megabytes."""
        return (self.candidate.facts if self.made is None else self.made.model.facts).size_mb

    def to_json(self) -> dict[str, Any]:
        """Return the record that goes on the tab."""
        return {
            "recipe": self.candidate.name,
            "status": self.status,
            "reason": self.reason,
            "predicted": {name: figure.to_json() for name, figure in self.predicted.items()},
            "figures": {name: figure.to_json() for name, figure in self.figures.items()},
            "chance": self.chance,
            "loss": self.loss,
            "refused_at": self.refused_at,
            "seconds": round(self.seconds, 3),
            "trained_seconds": round(self.trained_seconds, 3),
            "converted_seconds": round(self.converted_seconds, 3),
            "measured_seconds": round(self.measured_seconds, 3),
            "judgements": [judgement.to_json() for judgement in self.judgements],
        }


@dataclass
class Search:
    """One search, as far as it got."""

    workshop: Workshop
    bench: Bench
    base: Made
    aim: Aim
    predictor: Predictor
    tab: Tab
    tell: Callable[[Search, str], None] = lambda search, doing: None
    """Called whenever there is progress to show."""
    clock: Callable[[], float] = lambda: 0.0
    """Seconds that the run has taken; it goes on the tab, so that a resumed run knows."""
    waiting: list[Candidate] = field(default_factory=list)
    crew: Crew | None = None
    """Workers that make models ahead of the search; None makes each when its turn comes."""
    first: list[Candidate] = field(default_factory=list)
    """Recipes that the user asked to be tried, before all others."""
    trials: list[Trial] = field(default_factory=list)
    left_out: list[tuple[Candidate, str]] = field(default_factory=list)
    """What begins with steps that were refused, and the reason."""
    slowness: dict[str, list[float]] = field(default_factory=dict)
    """Pass, or measuring -> time taken over the time guessed."""
    _step: int = 0
    """Number of the step that is being made."""
    pace: float = 1.0
    """Seconds that a step of training the base takes here, over those that its operations tell."""
    stages: dict[str, str] = field(default_factory=dict)
    """Pass -> its stage, of those whose time was seen."""
    _sealed_errors: dict[str, list[float]] = field(default_factory=dict)
    """Kind of recipe -> standard errors to expect on the test split, read off those measured."""
    _patient: set[str] = field(default_factory=set)
    """Candidates that were put off once, and may end now."""
    _went_on: set[tuple[str, bool]] = field(default_factory=set)
    """Structures from which candidates go on, and whether deeper."""

    def resume(self, walk: Collection[str] | None = None) -> None:
        """Take over every finished trial that the tab records; passing faults are tried again.

        Once the `walk` is frozen, a model on it that is gone from the store is made again: the order may not change.
        """
        for record in self.tab.read().of("candidate"):
            known = {candidate.name: candidate for candidate in (*self.first, *self.waiting)}
            trial = self._recorded(known, record)
            whole = None if trial is None else self._restore(trial, walk)
            if whole is not None:
                self._take(whole)

    def run(self, deadline: float) -> None:
        """Try candidates until the deadline (`time.monotonic()`), or until none promises a gain."""
        while True:
            best = self.ranked(deadline - time.monotonic())
            if not best:
                return
            if self.crew is not None:
                self._make_ahead(self.crew, best, deadline)
            self.tell(self, best[0].name)
            self.workshop.deadline = deadline
            asked = best[0] in self.first
            trial = self.attempt(best[0])
            self.tab.append("candidate", **trial.to_json(), elapsed_s=self.clock())
            self._take(trial)
            if trial.put_off:
                self._patient.add(trial.candidate.name)
                (self.first if asked else self.waiting).append(trial.candidate)

    def next(self, seconds_left: float) -> Candidate | None:
        """Return the candidate with the largest expected gain a second that the time left allows, or None."""
        return next(iter(self.ranked(seconds_left)), None)

    def ranked(self, seconds_left: float) -> list[Candidate]:
        """Return the candidates worth trying in the time left, the largest expected gain a second first.

        What a candidate takes counts the less, the less time is left: early on, much is learned from quick ones, and
        in the end the time cannot be saved for anything (EI-cool, Lee et al. 2020, arXiv 2003.10870, section 4).
        """
        if seconds_left <= 0:
            return []
        bars, times = self.bars, dict[str, float]()
        left = 1.0 if math.isinf(seconds_left) else seconds_left / (seconds_left + self.clock())
        self.predictor.prepare(self.waiting)
        scored = []
        for candidate in self.waiting:
            gain = self.expected_gain(candidate, bars)
            if gain <= WORTH_TRYING:
                continue
            if candidate.answers not in times:
                times[candidate.answers] = self.expected_seconds(candidate)
            if times[candidate.answers] <= seconds_left:
                scored.append((gain / times[candidate.answers] ** left, candidate))
        return [*self.first, *(candidate for _, candidate in sorted(scored, key=lambda pair: -pair[0]))]

    def _make_ahead(self, crew: Crew, best: Sequence[Candidate], deadline: float) -> None:
        """Have the workers make the likeliest structures at once, if the next candidate's is not in the store yet."""
        if not self._unmade(best[0]):
            return
        wanted: dict[str, Candidate] = {}
        for one in best:
            if len(wanted) < crew.size and one.structure not in wanted and self._unmade(one):
                wanted[one.structure] = one
        self.tell(self, f"made at once: {'; '.join(wanted)}")
        patience = PATIENCE * max(self.expected_seconds(one) for one in wanted.values())
        crew.make([*wanted], min(patience, deadline - time.monotonic()))

    def _unmade(self, candidate: Candidate) -> bool:
        trained = fitted(candidate.bound.passes)
        return self.workshop.peek(self.base, trained, self.base) < len(trained)

    @property
    def bars(self) -> Bars:
        """Return what a gain is measured by: the ends that the walk would have now, and what was seen by structure."""
        found: dict[str, list[Trial]] = {}
        for trial in self.eligible():
            found.setdefault(trial.candidate.structure, []).append(trial)
        return self.outcomes(), found

    def outcomes(self) -> list[tuple[float, float]]:
        """Return (probability, price) of each end that the walk would have now, the base's first.

        The walk goes on while candidates pass, and what is bolder passes only where what is surer does.
        """
        found: list[tuple[float, float]] = []
        reached, price = 1.0, self.base_cost
        for trial in self.walk_order():
            passes = min(reached, trial.chance)
            found.append((reached - passes, price))
            reached, price = passes, self.price(trial)
        return [*found, (reached, price)]

    @property
    def base_cost(self) -> float:
        """The base's cost; a base that breaks a limit is dearer than anything."""
        cost = self.aim.cost(self.bench.base_figures[self.aim.objective].value)
        return cost * BROKEN if self.aim.beyond(self.bench.base_figures) else cost

    def cost(self, trial: Trial) -> float:
        """Return a measured trial's objective as a cost."""
        return self.aim.cost(trial.figures[self.aim.objective].value)

    def price(self, trial: Trial) -> float:
        """Return what measured trials are compared by: the cost, less a little where they are smaller."""
        return self.cost(trial) * self._size_factor(trial.size_mb)

    def _size_factor(self, size_mb: float) -> float:
        """Return the factor of a cost by which half the size makes up for `SAME_COST`, 1 at the base's size."""
        share = max(size_mb, TINY_MB) / max(self.base.model.facts.size_mb, TINY_MB)
        return math.pow(share, math.log2(SAME_COST))

    def eligible(self) -> list[Trial]:
        """Return the measured trials within the limits."""
        return [trial for trial in self.trials if trial.status == "measured" and not self.aim.beyond(trial.figures)]

    def expected_gain(self, candidate: Candidate, bars: Bars) -> float:
        """Return chance of keeping the promise x expected fall of log price below what there is (see `bars`).

        What passes or fails with others gains only what lies below the cheapest of them. What is bolder than another
        passes only where that one does, so a bolder one gains on it alone, and a surer one on what is left without it.
        Another form of a net that was tried gains what lies below those of its forms that are as sure, and is no surer
        than those that were expected to lose no more.
        """
        outcomes, of_structures = bars
        predicted = self.predictor.figures(candidate)
        if any(out_of_reach(limit, predicted.get(limit.figure)) for limit in self.aim.limits):
            return 0.0
        loss, doubt = self.predictor.loss(candidate)
        doubt = min(doubt, MOST_DOUBT)
        chance = expected_chance(self.tolerance - loss, doubt, self._sealed_error(candidate), self.aim.confidence)
        forms = of_structures.get(candidate.structure, ())
        alike = [one for one in forms if one.candidate.facts.quality_loss <= candidate.facts.quality_loss]
        if candidate.structure and alike:
            chance = min(chance, max(one.chance for one in alike))
        own = min((self.price(one) for one in forms if one.chance >= chance - SAME_CHANCE), default=math.inf)
        cost, spread = self._expected_cost(predicted)
        price = cost * self._size_factor(candidate.facts.size_mb)
        gain, bolder = 0.0, 1.0
        for share, bar in outcomes:
            bolder -= share
            if chance > bolder:
                gain += min(share, chance - bolder) * improvement((price, spread), min(bar, own))
        return gain

    def expected_seconds(self, candidate: Candidate) -> float:
        """Return the time a trial is expected to need, shared prefixes in the store costing nothing."""
        passes = candidate.bound.passes
        done = self.workshop.peek(self.base, passes, self.base)
        facts, total = self.base.model.facts, 0.0
        for place, step in enumerate(passes):
            total += self._corrected(step, self._guess(step, facts)) if place >= done else 0.0
            facts = step.predict(facts, self.workshop.machine)
        latency = self.predictor.figures(candidate)["latency_ms"].value
        return total + self._corrected(None, self._measuring(candidate, latency))

    def _guess(self, step: Pass, facts: Facts) -> float:
        told = step.seconds(facts, self.workshop.machine)
        pace = self.pace if step.stage in TRAINING else 1.0
        return GUESS_SECONDS[step.stage] if told is None else max(told * pace, 0.1)

    def _measuring(self, candidate: Candidate, latency_ms: float) -> float:
        """Return the time to load the model, to score the validation split unless that was done, and to race it."""
        loading = candidate.bound.runtime.loading_s if candidate.bound.runtime else 0.0
        scored = 0 if self._answered(candidate) else self.bench.view.size("validation")
        return loading + scored * latency_ms / 1e3

    def _answered(self, candidate: Candidate) -> bool:
        """Tell whether another measured candidate gave the same answers."""
        return any(one.status == "measured" and one.candidate.answers == candidate.answers for one in self.trials)

    def _corrected(self, step: Pass | None, guess: float) -> float:
        """Return a guess times what guesses about the like were off by so far; None: about measuring.

        Of a new pass, those about others of its stage tell the most, then those about all passes.
        """
        if step is None:
            seen = self.slowness.get(MEASURING, [])
        else:
            passes = {name: ratios for name, ratios in self.slowness.items() if name != MEASURING}
            alike = [ratio for name, ratios in passes.items() if self.stages[name] == step.stage for ratio in ratios]
            seen = passes.get(step.name()) or alike or [ratio for ratios in passes.values() for ratio in ratios]
        return guess * (fmean(seen[-5:]) if seen else 1.0)

    def attempt(self, candidate: Candidate) -> Trial:
        """Make and measure one candidate; whatever goes wrong becomes its status and reason."""
        start, patient = time.monotonic(), candidate.name in self._patient
        self.workshop.patience = None if patient else start + PATIENCE * self.expected_seconds(candidate)
        trial = Trial(candidate, "fault", predicted=self.predictor.figures(candidate))
        try:
            made = self._make(candidate)
            trained, converted = made.trained_seconds, made.seconds - made.trained_seconds
            trial = replace(trial, made=made, trained_seconds=trained, converted_seconds=converted)
            begun = time.monotonic()
            trial = self._measure(trial, made)
            trial = replace(trial, measured_seconds=time.monotonic() - begun)
        except OutputError:
            raise
        except Overrun as error:
            spent = time.monotonic() - start
            trial = replace(trial, reason=one_line(error), put_off=not patient, trained_seconds=spent)
        except (MemoryError, TimeoutError, SessionError, OSError) as error:
            passing = not isinstance(error, WorkerDied) or self.bench.lost_base
            status = "fault" if passing else "failed"
            trial = replace(trial, status=status, reason=one_line(error))
        except TrimtabError as error:
            at = self._step if trial.made is None else 0
            trial = replace(trial, status="refused", reason=one_line(error), refused_at=at)
        except Exception as error:  # a library's own error in one candidate must not end the run
            trial = replace(trial, status="failed", reason=f"{type(error).__name__}: {one_line(error)}")
        return replace(trial, seconds=time.monotonic() - start)

    def walk_order(self) -> list[Trial]:
        """Return the trials to take to the sealed test, mild to bold: each of lower price, less sure than the last.

        Source: Pareto Testing (arXiv 2210.07913, section 4): the order comes from validation data alone.
        """
        cheaper = [t for t in self.eligible() if t.chance >= WORTH_TESTING and self.cost(t) < self.base_cost]
        surest = max((trial.chance for trial in cheaper), default=1.0)
        likely = [trial for trial in cheaper if trial.chance == surest or not self._outdone(trial, cheaper)]
        if not likely:
            return []
        points = [[min(trial.chance, 0.99), math.log(self.price(trial))] for trial in likely]
        kept = [likely[index] for index in frontier(points, ["max", "min"])]
        return thin(sorted(kept, key=lambda trial: -self.price(trial)), self.price)

    def _outdone(self, trial: Trial, others: Sequence[Trial]) -> bool:
        """Tell whether the same net at half the size, or less, has no higher price and is about as likely to pass."""
        alike = (one for one in others if one.candidate.structure == trial.candidate.structure)
        smaller = (one for one in alike if 2 * one.size_mb <= trial.size_mb)
        likely = (one for one in smaller if one.chance >= trial.chance - SAME_CHANCE)
        return any(self.price(one) <= self.price(trial) for one in likely)

    @property
    def tolerance(self) -> float:
        """The loss that the tightest promise on a share allows, those on all examples first; the base agrees wholly."""
        return self._binding[0]

    @cached_property
    def _binding(self) -> tuple[float, str]:
        """The margin of the tightest promise on a share, and its text; none where no promise says."""
        metrics = {p: p.check(self.workshop.task) for p in self.aim.promises}
        margins = [
            (bool(p.slice), abs(p.offset) if p.factor == 1 else 1 - p.offset, str(p))
            for p, metric in metrics.items()
            if metric.unit == "share" and (p.factor == 1 or (metric.paired and metric.better == "higher"))
        ]
        return min(margins, default=(False, USUAL_TOLERANCE, ""))[1:]

    def _make(self, candidate: Candidate) -> Made:
        made = self.base
        for self._step, step in enumerate(candidate.bound.passes, 1):
            start, before, guess = time.monotonic(), made.seconds, self._guess(step, made.model.facts)
            try:
                made = self.workshop.apply(made, [step], self.base)
            except Overrun as error:
                self._took(step, time.monotonic() - start + error.needed_s, guess)
                raise
            if made.seconds > before:
                self._took(step, made.seconds - before, guess)
        return made

    def _took(self, step: Pass, seconds: float, guess: float) -> None:
        """Learn how far the time of a step was from its guess."""
        self.slowness.setdefault(step.name(), []).append(seconds / guess)
        self.stages[step.name()] = step.stage

    def _measure(self, trial: Trial, made: Made) -> Trial:
        runtime = trial.candidate.bound.runtime
        if runtime is None:
            raise CorruptFile(f"candidate {trial.candidate.name} names no runtime")
        with self.bench.worker(made, runtime) as worker:
            rows, hopeless = self.bench.rows(made, worker, runtime, "validation", stop=self._hopeless)
            if hopeless:
                return replace(trial, status="dropped", reason=hopeless, loss=self._loss_so_far(rows))
            judgements, chance = self._chance(rows, USUAL_LOSS[self._kind(trial.candidate)])
            costs = self.bench.costs(made, runtime, worker, self.wanted)
            figures = self.bench.quality(rows, "validation") | costs
        measured = replace(trial, status="measured", figures=figures, chance=chance, judgements=tuple(judgements))
        beyond = self.aim.beyond(figures)
        loss = self._loss_so_far(rows)
        return replace(measured, loss=loss, reason=f"beyond the limit {beyond[0]}" if beyond else "")

    @property
    def wanted(self) -> set[str]:
        """The costs that the search looks at."""
        return {self.aim.objective, "latency_ms", *(limit.figure for limit in self.aim.limits)}

    def _hopeless(self, rows: Floats) -> str:
        """Tell whether the rows so far already refute a promise: an e-process at or above 1 / alpha."""
        alpha = 1 - self.aim.confidence
        base = self.bench.base_rows("validation")[: len(rows)]
        for promise in self.aim.promises:
            metric = promise.check(self.workshop.task)
            if not metric.binary or metric.paired or promise.factor != 1 or promise.slice:
                continue
            before, after = metric.values(base), metric.values(rows)
            if before is None or after is None:
                continue
            sign = 1 if metric.better == "higher" else -1
            if drop_process(sign * (before - after), abs(promise.offset)).max(initial=0.0) >= 1 / alpha:
                return f"{promise} is refuted after {len(rows)} validation examples (e-value above {1 / alpha:.0f})"
        return ""

    def _kind(self, candidate: Candidate) -> str:
        """Return what tells how such recipes usually do, of `USUAL_LOSS`; what proves its answers the same is exact.

        A base that was unlucky on validation makes every candidate look better than it is; what they usually lose
        holds that against them.
        """
        if candidate.structure:
            return "structure"
        exact = candidate.facts.quality_loss == self.base.model.facts.quality_loss
        return "exact" if exact else "precision"

    def _sealed_error(self, candidate: Candidate) -> float:
        """Return the standard error that the loss will have on the test split, as those of its kind had so far."""
        kind = self._kind(candidate)
        likely = 0.0 if kind == "exact" else math.sqrt(LIKELY_DISCORDANCE / max(1, self.bench.test_size))
        return fmean(self._sealed_errors.get(kind, [likely]))

    @property
    def _ratio(self) -> float:
        """Size of the validation split over that of the test split."""
        return self.bench.view.size("validation") / max(1, self.bench.test_size)

    def _chance(self, rows: Floats, usual: tuple[float, float]) -> tuple[list[Judgement], float]:
        evidence = self.bench.evidence(rows, "validation")
        judgements = judge(self.aim.promises, evidence, self.aim.confidence)
        return judgements, chance_of_passing(judgements, self._ratio, self.aim.confidence, usual)

    def _take(self, trial: Trial) -> None:
        name = trial.candidate.name
        if trial.status == "measured" and trial.measured_seconds and not self._answered(trial.candidate):
            guess = self._measuring(trial.candidate, trial.figures["latency_ms"].value)
            self.slowness.setdefault(MEASURING, []).append(trial.measured_seconds / guess)
        spent = sum(one.trained_seconds for one in self.trials if one.candidate.name == name)  # before it was put off
        trial = replace(trial, trained_seconds=trial.trained_seconds + spent)
        self.trials = [*(one for one in self.trials if one.candidate.name != name), trial]
        if trial.refused_at:
            self._refuse_alike(trial)
        for queue in (self.first, self.waiting):
            queue[:] = [candidate for candidate in queue if candidate.name != name]
        binding = [one for one in trial.judgements if one.promise == self._binding[1]]
        seen = sealed_error(binding, 1.0, self.aim.confidence)
        if seen:
            later = sealed_error(binding, self._ratio, self.aim.confidence)
            self._sealed_errors.setdefault(self._kind(trial.candidate), []).append(later)
        if trial.status in ("measured", "dropped"):
            self.predictor.learn(trial.candidate, trial.figures, trial.loss, seen)
        self._go_on(trial)

    def _go_on(self, trial: Trial) -> None:
        """Offer to go on from what was cut and recovered, where the walk would come to it.

        What is likely to pass may be cut once more; any may be recovered for longer.
        """
        trained, deeper = fitted(trial.candidate.bound.passes), trial.chance >= WORTH_GOING_ON
        if not cuts(trained) or trained[-1].stage != "recover":
            return
        if {(trial.candidate.structure, deeper), (trial.candidate.structure, True)} & self._went_on:
            return
        if not any(one is trial for one in self.walk_order()):
            return
        self._went_on.add((trial.candidate.structure, deeper))
        known = {one.name for one in (*(trial.candidate for trial in self.trials), *self.waiting)}
        offered = further(trained, self.base.model.facts, self.workshop.machine, deeper)
        self.waiting += [candidate for candidate in offered if candidate.name not in known]

    def _refuse_alike(self, refused: Trial) -> None:
        """Leave out what begins with the same steps, for the same reason."""
        steps = refused.candidate.bound.passes[: refused.refused_at]
        alike = [one for one in self.waiting if one.bound.passes[: len(steps)] == steps]
        gone = {one.name for one in alike}
        self.waiting = [one for one in self.waiting if one.name not in gone]
        self.left_out += [(one, refused.reason) for one in alike if one.name != refused.candidate.name]

    def _loss_so_far(self, rows: Floats) -> float | None:
        """Return the largest loss of a promised share on the rows at hand; None where no promise is about one."""
        base = self.bench.base_rows("validation")[: len(rows)]
        losses = []
        for promise in self.aim.promises:
            metric = promise.check(self.workshop.task)
            if metric.unit != "share":
                continue
            pairs = (np.hstack([side, base]) if metric.paired else side for side in (base, rows))
            before, after = (metric.values(pair) for pair in pairs)
            if before is not None and after is not None:
                losses.append(float((before - after).mean()) * (1 if metric.better == "higher" else -1))
        return max(losses, default=None)

    def _recorded(self, known: Mapping[str, Candidate], record: Mapping[str, Any]) -> Trial | None:
        """Read a trial from its record; None where it is no candidate of this search, or was a passing fault."""
        try:
            trial = trial_from_json(known.get(record["recipe"]), record)
            if trial is not None and trial.status == "measured":
                self.cost(trial)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise CorruptFile(f"{self.tab.path} holds a candidate that cannot be read ({what}); {MEND}") from error
        return trial

    def _restore(self, trial: Trial, walk: Collection[str] | None) -> Trial | None:
        """Fetch a recorded trial's model; None where it is gone from the store and must be tried again."""
        if trial.status != "measured":
            return trial
        passes = trial.candidate.bound.passes
        if self.workshop.peek(self.base, passes, self.base) < len(passes):
            if walk is None:
                return None
            if trial.candidate.name not in walk:
                return trial
        return replace(trial, made=self.workshop.apply(self.base, passes, self.base))

    def _expected_cost(self, predicted: Mapping[str, Figure]) -> tuple[float, float]:
        """Return (median, spread) of the objective's cost; figures that follow latency are scaled from the base's."""
        latency = predicted["latency_ms"]
        spread = math.log((latency.high or latency.value) / latency.value) / Z95
        if self.aim.objective == "latency_ms":
            return latency.value, max(spread, 0.05)
        if self.aim.objective in predicted:
            return max(predicted[self.aim.objective].value, 1e-12), 0.1
        share = latency.value / self.bench.base_figures["latency_ms"].value
        return self.aim.cost(self.bench.base_figures[self.aim.objective].value) * share, max(spread, 0.2)


def thin(trials: Sequence[Trial], cost: Callable[[Trial], float], step: float = 0.1, most: int = 6) -> list[Trial]:
    """Keep trials, dear and sure to cheap and bold, each at least `step` cheaper than the last kept.

    The surest always stays, for it is tested first; where there are too many, some of the middle go.
    """
    kept: list[Trial] = []
    for trial in trials:
        if not kept or cost(kept[-1]) > cost(trial) * (1 + step):
            kept.append(trial)
    if len(kept) <= most:
        return kept
    return [kept[round(place * (len(kept) - 1) / (most - 1))] for place in range(most)]


def out_of_reach(limit: Limit, predicted: Figure | None) -> bool:
    """Tell whether even the better end of a prediction's interval breaks the limit; without an interval, 2x of it."""
    if predicted is None or limit.kept(predicted.value):
        return False
    low = predicted.low if predicted.low is not None else predicted.value / 2
    high = predicted.high if predicted.high is not None else predicted.value * 2
    return not limit.kept(low) and not limit.kept(high)


def trial_from_json(candidate: Candidate | None, record: Mapping[str, Any]) -> Trial | None:
    """Read what `Trial.to_json` wrote; None without a candidate, or for a fault.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the record is something else.
    """
    status, loss = record["status"], record["loss"]
    if status not in (*STATUSES, "fault"):
        raise ValueError(f"unknown status {status!r}")
    if candidate is None or status == "fault":
        return None
    return Trial(
        candidate,
        status,
        str(record["reason"]),
        _figures(record["predicted"]),
        _figures(record["figures"]),
        float(record["chance"]),
        float(record["seconds"]),
        float(record["trained_seconds"]),
        float(record["converted_seconds"]),
        float(record["measured_seconds"]),
        judgements=tuple(judgement_from_json(judgement) for judgement in record["judgements"]),
        loss=None if loss is None else float(loss),
        refused_at=int(record.get("refused_at", 0)),
    )


def _figures(record: Mapping[str, Any]) -> dict[str, Figure]:
    read = {name: Figure.from_json(figure) for name, figure in record.items()}
    for name, figure in read.items():
        ends = [end for end in (figure.low, figure.high) if end is not None]
        if not all(isinstance(number, int | float) for number in (figure.value, *ends)):
            raise TypeError(f"{name} is no number")
    return read


def judgement_from_json(data: Mapping[str, Any]) -> Judgement:
    """Read what `Judgement.to_json` wrote; an interval's missing end is endless."""
    ends = {"low": -math.inf, "high": math.inf}
    values: dict[str, Any] = {k: ends[k] if v is None and k in ends else v for k, v in data.items()}
    return Judgement(**values)

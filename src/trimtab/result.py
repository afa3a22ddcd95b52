"""The result document: what `--json` prints, `result.json` keeps and both faces of the report show."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.apply import LIBRARIES, versions
from trimtab.candidates import Candidate
from trimtab.maths.calibration import Calibration, calibration
from trimtab.maths.metrics import CORRECT, PREDICTED, TARGET, Mean
from trimtab.maths.roofline import under_the_roof
from trimtab.recipe import available
from trimtab.request import Request
from trimtab.search import WORTH_TRYING, Bars, Search, Trial
from trimtab.values.figure import Figure
from trimtab.values.promise import Limit
from trimtab.values.task import SPLITS
from trimtab.verify import Evidence, Judgement, overall, reopened

FLIPS_SHOWN = 50
GAINS = {"latency_ms": "faster", "size_mb": "smaller", "throughput_per_s": "the throughput"}
LEAST_GAIN = 1.02
"""A figure that is read once, such as the memory, must be this many times cheaper to count as cheaper."""


@dataclass(frozen=True)
class Tested:
    """A trial that was taken to the sealed test, and for the winner its figures timed afresh."""

    trial: Trial
    judgements: tuple[Judgement, ...]
    evidence: Evidence
    openings: int = 1
    reason: str = ""
    """Why it could not be tested; then there is no judgement."""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    base_figures: Mapping[str, Figure] = field(default_factory=dict)
    ratios: Mapping[str, Figure] = field(default_factory=dict)
    """Base over winner for each cost: how many times cheaper."""
    load: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """Everything that the result document is made of."""

    request: Request
    search: Search
    tested: list[Tested]
    timed: Tested | None
    """The boldest that passed, or a milder one, timed afresh."""
    interrupted: bool
    gain: list[dict[str, Any]] = field(default_factory=list)
    """The way from the base to the winner, one change at a time (`trimtab.gain.explain`)."""
    unexplained: str = ""
    """Why that way could not be measured."""

    @property
    def winner(self) -> Tested | None:
        """The one timed, if its fresh figures are within the limits and cheaper than a base that is within them too."""
        if self.timed is None or self.search.aim.beyond(self.timed.figures):
            return None
        return self.timed if self._base_beyond or _beyond_doubt(self._gain) else None

    @property
    def _base_beyond(self) -> list[Limit]:
        """The limits that the base itself breaks: then it is no answer."""
        return self.search.aim.beyond(self.search.bench.base_figures)

    @property
    def _gain(self) -> Figure:
        ratios = self.timed.ratios if self.timed else {}
        return ratios.get(self.search.aim.objective, Figure("", 0.0, "x"))

    @property
    def verdict(self) -> str:
        """PASS, UNDECIDED, INFEASIBLE, or BASE where nothing cheaper was found that could be tested at all."""
        if self.winner is not None:
            return "PASS"
        if self.timed is None and self.tested:
            return "UNDECIDED" if overall(self.tested[0].judgements) == "UNDECIDED" else "INFEASIBLE"
        return "INFEASIBLE" if self._base_beyond or (self.timed is None and self._failing()) else "BASE"

    def document(self, out: Path, elapsed: float, seconds: Mapping[str, float]) -> dict[str, Any]:
        """Return the document as JSON."""
        search, winner = self.search, self.winner
        shown = winner or (self.tested[0] if self.tested and self.tested[0].judgements else None)
        base = winner.base_figures if winner else search.bench.base_figures
        return {
            "verdict": self.verdict,
            "sentence": self.sentence(),
            "recipe": winner.trial.candidate.name if winner else "",
            "model": self.request.model,
            "task": self.request.task,
            "promise": list(self.request.promises),
            "confidence": self.request.confidence,
            "objective": search.aim.objective,
            "objective_better": "higher" if search.aim.higher else "lower",
            "limits": list(self.request.limits),
            "metrics": [metric.name for metric in search.workshop.task.metrics],
            "base": _map(base),
            "base_runtime": str(search.bench.runtime),
            "chosen": _map(winner.figures) if winner else {},
            "ratios": _map(winner.ratios) if winner else {},
            "gain": self.gain,
            "roofline": self.roofline(),
            "predictions": self.predictions(),
            "candidates": self.candidates(),
            "promises": [judgement.to_json() for judgement in shown.judgements] if shown else [],
            "flips": self.flips(shown) if shown else {},
            "empty_cells": self.empty_cells(),
            "conditions": self.conditions(),
            "interrupted": self.interrupted,
            "times": _times(elapsed, seconds),
            "run": str(out),
            "bundle": str(out / "bundle") if winner else "",
            "command": self.request.command(str(out)),
        }

    def sentence(self) -> str:
        """Say the verdict so that a reader needs nothing else, and with it what makes it worth little."""
        failing = self.search.bench.failing()
        return self._said() + (f" But {failing}" if failing else "")

    def _said(self) -> str:
        """Say the verdict alone."""
        sure = f"{100 * self.request.confidence:g}%"
        promise = " and ".join(self.request.promises)
        if self.winner is not None:
            gains = ", ".join(self._gains(self.winner))
            tried = f"{len(self.search.trials)} candidate{'s' if len(self.search.trials) > 1 else ''}"
            found = f"Certified at {sure}: {promise}. The cheapest found of {tried} is {gains}."
            return found + reopened(self.winner.openings)
        if self.verdict == "UNDECIDED" and self.tested[0].reason:
            first = self.tested[0]
            return f"Undecided at {sure}: {first.trial.candidate.name} could not be tested: {first.reason}."
        if self.verdict == "UNDECIDED":
            most = max(self.tested[0].judgements, key=lambda j: j.more_examples or 0)
            kind = f" of {most.slice}" if most.slice else ""
            hint = f"; about {most.more_examples} more test examples{kind} would decide" if most.more_examples else ""
            return f"Undecided at {sure}: the test split is too small to prove {promise}{hint}."
        if self.verdict == "BASE":
            return f"Nothing found is cheaper than the base in {self.search.aim.objective}: keep the base.{self._tie()}"
        if self._base_beyond:
            return f"Nothing found keeps {promise} within {self._base_beyond[0]}, nor does the base. {self._why_not()}"
        return f"No candidate cheaper than the base keeps {promise}. {self._why_not()}"

    def roofline(self) -> dict[str, Any]:
        """Return where the base and the winner lie under the machine's roof."""
        search, winner = self.search, self.winner
        figures = winner.base_figures if winner else search.bench.base_figures
        points = {"base": (search.base.model.facts, figures["latency_ms"].value)}
        if winner is not None and winner.trial.made is not None and "latency_ms" in winner.figures:
            points["chosen"] = winner.trial.made.model.facts, winner.figures["latency_ms"].value
        return under_the_roof(search.workshop.machine, points)

    def predictions(self) -> dict[str, Any]:
        """Return how good the predictions were, made for each candidate before it was tried."""
        measured = [trial for trial in self.search.trials if trial.status == "measured" and trial.predicted]
        pairs = {
            "latency_ms": [(t.predicted["latency_ms"], t.figures["latency_ms"].value) for t in measured],
            "quality_loss": [(t.predicted["quality_loss"], t.loss) for t in measured if t.loss is not None],
        }
        return {name: asdict(_calibration(found)) for name, found in pairs.items()}

    def candidates(self) -> list[dict[str, Any]]:
        """Return the base, every candidate that was tried, and those that were not."""
        tested = {found.trial.candidate.name: found for found in self.tested}
        walk = {trial.candidate.name for trial in self.search.walk_order()}
        base = self.search.bench.base_figures
        lines: list[dict[str, Any]] = [
            {"recipe": f"@ {self.search.bench.runtime}", "status": "base", "reason": "", "figures": _map(base)}
        ]
        for trial in self.search.trials:
            found = tested.get(trial.candidate.name)
            lines.append(
                {
                    "recipe": trial.candidate.name,
                    "status": self._status(trial, found, walk),
                    "reason": self._reason(trial, found),
                    "predicted": _map(trial.predicted),
                    "figures": _map(trial.figures),
                    "test": {j.promise: j.to_json() for j in found.judgements} if found else {},
                    "chance": trial.chance,
                    "seconds": round(trial.seconds, 2),
                }
            )
        bars = self.search.bars
        tried = {trial.candidate.name for trial in self.search.trials}
        left = [one for one in (*self.search.first, *self.search.waiting) if one.name not in tried]
        lines += [self._untried(candidate, self._why_untried(candidate, bars)) for candidate in left]
        alike = "they begin with steps that were refused: {}"
        return lines + [self._untried(candidate, alike.format(reason)) for candidate, reason in self.search.left_out]

    def _why_untried(self, candidate: Candidate, bars: Bars) -> str:
        wanted = candidate in self.search.first or self.search.expected_gain(candidate, bars) > WORTH_TRYING
        return "the time was over" if wanted else "no gain expected"

    def _untried(self, candidate: Candidate, reason: str) -> dict[str, Any]:
        predicted = _map(self.search.predictor.figures(candidate))
        return {"recipe": candidate.name, "status": "not tried", "reason": reason, "predicted": predicted}

    def flips(self, found: Tested) -> dict[str, Any]:
        """Return how many answers changed on the test split, and the first of them by example.

        Answers are shown where the rows are those of a classification; other rows hold no answer that has a name.
        """
        metric = next((m for m in self.search.workshop.task.metrics if m.binary and not m.paired), None)
        if metric is None:
            return {}
        lost, won = found.evidence.flips(metric)
        places = [int(place) for place in [*lost, *won][:FLIPS_SHOWN]]
        answered = metric == Mean("accuracy", CORRECT, binary=True)
        shown = [
            {"id": found.evidence.examples[place].id} | (_answers(found.evidence, place) if answered else {})
            for place in places
        ]
        return {"metric": metric.name, "right_to_wrong": len(lost), "wrong_to_right": len(won), "examples": shown}

    def empty_cells(self) -> list[dict[str, str]]:
        """Return what could not be tried or read here, and why."""
        missing = [
            {"what": f"{kind}/{name}", "reason": reason}
            for kind in ("passes", "runtimes", "meters")
            for name, reason in available(kind)[1].items()
        ]
        failed = [
            {"what": trial.candidate.name, "reason": f"{trial.status}: {trial.reason}"}
            for trial in self.search.trials
            if trial.status in ("refused", "failed", "fault")
        ]
        crew = self.search.crew
        doubt = self.search.bench.doubt()
        said = {
            "base": [doubt] if doubt else [],
            "workers": crew.notes if crew else [],
            "where the gain comes from": [self.unexplained] if self.unexplained else [],
            "store": self.search.workshop.store.warnings,
        }
        return missing + failed + [{"what": what, "reason": text} for what, texts in said.items() for text in texts]

    def conditions(self) -> dict[str, Any]:
        """Return what else must be known to repeat or to doubt the figures."""
        task, workshop = self.search.workshop.task, self.search.workshop
        splits = {name: {"n": len(task.split(name)), "sha256": workshop.fingerprint(name)} for name in SPLITS}
        return {
            "machine": workshop.machine.to_json(),
            "versions": {"python": platform.python_version(), **versions(LIBRARIES)},
            "seed": self.request.seed,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "load": dict(self.winner.load) if self.winner else {"load1": os.getloadavg()[0]},
            "test_openings": self.tested[0].openings if self.tested else 0,
            "splits": splits,
            "compared_on": self.search.bench.view.size("validation"),
            "task": dict(task.describe()),
        }

    def _gains(self, winner: Tested) -> list[str]:
        """Say how many times cheaper it is: in the objective, then in the others where that is beyond doubt."""
        objective = self.search.aim.objective
        others = [
            name for name in GAINS if name in winner.ratios and name != objective and _beyond_doubt(winner.ratios[name])
        ]
        return [
            f"{winner.ratios[name].value:.1f}x {GAINS.get(name, f'better in {name}')}" for name in (objective, *others)
        ]

    def _failing(self) -> list[Trial]:
        """Measured or dropped candidates that are, or are expected to be, cheaper than the base."""
        aim = self.search.aim
        known = [(trial, (trial.figures or trial.predicted).get(aim.objective)) for trial in self.search.trials]
        tried = [(t, figure) for t, figure in known if t.status in ("measured", "dropped")]
        return [trial for trial, figure in tried if figure is None or aim.cost(figure.value) < self.search.base_cost]

    def _tie(self) -> str:
        if self.timed is None:
            return ""
        low, high = self._gain.low or self._gain.value, self._gain.high or self._gain.value
        ratio = f"{self._gain.value:.2f}x [{low:.2f}, {high:.2f}]"
        beyond = self.search.aim.beyond(self.timed.figures)
        why = f"is beyond the limit {beyond[0]}" if beyond else f"gives {ratio}"
        return f" {self.timed.trial.candidate.name} keeps the promise, but timed afresh it {why}."

    def _why_not(self) -> str:
        if self.timed is not None:
            return self._tie().strip()
        if self.tested:
            worst = min(self.tested[0].judgements, key=lambda j: j.verdict != "FAIL")
            return f"The best, {self.tested[0].trial.candidate.name}, fails {worst.promise} on the test split."
        best = max(self._failing(), key=lambda trial: trial.chance, default=None)
        if best is None:
            return "No candidate could be measured." if self.search.trials else "Nothing was worth trying."
        why = best.reason or f"on validation its chance to pass is {best.chance:.0%}"
        return f"The best failing one is {best.candidate.name}: {why}."

    def _status(self, trial: Trial, found: Tested | None, walk: set[str]) -> str:
        if self.winner is not None and trial is self.winner.trial:
            return "certified"
        if found is not None:
            return "passed" if overall(found.judgements) == "PASS" else "not certified"
        if trial.status == "measured":
            return "frontier" if trial.candidate.name in walk else "dominated"
        return "failed" if trial.status == "fault" else trial.status

    def _reason(self, trial: Trial, found: Tested | None) -> str:
        if found is not None and found.reason:
            return f"could not be tested: {found.reason}"
        if found is not None and overall(found.judgements) != "PASS":
            worst = next(j for j in found.judgements if j.verdict != "PASS")
            return f"{worst.verdict} on {worst.promise}"
        if trial.status == "measured" and not trial.reason and found is None:
            return f"chance to pass {trial.chance:.0%}"
        return trial.reason


def _calibration(pairs: list[tuple[Figure, float]]) -> Calibration:
    ends = [[math.nan if end is None else end for end in (said.low, said.high)] for said, _ in pairs]
    return calibration([said.value for said, _ in pairs], [seen for _, seen in pairs], ends or None)


def _beyond_doubt(ratio: Figure) -> bool:
    return ratio.low > 1 if ratio.low is not None else ratio.value > LEAST_GAIN


def _map(figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {name: {k: v for k, v in figure.to_json().items() if k != "name"} for name, figure in figures.items()}


def _answers(evidence: Evidence, place: int) -> dict[str, str]:
    """Return the right class of an example and what both models answered, from the rows of a classification."""
    labels, base, trimmed = evidence.task.labels, evidence.base[place], evidence.trimmed[place]
    numbers = {"target": int(base[TARGET]), "base": int(base[PREDICTED]), "trimmed": int(trimmed[PREDICTED])}
    return {key: labels[number] if 0 <= number < len(labels) else str(number) for key, number in numbers.items()}


def _times(elapsed: float, seconds: Mapping[str, float]) -> dict[str, float]:
    known = {f"{name}_s": round(value, 2) for name, value in seconds.items()}
    return {"total_s": round(elapsed, 2), **known, "other_s": round(elapsed - sum(seconds.values()), 2)}

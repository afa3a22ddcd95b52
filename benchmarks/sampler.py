"""Which sampler finds the best recorded candidate soonest: ours, or Optuna's, on the candidates of finished runs.

    .venv/bin/pip install -c constraints.txt optuna                    nothing else here needs it
    python benchmarks/sampler.py ~/.cache/trimtab/bench/*-seed0        writes tabs/sampler.jsonl

Every sampler chooses among the candidates that a run recorded and pays what they took then: training once for each
structure, converting once for each chain of passes, measuring each time. Optuna's samplers choose one step a stage and
the runtime; a choice that was never recorded costs nothing and tells it nothing. The score is the share of the whole
recorded time after which the best candidate that likely passes has 90% of the final gain.
"""

from __future__ import annotations

import json
import math
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna

import tabs
from trimtab.candidates import Candidate, Predictor, expect
from trimtab.passes import STAGES
from trimtab.recipe import bind
from trimtab.request import Request
from trimtab.search import Aim, Search, Trial, trial_from_json
from trimtab.trimmer import check_request
from trimtab.values.facts import Facts
from trimtab.values.figure import Figure
from trimtab.values.machine import Machine
from trimtab.values.tab import read_tab
from trimtab.values.task import Task

SHARE, SEEDS = 0.9, 20
OPTUNA = {
    "optuna tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True),
    "optuna nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=10),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


@dataclass
class Recorded:
    """The candidates of one run, and what each of their prefixes took."""

    folder: Path
    trials: dict[str, Trial]
    base: dict[str, Figure]
    facts: Facts
    machine: Machine
    task: Task
    aim: Aim
    compared_on: int
    """Validation examples."""
    training: dict[str, float] = field(default_factory=dict)
    converting: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for trial in self.trials.values():
            one = trial.candidate
            self.training[one.structure] = max(self.training.get(one.structure, 0.0), trial.trained_seconds)
            self.converting[one.steps] = max(self.converting.get(one.steps, 0.0), trial.converted_seconds)

    def seconds(self, candidate: Candidate, made: set[str]) -> float:
        """Return what trying a candidate takes after those prefixes were made, and add its own to them."""
        trial = self.trials[candidate.name]
        train = 0.0 if candidate.structure in made else self.training[candidate.structure]
        convert = 0.0 if candidate.steps in made else self.converting[candidate.steps]
        made |= {candidate.structure, candidate.steps}
        return (
            train
            + convert
            + max(trial.measured_seconds, trial.seconds - trial.trained_seconds - trial.converted_seconds)
        )

    @property
    def total(self) -> float:
        """Seconds that trying all of them takes."""
        made: set[str] = set()
        return sum(self.seconds(trial.candidate, made) for trial in self.trials.values())

    def gain(self, name: str) -> float:
        """Return how many times cheaper than the base a candidate is that likely passes, else 1."""
        trial = self.trials[name]
        if trial.status != "measured" or trial.chance <= 0.5 or self.aim.beyond(trial.figures):
            return 1.0
        figure = self.aim.objective
        return self.aim.cost(self.base[figure].value) / self.aim.cost(trial.figures[figure].value)


def read(folder: Path) -> Recorded:
    """Read a finished run's tab."""
    tab = read_tab(folder / "tab.jsonl")
    request = Request(**{k: tuple(v) if isinstance(v, list) else v for k, v in _request(folder).items()})
    task, aim = check_request(request)
    result = json.loads((folder / "result.json").read_text())
    machine = Machine.from_json(result["conditions"]["machine"])
    (base,) = tab.of("base")[-1:]
    facts = Facts.from_json(base["facts"])
    trials = {}
    for record in tab.of("candidate"):
        trial = trial_from_json(expect(bind(record["recipe"]), facts, machine), record)
        if trial is not None:
            trials[trial.candidate.name] = trial
    figures = {name: Figure.from_json(figure) for name, figure in base["figures"].items()}
    compared = base.get("compared_on", len(task.split("validation")))
    return Recorded(folder, trials, figures, facts, machine, task, aim, compared)


def _request(folder: Path) -> dict[str, Any]:
    known = Request.__dataclass_fields__
    return {key: value for key, value in json.loads((folder / "run.json").read_text()).items() if key in known}


def ours(run: Recorded, seed: int) -> Iterator[str]:
    """Yield candidates in the order in which the search takes them."""
    made: set[str] = set()

    def peek(base: Any, passes: Any, teacher: Any) -> int:
        done = [" | ".join(map(str, passes[:n])) for n in range(len(passes), 0, -1)]
        return next((len(passes) - i for i, text in enumerate(done) if text in made), 0)

    shop = SimpleNamespace(machine=run.machine, peek=peek, task=run.task)
    view, test_size = SimpleNamespace(size=lambda name: run.compared_on), len(run.task.split("test"))
    bench = SimpleNamespace(base_figures=run.base, view=view, test_size=test_size)
    base = SimpleNamespace(model=SimpleNamespace(facts=run.facts), seconds=0.0)
    predictor = Predictor(run.machine, run.facts, run.base["latency_ms"].value)
    search = Search(shop, bench, base, run.aim, predictor, None)  # type: ignore[arg-type]
    search.waiting = [trial.candidate for trial in run.trials.values()]
    spent, paid, total = 0.0, set[str](), run.total
    search.clock = lambda: spent
    while (candidate := search.next(max(total - spent, 1.0)) or search.next(math.inf)) is not None:
        yield candidate.name
        spent += run.seconds(candidate, paid)
        made |= {" | ".join(map(str, candidate.bound.passes[:n])) for n in range(1, len(candidate.bound.passes) + 1)}
        search._take(run.trials[candidate.name])
        search.waiting = [one for one in search.waiting if one.name in run.trials]


def theirs(name: str) -> Callable[[Recorded, int], Iterator[str]]:
    """Return the order of one of Optuna's samplers over the choices of each stage and the runtimes."""

    def order(run: Recorded, seed: int) -> Iterator[str]:
        keys = {_choices(trial.candidate): trial.candidate.name for trial in run.trials.values()}
        options = [sorted({key[place] for key in keys}) for place in range(len(STAGES) + 1)]
        study = optuna.create_study(sampler=OPTUNA[name](seed), directions=["minimize", "minimize"])
        seen: set[str] = set()
        for _ in range(50 * len(keys)):
            trial = study.ask()
            key = tuple(trial.suggest_categorical(f"stage {i}", found) for i, found in enumerate(options))
            recorded = keys.get(key)
            if recorded is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            found = run.trials[recorded]
            latency = (
                found.figures["latency_ms"].value if "latency_ms" in found.figures else run.base["latency_ms"].value
            )
            study.tell(trial, [math.log(latency), 1.0 if found.loss is None else found.loss])
            if recorded not in seen:
                seen.add(recorded)
                yield recorded
            if len(seen) == len(keys):
                return

    return order


def _choices(candidate: Candidate) -> tuple[str, ...]:
    by_stage = {stage: " | ".join(str(s) for s in candidate.bound.passes if s.stage == stage) for stage in STAGES}
    return (*by_stage.values(), str(candidate.bound.runtime))


def share_needed(run: Recorded, order: Iterator[str]) -> float:
    """Return the share of the recorded time after which 90% of the final gain is reached; 1 where it never is."""
    final = max(run.gain(name) for name in run.trials)
    made: set[str] = set()
    spent = 0.0
    for name in order:
        spent += run.seconds(run.trials[name].candidate, made)
        if run.gain(name) >= SHARE * final:
            return spent / run.total
    return 1.0


def main(folders: list[str]) -> int:
    """Compare the samplers on every run and write the tab."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    lines = []
    for folder in map(Path, folders):
        run = read(folder)
        for name, order in {"trimtab": ours, **{name: theirs(name) for name in OPTUNA}}.items():
            seeds = 1 if name == "trimtab" else SEEDS
            shares = sorted(share_needed(run, order(run, seed)) for seed in range(seeds))
            about = {"candidates": len(run.trials), "seeds": seeds, "run": folder.name}
            value = shares[len(shares) // 2]
            lines.append({"name": "share_of_time", "group": name, "value": value, "unit": "share", "n": seeds})
            lines[-1] |= {"low": shares[0], "high": shares[-1], "workload": folder.name, "conditions": about}
            print(f"{folder.name:30} {name:14} {value:.0%} [{shares[0]:.0%}, {shares[-1]:.0%}]")
    tabs.write("sampler", lines)
    return 0


if __name__ == "__main__":
    random.seed(0)
    sys.exit(main(sys.argv[1:]))

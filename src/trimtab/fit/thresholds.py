"""Chooses when a cheap stage may answer for a dear one: the threshold on its highest probability.

The threshold is chosen on validation data, never on test data; it becomes part of the artefact, so whatever is
certified of the artefact is certified of the threshold too. Going from sure to unsure, ever more examples stop and ever
more of them are made wrong, so the rule is a walk from the highest threshold down, and looking at many of them costs no
confidence (fixed-sequence testing, Angelopoulos et al. 2021, arXiv 2110.01052, section 2.3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trimtab.errors import DataError, Refused
from trimtab.fit.program import Net
from trimtab.maths.intervals import clopper_pearson
from trimtab.run.program import confidence
from trimtab.values.model import Cascade, Model, Single
from trimtab.values.task import TaskView

STAGES = ("first", "main")
BATCH, LONG_BATCH = 256, 32
"""Examples answered together, and of those whose first axis is a sequence."""
GRID = 51
"""Thresholds tried: quantiles of the first stage's confidence."""
SLACK, SURE = 0.02, 0.95
"""Share of all examples that may be made wrong besides `loss`, and how sure that is: few examples prove little."""


@dataclass(frozen=True)
class Answers:
    """What both stages say of each validation example."""

    confidence: NDArray[np.float64]
    """Highest probability that the first stage gives, float[n]."""
    first: NDArray[np.int64]
    """Class of the first stage, int[n]."""
    whole: NDArray[np.int64]
    """Class of the whole model, int[n]."""
    targets: NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """A threshold and what it does to validation examples; shares are of all of them."""

    threshold: float
    stops: float
    """Share that stops at the first stage."""
    agreement: float
    """Share answered as the whole model answers."""
    loss: float
    """Share right of the whole model minus that of the cascade."""
    made_wrong_at_most: float
    """Upper 95% bound of the share that stops and was right before (Clopper and Pearson 1934)."""
    examples: int

    def program(self, output: str) -> Cascade:
        """Return the program of two stages, `first` and `main`, that answer as `output`."""
        return Cascade(STAGES, (self.threshold,), output, (1.0, 1.0 - self.stops))

    def notes(self) -> dict[str, Any]:
        """Return JSON for the tab."""
        return {
            **asdict(self),
            "certificate": "it covers the threshold, which was chosen on validation data and is part of the artefact",
            "latency": "it is the mean over examples; latency_p90 tells of those that go on",
        }


def unfit(model: Model, name: str) -> str | None:
    """Return why a model cannot become a cascade of two stages, or None."""
    if not isinstance(model.program, Single) or len(model.parts) != 1:
        return f"{name} takes a model of one part that one call answers, not a {type(model.program).__name__.lower()}"
    return None


def check_objective(view: TaskView, name: str) -> None:
    """Raise Refused where the task's answers are not one class among several."""
    if view.task.objective != "cross_entropy":
        raise Refused(
            f"{name} stops where the highest class probability is high; the objective of {view.task.name} is "
            f"{view.task.objective}, it takes cross_entropy"
        )


@torch.no_grad()
def answers(view: TaskView, first: Net, whole: Net, check_time: Callable[[], None]) -> Answers:
    """Ask both nets for logits [B, K] of every validation example; raises DataError where there are none."""
    examples = view.split("validation")
    if not len(examples):
        raise DataError(f"the validation split of {view.task.name} is empty: no threshold can be chosen")
    long = any(array.ndim in (1, 2) for array in examples[0].inputs.values())
    found: list[tuple[Any, ...]] = []
    for batch in view.batches("validation", LONG_BATCH if long else BATCH):
        check_time()
        small, large = (net.scores(batch).float().numpy() for net in (first.eval(), whole.eval()))
        found.append((confidence(small), small.argmax(1), large.argmax(1), np.asarray(batch.targets)))
    return Answers(*(np.concatenate(column) for column in zip(*found, strict=True)))


def at(threshold: float, seen: Answers) -> Choice:
    """Return what a threshold does; as in `trimtab.run.program`, an example stops from the threshold on."""
    stop = seen.confidence >= threshold
    right, before = seen.first == seen.targets, seen.whole == seen.targets
    wrong, mended, n = int((stop & before & ~right).sum()), int((stop & right & ~before).sum()), len(stop)
    return Choice(
        float(threshold),
        float(stop.mean()),
        float(1 - (stop & (seen.first != seen.whole)).mean()),
        (wrong - mended) / n,
        clopper_pearson(wrong, n, SURE, "upper")[1],
        n,
    )


def choose(seen: Answers, loss: float) -> Choice:
    """Return the smallest threshold at which at most `loss` (a share) more is wrong, and surely few are made wrong.

    Surely few: the 95% bound of the share made wrong is at most `loss` + 0.02. It only falls as the threshold rises,
    so the smallest that keeps it is the last that a walk from the highest down would reach.

    Raises:
        Refused: no threshold at which an example stops keeps both.
    """
    grid = np.unique(np.quantile(seen.confidence, np.linspace(0, 1, GRID)))
    tried = [at(float(threshold), seen) for threshold in grid]
    kept = [one for one in tried if one.loss <= loss and one.made_wrong_at_most <= loss + SLACK and one.stops]
    if not kept:
        last = tried[-1]
        raise Refused(
            f"no threshold loses at most {loss:g} on {last.examples} validation examples: where {last.stops:.1%} stop, "
            f"{last.loss:.2%} more are wrong, and up to {last.made_wrong_at_most:.2%} may be made wrong; a longer "
            "training of the first stage, a larger loss or more validation examples may help"
        )
    return kept[0]


def check_gain(choice: Choice, first: int, whole: int, main: int) -> None:
    """Raise Refused where the cascade is expected to take no fewer operations than the whole model does alone."""
    expected = first + (1 - choice.stops) * main
    if expected >= whole:
        raise Refused(
            f"{choice.stops:.0%} of the examples stop at the first stage, so that one takes {expected:.4g} operations "
            f"on average; the model alone takes {whole:.4g}"
        )

"""The verb `verify`: is the promise kept, broken, or not yet known? Decided on the sealed test split, and only there.

One promise on one group of examples is one `Judgement`. A promise on every slice is kept if each slice's own test
accepts: an intersection-union test, which needs no correction (Berger 1982, Technometrics 24:295). Several candidates
are tested in an order frozen beforehand, from mild to bold, up to the first that fails: fixed-sequence testing
(Learn then Test, arXiv 2110.01052, section 2.1), so the claim printed is the claim proved.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import PromiseError, UsageError
from trimtab.maths.bootstrap import Bootstrap, Resampling, bca
from trimtab.maths.intervals import clopper_pearson, never_seen_bound
from trimtab.maths.noninferiority import noninferior
from trimtab.maths.power import examples_to_decide, examples_to_refute, smallest_decidable_margin
from trimtab.values.promise import Promise
from trimtab.values.task import Example, Metric, Task

Floats = NDArray[np.float64]
EXACT = "Clopper-Pearson 1934"
"""How one sample of right and wrong is judged."""
LIKELY_DISCORDANCE = 0.02
"""Share of examples on which a good trimmed model differs from its base, for saying what the data can decide."""
MOST_MORE = 1_000_000
"""Nobody is told to gather more examples than this."""
LEAST_RESAMPLED = 100
"""Independent examples below which a bootstrap that nothing guards proves nothing: its error is well above the nominal
(tab `type1`, `type1_bca_upper`)."""
Verdict = Literal["PASS", "FAIL", "UNDECIDED"]


@dataclass(frozen=True)
class Evidence:
    """Score rows of both models on the same examples, in the same order."""

    task: Task
    examples: tuple[Example, ...]
    base: Floats
    """float[n, k]: the original's rows."""
    trimmed: Floats
    """float[n, k]: the trimmed model's rows."""

    @cached_property
    def clusters(self) -> NDArray[np.int64]:
        """int[n]: the resampling unit of each example; an example without a cluster is its own."""
        names = [_unit(example, number) for number, example in enumerate(self.examples)]
        return np.unique(names, return_inverse=True)[1].astype(np.int64)

    @cached_property
    def slices(self) -> dict[str, set[str]]:
        """Every group and the values found in it."""
        return slice_values(self.examples)

    def restrict(self, where: str) -> Evidence:
        """Return the evidence of one slice, `class=3`; all of it where `where` is empty."""
        if not where:
            return self
        group, _, value = where.partition("=")
        chosen = [i for i, example in enumerate(self.examples) if example.slices.get(group) == value]
        picked = tuple(self.examples[i] for i in chosen)
        return Evidence(self.task, picked, self.base[chosen], self.trimmed[chosen])

    def flips(self, metric: Metric) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the positions that went from right to wrong, and from wrong to right, of a binary metric."""
        before, after = metric.values(self.base), metric.values(self.trimmed)
        if before is None or after is None:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        gained = after - before if metric.better == "higher" else before - after
        return np.flatnonzero(gained < 0), np.flatnonzero(gained > 0)


@dataclass(frozen=True)
class Judgement:
    """What the evidence says of one promise on one group of examples."""

    promise: str
    slice: str
    verdict: Verdict
    base: float | None
    trimmed: float
    difference: float | None
    """Trimmed minus the promise's factor times base, in the metric's unit; None for absolute promises."""
    low: float
    """Lower end of the difference's interval (of the metric's, where absolute) at 1 - 2 alpha, two-sided."""
    high: float
    margin: float
    """The difference (or value) at which the promise is just kept."""
    unit: str
    n: int
    method: str
    p_value: float | None = None
    more_examples: int | None = None
    """How many more examples would decide, were the rates seen the true ones."""

    def to_json(self) -> dict[str, Any]:
        """Return the judgement as a JSON object; an endless interval becomes null."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}
        return finite


def _unit(example: Example, number: int) -> str:
    """Name the resampling unit of the example that stands at that place of its split."""
    return example.cluster or f"\0{number}"


def slice_values(examples: Iterable[Example]) -> dict[str, set[str]]:
    """Return every slice group of the examples and the values found in it."""
    found: dict[str, set[str]] = {}
    for example in examples:
        for group, value in example.slices.items():
            found.setdefault(group, set()).add(value)
    return found


def judge(promises: Iterable[Promise], evidence: Evidence, confidence: float) -> list[Judgement]:
    """Judge each promise on each group that it names.

    Raises:
        PromiseError: a promise names no metric or slice of the task.
    """
    return [
        _judge_one(one, one.check(evidence.task), evidence.restrict(one.slice), confidence)
        for promise in promises
        for one in promise.expand(evidence.slices)
    ]


def overall(judgements: Iterable[Judgement]) -> Verdict:
    """Return PASS if all are, FAIL if one is broken, else UNDECIDED; without a judgement nothing is proved."""
    verdicts = {judgement.verdict for judgement in judgements}
    if "FAIL" in verdicts:
        return "FAIL"
    return "PASS" if verdicts == {"PASS"} else "UNDECIDED"


def _judge_one(promise: Promise, metric: Metric, evidence: Evidence, confidence: float) -> Judgement:
    if len(evidence.examples) == 0:
        raise PromiseError(f"{promise} cannot be judged: no example of the split is in that slice")
    independent = len(np.unique(evidence.clusters)) == len(evidence.examples)
    if metric.binary and independent and promise.factor == 0:
        return _judge_share(promise, metric, evidence, confidence)
    if metric.binary and independent and promise.factor == 1:
        return _judge_pairs(promise, metric, evidence, confidence)
    return _judge_resampled(promise, metric, evidence, confidence)


def _judge_share(promise: Promise, metric: Metric, evidence: Evidence, confidence: float) -> Judgement:
    """One sample of right and wrong against an absolute bound: Clopper-Pearson."""
    values, before = _values(metric, evidence), None if metric.paired else metric.values(evidence.base)
    n, hits = len(values), int(values.sum())
    low, high = clopper_pearson(hits, n, 2 * confidence - 1)
    bounds = (low, high) if promise.relation == ">=" else (-high, -low)
    verdict = _decide(*bounds, promise.offset if promise.relation == ">=" else -promise.offset)
    more = None if verdict != "UNDECIDED" else _more_for_share(hits / n, n, promise, confidence)
    return _judgement(
        promise,
        metric,
        verdict,
        n=n,
        base=None if before is None else float(before.mean()),
        trimmed=hits / n,
        low=low,
        high=high,
        method=EXACT,
        more_examples=more,
    )


def _judge_pairs(promise: Promise, metric: Metric, evidence: Evidence, confidence: float) -> Judgement:
    """Right and wrong of both models on the same examples: Tango's score test."""
    before, after = metric.values(evidence.base), metric.values(evidence.trimmed)
    if before is None or after is None:
        raise PromiseError(f"{metric.name} says it is binary but gives no value for each example")
    sign = 1 if metric.better == "higher" else -1
    lost, won = evidence.flips(metric)
    test = noninferior(len(lost), len(won), len(before), abs(promise.offset), 1 - confidence)
    verdict: Verdict = "PASS" if test.accepted else "FAIL" if test.refuted else "UNDECIDED"
    more = examples_to_decide(test) or examples_to_refute(test) if verdict == "UNDECIDED" else None
    ends = sorted((-sign * test.low, -sign * test.high))
    return _judgement(
        promise,
        metric,
        verdict,
        n=test.n,
        base=float(before.mean()),
        trimmed=float(after.mean()),
        difference=-sign * test.difference,
        low=ends[0],
        high=ends[1],
        method="Tango 1998, exact guard",
        p_value=test.p_value,
        more_examples=more,
    )


def _judge_resampled(promise: Promise, metric: Metric, evidence: Evidence, confidence: float) -> Judgement:
    """Any other metric: BCa bootstrap of the difference, resampling clusters."""
    width = evidence.base.shape[1]
    rows = np.hstack([evidence.trimmed, evidence.base])

    def difference(rows: Floats, weights: Floats) -> Floats:
        trimmed = metric.reduce(rows if metric.paired else rows[:, :width], weights)
        return trimmed - promise.factor * metric.reduce(rows[:, width:], weights) if promise.factor else trimmed

    try:
        spread = bca(difference, rows, evidence.clusters, Resampling(2 * confidence - 1))
    except ValueError:  # not a finite number on every resample: a class is missing, or the model's outputs are broken
        spread = Bootstrap(float(difference(rows, np.ones((1, len(rows))))[0]), -math.inf, math.inf, False, 1.0)
    spread = _widened(spread, metric, evidence, confidence)
    sign = 1 if promise.relation == ">=" else -1
    low, high = sorted((sign * spread.low, sign * spread.high))
    verdict = _decide(low, high, sign * promise.offset)
    room = sign * (spread.value - promise.offset)
    more = _more_for_spread(room, sign * spread.value - low, len(rows)) if verdict == "UNDECIDED" else None
    whole = np.ones((1, len(rows)))
    trimmed = float(metric.reduce(rows if metric.paired else evidence.trimmed, whole)[0])
    base = None if metric.paired else float(metric.reduce(evidence.base, whole)[0])
    return _judgement(
        promise,
        metric,
        verdict,
        n=len(rows),
        base=base,
        trimmed=trimmed,
        difference=spread.value if promise.factor and math.isfinite(spread.value) else None,
        low=spread.low,
        high=spread.high,
        method="BCa bootstrap, Efron 1987",
        more_examples=more,
    )


def _widened(spread: Bootstrap, metric: Metric, evidence: Evidence, confidence: float) -> Bootstrap:
    """Add what the sample cannot show: clusters that fare otherwise, a class with few rows that happened to lose none.

    However little a share varied in n clusters, up to `never_seen_bound(n)` of them all may have the opposite value.
    """
    clusters = len(np.unique(evidence.clusters))
    if metric.values(np.hstack([evidence.trimmed, evidence.base]) if metric.paired else evidence.trimmed) is not None:
        if metric.unit != "share":
            return spread.widened(math.inf)
        room = never_seen_bound(clusters, confidence)
        return replace(spread, low=min(spread.low, spread.value - room), high=max(spread.high, spread.value + room))
    support = metric.support(evidence.base)
    if support is None or not len(support):
        return spread.widened(math.inf)
    unseen = float(np.mean([never_seen_bound(min(int(n), clusters), confidence) for n in support]))
    return replace(spread, low=spread.low - unseen, high=spread.high + unseen, degenerate=False)


def _decide(low: float, high: float, bound: float) -> Verdict:
    return "PASS" if low >= bound else "FAIL" if high < bound else "UNDECIDED"


def _judgement(promise: Promise, metric: Metric, verdict: Verdict, **numbers: Any) -> Judgement:
    given = {"base": None, "difference": None, **numbers}
    return Judgement(str(promise), promise.slice, verdict, margin=promise.offset, unit=metric.unit, **given)


def _values(metric: Metric, evidence: Evidence) -> Floats:
    rows = np.hstack([evidence.trimmed, evidence.base]) if metric.paired else evidence.trimmed
    values = metric.values(rows)
    if values is None:
        raise PromiseError(f"{metric.name} says it is binary but gives no value for each example")
    return values


def _more_for_share(share: float, n: int, promise: Promise, confidence: float) -> int | None:
    """Return how many more examples decide if the share stays, to one in a hundred; None where a million do not."""

    def decides(total: int) -> bool:
        low, high = clopper_pearson(round(share * total), total, 2 * confidence - 1)
        return low >= promise.offset or high <= promise.offset

    less, enough = n, 2 * n
    while not decides(enough):
        less, enough = enough, 2 * enough
        if less > MOST_MORE:
            return None
    while enough - less > max(1, enough // 100):
        middle = (less + enough) // 2
        less, enough = (less, middle) if decides(middle) else (middle, enough)
    return enough - n


def _more_for_spread(room: float, reach: float, n: int) -> int | None:
    """The half-width shrinks as 1 / sqrt(n): how many more until it is below the room there is."""
    if not math.isfinite(reach) or room == 0:
        return None
    return max(1, math.ceil(n * (reach / room) ** 2) - n)


def check_confidence(confidence: float) -> None:
    """Raise UsageError for a confidence that the tests cannot give."""
    if not 0.5 < confidence <= 0.999:
        raise UsageError(f"confidence is between 0.5 and 0.999, got {confidence:g}; 0.95 is usual")


def reopened(openings: int) -> str:
    """Say what opening a test split more than once means; nothing where it was opened once."""
    if openings <= 1:
        return ""
    return f" This test split was opened {openings} times; the certificate is exact for the first."


def decidable(task: Task, promises: Iterable[Promise], confidence: float) -> list[dict[str, Any]]:
    """Say of each promise on a mean of shares whether the test split can decide it, and of others where it cannot.

    What is counted are independent examples: clusters, where the task names them.
    """
    groups: dict[str, set[str]] = {}
    units: dict[str, set[str]] = {"": set()}
    for number, example in enumerate(task.split("test")):
        for group, value in example.slices.items():
            groups.setdefault(group, set()).add(value)
        for where in ("", *(f"{group}={value}" for group, value in example.slices.items())):
            units.setdefault(where, set()).add(_unit(example, number))
    said = [
        _decidable_one(one, promise.check(task), len(units[one.slice]), confidence)
        for promise in promises
        for one in promise.expand(groups)
    ]
    return [one for one in said if one]


def check_decidable(task: Task, promises: Iterable[Promise], confidence: float) -> None:
    """Raise PromiseError for a promise that does not fit the task, or that its test split can never decide."""
    for found in decidable(task, promises, confidence):
        if not found["possible"]:
            raise PromiseError(found["sentence"])


def _share_of_examples(metric: Metric) -> bool:
    """Tell whether the metric is a mean of shares, one an example: `values` is given, and the unit is a share."""
    return metric.unit == "share" and type(metric).values is not Metric.values


def _decidable_one(promise: Promise, metric: Metric, n: int, confidence: float) -> dict[str, Any]:
    """Without a single changed answer a share is known to `never_seen_bound`; a good model changes a few.

    A factor leaves |1 - factor| times what the base will show, so |1 - factor| at the most. Of others it is known
    whether they can never be decided; empty where they may.
    """
    if not _share_of_examples(metric):
        guarded = type(metric).support is not Metric.support
        never = f"{promise}: {n} independent test examples can prove nothing about a mean; it takes {LEAST_RESAMPLED}"
        enough = guarded or n >= LEAST_RESAMPLED
        return {} if enough else {"promise": str(promise), "n": n, "possible": False, "sentence": never}
    room = 1 - promise.offset if promise.relation == ">=" else promise.offset
    margin = abs(1 - promise.factor) + abs(promise.offset) if promise.factor else room
    least = never_seen_bound(n, confidence)
    likely = smallest_decidable_margin(n, LIKELY_DISCORDANCE, 1 - confidence)
    if margin < least:
        can = f"never can be proved: even perfect answers leave {least:.4f} open; use more examples or a wider margin"
    elif margin < likely:
        can = "can be decided only if few answers change"
    else:
        can = "can be decided"
    return {
        "promise": str(promise),
        "n": n,
        "margin": margin,
        "smallest_margin": least,
        "likely_margin": likely,
        "possible": margin >= least,
        "sentence": f"{promise}: with {n} independent test examples it {can} (a margin of {likely:.4f} likely can)",
    }

"""Reads a result document leniently: what is missing or of the wrong kind becomes None, and no text is trusted."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

STATUSES = (
    "base",
    "certified",
    "passed",
    "frontier",
    "not certified",
    "dominated",
    "dropped",
    "failed",
    "refused",
    "not tried",
)
"""In the order in which a reader wants them."""
UNTRIED = "not tried"
FIRST = ("latency_ms", "size_mb", "memory_mb", "throughput_per_s", "energy_j", "usd_per_million")
"""Costs in the order in which most readers want them."""
HEADLINES = {
    "PASS": "Promise kept",
    "FAIL": "Promise not kept",
    "UNDECIDED": "Undecided",
    "INFEASIBLE": "No candidate keeps the promise",
    "BASE": "Nothing beat the base",
}
PROMISE = re.compile(
    r"\s*(\w+)\s*(?:\[[^\]]*\])?\s*(>=|<=)\s*(?:(base)\s*(?:([-+*])\s*)?)?(\d[\d.]*(?:e-?\d+)?)?\s*(%|points?)?\s*\Z"
)


def text(value: Any) -> str:
    """Return printable text: control characters and direction overrides are shown as a mark.

    >>> text(chr(27) + "[31mred"), text(None), text(3)
    ('�[31mred', '', '3')
    """
    shown = "" if value is None else str(value)
    return "".join(c if c.isprintable() else " " if c.isspace() else "�" for c in shown)


def number(value: Any) -> float | None:
    """Return a finite number, or None for anything else.

    >>> number(3), number("3"), number(float("nan")), number(True)
    (3.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e300 and math.isfinite(value) else None


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a mapping with text keys, empty for anything else."""
    return {text(key): item for key, item in value.items()} if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Any]:
    """Return a list, empty for anything else."""
    return list(value) if isinstance(value, list | tuple) else []


@dataclass(frozen=True)
class Value:
    """One figure as the document gives it."""

    value: float
    low: float | None = None
    high: float | None = None
    unit: str = ""
    n: int | None = None
    origin: str = ""

    @property
    def ends(self) -> tuple[float, float]:
        """The interval, or the value twice where there is none."""
        known = self.low is not None and self.high is not None
        return (self.low, self.high) if known else (self.value, self.value)  # type: ignore[return-value]

    @classmethod
    def read(cls, raw: Any) -> Value | None:
        """Read one figure; None where it has no value."""
        data = mapping(raw)
        value, n = number(data.get("value")), number(data.get("n"))
        if value is None:
            return None
        ends = (number(data.get("low")), number(data.get("high")))
        count = None if n is None else int(n)
        return cls(value, *ends, text(data.get("unit")), count, text(data.get("origin")))


Values = Mapping[str, Value]


def values(raw: Any) -> Values:
    """Read a map of figures, leaving out what has no value."""
    read = {name: Value.read(item) for name, item in mapping(raw).items()}
    return {name: value for name, value in read.items() if value is not None}


@dataclass(frozen=True)
class Candidate:
    """One recipe that was thought of, and how far it came."""

    number: int
    recipe: str
    status: str
    reason: str
    predicted: Values
    figures: Values
    test: Values
    seconds: float | None

    @classmethod
    def read(cls, position: int, raw: Any) -> Candidate:
        """Read the candidate at a position of the list, counted from 1."""
        data = mapping(raw)
        words = (text(data.get("recipe")), text(data.get("status")) or "not tried", text(data.get("reason")))
        maps = (values(data.get("predicted")), values(data.get("figures")), values(data.get("test")))
        return cls(position, *words, *maps, number(data.get("seconds")))


@dataclass(frozen=True)
class Term:
    """A promise's text, taken apart as far as a plot needs it."""

    metric: str = ""
    better: str = "higher"
    against_base: bool = False
    sign: str = ""
    amount: float | None = None

    @classmethod
    def read(cls, promise: str) -> Term:
        """Read `accuracy[class=*] >= base - 0.01`; empty where the text is something else.

        >>> Term.read("perplexity <= base * 1.02").limit(10.0)
        10.2
        """
        found = PROMISE.match(promise)
        if not found:
            return cls()
        metric, order, base, sign, amount, unit = found.groups()
        try:
            size = float(amount) / (100 if unit else 1) if amount else None
        except ValueError:
            return cls()
        return cls(metric, "higher" if order == ">=" else "lower", bool(base), sign or "", size)

    def limit(self, base: float | None) -> float | None:
        """Return the worst value that keeps the promise, given the base's."""
        if not self.against_base:
            return self.amount
        if base is None or self.amount is None:
            return base
        return {"-": base - self.amount, "+": base + self.amount, "*": base * self.amount}.get(self.sign, base)


@dataclass(frozen=True)
class Outcome:
    """One promise on one slice, as it came out on the test split."""

    promise: str
    slice: str
    verdict: str
    unit: str
    method: str
    base: float | None
    trimmed: float | None
    difference: float | None
    low: float | None
    high: float | None
    margin: float | None
    n: float | None
    p_value: float | None
    more_examples: float | None

    @classmethod
    def read(cls, raw: Any) -> Outcome:
        """Read one row of `promises`."""
        data = mapping(raw)
        return cls(**{f.name: (text if f.type == "str" else number)(data.get(f.name)) for f in fields(cls)})  # type: ignore[arg-type]

    @property
    def limit(self) -> float | None:
        """The worst difference that keeps the promise, with its sign; the worst value where nothing is compared."""
        if self.margin is None:
            return None
        return {"-": -abs(self.margin), "+": abs(self.margin)}.get(Term.read(self.promise).sign, self.margin)

    @property
    def better(self) -> str:
        """Whether a higher or a lower value is better."""
        return Term.read(self.promise).better

    @property
    def absolute(self) -> bool:
        """Whether the promise names a value and no base: then the interval is the value's."""
        return self.difference is None and self.trimmed is not None

    @property
    def tested(self) -> str:
        """What `difference` and its interval are of where the promise has a factor; empty where it is trimmed - base.

        >>> Outcome.read({"promise": "log_loss <= base * 1.02"}).tested
        'trimmed − 1.02 × base'
        """
        term = Term.read(self.promise)
        return f"trimmed − {term.amount:g} × base" if term.sign == "*" and term.amount is not None else ""

    @property
    def change(self) -> float | None:
        """Trimmed minus base, without any factor."""
        if not self.tested:
            return self.difference
        return None if self.trimmed is None or self.base is None else self.trimmed - self.base

    @property
    def family(self) -> str:
        """The promise as written for all slices of its group; empty where it is about all examples."""
        group = self.slice.split("=")[0]
        return re.sub(r"\[[^\]]*\]", lambda _: f"[{group}=*]", self.promise) if self.slice else ""


@dataclass(frozen=True)
class Result:
    """A whole run, ready to be shown."""

    raw: Mapping[str, Any] = field(repr=False)

    def text(self, key: str) -> str:
        """Return one of the document's texts."""
        return text(self.raw.get(key))

    def texts(self, key: str) -> list[str]:
        """Return one of the document's lists of texts."""
        return [text(item) for item in items(self.raw.get(key))]

    @cached_property
    def verdict(self) -> str:
        """PASS, FAIL, UNDECIDED, INFEASIBLE, BASE, or what the document says instead."""
        return self.text("verdict") or "UNDECIDED"

    @cached_property
    def headline(self) -> str:
        """The verdict in two or three words."""
        return HEADLINES.get(self.verdict, self.verdict)

    @cached_property
    def sentence(self) -> str:
        """The verdict in a sentence."""
        return self.text("sentence") or f"{self.headline}."

    @cached_property
    def base(self) -> Values:
        """The base's figures."""
        return values(self.raw.get("base"))

    @cached_property
    def chosen(self) -> Values:
        """The chosen candidate's figures; empty where none was chosen."""
        return values(self.raw.get("chosen"))

    @cached_property
    def ratios(self) -> Values:
        """How many times cheaper the chosen one is, by figure."""
        return {name: replace(value, unit="x") for name, value in values(self.raw.get("ratios")).items()}

    @cached_property
    def _listed(self) -> list[Candidate]:
        listed = [Candidate.read(position, raw) for position, raw in enumerate(items(self.raw.get("candidates")), 1)]
        if not self.base or any(candidate.status == "base" for candidate in listed):
            return listed
        recipe = text(mapping(self.raw.get("base")).get("recipe")) or f"@ {self.text('base_runtime')}"
        return [Candidate(0, recipe, "base", "", {}, self.base, {}, None), *listed]

    @cached_property
    def candidates(self) -> list[Candidate]:
        """The base and all candidates, numbered in the document's order."""
        return [replace(c, predicted=self._with_quality(c.predicted)) for c in self._listed]

    def _with_quality(self, predicted: Values) -> Values:
        """Add the quality that a predicted loss of quality amounts to."""
        loss, base = predicted.get("quality_loss"), self.base_quality()
        if loss is None or base is None or self.quality in predicted:
            return predicted
        sign = -1 if self.term.better == "higher" else 1
        low, high = sorted(base + sign * end for end in loss.ends)
        return {**predicted, self.quality: replace(loss, value=base + sign * loss.value, low=low, high=high)}

    @cached_property
    def ranked(self) -> list[Candidate]:
        """The base and the candidates that were tried, the chosen one first, then by status and measured cost."""
        return sorted((c for c in self.candidates if c.status != UNTRIED), key=self._rank)

    @cached_property
    def untried(self) -> dict[str, int]:
        """How many candidates were not tried, by reason."""
        return Counter(c.reason or "no reason given" for c in self.candidates if c.status == UNTRIED)

    def _rank(self, candidate: Candidate) -> tuple[bool, int, float, int]:
        place = STATUSES.index(candidate.status) if candidate.status in STATUSES else len(STATUSES)
        cost = candidate.figures.get(self.objective)
        return (not self.is_chosen(candidate), place, cost.value if cost else math.inf, candidate.number)

    def is_chosen(self, candidate: Candidate) -> bool:
        """Say whether this is the candidate that the run hands over."""
        return bool(self.chosen) and candidate.status != "base" and candidate.recipe == self.text("recipe")

    @cached_property
    def tests(self) -> list[Outcome]:
        """The promises as tested."""
        return [Outcome.read(raw) for raw in items(self.raw.get("promises"))]

    @cached_property
    def term(self) -> Term:
        """The first promise's terms: what the plots call quality."""
        promises = self.texts("promise") or [test.promise for test in self.tests]
        return next((term for term in map(Term.read, promises) if term.metric), Term())

    @cached_property
    def quality(self) -> str:
        """Name of the metric that the first promise is about."""
        return self.term.metric

    @cached_property
    def objective(self) -> str:
        """Name of the figure that was made cheaper; `latency` finds `latency_ms`."""
        wanted = self.text("objective")
        names = {**self.base, **{name: value for c in self._listed for name, value in c.figures.items()}}
        return wanted if wanted in names else next((n for n in names if wanted and n.startswith(wanted)), wanted)

    @cached_property
    def names(self) -> list[str]:
        """Figures of the tab: the promised metrics, the objective, then the other costs.

        The task's other metrics (three a class) stay in the document: a table of them hides what was asked.
        """
        promised = [Term.read(promise).metric for promise in self.texts("promise")]
        first = [self.quality, *promised, self.objective, *FIRST]
        others = set(self.texts("metrics")) - {*first}
        known = {**self.ratios, **self.base, **self.chosen}
        return [n for n in dict.fromkeys([*first, *known]) if n in known and n not in others]

    def base_quality(self) -> float | None:
        """Return the base's quality on the validation split, where candidates are compared."""
        known = [c.figures[self.quality] for c in self._listed if c.status == "base" and self.quality in c.figures]
        found = known[0] if known else self.base.get(self.quality)
        return found.value if found else None

    def typical(self, name: str) -> float | None:
        """Return the median measurement of a figure, whose unit suits its whole column; None without any."""
        known = sorted(c.figures[name].value for c in self.candidates if name in c.figures)
        return known[len(known) // 2] if known else None

    def headline_numbers(self) -> Iterator[tuple[str, Value]]:
        """Yield up to three ratios, the objective's first, one a kind of cost."""
        order = dict.fromkeys([self.objective, *FIRST, *self.ratios])
        kinds = {name.split("_")[0]: name for name in reversed(order) if name in self.ratios}
        yield from ((name, self.ratios[name]) for name in [n for n in order if n in kinds.values()][:3])


def title(name: str) -> str:
    """Turn a figure's name into words, without the unit at its end.

    >>> title("latency_ms"), title("latency_p90_ms"), title("macro_f1")
    ('Latency', 'Latency p90', 'Macro f1')
    """
    if name in NAMES:
        return NAMES[name]
    words = name.split("_")
    if len(words) > 1 and words[-1].lower() in UNITS:
        words = words[:-1]
    joined = " ".join(words)
    return joined[:1].upper() + joined[1:]


UNITS = frozenset({"ms", "us", "s", "mb", "gb", "kb", "j", "mj", "usd", "w", "gflops", "x"})
NAMES = {"usd_per_million": "Cost", "throughput_per_s": "Throughput"}

"""A promise: a metric, a direction and a bound. What a trimmed model must keep, and what `verify` proves.

accuracy >= base - 0.01            not worse than the original by more than one point
accuracy[class=*] >= base - 0.05   the same in every class
perplexity <= base * 1.02          relative to the original
agreement >= 0.99                  absolute: needs no base value, here not even labels
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from trimtab.errors import PromiseError
from trimtab.values.task import Metric, Task

NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
PATTERN = re.compile(
    rf"\s*(?P<metric>[A-Za-z_]\w*)\s*(?:\[\s*(?P<slice>[^\]=]+=[^\]]+)\])?\s*(?P<relation>[<>]=)\s*"
    rf"(?:(?P<base>base)\s*(?:(?P<sign>[-+*])\s*(?P<by>{NUMBER})(?P<percent>%?))?|(?P<bound>{NUMBER}))\s*\Z"
)
SHAPE = "METRIC >= base - NUMBER, METRIC <= base * NUMBER, METRIC[SLICE=*] >= base - NUMBER, or METRIC >= NUMBER"
LIMIT = re.compile(rf"\s*(?P<figure>[a-z_]\w*)\s*(?P<relation><=|>=)\s*(?P<bound>{NUMBER})\s*\Z")


@dataclass(frozen=True)
class Promise:
    """The metric is at least (`>=`) or at most (`<=`) `factor` x base + `offset`; absolute where factor is 0.

    >>> str(Promise.parse("accuracy[class=*]>=base-5%"))
    'accuracy[class=*] >= base - 0.05'
    """

    metric: str
    relation: Literal[">=", "<="]
    factor: float = 1.0
    offset: float = 0.0
    slice: str = ""
    """`class=*` for every class, `sex=female` for one group, empty for all examples."""

    def __str__(self) -> str:
        where = f"[{self.slice}]" if self.slice else ""
        if not self.factor:
            bound = f"{self.offset:g}"
        elif self.factor != 1:
            bound = f"base * {self.factor:g}"
        else:
            bound = f"base {'-' if self.offset < 0 else '+'} {abs(self.offset):g}" if self.offset else "base"
        return f"{self.metric}{where} {self.relation} {bound}"

    @classmethod
    def parse(cls, text: str) -> Promise:
        """Read a promise; raises PromiseError that shows the shapes that fit."""
        found = PATTERN.match(text)
        if not found:
            raise PromiseError(f"cannot read the promise {text!r}; it looks like {SHAPE}")
        relation: Literal[">=", "<="] = ">=" if found["relation"] == ">=" else "<="
        where = re.sub(r"\s*=\s*", "=", (found["slice"] or "").strip(), count=1)
        if not found["base"]:
            return cls(found["metric"], relation, 0.0, float(found["bound"]), where)
        by = float(found["by"] or 0) / (100 if found["percent"] else 1)
        if found["sign"] == "*":
            return cls(found["metric"], relation, by, 0.0, where)
        return cls(found["metric"], relation, 1.0, -by if found["sign"] == "-" and by else by, where)

    def check(self, task: Task) -> Metric:
        """Return the task's metric; raises PromiseError where the promise points the wrong way."""
        metric = task.metric(self.metric)
        fits = ">=" if metric.better == "higher" else "<="
        if self.relation != fits:
            raise PromiseError(f"{self.metric} is better {metric.better}, so write {fits}: {self} would reward a loss")
        gain = self.offset > 0 or self.factor > 1 if fits == ">=" else self.offset < 0 or 0 < self.factor < 1
        if self.factor and gain:
            raise PromiseError(f"{self} asks for a gain over the base; a promise says how much may be lost")
        if metric.unit == "share" and self.factor <= 1:
            self._check_share()
        if metric.paired and self.factor:
            raise PromiseError(f"{self.metric} already compares with the base: write {self.metric} {fits} 0.99")
        return metric

    def _check_share(self) -> None:
        """Refuse bounds that a share, between 0 and 1, always keeps or never proves."""
        size = abs(self.offset)
        if self.factor == 1 and size >= 1:
            raise PromiseError(f"{self} promises nothing: {self.metric} is a share of 1, so 5 points are 0.05 or 5%")
        if self.factor == 0 and not 0 < size < 1:
            raise PromiseError(f"{self} can never be proved: {self.metric} is a share, with a bound between 0 and 1")

    def expand(self, slices: dict[str, set[str]]) -> tuple[Promise, ...]:
        """Return one promise for each value the slice's star stands for; `slices` maps group to its values."""
        if not self.slice:
            return (self,)
        group, _, value = self.slice.partition("=")
        if group not in slices:
            raise PromiseError(
                f"{self} names the slice {group!r}; this task has: {', '.join(sorted(slices)) or 'none'}"
            )
        if value not in slices[group] and value != "*":
            raise PromiseError(f"{self}: {group} has no {value!r}; it has: {', '.join(sorted(slices[group])[:20])}")
        values = sorted(slices[group]) if value == "*" else [value]
        return tuple(replace(self, slice=f"{group}={v}") for v in values)


@dataclass(frozen=True)
class Limit:
    """A bound on a cost figure, `size_mb <= 1`: candidates beyond it are not eligible."""

    figure: str
    relation: Literal[">=", "<="]
    bound: float

    def __str__(self) -> str:
        return f"{self.figure} {self.relation} {self.bound:g}"

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Read a limit; raises PromiseError that shows the shape that fits."""
        found = LIMIT.match(text)
        if not found:
            raise PromiseError(f"cannot read the limit {text!r}; it looks like FIGURE <= NUMBER, as in size_mb <= 1")
        return cls(found["figure"], ">=" if found["relation"] == ">=" else "<=", float(found["bound"]))

    def kept(self, value: float) -> bool:
        """Tell whether a value is within the limit."""
        return value >= self.bound if self.relation == ">=" else value <= self.bound

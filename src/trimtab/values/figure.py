"""A number with what is needed to believe it: unit, interval, sample size, conditions and origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Origin = Literal["predicted", "modelled", "measured", "observed"]
Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Axis:
    """What a figure's numbers mean: the unit, and which direction is better."""

    unit: str
    better: Better = "lower"


@dataclass(frozen=True)
class Figure:
    """One number about a model, never without its unit and where it came from.

    >>> str(Figure("latency_ms", 1.25, "ms", low=1.2, high=1.3, n=200, origin="measured"))
    'latency_ms 1.25 ms [1.2, 1.3] measured'
    """

    name: str
    value: float
    unit: str
    low: float | None = None
    """Lower end of the interval, in `unit`; None where no interval is known."""
    high: float | None = None
    n: int | None = None
    """Independent readings behind the value."""
    origin: Origin = "measured"
    """`modelled` is computed from a formula on measured inputs, as energy without a meter."""
    conditions: Mapping[str, Any] = field(default_factory=dict)
    """What else must be known to repeat it: batch, shapes, threads, split, confidence."""

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.name} {self.value:.4g} {self.unit}{interval} {self.origin}"

    def to_json(self) -> dict[str, Any]:
        """Return the figure as a JSON object; fields that say nothing are left out."""
        out = {"name": self.name, "value": self.value, "unit": self.unit, "low": self.low, "high": self.high}
        rest = {"n": self.n, "origin": self.origin, "conditions": dict(self.conditions)}
        return out | {key: value for key, value in rest.items() if value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Figure:
        """Read what `to_json` wrote."""
        return cls(**data)

"""Chooses what the plots show of a result: which points, with which words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from trimtab.report import numbers
from trimtab.report.document import Candidate, Result, Value, title
from trimtab.report.markup import Markup, join, tag
from trimtab.report.plot import DRAWN, Axes, Mark, agreement, both, css, frontier, symbol, unit_of


def kind_of(result: Result, candidate: Candidate) -> str:
    """Return a candidate's kind of point: its status, or that it was chosen."""
    return "chosen" if result.is_chosen(candidate) else candidate.status


def shown(value: Value | None) -> str:
    """Write a figure with its interval and unit on one line."""
    if value is None:
        return numbers.DASH
    ends = numbers.interval(value.value, (value.low, value.high), value.unit)
    return f"{numbers.quantity(value.value, value.unit)} {ends}".strip()


def frontier_marks(result: Result) -> list[Mark]:
    """Return the candidates whose cost and quality are both known."""
    known = [c for c in result.candidates if result.objective in c.figures and result.quality in c.figures]
    return [_frontier_mark(result, c) for c in known if c.figures[result.objective].value > 0]


def _frontier_mark(result: Result, candidate: Candidate) -> Mark:
    x, y, kind = candidate.figures[result.objective], candidate.figures[result.quality], kind_of(result, candidate)
    words = f"{numbers.quantity(x.value, x.unit)}, {numbers.quantity(y.value, y.unit)}"
    label = f"{kind}: {words}" if kind in ("base", "chosen") else str(candidate.number)
    return Mark(x, y, kind, label, f"{candidate.number}. {candidate.recipe} ({kind}): {shown(x)}, {shown(y)}")


def axis(name: str, values: Sequence[Value]) -> str:
    """Name an axis: the figure in words, and the unit of its ticks."""
    unit = unit_of(values)
    return f"{title(name)}, {unit}" if unit else title(name)


def frontier_plot(result: Result) -> Markup | None:
    """Draw the frontier for wide and narrow pages; None where nothing was measured."""
    marks = frontier_marks(result)
    if not marks:
        return None
    promise = (result.texts("promise") or [""])[0]
    across = f"← cheaper    {axis(result.objective, [m.x for m in marks])}, logarithmic"
    up = f"{axis(result.quality, [m.y for m in marks])}, validation"
    limit = result.term.limit(result.base_quality()) if result.term.amount is not None else None
    axes = Axes(across, up, limit, f"the promise: {promise}", result.term.better)
    return join(legend([m.kind for m in marks]), both(lambda width: frontier(marks, axes, width), 960, 400))


def legend(kinds: Sequence[str]) -> Markup:
    """Explain the shapes, with how many there are of each."""
    order = [kind for kind in (*DRAWN, *sorted(set(kinds) - set(DRAWN))) if kind in kinds]
    entries = (
        join(key(kind), tag("span", f"{kind} {kinds.count(kind)}" if kind not in ("chosen", "base") else kind))
        for kind in order
    )
    return tag("ul", *(tag("li", entry) for entry in entries), class_="legend")


def key(kind: str) -> Markup:
    """Draw the small sign of a kind of point."""
    return tag(
        "svg",
        symbol(kind, 11, 11),
        viewBox="0 0 22 22",
        width=22,
        height=22,
        class_=f"mark {css(kind)}",
        aria_hidden="true",
    )


def predicted_names(result: Result) -> list[str]:
    """Return the figures that were both predicted and measured, the objective first, quality second."""
    names = [n for c in result.candidates for n in c.predicted if n in c.figures]
    return [n for n in dict.fromkeys([result.objective, result.quality, *names]) if n in names]


def predicted_marks(result: Result, name: str) -> list[Mark]:
    """Return the candidates with a prediction and a measurement of one figure; the base is its own reference."""
    known = [c for c in result.candidates if name in c.predicted and name in c.figures and c.status != "base"]
    return [_predicted_mark(result, name, c) for c in known]


def _predicted_mark(result: Result, name: str, candidate: Candidate) -> Mark:
    x, y = candidate.predicted[name], candidate.figures[name]
    kind = kind_of(result, candidate)
    label = "chosen" if kind == "chosen" else str(candidate.number)
    return Mark(x, y, kind, label, f"{candidate.number}. {candidate.recipe}: predicted {shown(x)}, measured {shown(y)}")


def predicted_plot(name: str, marks: Sequence[Mark]) -> Markup:
    """Draw predicted beside measured for one figure."""
    unit = unit_of([m.y for m in marks])
    axes = Axes(f"predicted, {unit}", f"measured, {unit}")
    return tag(
        "figure",
        tag("figcaption", tag("h3", title(name)), error_in_words(marks)),
        both(lambda w: agreement(marks, axes, w), 470, 380),
    )


def error_in_words(marks: Sequence[Mark]) -> Markup:
    """Say how far off the predictions were: the median and the worst."""
    pairs = [(m.x.value, m.y.value) for m in marks]
    count = f"{len(pairs)} candidates" if len(pairs) > 1 else "one candidate"
    unit = marks[0].y.unit
    if unit in numbers.SHARES or any(min(pair) <= 0 for pair in pairs):
        off = [abs(p - m) for p, m in pairs]
        typical, worst = (numbers.difference(v, unit).lstrip("+") for v in (statistics.median(off), max(off)))
    else:
        logs = [abs(math.log(p / m)) for p, m in pairs]
        typical, worst = (numbers.factor_in_words(v) for v in (statistics.median(logs), max(logs)))
    return tag("p", "The median prediction was off by ", tag("strong", typical), f", the worst by {worst} ({count}).")

"""The forest plot: one line a promise and slice, the difference with its interval against the limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.report.markup import Markup, tag
from trimtab.report.plot import line, words
from trimtab.report.scale import Scale, span, tick_labels

WIDTH = 300
"""Width in pixels of a forest plot's column."""


@dataclass(frozen=True)
class Row:
    """One line of a forest plot: a difference with its interval, and the limit it must keep to."""

    value: float | None
    low: float | None
    high: float | None
    limit: float | None
    kept: str
    better: str = "higher"


def forest_scale(rows: Sequence[Row], zero: bool = True) -> Scale:
    """Return the scale that all rows of a forest plot share, with zero on it where `zero`."""
    known = [v for row in rows for v in (row.value, row.low, row.high, row.limit) if v is not None]
    low, high = span([*known, 0.0] if zero else known, log=False, pad=0.06)
    return Scale(low, high, 8.0, WIDTH - 8.0)


def forest_axis(scale: Scale, factor: float) -> Markup:
    """Draw the ticks above a forest plot, in units of `factor`."""
    ticks = Scale(scale.low * factor, scale.high * factor, scale.start, scale.end).ticks(5)
    parts = [
        words(scale(tick / factor), 12, text, "middle") for tick, text in zip(ticks, tick_labels(ticks), strict=True)
    ]
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} 16", width=WIDTH, height=16, class_="forest", aria_hidden="true")


def forest_row(scale: Scale, row: Row, note: str) -> Markup:
    """Draw one line of a forest plot."""
    middle = 15.0
    parts: list[Markup] = [tag("title", note)]
    if row.limit is not None:
        x = scale(row.limit)
        outside = (scale.start - 8, x) if row.better == "higher" else (x, scale.end + 8)
        parts.append(tag("rect", x=outside[0], y=0, width=outside[1] - outside[0], height=30, class_="broken"))
        parts.append(line(x, 0, x, 30, "limit"))
    if row.low is not None and row.high is not None:
        parts.append(line(scale(row.low), middle, scale(row.high), middle, "reach"))
    if row.value is not None:
        parts.append(_forest_point(scale(row.value), middle, row.kept))
    kind = {"PASS": "kept", "FAIL": "not-kept"}.get(row.kept, "open")
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH} 30",
        width=WIDTH,
        height=30,
        class_=f"forest {kind}",
        role="img",
        aria_label=note,
    )


def _forest_point(x: float, y: float, kept: str) -> Markup:
    if kept == "PASS":
        return tag("circle", cx=x, cy=y, r=5)
    return tag("path", d=f"M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6Z")

"""Where the gain comes from, and how far the base and the chosen model are from what the machine could do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trimtab.report import numbers
from trimtab.report.document import Result, Value, items, mapping, number, text
from trimtab.report.markup import Markup, join, tag
from trimtab.report.parts import cell, recipe, section, small, stacked, table
from trimtab.report.plot import Axes, Canvas, Mark, axis_names, both, canvas, grid, label_marks, line, point, words
from trimtab.report.scale import span

ROOFS = ("fp32", "bf16", "int8")


def gain(result: Result) -> Markup | None:
    """Show the way from the base to the chosen model, one change at a time; nothing where none was chosen."""
    stops = [mapping(item) for item in items(result.raw.get("gain"))]
    if len(stops) < 2:
        return None
    lead = (
        "From the base to the chosen model, one change at a time, raced in alternating blocks; the factors multiply to "
        "the whole. Another order would share the gain out otherwise."
    )
    head = ["Change", "Recipe up to here", "Latency", "Left of the base's time", "By this change", "So far"]
    slowest = max((value.value for stop in stops if (value := Value.read(stop.get("latency_ms")))), default=1.0)
    rows = [_stop(stop, head, slowest, first=place == 0) for place, stop in enumerate(stops)]
    return section("Where the gain comes from", lead, table(head, rows, "candidates cards", "Factors of the gain"))


def _stop(stop: Mapping[str, Any], head: list[str], slowest: float, first: bool) -> Markup:
    latency, so_far, factor = Value.read(stop.get("latency_ms")), _times(stop.get("gain")), number(stop.get("factor"))
    share = latency.value / slowest if latency else 0.0
    bar = tag("div", tag("span", class_="of-chosen", style=f"width:{100 * share:.2f}%"), class_="bars-of")
    by = numbers.quantity(factor, "x") if factor is not None and not first else numbers.DASH
    return tag(
        "tr",
        tag("th", text(stop.get("changed")), scope="row"),
        cell(head[1], recipe(text(stop.get("recipe"))), kind="what"),
        cell(head[2], stacked(latency, slowest), kind="number"),
        cell(head[3], bar, kind="bar"),
        cell(head[4], by, kind="number"),
        cell(head[5], stacked(so_far) if not first else numbers.DASH, kind="number"),
    )


def _times(raw: Any) -> Value | None:
    found = Value.read(raw)
    return Value(found.value, found.low, found.high, "x") if found else None


def roofline(result: Result) -> Markup | None:
    """Show the base and the chosen model under the machine's roof; nothing where its rates are not known."""
    data = mapping(result.raw.get("roofline"))
    marks = [mark for mark in map(_mark, map(mapping, items(data.get("points")))) if mark]
    peaks = {kind: number(mapping(data.get("peak_gflops")).get(kind)) or 0.0 for kind in ROOFS}
    bandwidth = number(data.get("bandwidth_gbs")) or 0.0
    known = {kind: peak for kind, peak in peaks.items() if peak > 0}
    if not marks or not known or bandwidth <= 0:
        return None
    lead = (
        "How much the machine could compute at most for each byte of weights it reads, and what the models reach. "
        "Weights that stay in the caches between calls are not read again, so a small model may pass the slope; one "
        "far below the roof is held up by the cost of starting each layer, not by arithmetic."
    )
    draw = both(lambda width: _draw(width, marks, known, bandwidth), 760, 380)
    return section("Roofline", lead, tag("figure", draw), _shares(data))


def _mark(raw: Mapping[str, Any]) -> Mark | None:
    intensity, rate = number(raw.get("intensity")), number(raw.get("gflops"))
    if intensity is None or rate is None or min(intensity, rate) <= 0:
        return None
    name = text(raw.get("name"))
    kind = name if name in ("base", "chosen") else "dominated"
    note = f"{name}: {rate:.3g} GFLOP/s at {intensity:.3g} operations a byte"
    return Mark(Value(intensity), Value(rate), kind, name, note)


def _draw(width: int, marks: list[Mark], peaks: Mapping[str, float], bandwidth: float) -> Markup:
    ridges = [peak / bandwidth for peak in peaks.values()]
    across = span([*(m.x.value for m in marks), *ridges, min(ridges) / 8, max(ridges) * 4], log=True)
    up = span([*(m.y.value for m in marks), *peaks.values(), across[0] * bandwidth], log=True)
    area = canvas((width, int(width * 0.5) if width > 600 else 300), (*across, True), (*up, True))
    roofs = join(*(_roof(area, kind, peak, bandwidth) for kind, peak in peaks.items()))
    axes = Axes("operations for each byte of weights", "GFLOP/s")
    points = [point(area, mark) for mark in marks]
    parts = (grid(area), roofs, *points, axis_names(area, axes), label_marks(area, marks, None, ""))
    return area.draw("Roofline of the machine with the base and the chosen model", *parts)


def _roof(area: Canvas, kind: str, peak: float, bandwidth: float) -> Markup:
    ridge, left = peak / bandwidth, area.x.low
    x, y = area.x(ridge), area.y(peak)
    slope = line(area.x(left), area.y(left * bandwidth), x, y, "diagonal")
    flat = line(x, y, area.x.end, y, "diagonal")
    return join(slope, flat, words(area.x.end - 4, y - 5, f"{kind} {peak:,.0f}", "end"))


def _shares(data: Mapping[str, Any]) -> Markup:
    shares = []
    for raw in map(mapping, items(data.get("points"))):
        share = number(raw.get("share_of_roof"))
        rate = numbers.DASH if share is None else f"{share:.0%} of its roof"
        shares.append(tag("li", f"{text(raw.get('name'))}: {rate}", small(f" in {text(raw.get('precision'))}")))
    return tag("ul", *shares, class_="legend")

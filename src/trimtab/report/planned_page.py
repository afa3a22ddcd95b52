"""The pages of the planner: plans as a picture of time against money, and a scaling law with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trimtab.maths.scaling import PER_OPERATION
from trimtab.report.document import Value
from trimtab.report.markup import Markup, join, tag
from trimtab.report.page import document_page
from trimtab.report.parts import cell, section, table
from trimtab.report.planned import NAMES, advice, columns, ends, law_words, listed, number, quantity_of
from trimtab.report.plot import Axes, Canvas, Mark, axis_names, both, canvas, grid, label_marks, line, words
from trimtab.report.scale import span

MOST = 40
"""Plans in the table; all of them are points of the picture."""
COLOURS = ("#00705a", "#2f8f4e", "#8aa02c", "#c99a1b", "#c8641c", "#a3261a")
"""From little energy to much."""
WHAT = {"train": "training planned", "serve": "serving planned", "step": "a step on this machine"}
OF_THE_LIKE = "Every figure is predicted, with the interval in which nine of ten measurements of the like lay."
OF_CALIBRATION = "Every figure is predicted, with the interval in which nine of ten of the calibration's steps lay."
AXES = {
    "train": ("days", "money_usd", "energy_mwh"),
    "serve": ("tpot_ms", "usd_per_million", "energy_j_per_token"),
    "step": ("step_ms", "energy_j", "energy_j"),
}
"""Figures across, up and as colour, by the kind of a document."""
WHOLE_WORDS = "white-space: normal; overflow-wrap: normal"
"""Lines are broken between words only, so that a table is no wider than its page."""
SHADES = ("#0b66a8", "#00705a", "#8a5a00", "#7a3fa0", "#b3400a", "#4b6cb7", "#5f7a00", "#80868f", "#3d434c", "#a8436b")
"""Of the parts of a bar."""


def plans_page(document: Mapping[str, Any]) -> str:
    """Return the page of a plan's document."""
    title = f"{document['model']}: {WHAT[document['kind']]}"
    parts = [_intro(document, title), _picture(document), _table(document), *_bars(document), _why_not(document)]
    return document_page(title, *(part for part in parts if part))


def _intro(document: Mapping[str, Any], title: str) -> Markup:
    told = [f"{quantity_of(document['parameters'])} parameters"]
    for name in ("tokens", "samples"):
        told += [f"{quantity_of(document[name])} {name}"] if name in document else []
    told += [f"{name} {document[name]}" for name in ("batch", "seq", "dtype", "prompt", "output") if name in document]
    for name, word in (("batch", "batch"), ("stack", "program")):
        values = sorted({plan[name] for plan in document["plans"] if name in plan})
        told += [f"{word} {' or '.join(map(str, values))}"] if values else []
    place = document["place"]
    told.append(f"electricity of {place['name']}: {place['g_per_kwh']:g} g CO2 a kWh, PUE {place['pue']:g}")
    lead = OF_CALIBRATION if document["kind"] == "step" else OF_THE_LIKE
    law = f"{advice(document['advice'])}." if "advice" in document else ""
    said = (tag("p", words) for words in ("; ".join(told), law[:1].upper() + law[1:]) if words)
    return tag("header", tag("h1", title), tag("p", lead, class_="lead"), *said)


def _axes(document: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the figures across, up and as colour."""
    return AXES[document["kind"]]


def _picture(document: Mapping[str, Any]) -> Markup | None:
    across, up, shade = _axes(document)
    unbeaten, here = set(document["pareto"]), document["kind"] == "step"
    marks = []
    for place, plan in enumerate(document["plans"]):
        figures = plan["figures"]
        if across in figures and up in figures:
            x, y = (Value.read(figures[name]) for name in (across, up))
            energy = figures.get(shade, {}).get("value")
            chips = f"{plan['count']} x {plan['chip']}"
            label = (plan["layout"] if here else chips) if place in unbeaten else ""
            note = f"{chips}, {plan['layout']}"
            if x and y and min(x.value, y.value) > 0:
                marks.append((Mark(x, y, "frontier" if place in unbeaten else "dominated", label, note), energy))
    if len(marks) < 2:
        return None
    lead = "Left and down is better; colour is energy, from green, little, to red; labelled ones are beaten by none."
    drawn = tag("figure", both(lambda width: _draw(width, marks, (across, up)), 760, 380))
    return section(f"Time against {'energy' if here else 'money'}", lead, drawn)


def _draw(width: int, marks: Sequence[tuple[Mark, float | None]], names: tuple[str, str]) -> Markup:
    shown = [mark for mark, _ in marks]
    x = span((mark.x.value for mark in shown), log=True)
    y = span((mark.y.value for mark in shown), log=True)
    area = canvas((width, 440 if width > 600 else 360), (*x, True), (*y, True))
    energies = [energy for _, energy in marks if energy]
    points = [_point(area, mark, _colour(energy, energies)) for mark, energy in marks]
    across, up = (NAMES[name].replace("\n", " ") for name in names)
    axes = Axes(across, up)
    labelled = [mark for mark in shown if mark.label]
    parts = (grid(area), *points, axis_names(area, axes), label_marks(area, labelled, None, ""))
    return area.draw(f"{axes.up} against {axes.across} of {len(marks)} plans", *parts)


def _point(area: Canvas, mark: Mark, colour: str) -> Markup:
    x, y = area.at(mark)
    reach = 5.5 if mark.label else 3.5
    style = f"fill: {colour}; stroke: none; opacity: {1.0 if mark.label else 0.45}"
    return tag("circle", tag("title", mark.note), cx=x, cy=y, r=reach, style=style)


def _colour(energy: float | None, energies: Sequence[float]) -> str:
    if not energy or len(energies) < 2:
        return "#80868f"
    low, high = math.log(min(energies)), math.log(max(energies))
    share = (math.log(energy) - low) / (high - low) if high > low else 0.0
    return COLOURS[min(len(COLOURS) - 1, int(share * len(COLOURS)))]


def _table(document: Mapping[str, Any]) -> Markup:
    names = columns(document)
    titles = [NAMES[name].replace("\n", " ") for name in names]
    head = ["Chips", "Layout", *(tag("span", title, style=WHOLE_WORDS) for title in titles)]
    rows = []
    for star, plan in listed(document, MOST):
        first = tag("th", f"{plan['count']} x {plan['chip']}", scope="row", style="white-space: nowrap")
        cells = [_number(plan["figures"].get(name), name, title) for name, title in zip(names, titles, strict=True)]
        kind = "is-chosen-row" if star else None
        layout = cell("Layout", tag("code", plan["layout"], class_="recipe"), kind="what")
        rows.append(tag("tr", first, layout, *cells, class_=kind))
    lead = f"{len(document['plans'])} plans keep the limits; those that none beats in everything come first."
    return section("Plans", lead, table(head, rows, "candidates cards", "Plans and what they take"))


def _number(figure: Mapping[str, Any] | None, name: str, title: str) -> Markup:
    interval = tag("span", ends(figure, name), class_="ends", style=WHOLE_WORDS)
    return cell(title, tag("span", number(figure, name), class_="value"), interval, kind="number")


def _bars(document: Mapping[str, Any]) -> list[Markup]:
    place = document["pareto"][0] if document["pareto"] else 0
    plan = document["plans"][place]
    heading = f"{plan['count']} x {plan['chip']}"
    found = []
    for title, key, unit in (
        ("Where the time goes", "time_parts", "%"),
        ("What fills the memory", "memory_parts", "GiB"),
    ):
        parts = {name: value for name, value in plan.get(key, {}).items() if value > 0}
        if parts:
            lead = f"{heading}, {plan['layout']}"
            found.append(section(title, lead, _bar(parts, unit)))
    return found


def _bar(parts: Mapping[str, float], unit: str) -> Markup:
    total = sum(parts.values())
    ordered = sorted(parts.items(), key=lambda pair: -pair[1])
    pieces, legend = [], []
    for place, (name, value) in enumerate(ordered):
        shade = SHADES[place % len(SHADES)]
        shown = f"{value:.1%}" if unit == "%" else f"{value:.3g} {unit}"
        style = f"flex: {value / total:.5f}; background: {shade}; height: 28px; min-width: 1px"
        pieces.append(tag("span", style=style, title=f"{name} {shown}"))
        square = tag("span", style=f"display: inline-block; width: 10px; height: 10px; background: {shade}")
        legend.append(tag("li", square, f" {name} {shown}"))
    bar = tag("div", *pieces, style="display: flex; gap: 1px; margin: 0 0 12px", role="img", aria_label="stacked bar")
    return join(bar, tag("ul", *legend, class_="legend"))


def _why_not(document: Mapping[str, Any]) -> Markup | None:
    if not document["rejected"]:
        return None
    head = ["Chip", "Reason"]
    rows = [tag("tr", tag("th", one["chip"], scope="row"), cell("Reason", one["why"])) for one in document["rejected"]]
    return section("Why not", "Chips on which no plan keeps the limits.", table(head, rows, "cards", "Rejected chips"))


def forecast_page(document: Mapping[str, Any]) -> str:
    """Return the page of a forecast's document: runs, the law, its interval and the budget."""
    best = document["best"]
    low, high = document["interval"]["parameters"]
    told = [
        f"{document['compute']:.3g} operations are best spent on {quantity_of(best['parameters'])} parameters "
        f"({quantity_of(low)} to {quantity_of(high)}) and {quantity_of(best['tokens'])} tokens: a loss of "
        f"{best['loss']:.3f} ({document['interval']['loss'][0]:.3f} to {document['interval']['loss'][1]:.3f}).",
        *(f"Not known: {one}." for one in document["unidentified"]),
    ]
    lead = f"{law_words(document['law'])}, fitted on {document['fitted_on']} runs"
    header = tag("header", tag("h1", "Scaling law"), tag("p", lead, class_="lead"), *(tag("p", one) for one in told))
    draw = both(lambda width: _draw_law(width, document), 760, 380)
    about = "Points are runs; the line is the best loss for so many operations, dashed its 90% interval."
    return document_page("Scaling law", header, section("Loss by compute", about, tag("figure", draw)))


def _draw_law(width: int, document: Mapping[str, Any]) -> Markup:
    runs = [(PER_OPERATION * run["parameters"] * run["tokens"], run["loss"]) for run in document["runs"]]
    curve = document["curve"]
    x = span([*(spent for spent, _ in runs), *(one["compute"] for one in curve), document["compute"]], log=True)
    y = span([*(loss for _, loss in runs), *(one[key] for one in curve for key in ("loss", "low", "high"))], log=False)
    area = canvas((width, 440 if width > 600 else 360), (*x, True), (*y, False))
    dots = [
        tag("circle", cx=area.x(spent), cy=area.y(loss), r=3.5, style="fill: #0b66a8; stroke: none; opacity: .7")
        for spent, loss in runs
    ]
    lines = [_path(area, [(one["compute"], one[key]) for one in curve], kind) for key, kind in KEYS]
    budget = area.x(document["compute"])
    mark = [
        line(budget, area.frame.top, budget, area.frame.bottom, "limit"),
        words(budget - 6, area.frame.top + 14, "budget", "end"),
    ]
    axes = Axes("operations", "loss")
    return area.draw("loss against operations", grid(area), *dots, *lines, *mark, axis_names(area, axes))


KEYS = (
    ("loss", "fill: none; stroke: #00705a; stroke-width: 2"),
    ("low", "fill: none; stroke: #00705a; stroke-dasharray: 4 4"),
    ("high", "fill: none; stroke: #00705a; stroke-dasharray: 4 4"),
)
"""The lines of the law, and how they are drawn."""


def _path(area: Canvas, points: Sequence[tuple[float, float]], style: str) -> Markup:
    shown = " ".join(f"{area.x(x):.1f},{area.y(y):.1f}" for x, y in points)
    return tag("polyline", points=shown, style=style)


PAGES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {"planned": plans_page, "forecast": forecast_page}
"""The page of each kind of document."""

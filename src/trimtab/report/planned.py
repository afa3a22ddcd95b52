"""What the terminal shows of the planner's documents: plans, forecasts, and how far off the planner is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trimtab.report.terminal import Fitted, table_of

MOST = 12
"""Plans that are shown; all of them are in `--json`."""
MOST_REJECTED = 8
WIDE, MOST_NARROW = 130, 4
"""Columns of a terminal from which everything is shown, and figures that are on narrower ones."""
TRAINED = ("days", "money_usd", "energy_mwh", "co2_t", "mfu", "memory_gib")
SERVED = ("ttft_ms", "tpot_ms", "tokens_per_s", "usd_per_million", "energy_j_per_token", "memory_gib")
STEPS = ("step_ms", "samples_per_s", "memory_gib", "energy_j", "hours", "money_usd", "energy_kwh", "co2_kg")
COMPARED = {"train": TRAINED, "serve": SERVED, "step": STEPS}
NAMES = {
    "step_ms": "ms a\nstep",
    "samples_per_s": "samples/s",
    "energy_j": "J a\nstep",
    "hours": "hours",
    "energy_kwh": "kWh",
    "co2_kg": "kg CO2",
    "days": "days",
    "money_usd": "USD",
    "energy_mwh": "MWh",
    "co2_t": "t CO2",
    "mfu": "MFU",
    "memory_gib": "GiB\na chip",
    "ttft_ms": "ms to\nfirst token",
    "tpot_ms": "ms a\ntoken",
    "tokens_per_s": "tokens/s",
    "usd_per_million": "USD a\nmillion",
    "energy_j_per_token": "J a\ntoken",
}
SMALLER = {
    "days": (("h", 24.0), ("min", 1440.0), ("s", 86400.0), ("ms", 8.64e7)),
    "energy_mwh": (("kWh", 1e3), ("Wh", 1e6), ("mWh", 1e9)),
    "co2_t": (("kg", 1e3), ("g", 1e6), ("mg", 1e9)),
    "hours": (("min", 60.0), ("s", 3600.0)),
    "energy_kwh": (("Wh", 1e3), ("mWh", 1e6)),
    "co2_kg": (("g", 1e3), ("mg", 1e6)),
}
"""Units of what is small in its column's, and how many there are in that."""
LITTLE = 0.01
MIB = 2.0**20
MEMORY = ("measured_bytes", "predicted_bytes")
DETAILS = 3
"""Plans that were asked for are told in full up to this many."""


def columns(document: Mapping[str, Any]) -> Sequence[str]:
    """Return the figures that a document's plans are compared by."""
    told = {name for plan in document["plans"] for name in plan["figures"]}
    return [name for name in COMPARED[document["kind"]] if document["kind"] != "step" or name in told]


def number(figure: Mapping[str, Any] | None, name: str) -> str:
    """Return a figure's value as its column shows it."""
    if figure is None:
        return "–"
    value = figure["value"]
    if name == "mfu":
        return f"{value:.0%}"
    if 0 < value < LITTLE and name in SMALLER:
        unit, many = next((each for each in SMALLER[name] if value * each[1] >= 1), SMALLER[name][-1])
        return f"{value * many:.3g} {unit}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def ends(figure: Mapping[str, Any] | None, name: str) -> str:
    """Return a figure's 90% interval, as short as its value."""
    if figure is None or figure.get("low") is None:
        return ""
    low, high = ({**figure, "value": figure[end]} for end in ("low", "high"))
    return f"{number(low, name)} to {number(high, name)}"


def planned(document: Mapping[str, Any]) -> RenderableType:
    """Show the plans that none beats first, with intervals where there is room; then why not the other chips."""

    def build(width: int) -> Iterator[RenderableType]:
        plans = document["plans"]
        yield (_wide if width >= WIDE else _narrow)(document)
        notes = ["* none is better in everything"]
        notes += [f"and {len(plans) - MOST} more: --json lists them"] if len(plans) > MOST else []
        notes += [f"intervals of 90% are shown from {WIDE} columns on, and in --json"] if width < WIDE else []
        notes += [advice(document["advice"])] if "advice" in document else []
        yield Text("\n".join(notes), style="dim")
        if len(plans) <= DETAILS:
            yield from (_details(plan) for plan in plans)
        yield from _why_not(document["rejected"])

    return Fitted(build)


def advice(told: Mapping[str, Any]) -> str:
    """Say what the law of other runs expects, and what the next unit of compute is best spent on."""
    best, marginal = told["best"], told["marginal"]
    more = "tokens" if marginal["tokens"] > marginal["parameters"] else "parameters"
    return (
        f"by the law of {told['source']}: a loss of {told['loss']:.3f}; the same operations would lose least on "
        f"{quantity_of(best['parameters'])} parameters and {quantity_of(best['tokens'])} tokens ({best['loss']:.3f}); "
        f"more compute is best spent on {more}, one percent of which saves {marginal[more]:.5f}"
    )


def listed(document: Mapping[str, Any], most: int = MOST) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield so many plans, those that none beats first and with a star."""
    plans, unbeaten = document["plans"], set(document["pareto"])
    order = sorted(range(len(plans)), key=lambda place: (place not in unbeaten, place))
    return (("*" if place in unbeaten else "", plans[place]) for place in order[:most])


def law_words(law: Mapping[str, float]) -> str:
    """Write a scaling law."""
    size, data = (f"{law[a]:.4g} / {n}^{law[b]:.3f}" for a, n, b in (("A", "N", "alpha"), ("B", "D", "beta")))
    return f"L(N, D) = {law['E']:.3f} + {size} + {data}"


def _title(document: Mapping[str, Any]) -> str:
    size = quantity_of(document["parameters"])
    return f"{document['model']}, {size} parameters; all figures are predicted, with 90% intervals"


def _wide(document: Mapping[str, Any]) -> Table:
    names = columns(document)
    table = table_of(_title(document), "", "!chips", "layout", *(f">{NAMES[name]}" for name in names))
    for star, plan in listed(document):
        cells = [_cell(plan["figures"].get(name), name) for name in names]
        table.add_row(star, f"{plan['count']} x {plan['chip']}", plan["layout"], *cells)
    return table


def _narrow(document: Mapping[str, Any]) -> Table:
    names = columns(document)[:MOST_NARROW]
    table = table_of(_title(document), "", "chips and layout", *(f">{NAMES[name]}" for name in names))
    for star, plan in listed(document):
        cells = [number(plan["figures"].get(name), name) for name in names]
        table.add_row(star, f"{plan['count']} x {plan['chip']}\n{plan['layout']}", *cells)
    return table


def quantity_of(value: float) -> str:
    """Return a large number in short.

    >>> quantity_of(174.6e9), quantity_of(25.6e6)
    ('174.6B', '25.6M')
    """
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def _cell(figure: Mapping[str, Any] | None, name: str) -> Text:
    shown = Text(number(figure, name))
    interval = ends(figure, name)
    return shown.append(f"\n{interval}", style="dim") if interval else shown


def _details(plan: Mapping[str, Any]) -> Table:
    table = table_of(f"where it goes: {plan['count']} x {plan['chip']}", "", ">share of a step", "", ">GiB")
    time = sorted(plan.get("time_parts", {}).items(), key=lambda pair: -pair[1])
    memory = sorted(plan.get("memory_parts", {}).items(), key=lambda pair: -pair[1])
    for place in range(max(len(time), len(memory))):
        left = (time[place][0], f"{time[place][1]:.1%}") if place < len(time) else ("", "")
        right = (memory[place][0], f"{memory[place][1]:.3g}") if place < len(memory) else ("", "")
        table.add_row(*left, *right)
    return table


def calibration(document: Mapping[str, Any]) -> RenderableType:
    """Show how far off the calibration's own nets are, each told from costs that the others were fitted on."""
    table = table_of(
        f"{document['cpu']}, measured {document['date']}: whole steps told from their operators",
        "net", "phase", ">batch", ">threads", ">measured ms", ">told ms", ">off", ">measured MiB", ">told MiB",
    )  # fmt: skip
    for one in document["checks"]:
        memory = [f"{one[name] / MIB:,.0f}" if one["measured_bytes"] else "–" for name in MEMORY]
        steps = (f"{1e3 * one[name]:,.2f}" for name in ("measured_s", "predicted_s"))
        table.add_row(
            one["model"], one["phase"], f"{one['batch']}", f"{one['threads']}", *steps, f"{one['error']:+.0%}", *memory
        )
    errors = [abs(one["error"]) for one in document["checks"]]
    told = f"half of them within {median(errors):.0%}; {sum(document['operators'].values())} operators timed"
    return Group(table, Text(told), Text(f"profile: {document['profile']}", style="dim"))


def misses(document: Mapping[str, Any]) -> RenderableType:
    """Show measured runs beside their plans, and which term would have to be another."""
    table = table_of(f"{document['model']}: measured runs", "run", "figure", ">measured", ">told", "of 90%", ">off")
    for one in document["runs"]:
        ends = f"{one['low']:.4g} to {one['high']:.4g}{'' if one['inside'] else ' *'}"
        values = (f"{one[name]:.4g}" for name in ("measured", "predicted"))
        table.add_row(one["label"], one["quantity"], *values, ends, f"{one['error']:+.1%}")
    shown: list[RenderableType] = [table]
    if not all(one["inside"] for one in document["runs"]):
        shown.append(Text("* measured outside of what nine of ten should lie in", style="dim"))
    if "terms" in document:
        terms = table_of("one factor on one term, the likeliest first", "of", "term", ">factor", ">off", ">then")
        for one in document["terms"]:
            left = (f"{one[name]:.1%}" for name in ("before", "left"))
            factor = f"beyond {one['factor']:.2f}" if one["at_end"] else f"{one['factor']:.2f}"
            terms.add_row(one["of"], one["term"], factor, *left)
        shown.append(terms)
    return Group(*shown)


def _why_not(rejected: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    if not rejected:
        return
    table = table_of("why not", "chip", "reason")
    for one in rejected[:MOST_REJECTED]:
        table.add_row(one["chip"], one["why"])
    yield table
    if len(rejected) > MOST_REJECTED:
        yield Text(f"and {len(rejected) - MOST_REJECTED} more: --json lists them", style="dim")


def forecast(document: Mapping[str, Any]) -> RenderableType:
    """Show the law, what the budget is best spent on, and what the runs cannot tell."""
    best, interval = document["best"], document["interval"]
    table = table_of("scaling law, fitted; intervals of 90%", "", ">value", "interval")
    low, high = interval["parameters"]
    table.add_row("best parameters", quantity_of(best["parameters"]), f"{quantity_of(low)} to {quantity_of(high)}")
    table.add_row("best tokens", quantity_of(best["tokens"]), "")
    table.add_row("loss", f"{best['loss']:.4f}", f"{interval['loss'][0]:.4f} to {interval['loss'][1]:.4f}")
    for name, value in document["marginal"].items():
        table.add_row(f"one percent more: {name}", f"−{value:.5f}", "")
    told = [f"{law_words(document['law'])}, on {document['fitted_on']} runs, for {document['compute']:.3g} operations"]
    if document["left_out"]:
        told.append(f"{len(document['left_out'])} runs are left out: no law fits them together with the others")
    told += [f"not known: {one}" for one in document["unidentified"]]
    return Group(Text("\n".join(told)), table)


def validation(document: Mapping[str, Any]) -> RenderableType:
    """Show the errors of each table, beside the best naive baseline's, and what was not scored."""
    head = (">rows", ">median", ">held out", ">mean", ">largest", ">bias", ">in 50%", ">in 90%", ">naive", ">skill")
    table = table_of("absolute errors, as shares of what was measured", "table", *head)
    for one in document["tables"]:
        best = min(one["naive"].values(), default=0.0)
        shares = (one["median_ape"], one["held_out_ape"], one["mean_ape"], one["max_ape"])
        skill = "–" if one["skill"] is None else f"{one['skill']:.2f}"
        covered = (one["coverage50"], one["coverage90"])
        cells = [
            *("–" if value is None else f"{value:.1%}" for value in shares),
            f"{one['bias']:+.1%}",
            *("–" if value is None else f"{value:.0%}" for value in covered),
        ]
        rows = f"{one['scored']} of {one['rows']}" if one["rows"] > one["scored"] else str(one["scored"])
        table.add_row(one["table"], rows, *cells, f"{best:.1%}", skill)
    missed = sum(document["not_scored"].values())
    why = [f"{count} rows: {reason}" for reason, count in document["not_scored"].items()]
    scored = document["pooled"]["scored"]
    return Group(table, Text("\n".join([f"{scored} rows scored, {missed} not:", *why]), style="dim"))

"""What the terminal shows of each kind of document besides a run's result: tables of names and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from trimtab.report import planned
from trimtab.report.document import Result
from trimtab.report.numbers import interval, quantity
from trimtab.report.terminal import NARROW, Fitted, gap_at, promises, render, table_of, with_origin

MOST = 20
"""Candidates of a plan that are shown."""


def plain(document: Mapping[str, Any]) -> RenderableType:
    """Show names and values in two columns."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in document.items():
        table.add_row(f"[bold]{escape(str(name))}", escape(_text(value)))
    return table


def figures(document: Mapping[str, Any]) -> RenderableType:
    """Show every figure with its interval and origin, and how many times cheaper than the base it is."""

    def build(width: int) -> Iterator[RenderableType]:
        yield Text(f"{document['recipe']}  against  {document['model']} @ {document['base_runtime']}", style="italic")
        origins = ("!origin",) if width >= NARROW else ()
        table = table_of("", "!figure", ">value", ">times\ncheaper", *origins)
        for name, figure in document["figures"].items():
            ratio = document["ratios"].get(name)
            words, *origin = with_origin(name, figure.get("origin", ""), width)
            table.add_row(words, _figure(figure, width), _figure(ratio, width) if ratio else "", *origin)
        yield table

    return Fitted(build)


def roofline(document: Mapping[str, Any]) -> RenderableType:
    """Show where the models lie under the machine's roof: operations for each byte of weights, and the rate reached."""
    table = table_of("Under the roof", "", ">operations\na byte", ">reached", "roof", ">share")
    for point in document["points"]:
        reached, share = quantity(point["gflops"], "GFLOP/s"), point["share_of_roof"]
        shown = "-" if share is None else f"{share:.0%}"
        table.add_row(point["name"], f"{point['intensity']:.3g}", reached, point["precision"], shown)
    return table


def plan(document: Mapping[str, Any]) -> RenderableType:
    """Show the first candidates with their predictions, then what can be decided."""
    found = document["candidates"]

    def build(width: int) -> Iterator[RenderableType]:
        table = table_of("all figures are predicted", "recipe", ">latency", ">size", ">quality\nloss")
        for candidate in found[:MOST]:
            predicted = candidate["predicted"]
            shown = (_figure(predicted[name], width) for name in ("latency_ms", "size_mb", "quality_loss"))
            table.add_row(Text(candidate["recipe"]), *shown)
        yield table
        if len(found) > MOST:
            yield f"and {len(found) - MOST} more: --json lists them"
        yield Text("\n".join(["", f"{len(found)} candidates", *(each["sentence"] for each in document["decidable"])]))

    return Fitted(build)


def verification(document: Mapping[str, Any]) -> RenderableType:
    """Show the verdict, then each promise."""
    result = Result(document)

    def build(width: int) -> Iterator[RenderableType]:
        yield Text.assemble((result.verdict, "bold"), f"  {result.sentence}\n")
        table = promises(result, width)
        yield from () if table is None else (table,)

    return Fitted(build)


def _figure(figure: Mapping[str, Any], width: int) -> Text:
    """Return a figure's value, and its interval beside or beneath it."""
    value, unit = figure["value"], figure["unit"]
    ends = interval(value, (figure.get("low"), figure.get("high")), unit)
    return Text(quantity(value, unit)).append(gap_at(width) + ends if ends else "", style="dim")


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


FACES: Mapping[str, Callable[[Mapping[str, Any]], RenderableType]] = {
    "plain": plain,
    "figures": figures,
    "roofline": roofline,
    "plan": plan,
    "verification": verification,
    "result": render,
    "planned": planned.planned,
    "forecast": planned.forecast,
    "calibration": planned.calibration,
    "misses": planned.misses,
    "validation": planned.validation,
}

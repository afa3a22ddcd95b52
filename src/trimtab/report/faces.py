"""What the terminal shows of each kind of document besides a run's result: tables of names and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from trimtab.report.numbers import difference, difference_interval, interval, quantity
from trimtab.report.terminal import render


def plain(document: Mapping[str, Any]) -> RenderableType:
    """Show names and values in two columns."""
    table = Table.grid(padding=(0, 2))
    for name, value in document.items():
        table.add_row(f"[bold]{escape(str(name))}", escape(_text(value)))
    return table


def figures(document: Mapping[str, Any]) -> RenderableType:
    """Show every figure with its interval and origin, and how many times cheaper than the base it is."""
    title = f"{document['recipe']}  against  {document['model']} @ {document['base_runtime']}"
    table = _table("figure", "value", "interval", "origin", "times cheaper", "interval", title=title)
    for name, figure in document["figures"].items():
        ratio = document["ratios"].get(name, {})
        shown = _figure(ratio) if ratio else ("", "")
        table.add_row(name, *_figure(figure), figure.get("origin", ""), *shown)
    return table


def plan(document: Mapping[str, Any]) -> RenderableType:
    """Show what can be decided, then the candidates with their predictions."""
    said = "\n".join(escape(found["sentence"]) for found in document["decidable"])
    table = _table("recipe", "latency", "90% interval", "size", "quality loss", title="all figures are predicted")
    for candidate in document["candidates"]:
        predicted = candidate["predicted"]
        size, loss = (_figure(predicted[name])[0] for name in ("size_mb", "quality_loss"))
        table.add_row(escape(candidate["recipe"]), *_figure(predicted["latency_ms"]), size, loss)
    return Group(said, "", table, f"{len(document['candidates'])} candidates")


def verification(document: Mapping[str, Any]) -> RenderableType:
    """Show the verdict, then each promise."""
    table = _table("promise", "verdict", "base", "trimmed", "difference", "interval", "n", "more examples")
    for found in document["promises"]:
        unit = found["unit"]
        table.add_row(
            escape(found["promise"]),
            found["verdict"],
            quantity(found["base"], unit),
            quantity(found["trimmed"], unit),
            difference(found["difference"], unit),
            difference_interval(found["low"], found["high"], unit),
            str(found["n"]),
            str(found["more_examples"] or ""),
        )
    return Group(f"[bold]{document['verdict']}[/]  {escape(document['sentence'])}", "", table)


def _table(*titles: str, title: str = "") -> Table:
    table = Table(*titles, box=None, header_style="bold", title=escape(title) or None, title_justify="left")
    table.columns[0].overflow = "fold"
    return table


def _figure(figure: Mapping[str, Any]) -> tuple[str, str]:
    """Return a figure's value and its interval in words."""
    value, unit = figure["value"], figure["unit"]
    return quantity(value, unit), interval(value, (figure.get("low"), figure.get("high")), unit)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


FACES: Mapping[str, Callable[[Mapping[str, Any]], RenderableType]] = {
    "plain": plain,
    "figures": figures,
    "plan": plan,
    "verification": verification,
    "result": render,
}

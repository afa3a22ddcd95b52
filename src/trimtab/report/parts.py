"""The pieces that the page's sections are made of."""

from __future__ import annotations

from collections.abc import Iterable

from trimtab.report import numbers
from trimtab.report.document import Value
from trimtab.report.markup import Child, Markup, join, tag


def section(heading: str, lead: Child, *children: Child) -> Markup:
    """Make a section with its heading and a line that says what is seen."""
    return tag("section", tag("h2", heading), tag("p", lead, class_="lead") if lead else None, *children)


def table(head: Iterable[Child], rows: Iterable[Markup], kind: str, caption: str) -> Markup:
    """Make a table whose caption is read aloud; on a phone its rows become cards."""
    columns = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    return tag("table", tag("caption", caption), tag("thead", columns), tag("tbody", *rows), class_=kind)


def cell(name: str, *children: Child, kind: str | None = None) -> Markup:
    """Make a table cell that knows its column's name."""
    return tag("td", *children, class_=kind, data_label=name)


def badge(words: str, verdict: str) -> Markup:
    """Show a verdict as a word and a sign, not by colour alone."""
    sign = {"PASS": "✓", "FAIL": "✗", "INFEASIBLE": "✗", "UNDECIDED": "?", "BASE": "="}.get(verdict, "·")
    style = {"PASS": "kept", "FAIL": "not-kept", "INFEASIBLE": "not-kept"}.get(verdict, "open")
    return tag("span", tag("span", sign, aria_hidden="true", class_="sign"), words, class_=f"badge {style}")


def recipe(words: str) -> Markup:
    """Show a recipe as code."""
    return tag("code", words or numbers.DASH, class_="recipe")


def stacked(value: Value | None, like: float | None = None) -> Markup:
    """Show a figure with its interval beneath, in the unit of `like` where one is given."""
    if value is None:
        return tag("span", numbers.DASH, class_="none", title="not in the result")
    ends = numbers.interval(value.value, (value.low, value.high), value.unit, like)
    return join(tag("span", numbers.quantity(value.value, value.unit, like), class_="value"), small(ends))


def small(words: str) -> Markup:
    """Write a remark beneath a number."""
    return tag("span", words, class_="ends") if words else Markup("")

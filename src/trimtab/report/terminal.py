"""The terminal face: the verdict first, then the tab, the promises, the candidates and the conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trimtab.report import numbers
from trimtab.report.document import Candidate, Outcome, Result, Value, items, mapping, number, text, title
from trimtab.report.figures import kind_of

STYLES = {"PASS": "bold green", "FAIL": "bold red", "INFEASIBLE": "bold red", "UNDECIDED": "bold yellow"}
KINDS = {"chosen": "bold green", "certified": "green", "frontier": "blue", "dropped": "red", "failed": "red"}
WIDE = 110
"""From this many columns on, an interval stands beside its value, not beneath it."""


def render(result: Mapping[str, Any]) -> RenderableType:
    """Return a result document (the one `trimtab trim --json` prints) as something that rich can print."""
    return Face(Result(mapping(result)))


@dataclass(frozen=True)
class Face:
    """A result that fits itself to the console's width."""

    result: Result

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        gap = " " if options.max_width >= WIDE else "\n"
        yield _verdict(self.result)
        for part in (_tab(self.result, gap), _promises(self.result, gap), _candidates(self.result)):
            if part is not None:
                yield Padding(part, (1, 0, 0, 0))
        for line in _remarks(self.result):
            yield Text(line, style="dim")


def _verdict(result: Result) -> Text:
    return Text.assemble((result.headline, STYLES.get(result.verdict, "bold")), ". ", (result.sentence, "bold"))


def _table(heading: str, *columns: str) -> Table:
    """Make a table whose columns named with a leading > are flush right."""
    table = Table(title=heading, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", header_style="dim")
    return table


def _figure(value: Value | None, gap: str, like: float | None = None) -> Text:
    if value is None:
        return Text(numbers.DASH, style="dim")
    ends = numbers.interval(value.value, (value.low, value.high), value.unit, like)
    shown = Text(numbers.quantity(value.value, value.unit, like))
    return shown.append(gap + ends, style="dim") if ends else shown


def _tab(result: Result, gap: str) -> Table | None:
    if not result.names:
        return None
    table = _table("The tab", "", ">base", ">chosen", ">times cheaper", "origin")
    for name in result.names:
        base, chosen, ratio = result.base.get(name), result.chosen.get(name), result.ratios.get(name)
        known = base or chosen
        like = known.value if known else None
        change = _figure(ratio, gap)
        if ratio is None and base and chosen and name == result.quality:
            change = Text(numbers.difference(chosen.value - base.value, base.unit))
        origin = Text(known.origin if known else "", style="dim")
        table.add_row(Text(title(name)), _figure(base, gap, like), _figure(chosen, gap, like), change, origin)
    return table


def _promises(result: Result, gap: str) -> Table | None:
    if not result.tests:
        return None
    table = _table("Promises on the test split", "", ">base", ">trimmed", ">difference", "verdict")
    families = [test.family for test in result.tests]
    for position, test in enumerate(result.tests):
        grouped = bool(test.family) and families.count(test.family) > 1
        if grouped and test.family not in families[:position]:
            table.add_row(Text(test.family))
        name = Text(f"  {test.slice}" if grouped else test.promise)
        values = (numbers.quantity(value, test.unit) for value in (test.base, test.trimmed))
        table.add_row(name, *values, _difference(test, gap), _outcome(test))
    return table


def _difference(test: Outcome, gap: str) -> Text:
    if test.absolute and test.trimmed is not None:
        return _figure(Value(test.trimmed, test.low, test.high, test.unit), gap)
    ends = numbers.difference_interval(test.low, test.high, test.unit)
    shown = Text(numbers.difference(test.difference, test.unit))
    return shown.append(gap + ends, style="dim") if ends else shown


def _outcome(test: Outcome) -> Text:
    shown = Text(test.verdict or numbers.DASH, style=STYLES.get(test.verdict, ""))
    more = (
        f" {test.more_examples:,.0f} more examples would decide it"
        if test.more_examples and test.verdict == "UNDECIDED"
        else ""
    )
    return shown.append(more, style="dim")


def _candidates(result: Result) -> Table | None:
    if not result.candidates:
        return None
    cost, quality = title(result.objective).lower() or "cost", title(result.quality).lower() or "quality"
    table = _table("Candidates, predicted → measured", ">", "recipe", "status", f">{cost}", f">{quality}")
    for candidate in result.ranked:
        kind = kind_of(result, candidate)
        what = Text(candidate.recipe or numbers.DASH)
        if candidate.reason:
            what.append(f"\n{candidate.reason}", style="dim")
        readings = (_reading(result, candidate, name) for name in (result.objective, result.quality))
        table.add_row(str(candidate.number), what, Text(kind, style=KINDS.get(kind, "")), *readings)
    return table


def _reading(result: Result, candidate: Candidate, name: str) -> Text:
    predicted, measured = candidate.predicted.get(name), candidate.figures.get(name)
    like = result.typical(name)
    before, after = (numbers.quantity(v.value, v.unit, like) if v else numbers.DASH for v in (predicted, measured))
    unit = numbers.scaled(like, measured.unit)[1] if like and measured else ""
    return Text.assemble((before.removesuffix(unit).rstrip(), "dim"), f" → {after}")


def _remarks(result: Result) -> Iterator[str]:
    yield ""
    for reason, count in result.untried.items():
        yield f"{count:,} candidates were not tried: {reason}."
    flips = mapping(result.raw.get("flips"))
    lost, won = number(flips.get("right_to_wrong")), number(flips.get("wrong_to_right"))
    if lost is not None and won is not None:
        yield f"Flips: {lost:,.0f} right before and wrong now, {won:,.0f} wrong before and right now."
    for empty in map(mapping, items(result.raw.get("empty_cells"))):
        yield f"Empty: {text(empty.get('what'))}: {text(empty.get('reason')) or 'no reason given'}"
    yield _conditions(result)


def _conditions(result: Result) -> str:
    data = mapping(result.raw.get("conditions"))
    machine, times = mapping(data.get("machine")), mapping(result.raw.get("times"))
    confidence, total = number(result.raw.get("confidence")), number(times.get("total_s"))
    cores = number(machine.get("cores"))
    parts = (
        text(machine.get("name")) and f"machine {text(machine.get('name'))}",
        f"{cores:g} cores" if cores else "",
        f"confidence {confidence:.0%}" if confidence else "",
        f"seed {text(data.get('seed'))}" if data.get("seed") is not None else "",
        f"test split opened {text(data.get('test_openings'))}×" if data.get("test_openings") is not None else "",
        numbers.duration(total) if total else "",
        text(data.get("date")),
        f"bundle {result.text('bundle')}" if result.text("bundle") else "",
    )
    return " · ".join(part for part in parts if part)

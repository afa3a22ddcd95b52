"""The terminal face: the verdict first, then the tab, the promises, the candidates and the conditions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from trimtab.report import numbers
from trimtab.report.document import Candidate, Outcome, Result, Value, items, mapping, number, text, title
from trimtab.report.figures import kind_of

STYLES = {"PASS": "bold green", "FAIL": "bold red", "INFEASIBLE": "bold red", "UNDECIDED": "bold yellow"}
KINDS = {"chosen": "bold green", "certified": "green", "frontier": "blue", "dropped": "red", "failed": "red"}
WIDE = 110
"""From this many columns on, an interval stands beside its value, not beneath it."""
NARROW = 80
"""Below this many columns, a measurement stands beneath its prediction, and an origin beneath its figure's name."""
LEAST = 12
"""Columns that text which may be folded is given at least."""


def render(result: Mapping[str, Any]) -> RenderableType:
    """Return a result document (the one `trimtab trim --json` prints) as something that rich can print."""
    read = Result(mapping(result))
    return Fitted(lambda width: _result(read, width))


@dataclass(frozen=True)
class Fitted:
    """Something that is built for the console's width."""

    build: Callable[[int], Iterable[RenderableType]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in self.build(options.max_width):
            if isinstance(part, Table):
                _fit(part, options.max_width)
            yield part


def _fit(table: Table, width: int) -> None:
    """Bring columns closer where the table is too wide; where that is not enough, break what should not be broken."""
    tight = [column for column in table.columns if column.no_wrap]
    cells = [[str(cell) for cell in (column.header, *column.cells)] for column in tight]
    needed = sum(max(cell_len(line) for cell in column for line in cell.split("\n")) for column in cells)
    needed += LEAST * (len(table.columns) - len(tight))
    if needed + 2 * len(table.columns) > width:
        table.padding = (0, 1, 0, 0)
    for column in tight if needed + len(table.columns) > width else ():
        column.no_wrap = False


def gap_at(width: int) -> str:
    """Return what stands between a value and its interval."""
    return " " if width >= WIDE else "\n"


def _result(result: Result, width: int) -> Iterator[RenderableType]:
    yield _verdict(result)
    for part in (_tab(result, width), promises(result, width), _candidates(result, " " if width >= NARROW else "\n")):
        if part is not None:
            yield ""
            yield part
    for line in _remarks(result):
        yield Text(line, style="dim")


def _verdict(result: Result) -> Text:
    return Text.assemble((result.headline, STYLES.get(result.verdict, "bold")), ". ", (result.sentence, "bold"))


def table_of(heading: str, *columns: str) -> Table:
    """Make a table, its columns named with a mark: > flush right and never broken, ! never broken.

    All other columns are folded where the console is narrow: nothing is cut.
    """
    table = Table(
        title=Text(heading) if heading else None,
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for column in columns:
        table.add_column(
            column.lstrip(">!"),
            justify="right" if column.startswith(">") else "left",
            header_style="dim",
            no_wrap=column.startswith((">", "!")),
            overflow="fold",
        )
    return table


def _figure(value: Value | None, gap: str, like: float | None = None) -> Text:
    if value is None:
        return Text(numbers.DASH, style="dim")
    ends = numbers.interval(value.value, (value.low, value.high), value.unit, like)
    shown = Text(numbers.quantity(value.value, value.unit, like))
    return shown.append(gap + ends, style="dim") if ends else shown


def with_origin(name: str, origin: str, width: int) -> tuple[Text, ...]:
    """Return the cells of a figure's name and origin: one of its own for the origin where there is room."""
    shown = Text(name)
    if width >= NARROW:
        return shown, Text(origin, style="dim")
    return (shown.append(f"\n{origin}", style="dim"),)


def _tab(result: Result, width: int) -> Table | None:
    if not result.names:
        return None
    gap = gap_at(width)
    origins = ("!origin",) if width >= NARROW else ()
    table = table_of("The tab", "!", ">base", ">chosen", ">times\ncheaper", *origins)
    for name in result.names:
        base, chosen, ratio = result.base.get(name), result.chosen.get(name), result.ratios.get(name)
        known = base or chosen
        like = known.value if known else None
        change = _figure(ratio, gap)
        if ratio is None and base and chosen and name == result.quality:
            change = Text(numbers.difference(chosen.value - base.value, base.unit))
        words, *origin = with_origin(title(name), known.origin if known else "", width)
        table.add_row(words, _figure(base, gap, like), _figure(chosen, gap, like), change, *origin)
    return table


def promises(result: Result, width: int) -> Table | None:
    """Return the table of promises as tested; None where there are none."""
    if not result.tests:
        return None
    gap = gap_at(width)
    table = table_of("Promises on the test split", "", ">base", ">trimmed", ">difference", "verdict")
    families = [test.family for test in result.tests]
    for position, test in enumerate(result.tests):
        grouped = bool(test.family) and families.count(test.family) > 1
        if grouped and test.family not in families[:position]:
            table.add_row(Text(test.family))
        name = Text(f"  {test.slice}" if grouped else test.promise)
        base = numbers.quantity(test.base, test.unit)
        table.add_row(name, base, _trimmed(test, gap), _difference(test, gap), _outcome(test))
    return table


def _trimmed(test: Outcome, gap: str) -> Text:
    """Show the trimmed model's value, with its interval where the promise is about the value itself."""
    if test.absolute and test.trimmed is not None:
        return _figure(Value(test.trimmed, test.low, test.high, test.unit), gap)
    return Text(numbers.quantity(test.trimmed, test.unit))


def _difference(test: Outcome, gap: str) -> Text:
    if test.absolute:
        return Text(numbers.DASH, style="dim")
    ends = numbers.difference_interval(test.low, test.high, test.unit)
    shown = Text(numbers.difference(test.change, test.unit))
    if test.tested and test.difference is not None:
        ends = f"{test.tested}\n{numbers.signed(test.difference, test.unit)}{gap}{ends}".rstrip()
        return shown.append(f"\n{ends}", style="dim")
    return shown.append(gap + ends, style="dim") if ends else shown


def _outcome(test: Outcome) -> Text:
    shown = Text(test.verdict or numbers.DASH, style=STYLES.get(test.verdict, ""))
    more = (
        f" {test.more_examples:,.0f} more examples would decide it"
        if test.more_examples and test.verdict == "UNDECIDED"
        else ""
    )
    return shown.append(more, style="dim")


def _candidates(result: Result, gap: str) -> Table | None:
    if not result.candidates:
        return None
    cost, quality = title(result.objective).lower() or "cost", title(result.quality).lower() or "quality"
    words = (word.replace(" ", gap) for word in (cost, quality))
    table = table_of("Candidates, predicted → measured", ">", "recipe", "!status", *(f">{word}" for word in words))
    for candidate in result.ranked:
        kind = kind_of(result, candidate)
        what = Text(candidate.recipe or numbers.DASH)
        if candidate.reason:
            what.append(f"\n{candidate.reason}", style="dim")
        readings = (_reading(result, candidate, name, gap) for name in (result.objective, result.quality))
        status = Text(kind.replace(" ", gap), style=KINDS.get(kind, ""))
        table.add_row(str(candidate.number), what, status, *readings)
    return table


def _reading(result: Result, candidate: Candidate, name: str, gap: str) -> Text:
    predicted, measured = candidate.predicted.get(name), candidate.figures.get(name)
    like = result.typical(name)
    before, after = (numbers.quantity(v.value, v.unit, like) if v else numbers.DASH for v in (predicted, measured))
    unit = numbers.scaled(like, measured.unit)[1] if like and measured else ""
    return Text.assemble((before.removesuffix(unit).rstrip(), "dim"), f" →{gap}{after}")


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
        f"confidence {100 * confidence:g}%" if confidence else "",
        f"seed {text(data.get('seed'))}" if data.get("seed") is not None else "",
        f"test split opened {text(data.get('test_openings'))}×" if data.get("test_openings") is not None else "",
        numbers.duration(total) if total else "",
        text(data.get("date")),
        f"bundle {result.text('bundle')}" if result.text("bundle") else "",
    )
    return " · ".join(part for part in parts if part)

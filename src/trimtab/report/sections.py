"""The sections of the page, each one function from the result to HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from trimtab.report import figures, numbers
from trimtab.report.document import Candidate, Outcome, Result, Value, items, mapping, number, text, title
from trimtab.report.forest import Row, forest_axis, forest_row, forest_scale
from trimtab.report.markup import Child, Markup, join, tag
from trimtab.report.parts import badge, cell, recipe, section, small, stacked, table

FLIPS_SHOWN = 20
ANSWERS = ("Target", "Base answered", "Trimmed answers")
CHEAPER = {"latency": "faster", "throughput": "the throughput", "size": "smaller", "memory": "less memory"}
DEARER = {"latency": "slower", "throughput": "less throughput", "size": "larger", "memory": "more memory"}


def hero(result: Result) -> Markup:
    """Show the verdict, the sentence and the few numbers that matter."""
    what = " · ".join(part for part in (result.text("model"), result.text("task")) if part)
    date = text(mapping(result.raw.get("conditions")).get("date"))
    top = tag("p", tag("strong", "trimtab"), tag("span", what), tag("time", date) if date else None, class_="masthead")
    numbers_: list[Markup | None] = [_headline(name, value) for name, value in result.headline_numbers()]
    numbers_ += [_quality_headline(result)]
    chosen = (
        tag("p", tag("span", "Recipe", class_="key"), recipe(result.text("recipe"))) if result.text("recipe") else None
    )
    promised = tag("p", tag("span", "Promise", class_="key"), *_codes(result.texts("promise")))
    stopped = tag("p", "The search was stopped before its time was over; this is the best so far.", class_="note")
    facts = tag("div", chosen, promised, stopped if result.raw.get("interrupted") is True else None, class_="facts")
    return tag(
        "header", top, badge(result.headline, result.verdict), tag("h1", result.sentence), tag("dl", *numbers_), facts
    )


def _codes(words: Iterable[str]) -> list[Child]:
    return [tag("code", word) for word in words] or [tag("span", numbers.DASH)]


def _headline(name: str, value: Value) -> Markup:
    stem, words = name.split("_")[0], title(name).lower()
    if not 0 < value.value < 1:
        return tag("div", tag("dt", CHEAPER.get(stem, f"less {words}")), tag("dd", stacked(value)))
    low, high = (1 / end if end and end > 0 else None for end in (value.high, value.low))
    inverse = Value(1 / value.value, low, high, value.unit)
    return tag("div", tag("dt", DEARER.get(stem, f"more {words}")), tag("dd", stacked(inverse)))


def _quality_headline(result: Result) -> Markup | None:
    whole = [test for test in result.tests if not test.slice and test.difference is not None]
    if not whole:
        return None
    test = whole[0]
    change = tag("span", numbers.difference(test.change, test.unit), class_="value")
    name = f"{title(result.quality).lower() or 'quality'}, test split"
    return tag("div", tag("dt", name), tag("dd", change, small(_change(test)[1])))


def tab(result: Result) -> Markup:
    """Show the base beside the chosen one."""
    head = ["Figure", "Base", "Chosen", "Chosen as a share of the base", "Times cheaper, or change"]
    compared = bool(result.chosen or result.ratios)
    rows = [_tab_row(result, name, compared) for name in result.names]
    confidence = number(result.raw.get("confidence"))
    sure = f" at {100 * confidence:g}% confidence" if confidence else ""
    lead = f"Each figure with its interval{sure} and where it comes from."
    lead += " Shorter bars are cheaper." if result.chosen else ""
    known = (
        "The chosen model's figures are not in the result." if result.text("recipe") else "There is no chosen model."
    )
    note = None if result.chosen else tag("p", f"{known} Only the base's are shown.", class_="note")
    shown = head if compared else head[:2]
    return section(
        "The tab",
        lead,
        note,
        table(shown, rows, "tab cards" if compared else "tab alone", "Figures of the base and the chosen model"),
    )


def _tab_row(result: Result, name: str, compared: bool) -> Markup:
    base, chosen, ratio = result.base.get(name), result.chosen.get(name), result.ratios.get(name)
    known = base or chosen
    like = known.value if known else None
    origin = f"{known.origin or 'origin not stated'}{f', n = {known.n:,}' if known.n else ''}" if known else ""
    cheaper = not (ratio and base and chosen) or (ratio.value >= 1) == (chosen.value <= base.value)
    change: Child = stacked(ratio)
    if ratio is None and base and chosen and name == result.quality:
        change = tag("span", numbers.difference(chosen.value - base.value, base.unit), class_="value")
    heading = tag("th", title(name), tag("span", origin, class_="origin"), scope="row")
    cells = [
        cell("Base", stacked(base, like), kind="number"),
        cell("Chosen", stacked(chosen, like), kind="number"),
        cell("Share of the base", _bar(base, chosen) if ratio and cheaper else None, kind="bar"),
        cell("Times cheaper" if ratio else "Change", change, kind="number ratio"),
    ]
    return tag("tr", heading, *(cells if compared else cells[:1]))


def _bar(base: Value | None, chosen: Value | None) -> Markup | None:
    if base is None or chosen is None or base.value <= 0 or chosen.value < 0:
        return None
    share = chosen.value / base.value
    longest = max(share, 1.0)
    bars = (
        tag("span", class_=kind, style=f"width:{100 * part / longest:.2f}%")
        for kind, part in (("of-base", 1.0), ("of-chosen", share))
    )
    return tag("div", *bars, class_="bars-of", role="img", aria_label=f"{share:.0%} of the base")


def frontier(result: Result) -> Markup:
    """Show quality against cost."""
    plot = figures.frontier_plot(result)
    cost, quality = title(result.objective).lower() or "cost", title(result.quality).lower() or "quality"
    lead = (
        f"Every measured candidate: {quality} on the validation split against {cost}, with intervals. "
        "Numbers are those of the candidates' table."
    )
    absent = len(result.candidates) - len(figures.frontier_marks(result))
    said = f"{absent} of {len(result.candidates)} candidates were not measured; the table of candidates says why."
    note = said if absent else None
    empty = tag("p", "Nothing to draw: no candidate has both figures.", class_="note")
    return section(
        "Quality against cost", lead, plot or empty, tag("p", note, class_="note") if note and plot else None
    )


def predictions(result: Result) -> Markup:
    """Show what was predicted beside what was measured."""
    marks = {name: figures.predicted_marks(result, name) for name in figures.predicted_names(result)}
    plots = [figures.predicted_plot(name, found) for name, found in marks.items() if found][:2]
    empty = tag("p", "No candidate has both a prediction and a measurement.", class_="note")
    lead = "On the diagonal a prediction was right; above it the measurement came out higher than predicted."
    lines = [line for name in ("latency_ms", "quality_loss") if (line := _calibration(result, name))]
    said = tag("ul", *(tag("li", line) for line in lines), class_="legend") if lines else None
    return section("Predicted beside measured", lead, tag("div", *plots, class_="pair") if plots else empty, said)


def _calibration(result: Result, name: str) -> str:
    """Say how good the predictions of a figure were, made before each candidate was tried."""
    data = mapping(mapping(result.raw.get("predictions")).get(name))
    count, held, order = (number(data.get(key)) for key in ("n", "coverage", "rank_correlation"))
    parts = [f"{held:.0%} of {count:.0f} lie in their 90% interval"] if count and held is not None else []
    parts += [f"rank correlation {order:.2f}"] if order is not None else []
    return f"{title(name)}: {', '.join(parts)}." if parts else ""


def promises(result: Result) -> Markup:
    """Show every promise and slice as a forest plot."""
    kinds = list(dict.fromkeys((test.unit, test.absolute) for test in result.tests))
    tables = [_forest([t for t in result.tests if (t.unit, t.absolute) == kind]) for kind in kinds]
    empty = tag("p", "The test split was not opened, so no promise was tested.", class_="note")
    lead = (
        "Trimmed minus base on the same examples of the sealed test split. "
        "A promise is kept when the whole interval stays clear of the shaded side."
    )
    if any(test.tested for test in result.tests):
        lead += " Where a promise has a factor, interval and plot are of trimmed minus that many times the base."
    return section("Promises and slices", lead, *(tables or [empty]))


def _forest(tests: list[Outcome]) -> Markup:
    unit, absolute = tests[0].unit, tests[0].absolute
    values = (t.trimmed if absolute else t.difference for t in tests)
    rows = [Row(v, t.low, t.high, t.limit, t.verdict, t.better) for v, t in zip(values, tests, strict=True)]
    scale = forest_scale(rows, zero=not absolute)
    shown = "%" if absolute and unit in numbers.SHARES else numbers.difference_unit(unit)
    axis = forest_axis(scale, 100.0 if unit in numbers.SHARES else 1.0)
    what = "Trimmed" if absolute else "Difference"
    head = ["Promise", "Base → trimmed", f"{what}, {shown}" if shown else what, axis, "Verdict"]
    families = [test.family for test in tests]
    body: list[Markup] = []
    for position, (test, row) in enumerate(zip(tests, rows, strict=True)):
        grouped = bool(test.family) and families.count(test.family) > 1
        if grouped and test.family not in families[:position]:
            body.append(_group(test.family))
        body.append(
            _forest_line(test, forest_row(scale, row, _spoken(test)), None if absolute else scale(0.0), grouped)
        )
    return table(head, body, "forest-table cards", f"Promises on the test split, {shown or 'no unit'}")


def _group(promise: str) -> Markup:
    return tag("tr", tag("th", tag("code", promise), ", on each slice", colspan=5, scope="colgroup"), class_="group")


def _forest_line(test: Outcome, picture: Markup, zero: float | None, grouped: bool) -> Markup:
    values = f"{numbers.quantity(test.base, test.unit)} → {numbers.quantity(test.trimmed, test.unit)}"
    change, ends = _change(test)
    name: Child = test.slice if grouped else tag("code", test.promise)
    plot = tag("td", picture, class_="plot", style="background:none" if zero is None else f"--zero:{zero:.1f}px")
    verdict = cell("Verdict", badge(test.verdict or numbers.DASH, test.verdict), small(_detail(test)), kind="verdict")
    numbers_ = cell("Base → trimmed", values, small(f"n = {test.n:,.0f}" if test.n else ""), kind="number")
    return tag(
        "tr",
        tag("th", name, scope="row"),
        numbers_,
        cell("Difference", change, small(ends), kind="number"),
        plot,
        verdict,
        class_="slice" if grouped else None,
    )


def _change(test: Outcome) -> tuple[str, str]:
    if test.absolute and test.trimmed is not None:
        ends = numbers.interval(test.trimmed, (test.low, test.high), test.unit)
        return numbers.quantity(test.trimmed, test.unit), ends
    change = numbers.DASH if test.change is None else numbers.signed(test.change, test.unit)
    ends = numbers.difference_interval(test.low, test.high, test.unit)
    if test.tested and test.difference is not None:
        ends = f"{test.tested}: {numbers.signed(test.difference, test.unit)} {ends}".strip()
    return change, ends


def _detail(test: Outcome) -> str:
    if test.more_examples and test.verdict == "UNDECIDED":
        return f"{test.more_examples:,.0f} more examples would decide it"
    chance = "" if test.p_value is None else "p < 0.0001" if test.p_value < 1e-4 else f"p = {test.p_value:.2g}"
    return ", ".join(part for part in (chance, test.method) if part)


def _spoken(test: Outcome) -> str:
    limit = numbers.quantity(test.limit, test.unit) if test.absolute else numbers.difference(test.limit, test.unit)
    change, ends = _change(test)
    return f"{test.slice or test.promise}: {change} {ends}, limit {limit}, {test.verdict}"


def flips(result: Result) -> Markup:
    """Show on which examples the answers changed."""
    data = mapping(result.raw.get("flips"))
    lost, won = number(data.get("right_to_wrong")), number(data.get("wrong_to_right"))
    examples = [mapping(item) for item in items(data.get("examples"))]
    if lost is None and won is None and not examples:
        return section("Flips", None, tag("p", "No answers were compared on the test split.", class_="note"))
    counts = tag("dl", _count("right before, wrong now", lost), _count("wrong before, right now", won), class_="counts")
    named = any(text(row.get("base")) for row in examples)
    body = [_flip(row, named) for row in examples[:FLIPS_SHOWN]]
    head = ["Example", *(ANSWERS if named else ())]
    listed = table(head, body, "flips cards", "Examples whose answer changed") if body else None
    more = f"The first {FLIPS_SHOWN} of {len(examples)} listed." if len(examples) > FLIPS_SHOWN else None
    lead = "Accuracy can stay the same while answers change; these did."
    return section("Flips", lead, counts, listed, tag("p", more, class_="note") if more else None)


def _count(name: str, value: float | None) -> Markup:
    return tag("div", tag("dt", name), tag("dd", numbers.DASH if value is None else f"{value:,.0f}"))


def _flip(row: Mapping[str, Any], named: bool) -> Markup:
    heading = tag("th", text(row.get("id")) or numbers.DASH, scope="row")
    if not named:
        return tag("tr", heading)
    target, *answers = (text(row.get(key)) or numbers.DASH for key in ("target", "base", "trimmed"))
    signs = (" ✓" if answer == target else " ✗" for answer in answers)
    shown = [f"{answer}{sign}" for answer, sign in zip(answers, signs, strict=True)]
    cells = zip(ANSWERS, (target, *shown), strict=True)
    return tag("tr", heading, *(cell(name, value) for name, value in cells))


def candidates(result: Result) -> Markup:
    """List every candidate with what was predicted, what was measured, and why it stopped."""
    cost, quality = title(result.objective) or "Cost", title(result.quality) or "Quality"
    head = [
        "",
        "Recipe",
        "Status",
        f"{cost} predicted",
        f"{cost} measured",
        f"{quality} predicted",
        f"{quality} validation",
        "Time",
    ]
    rows = [_candidate(result, candidate, head) for candidate in result.ranked]
    left = [f"{count:,} were not tried: {reason}." for reason, count in result.untried.items()]
    lead = " ".join(["The chosen one first, then by status and cost.", *left])
    return section("Candidates", lead, table(head, rows, "candidates cards", "All candidates"))


def _candidate(result: Result, candidate: Candidate, head: list[str]) -> Markup:
    names = (result.objective, result.objective, result.quality, result.quality)
    maps = (candidate.predicted, candidate.figures) * 2
    readings = zip(
        head[3:7],
        (stacked(values.get(name), result.typical(name)) for name, values in zip(names, maps, strict=True)),
        strict=True,
    )
    kind = figures.kind_of(result, candidate)
    status = tag("span", figures.key(kind), kind, class_="status")
    reason = tag("span", candidate.reason, class_="reason") if candidate.reason else None
    return tag(
        "tr",
        tag("th", str(candidate.number), scope="row", class_="index"),
        cell("Recipe", recipe(candidate.recipe), reason, kind="what"),
        cell("Status", status),
        *(cell(name, reading, kind="number") for name, reading in readings),
        cell("Time", numbers.duration(candidate.seconds), kind="number"),
        class_="is-chosen-row" if kind == "chosen" else None,
    )


def empty_cells(result: Result) -> Markup:
    """List what is not on the tab, and why."""
    rows = [mapping(item) for item in items(result.raw.get("empty_cells"))]
    if not rows:
        return section("Empty cells", None, tag("p", "None: everything asked for was measured.", class_="note"))
    pairs = (
        join(tag("dt", text(r.get("what")) or numbers.DASH), tag("dd", text(r.get("reason")) or "no reason given"))
        for r in rows
    )
    return section("Empty cells", "What is not on the tab, and why.", tag("dl", *pairs, class_="list"))

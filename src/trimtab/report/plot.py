"""The plots of the page, drawn as inline SVG whose colours are the page's own variables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from trimtab.report.document import Value
from trimtab.report.labels import CHARACTER, LINE, Box, around, beside, place, text_box
from trimtab.report.markup import Markup, join, tag
from trimtab.report.numbers import scaled
from trimtab.report.scale import Scale, span, tick_labels

LEFT, TOP, RIGHT, BOTTOM = 58.0, 16.0, 14.0, 46.0
"""Room in pixels around a plot for its axes."""
REACH = {"chosen": 9.0, "base": 7.0}
SMALL = 5.0
FOCUS = ("chosen", "base", "certified", "passed", "frontier", "not certified")
DRAWN = ("chosen", "base", "certified", "passed", "frontier", "not certified", "dominated", "dropped")
"""Kinds of point with a shape of their own; all others share the last."""


@dataclass(frozen=True)
class Mark:
    """One candidate on a plot."""

    x: Value
    y: Value
    kind: str
    label: str
    note: str
    """What the reader sees who points at it."""

    def times(self, across: float, up: float) -> Mark:
        """Return the mark in other units."""
        return replace(self, x=_times(self.x, across), y=_times(self.y, up))


def _times(value: Value, factor: float) -> Value:
    low, high = (None if end is None else end * factor for end in (value.low, value.high))
    return Value(value.value * factor, low, high, value.unit)


@dataclass(frozen=True)
class Axes:
    """What a plot's axes are called, and the limit drawn across it."""

    across: str
    up: str
    limit: float | None = None
    limit_label: str = ""
    better: str = "higher"


@dataclass(frozen=True)
class Canvas:
    """A plot area with its two scales."""

    width: int
    height: int
    x: Scale
    y: Scale

    @property
    def frame(self) -> Box:
        """The area within the axes."""
        return Box(self.x.start, self.y.end, self.x.end, self.y.start)

    def at(self, mark: Mark) -> tuple[float, float]:
        """Return the pixel of a mark."""
        return self.x(mark.x.value), self.y(mark.y.value)

    def draw(self, label: str, *parts: Markup) -> Markup:
        """Return the finished picture; `label` is read to those who do not see it."""
        size = f"0 0 {self.width} {self.height}"
        return tag("svg", *parts, viewBox=size, width=self.width, height=self.height, role="img", aria_label=label)


def canvas(size: tuple[int, int], across: tuple[float, float, bool], up: tuple[float, float, bool]) -> Canvas:
    """Make a plot area of `size` whose scales show (low, high, logarithmic)."""
    width, height = size
    x = Scale(across[0], across[1], LEFT, width - RIGHT, across[2])
    return Canvas(width, height, x, Scale(up[0], up[1], height - BOTTOM, TOP, up[2]))


def frontier(marks: Sequence[Mark], axes: Axes, width: int) -> Markup:
    """Draw quality against cost, the cost on a logarithmic axis, with the promise's limit across."""
    shown = [mark for mark in marks if mark.x.value > 0]
    if not shown:
        return Markup("")
    factors = _factor(mark.x for mark in shown)[0], _factor(mark.y for mark in shown)[0]
    drawn = [mark.times(*factors) for mark in shown]
    limit = None if axes.limit is None else axes.limit * factors[1]
    low, high = _window(drawn, limit)
    across = span((end for m in drawn for end in (m.x.value, *m.x.ends) if end > 0), log=True)
    area = canvas((width, 440 if width > 600 else 360), (*across, True), (low, high, False))
    lines = [grid(area), _limit(area, limit, axes.better), _steps(area, drawn, axes.better)]
    bars = [join(*(_bars(area, mark) for mark in drawn))]
    points = [point(area, mark) for mark in sorted(drawn, key=lambda m: m.kind in FOCUS)]
    named = [axis_names(area, axes), label_marks(area, drawn, limit, axes.limit_label)]
    return area.draw(f"{axes.up} against {axes.across}, {len(shown)} candidates", *lines, *bars, *points, *named)


def unit_of(values: Iterable[Value]) -> str:
    """Return the unit in which a plot shows these values."""
    return _factor(values)[1]


def _factor(values: Iterable[Value]) -> tuple[float, str]:
    known = sorted(values, key=lambda value: abs(value.value))
    return scaled(known[len(known) // 2].value, known[len(known) // 2].unit) if known else (1.0, "")


def _window(marks: Sequence[Mark], limit: float | None) -> tuple[float, float]:
    """Return the heights to show: what matters, and what lies near; the rest is drawn at the edge."""
    focus = [m for m in marks if m.kind in FOCUS] or marks
    heights = [end for mark in focus for end in (mark.y.value, *mark.y.ends)]
    heights += [] if limit is None else [limit]
    reach = (max(heights) - min(heights)) or abs(max(heights)) * 0.01
    low, high = min(heights) - reach, max(heights) + reach
    near = [m.y.value for m in marks if low <= m.y.value <= high]
    return span([*heights, *near], log=False)


def grid(area: Canvas) -> Markup:
    """Draw the rules, the ticks and their numbers."""
    frame = area.frame
    square = (area.x.low, area.x.high) == (area.y.low, area.y.high)
    up = area.y.ticks(5 if square else 6)
    across = up if square else area.x.ticks(7 if area.width > 600 else 4)
    rules = [line(frame.left, area.y(v), frame.right, area.y(v), "rule") for v in up]
    rules += [line(area.x(v), frame.bottom, area.x(v), frame.bottom + 4, "tick") for v in across]
    rules.append(line(frame.left, frame.bottom, frame.right, frame.bottom, "axis"))
    below = [words(area.x(v), frame.bottom + 17, t, "middle") for v, t in zip(across, tick_labels(across), strict=True)]
    beside_ = [words(frame.left - 8, area.y(v) + 4, t, "end") for v, t in zip(up, tick_labels(up), strict=True)]
    return tag("g", *rules, *below, *beside_, class_="grid", aria_hidden="true")


def axis_names(area: Canvas, axes: Axes) -> Markup:
    """Write what the axes are."""
    middle = (area.x.start + area.x.end) / 2
    down = (area.y.start + area.y.end) / 2
    across = words(middle, area.height - 6.0, axes.across, "middle")
    turn = f"translate(13 {down:.1f}) rotate(-90)"
    up = tag("text", axes.up, transform=turn, text_anchor="middle")
    return tag("g", across, up, class_="names", aria_hidden="true")


def _limit(area: Canvas, limit: float | None, better: str) -> Markup:
    if limit is None:
        return Markup("")
    frame, y = area.frame, area.y(limit)
    bottom = frame.bottom if better == "higher" else y
    top = y if better == "higher" else frame.top
    shade = tag("rect", x=frame.left, y=top, width=frame.right - frame.left, height=bottom - top, class_="broken")
    return join(shade, line(frame.left, y, frame.right, y, "limit"))


def _steps(area: Canvas, marks: Sequence[Mark], better: str) -> Markup:
    """Join the points that no other beats in both: at each cost the best quality seen so far."""
    corners: list[tuple[float, float]] = []
    for mark in sorted((m for m in marks if m.kind in FOCUS), key=lambda m: m.x.value):
        x, y = area.at(mark)
        if not corners or y < corners[-1][1] if better == "higher" else not corners or y > corners[-1][1]:
            corners += [(x, corners[-1][1])] if corners else []
            corners.append((x, y))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    return tag("polyline", points=path, class_="steps") if len(corners) > 1 else Markup("")


def _bars(area: Canvas, mark: Mark) -> Markup:
    if not area.y.holds(mark.y.value):
        return Markup("")
    x, y = area.at(mark)
    left, right = (area.x(end) for end in mark.x.ends)
    low, high = (area.y(end) for end in mark.y.ends)
    bars = [
        line(left, y, right, y, "") if left != right else None,
        line(x, low, x, high, "") if low != high else None,
    ]
    return tag("g", *bars, class_=f"bars {css(mark.kind)}")


def css(kind: str) -> str:
    """Return the class of a kind of point; the kinds are a closed list, so a document cannot invent one."""
    return f"is-{kind.replace(' ', '-')}" if kind in DRAWN else "is-other"


def point(area: Canvas, mark: Mark) -> Markup:
    """Draw a candidate, at the edge where it lies outside."""
    x, y = area.at(mark)
    off = not area.y.holds(mark.y.value)
    shape = _arrow(x, y, down=mark.y.value < area.y.low) if off else symbol(mark.kind, x, y)
    return tag("g", tag("title", mark.note), shape, class_=f"mark {css(mark.kind)}")


def _arrow(x: float, y: float, down: bool) -> Markup:
    tip, back = (y - 1, y - 9) if down else (y + 1, y + 9)
    return tag("path", d=f"M{x - 5:.1f} {back:.1f}L{x + 5:.1f} {back:.1f}L{x:.1f} {tip:.1f}Z", class_="off")


def symbol(kind: str, x: float, y: float) -> Markup:
    """Draw the shape of a kind of point: shapes differ so that colour is not needed."""
    reach = REACH.get(kind, SMALL)
    if kind == "chosen":
        ring = tag("circle", cx=x, cy=y, r=reach, class_="ring")
        return join(ring, tag("circle", cx=x, cy=y, r=5))
    if kind == "base":
        return tag("rect", x=x - 6, y=y - 6, width=12, height=12)
    if kind == "not certified":
        return tag("path", d=f"M{x:.1f} {y - 6.5:.1f}l6.5 6.5l-6.5 6.5l-6.5 -6.5Z")
    if kind == "dropped":
        return tag("path", d=f"M{x - 4.5:.1f} {y - 4.5:.1f}l9 9m0 -9l-9 9")
    if kind not in DRAWN:
        return tag("path", d=f"M{x - 5:.1f} {y:.1f}h10m-5 -5v10")
    return tag("circle", cx=x, cy=y, r=4 if kind == "dominated" else SMALL)


def label_marks(area: Canvas, marks: Sequence[Mark], limit: float | None, limit_label: str) -> Markup:
    """Write labels where there is room; the base and the chosen one always."""
    taken = [around(*area.at(mark), REACH.get(mark.kind, SMALL)) for mark in marks]
    taken += [_bar_box(area, mark) for mark in marks]
    shown: list[Markup | None] = []
    if limit is not None and len(limit_label) * CHARACTER < area.frame.right - area.frame.left:
        box = _limit_box(area, limit, limit_label, taken)
        taken.append(box)
        shown.append(words(box.left, box.bottom - 4, limit_label, "start", "limit-label"))
    order = sorted(marks, key=lambda mark: FOCUS.index(mark.kind) if mark.kind in FOCUS else len(FOCUS))
    for mark in order:
        must = mark.kind in REACH
        spot = place(beside(area.at(mark), mark.label, REACH.get(mark.kind, SMALL)), taken, area.frame, must)
        if spot:
            taken.append(spot)
            style = f"label {css(mark.kind)}"
            middle = (spot.left + spot.right) / 2
            shown.append(words(middle, (spot.top + spot.bottom) / 2 + 4, mark.label, "middle", style))
    return tag("g", *shown, aria_hidden="true")


def _bar_box(area: Canvas, mark: Mark) -> Box:
    x, _ = area.at(mark)
    low, high = (area.y(end) for end in mark.y.ends)
    return Box(x - 1, min(low, high), x + 1, max(low, high))


def _limit_box(area: Canvas, limit: float, label: str, taken: Sequence[Box]) -> Box:
    y, frame = area.y(limit), area.frame
    starts = (frame.left + 6, frame.right - 6 - CHARACTER * len(label), (frame.left + frame.right) / 3)
    boxes = [text_box(start, y + side * (LINE / 2 + 3), label) for start in starts for side in (1, -1)]
    return place(boxes, taken, frame, must=True) or boxes[0]


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """Draw a straight line of a class."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind or None)


def words(x: float, y: float, text: str, anchor: str, kind: str | None = None) -> Markup:
    """Write words at a point; `anchor` is start, middle or end."""
    return tag("text", text, x=x, y=y, text_anchor=anchor, class_=kind)


def agreement(marks: Sequence[Mark], axes: Axes, width: int) -> Markup:
    """Draw predicted (across) against measured (up) with the diagonal on which they agree."""
    ends = [end for mark in marks for value in (mark.x, mark.y) for end in (value.value, *value.ends)]
    factor = _factor(mark.y for mark in marks)[0]
    log = min(ends) > 0 and max(ends) / min(ends) > 2
    drawn = [mark.times(factor, factor) for mark in marks]
    low, high = span((end * factor for end in ends), log) if log else _square(drawn)
    area = canvas((width, int(width * 0.86)), (low, high, log), (low, high, log))
    frame = area.frame
    diagonal = line(frame.left, frame.bottom, frame.right, frame.top, "diagonal")
    points = [join(_bars(area, mark), point(area, mark)) for mark in drawn]
    named = [axis_names(area, axes), label_marks(area, drawn, None, "")]
    return area.draw(f"{axes.up} against {axes.across}, {len(marks)} candidates", grid(area), diagonal, *points, *named)


def _square(marks: Sequence[Mark]) -> tuple[float, float]:
    turned = [replace(mark, x=mark.y, y=mark.x) for mark in marks]
    return _window([*marks, *turned], None)


def both(draw: Callable[[int], Markup], wide: int, narrow: int) -> Markup:
    """Draw twice, so that type stays readable on a phone; the page's style shows the one that fits."""
    return join(tag("div", draw(wide), class_="wide"), tag("div", draw(narrow), class_="narrow"))

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.report.document import Value
from trimtab.report.forest import WIDTH, Row, forest_axis, forest_row, forest_scale
from trimtab.report.labels import Box, beside, place
from trimtab.report.plot import DRAWN, Axes, Mark, agreement, frontier
from trimtab.report.scale import Scale, span, tick_labels

POSITIVE = st.floats(1e-9, 1e9)
ANY = st.floats(-1e9, 1e9)


def figure(value, unit):
    spread = st.floats(0, 0.5)
    return st.builds(lambda v, a, b: Value(v, v - abs(v) * a, v + abs(v) * b, unit), value, spread, spread)


MARKS = st.lists(
    st.builds(
        Mark,
        figure(POSITIVE, "ms"),
        figure(ANY, "nats"),
        st.sampled_from([*DRAWN, "odd"]),
        st.just("12"),
        st.just("note"),
    ),
    min_size=1,
    max_size=12,
)


def coordinates(svg: str) -> list[tuple[float, float]]:
    """Every point that is drawn, in pixels."""
    pairs = [(r'\bx="', r'\by="'), ('cx="', 'cy="'), ('x1="', 'y1="'), ('x2="', 'y2="')]
    found = []
    for element in re.findall(r"<(?:rect|text|circle|line) [^>]*>", svg):
        for left, up in pairs:
            across, down = re.search(left + r"([^\"]*)", element), re.search(up + r"([^\"]*)", element)
            if across and down:
                found.append((float(across[1]), float(down[1])))
    found += [(float(a), float(b)) for a, b in re.findall(r"M(-?[\d.]+) (-?[\d.]+)", svg)]
    found += [
        (float(a), float(b))
        for points in re.findall(r'points="([^"]*)"', svg)
        for a, b in re.findall(r"([^ ,]+),([^ ,]+)", points)
    ]
    return found


def box(svg: str) -> tuple[float, float]:
    return tuple(map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups()))


@settings(max_examples=30, deadline=None)
@given(MARKS, st.one_of(st.none(), ANY), st.sampled_from([960, 400]), st.sampled_from(["higher", "lower"]))
def test_the_frontier_stays_inside_its_view_box(marks, limit, width, better):
    svg = frontier(marks, Axes("cost", "quality", limit, "the promise", better), width)
    wide, high = box(svg)
    points = coordinates(svg)
    assert len(points) > len(marks)
    assert all(-1 <= x <= wide + 1 and -1 <= y <= high + 1 for x, y in points)


@settings(max_examples=25, deadline=None)
@given(MARKS)
def test_predicted_beside_measured_stays_inside_its_view_box(marks):
    svg = agreement(marks, Axes("predicted", "measured"), 470)
    wide, high = box(svg)
    assert all(-1 <= x <= wide + 1 and -1 <= y <= high + 1 for x, y in coordinates(svg))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.builds(Row, *[st.one_of(st.none(), ANY)] * 4, st.sampled_from(["PASS", "FAIL", ""])), min_size=1, max_size=5
    )
)
def test_the_forest_stays_inside_its_view_box(rows):
    scale = forest_scale(rows)
    pictures = [forest_axis(scale, 100.0), *(forest_row(scale, row, "note") for row in rows)]
    assert all(-1 <= x <= WIDTH + 1 and -1 <= y <= 31 for svg in pictures for x, y in coordinates(svg))


@given(st.lists(st.floats(1e-3, 1e6), min_size=1), st.booleans())
def test_an_axis_has_ticks_within_it_that_read_differently(values, log):
    low, high = span(values, log)
    ticks = Scale(low, high, 0.0, 100.0, log).ticks()
    assert 2 <= len(ticks) <= 20
    assert all(low <= tick <= high for tick in ticks)
    assert len(set(tick_labels(ticks))) == len(ticks)


def test_a_logarithmic_scale_gives_each_decade_the_same_room():
    scale = Scale(0.1, 1000.0, 0.0, 400.0, log=True)
    assert [scale(v) for v in (0.1, 1.0, 10.0, 1000.0)] == pytest.approx([0.0, 100.0, 200.0, 400.0])
    assert scale.ticks(5) == pytest.approx([0.1, 1.0, 10.0, 100.0, 1000.0])


@pytest.mark.parametrize(("values", "shown"), [([], (0.95, 1.05)), ([0.0], (-1.0, 1.0)), ([2.0], (1.9, 2.1))])
def test_a_span_without_extent_still_has_room(values, shown):
    assert span(values, log=False) == pytest.approx(shown)


def mark(x, y, kind="frontier", label="1"):
    return Mark(Value(x, unit="ms"), Value(y, unit="share"), kind, label, "note")


def test_a_far_worse_candidate_does_not_squash_the_rest():
    near = [mark(4.0, 0.97, "base"), mark(1.0, 0.965, "chosen"), mark(2.0, 0.968)]
    svg = frontier([*near, mark(0.5, 0.11, "dropped")], Axes("cost", "quality", 0.96, "limit"), 960)
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)" r="5"', svg)]
    assert max(heights) - min(heights) > 60
    assert 'class="off"' in svg


def test_better_stands_higher_and_cheaper_further_left():
    svg = frontier([mark(1.0, 0.9), mark(10.0, 0.95)], Axes("cost", "quality"), 960)
    (left, low), (right, high) = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert left < right
    assert low > high


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 800), st.floats(0, 400)), min_size=1, max_size=30))
def test_labels_never_cover_each_other_unless_they_must(points):
    frame = Box(-50, -50, 900, 500)
    taken: list[Box] = []
    for point in points:
        spot = place(beside(point, "12", 5.0), taken, frame, must=False)
        if spot:
            assert sum(spot.overlap(other) for other in taken) <= 1.0
            taken.append(spot)
    assert place(beside(points[0], "12", 5.0), taken, frame, must=True) is not None


def test_nothing_measured_draws_nothing():
    assert frontier([mark(0.0, 0.9)], Axes("cost", "quality"), 960) == ""

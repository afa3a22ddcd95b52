"""Promises: the sentence, its direction, and the slices its star stands for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import PromiseError, UnknownName
from trimtab.tasks import open_task
from trimtab.values.promise import Limit, Promise

TASK = open_task("toy(examples=90)")


@given(
    st.sampled_from(["accuracy", "f1_macro"]),
    st.sampled_from([">=", "<="]),
    st.floats(0.0001, 0.9),
    st.sampled_from(["", "class=*", "sex=not known"]),
    st.sampled_from(["minus", "plus", "times", "absolute"]),
)
def test_a_promise_reads_back_as_it_is_written(metric, relation, size, where, kind):
    size = float(f"{size:g}")
    shapes = {"minus": (1.0, -size), "plus": (1.0, size), "times": (size, 0.0), "absolute": (0.0, size)}
    promise = Promise(metric, relation, *shapes[kind], where)
    assert Promise.parse(str(promise)) == promise


@pytest.mark.parametrize(
    "text", ["accuracy", "accuracy > base", "accuracy >= base ? 1", ">= 0.9", "accuracy >= base - x"]
)
def test_what_cannot_be_read_shows_the_shapes_that_fit(text):
    with pytest.raises(PromiseError, match="it looks like METRIC >= base - NUMBER"):
        Promise.parse(text)


def test_percent_means_points():
    assert Promise.parse("accuracy >= base - 1%").offset == pytest.approx(-0.01)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("accuracy <= base + 0.01", "better higher, so write >="),
        ("log_loss >= base - 0.01", "better lower, so write <="),
        ("accuracy >= base + 0.01", "asks for a gain"),
        ("log_loss <= base * 0.9", "asks for a gain"),
        ("agreement >= base - 0.01", "already compares"),
    ],
)
def test_wrong_directions_are_refused(text, said):
    with pytest.raises(PromiseError, match=said):
        Promise.parse(text).check(TASK)


def test_unknown_metric_suggests_the_near_one():
    with pytest.raises(UnknownName, match="did you mean accuracy"):
        Promise.parse("acuracy >= base - 0.01").check(TASK)


def test_star_stands_for_every_value():
    promise = Promise.parse("accuracy[class=*] >= base - 0.05")
    assert [one.slice for one in promise.expand({"class": {"b", "a"}})] == ["class=a", "class=b"]
    with pytest.raises(PromiseError, match="this task has: class"):
        Promise.parse("accuracy[sex=*] >= base - 0.05").expand({"class": {"a"}})
    with pytest.raises(PromiseError, match="class has no 'z'"):
        Promise.parse("accuracy[class=z] >= base - 0.05").expand({"class": {"a"}})


def test_limits():
    assert Limit.parse("size_mb <= 1").kept(0.9)
    assert not Limit.parse("throughput_per_s >= 100").kept(99)
    with pytest.raises(PromiseError, match="FIGURE <= NUMBER"):
        Limit.parse("size < 1")

import numpy as np
import pytest

from trimtab.errors import DataError
from trimtab.run.program import drive
from trimtab.values.facts import Facts
from trimtab.values.model import Cascade, Greedy, Model, Part, Scan, Signature, Single, TensorSpec


class Calls:
    """A session of plain functions that remembers what it was given."""

    def __init__(self, **parts):
        self.parts, self.given = parts, []

    def run(self, inputs, part="main"):
        self.given.append((part, inputs))
        return self.parts[part](**inputs)


def part(inputs, outputs, state=None, tmp="."):
    specs = [tuple(TensorSpec(name, dtype, shape) for name, dtype, shape in side) for side in (inputs, outputs)]
    return Part("null", tmp, Signature(*specs, state or {}), Facts("null", 0, 0))


LINE = part([("x", "float32", ("batch", 2))], [("y", "float32", ("batch",))])


def test_single_gives_a_part_only_what_it_takes_in_its_dtype():
    session = Calls(main=lambda x: {"y": x.sum(axis=1)})
    outputs = drive(Model({"main": LINE}), session, {"x": np.ones((3, 2)), "length": np.ones(3)})
    assert outputs["y"].tolist() == [2, 2, 2]
    ((_, given),) = session.given
    assert list(given) == ["x"]
    assert given["x"].dtype == np.float32


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"z": np.ones((3, 2))}, "takes x; it got z"),
        ({"x": np.ones((3, 5))}, r"takes x \['batch', 2\]; it got \[3, 5\]"),
        ({"x": np.ones(3)}, r"it got \[3\]"),
        ({"x": [["a", "b"]]}, "takes x as float32"),
    ],
)
def test_inputs_that_do_not_fit_are_said(inputs, said):
    with pytest.raises(DataError, match=said):
        drive(Model({"main": LINE}), Calls(), inputs)


def test_fixed_batch_runs_in_pieces_and_drops_the_filling():
    fixed = part([("x", "float32", (4, 2))], [("y", "float32", (4,))])
    session = Calls(main=lambda x: {"y": x.sum(axis=1)})
    inputs = np.arange(20, dtype=np.float32).reshape(10, 2)
    outputs = drive(Model({"main": fixed}), session, {"x": inputs})
    assert np.array_equal(outputs["y"], inputs.sum(axis=1))
    assert [given["x"].shape for _, given in session.given] == [(4, 2)] * 3


COUNTER = part(
    [("x", "float32", ("batch",)), ("seen", "int64", ("batch", "past"))],
    [("sum", "float32", ("batch",)), ("all", "int64", ("batch", "past"))],
    {"all": "seen"},
)


def count(x, seen):
    seen = np.concatenate([seen, x[:, None].astype(np.int64)], axis=1)
    return {"sum": seen.sum(axis=1).astype(np.float32), "all": seen}


def test_scan_feeds_back_a_state_that_grows_from_nothing():
    inputs = {"x": np.array([[1, 2, 3], [4, 5, 6]], np.float32)}
    outputs = drive(Model({"main": COUNTER}, Scan("main", ("x",))), Calls(main=count), inputs)
    assert outputs["sum"].tolist() == [[1, 3, 6], [4, 9, 15]]
    assert outputs["all"].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_scan_begins_with_a_state_that_is_given():
    inputs = {"x": np.ones((2, 2), np.float32), "seen": np.full((2, 1), 10)}
    outputs = drive(Model({"main": COUNTER}, Scan("main", ("x",))), Calls(main=count), inputs)
    assert outputs["sum"].tolist() == [[11, 12], [11, 12]]


def test_scan_in_pieces_where_the_part_keeps_the_axis():
    window = part([("x", "float32", ("batch", 2))], [("y", "float32", ("batch",))])
    model = Model({"main": window}, Scan("main", ("x",)))
    session = Calls(main=lambda x: {"y": x.sum(axis=1)})
    assert drive(model, session, {"x": np.ones((1, 6), np.float32)})["y"].tolist() == [[2, 2, 2]]
    with pytest.raises(DataError, match="pieces of 2"):
        drive(model, session, {"x": np.ones((1, 5), np.float32)})


def test_scan_over_inputs_of_different_lengths_is_refused():
    both = part([("x", "float32", ("batch",)), ("z", "float32", ("batch",))], [("y", "float32", ("batch",))])
    model = Model({"main": both}, Scan("main", ("x", "z")))
    with pytest.raises(DataError, match=r"\[2, 3\] steps"):
        drive(model, Calls(), {"x": np.ones((1, 2)), "z": np.ones((1, 3))})


DECODER = part(
    [("token", "int64", ("batch", 1)), ("past", "float32", ("batch", "seen"))],
    [("logits", "float32", ("batch", 1, 5)), ("present", "float32", ("batch", "seen"))],
    {"present": "past"},
)


def countdown(token, past):
    """The next token is one less, and the cache grows by one."""
    logits = np.eye(5, dtype=np.float32)[np.maximum(token - 1, 0)] * 3
    return {"logits": logits, "present": np.concatenate([past, token.astype(np.float32)], axis=1)}


def test_greedy_without_encoder_keeps_a_cache_and_ends_at_stop():
    model = Model({"decoder": DECODER}, Greedy(None, "decoder", start=4, stop=0, max_length=10))
    session = Calls(decoder=countdown)
    outputs = drive(model, session, {"prompt": np.zeros((2, 1))})
    assert outputs["tokens"].tolist() == [[3, 2, 1, 0]] * 2
    assert outputs["lengths"].tolist() == [4, 4]
    assert outputs["log_probability"] == pytest.approx(np.full((2, 4), 3 - np.log(np.exp(3) + 4)))
    assert [given["past"].shape for _, given in session.given] == [(2, 0), (2, 1), (2, 2), (2, 3)]


def test_greedy_ends_at_its_greatest_length():
    model = Model({"decoder": DECODER}, Greedy(None, "decoder", start=4, stop=0, max_length=2))
    outputs = drive(model, Calls(decoder=countdown), {"prompt": np.zeros((1, 1))})
    assert outputs["tokens"].tolist() == [[3, 2]]


STAGE = part([("x", "float32", ("batch", 2))], [("output", "float32", ("batch", 2))])


@pytest.mark.parametrize(("threshold", "reached"), [(0.0, 0), (0.7, 2), (1.0, 4)])
def test_cascade_asks_later_stages_only_for_unsure_rows(threshold, reached):
    model = Model({"a": STAGE, "b": STAGE}, Cascade(("a", "b"), (threshold,)))
    session = Calls(a=lambda x: {"output": x}, b=lambda x: {"output": -x})
    inputs = np.array([[9, 0], [0.1, 0], [0, 8], [0, 0.2]], np.float32)
    outputs = drive(model, session, {"x": inputs})
    assert outputs["stage"].sum() == reached
    assert np.array_equal(outputs["output"], np.where(outputs["stage"][:, None] == 1, -inputs, inputs))
    assert [len(given["x"]) for _, given in session.given] == ([4, reached] if reached else [4])


def test_a_cascade_goes_on_from_what_is_no_number():
    model = Model({"a": STAGE, "b": STAGE}, Cascade(("a", "b"), (0.7,)))
    session = Calls(a=lambda x: {"output": x * np.nan}, b=lambda x: {"output": x})
    inputs = np.array([[9, 0], [0, 8]], np.float32)
    assert np.array_equal(drive(model, session, {"x": inputs})["output"], inputs)


def test_cascade_of_three_counts_stages_by_row():
    model = Model(dict.fromkeys("abc", STAGE), Cascade(("a", "b", "c"), (0.9, 0.9)))
    twice = {name: (lambda x: {"output": x * 10}) for name in "ab"}
    session = Calls(**twice, c=lambda x: {"output": x})
    outputs = drive(model, session, {"x": np.array([[1, 0], [0.01, 0], [0, 2]], np.float32)})
    assert outputs["stage"].tolist() == [0, 2, 0]


def test_cascade_needs_a_threshold_for_each_stage_but_the_last():
    with pytest.raises(DataError, match="2 stages take 1 thresholds"):
        drive(Model({"a": STAGE, "b": STAGE}, Cascade(("a", "b"), ())), Calls(), {"x": np.ones((1, 2))})


def test_single_part_by_another_name():
    session = Calls(other=lambda x: {"y": x[:, 0]})
    assert drive(Model({"other": LINE}, Single("other")), session, {"x": np.ones((1, 2))})["y"].tolist() == [1]

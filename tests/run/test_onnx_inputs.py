"""Calibration inputs: what each part is really fed, whatever the program, and never NaN."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from trimtab.errors import DataError
from trimtab.run.onnx_inputs import Inputs
from trimtab.values.model import Model
from trimtab.values.task import Batch, Example, Task, TaskView


@dataclass(frozen=True)
class Given(Task):
    """The rows of the arrays of a program, as training examples."""

    name = "given"
    objective = "none"
    metrics = ()
    arrays: dict = field(default_factory=dict)
    copies: int = 1

    def split(self, name):
        rows = range(len(next(iter(self.arrays.values()))))
        return [
            Example(f"{c}/{i}", {n: a[i] for n, a in self.arrays.items()}) for c in range(self.copies) for i in rows
        ]

    def collate(self, examples):
        return Batch({n: np.stack([e.inputs[n] for e in examples]) for n in self.arrays}, None)

    def score(self, outputs, batch):
        return np.zeros((len(batch), 1))


def inputs(program, **settings):
    copies = settings.pop("copies", 1)
    return Inputs(Model.open(program.folder), TaskView(Given(program.inputs, copies)), **settings)


def test_a_scanned_part_is_fed_its_state_too(stateful):
    feeds = list(inputs(stateful).of("main"))
    steps, width = stateful.inputs["sequence"].shape[1], 6
    assert len(feeds) == steps
    assert [sorted(feed) for feed in feeds] == [["h_in", "sequence"]] * steps
    assert sum(not feed["h_in"].any() for feed in feeds) == 1  # the first step
    assert all(feed["h_in"].shape == (3, width) for feed in feeds)


def test_a_decoder_is_fed_what_greedy_decoding_feeds_it(greedy):
    both = inputs(greedy)
    assert [len(feed["letters"]) for feed in both.of("encoder")] == [16]
    given = sorted(feed["token"].tolist() for feed in both.of("decoder"))
    tokens = greedy.expected["tokens"][np.random.default_rng(0).permutation(16)]
    expected = np.hstack([np.ones((16, 1), np.int64), tokens[:, : len(given) - 1]])
    assert given == sorted(expected.T.tolist())


def test_the_second_stage_sees_all_rows_however_sure_the_first_is(cascade):
    model = Model.open(cascade.folder)
    sure = replace(model, program=replace(model.program, thresholds=(0.0,)))
    for one in (model, sure):
        feeds = list(Inputs(one, TaskView(Given(cascade.inputs))).of("large"))
        assert sum(len(feed["features"]) for feed in feeds) == len(cascade.inputs["features"])
        assert set(feeds[0]) == {"features", "hidden"}


def test_long_programs_are_sampled_fairly(stateful):
    few = list(inputs(stateful, samples=5, copies=9).of("main"))
    assert len(few) == 5
    again = list(inputs(stateful, samples=5, copies=9).of("main"))
    assert all(np.array_equal(a["h_in"], b["h_in"]) for a, b in zip(few, again, strict=True))


def test_the_clock_is_looked_at(stateful):
    def late():
        raise TimeoutError

    with pytest.raises(TimeoutError):
        list(inputs(stateful, check_time=late).of("main"))


def test_nan_names_its_example(greedy):
    letters = greedy.inputs["letters"].copy()
    letters[5, 0, 0] = np.nan
    spoilt = Inputs(Model.open(greedy.folder), TaskView(Given({"letters": letters})))
    with pytest.raises(DataError, match=r"example '0/5' .* in 'letters'"):
        list(spoilt.of("decoder"))


def test_an_empty_split_and_an_absent_input(greedy, make_onnx, tmp_path):
    with pytest.raises(DataError, match="nothing to calibrate on"):
        list(Inputs(Model.open(greedy.folder), TaskView(Given(greedy.inputs, 0))).of("encoder"))
    specs = [("other", "float32", ["batch", 4])], [("output", "float32", ["batch", 2])]
    part = make_onnx(tmp_path / "m", [("MatMul", "other W", "output", {})], *specs, {"W": np.eye(4, 2, dtype="f")})
    with pytest.raises(DataError, match="takes 'other'; given gives letters"):
        list(Inputs(Model({"main": part}), TaskView(Given(greedy.inputs))).of("main"))

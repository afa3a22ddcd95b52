"""A graph of one step becomes one of whole sequences that answers the same, pieces of any length after each other."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from step_graph import IN, step_graph
from trimtab.errors import Refused
from trimtab.passes import Context, _graph
from trimtab.run import onnx_files
from trimtab.run.onnx_unroll import CannotUnroll, unrolled
from trimtab.run.program import drive
from trimtab.values.model import Model, Part, Scan, Single
from trimtab.values.task import Batch, Example, Task, TaskView

module = pytest.importorskip("trimtab.passes.unroll")
Unroll = module.Unroll


class Frames(Task):
    """Sequences of frames, scored by `output`."""

    name, objective, metrics = "frames", "none", ()

    def split(self, name):
        rng = np.random.default_rng(len(name))
        return [Example(str(i), {"x": rng.normal(size=(4 + i, IN)).astype(np.float32)}) for i in range(6)]

    def collate(self, examples):
        longest = max(len(one.inputs["x"]) for one in examples)
        padded = [np.pad(one.inputs["x"], ((0, longest - len(one.inputs["x"])), (0, 0))) for one in examples]
        return Batch({"x": np.stack(padded)}, None)

    def score(self, outputs, batch):
        return outputs["output"]


def stepwise(proto, folder):
    part = onnx_files.save(proto, folder / "main")
    signature = replace(part.signature, state={"stateN": "state"})
    part = Part("onnx", part.path, signature, replace(part.facts, calls=6))
    return Model({"main": part}, Scan("main", ("x",)))


@pytest.fixture
def context(tmp_path, machine):
    (tmp_path / "to").mkdir()
    return Context(TaskView(Frames()), tmp_path / "to", machine)


def answers(model, **inputs):
    return drive(model, _graph.Graphs.of(model), inputs)


@pytest.mark.parametrize(("kind", "layers"), [("LSTM", 1), ("LSTM", 2), ("GRU", 2), ("RNN", 1)])
def test_whole_sequences_give_what_steps_give(tmp_path, context, kind, layers):
    before = stepwise(step_graph(kind, layers), tmp_path)
    after = Unroll().apply(before, context)
    assert after.program == Single("main")
    assert after.main.facts.calls == 1
    assert after.notes["unroll"]["largest_difference"] < 1e-5
    kinds = [node.op_type for node in onnx_files.load(after.main).graph.node]
    assert kinds.count(kind) == layers


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(rows=st.integers(1, 4), cut=st.integers(1, 5), length=st.integers(6, 9), seed=st.integers(0, 9))
def test_a_stream_may_be_cut_anywhere(tmp_path_factory, machine, rows, cut, length, seed):
    root = tmp_path_factory.mktemp("stream")
    (root / "to").mkdir()
    before = stepwise(step_graph("LSTM", 2, seed), root)
    after = Unroll().apply(before, Context(TaskView(Frames()), root / "to", machine))
    x = np.random.default_rng(seed).normal(size=(rows, length, IN)).astype(np.float32)
    wanted, first = answers(before, x=x), answers(after, x=x[:, :cut])
    second = answers(after, x=x[:, cut:], state=first["stateN"])
    found = np.concatenate([first["output"], second["output"]], axis=1)
    np.testing.assert_allclose(found, wanted["output"], atol=1e-5)
    np.testing.assert_allclose(second["stateN"], wanted["stateN"], atol=1e-5)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("reverse", "hangs on state through LSTM"),
        ("leak", "output hangs on state through Add"),
        ("decay", "stateN hangs on state through Mul"),
    ],
)
def test_other_ways_of_carrying_state_are_refused(tmp_path, context, broken, why):
    with pytest.raises(Refused, match=why):
        Unroll().apply(stepwise(step_graph(break_it=broken), tmp_path), context)


def test_state_that_is_mixed_up_is_seen_by_its_answers(tmp_path, context):
    proto = step_graph()
    concat = proto.graph.node[-1]
    concat.input[:] = reversed(concat.input)
    with pytest.raises(Refused, match="answers otherwise"):
        Unroll().apply(stepwise(proto, tmp_path), context)


def test_inputs_of_each_step_and_inner_graphs_are_refused():
    proto = step_graph()
    proto.graph.input.append(helper.make_tensor_value_info("rate", TensorProto.FLOAT, []))
    with pytest.raises(CannotUnroll, match="rate is given anew to each step"):
        unrolled(proto, ("x",), {"stateN": "state"})
    proto = step_graph()
    then = helper.make_graph(
        [helper.make_node("Identity", ["row"], ["same"])], "then", [], [onnx.ValueInfoProto(name="same")]
    )
    proto.graph.node.append(helper.make_node("If", ["row"], ["chosen"], then_branch=then, else_branch=then))
    with pytest.raises(CannotUnroll, match="holds If"):
        unrolled(proto, ("x",), {"stateN": "state"})


def test_it_is_offered_where_a_recurrent_part_is_called_step_by_step(tmp_path, machine, context):
    model = stepwise(step_graph(), tmp_path)
    (offered,) = Unroll.choices(model.facts, machine)
    after = offered.predict(model.facts, machine)
    assert (after.calls, after.operations) == (1, 6 * model.facts.operations)
    assert not Unroll.choices(after, machine)
    with pytest.raises(Refused, match="this one is not"):
        Unroll().apply(replace(model, program=Single()), context)

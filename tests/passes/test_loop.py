"""A decoder inside one graph says what the driver makes it say."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from trimtab.errors import Refused
from trimtab.passes import Context, _graph
from trimtab.run import onnx_files
from trimtab.run.onnx_loop import CannotLoop, looped
from trimtab.run.program import drive
from trimtab.values.model import Greedy, Model, Single
from trimtab.values.task import Batch, Example, Task, TaskView

module = pytest.importorskip("trimtab.passes.loop")
Loop = module.Loop


class Words(Task):
    """The inputs of the fixture `greedy`, scored by what `reads` names."""

    name, objective, metrics = "words", "none", ()

    def __init__(self, letters, reads=("tokens", "lengths")):
        self.letters, self.reads = letters, reads

    def split(self, name):
        return [Example(str(i), {"letters": one}) for i, one in enumerate(self.letters)]

    def collate(self, examples):
        return Batch({"letters": np.stack([one.inputs["letters"] for one in examples])}, None)

    def score(self, outputs, batch):
        return [outputs[name] for name in self.reads]


@pytest.fixture
def context(greedy, tmp_path, machine):
    (tmp_path / "to").mkdir()
    return Context(TaskView(Words(greedy.inputs["letters"])), tmp_path / "to", machine)


def answers(model, inputs):
    return drive(model, _graph.Graphs.of(model), inputs)


@pytest.mark.parametrize("rows", [1, 16])
def test_it_says_the_same(greedy, context, rows):
    task = Words(greedy.inputs["letters"], ("tokens", "lengths", "log_probability"))
    before = Model.open(greedy.folder)
    after = Loop().apply(before, replace(context, task=TaskView(task)))
    assert after.program == Single()
    assert list(after.parts) == ["main"]
    found, wanted = (answers(one, {"letters": greedy.inputs["letters"][:rows]}) for one in (after, before))
    np.testing.assert_array_equal(found["tokens"], wanted["tokens"])
    np.testing.assert_array_equal(found["lengths"], wanted["lengths"])
    np.testing.assert_allclose(found["log_probability"], wanted["log_probability"], atol=1e-5)


def test_what_the_task_does_not_read_is_not_computed(greedy, context):
    after = Loop().apply(Model.open(greedy.folder), context)
    assert [spec.name for spec in after.main.signature.outputs] == ["tokens", "lengths"]
    body = next(node for node in onnx_files.load(after.main).graph.node if node.op_type == "Loop").attribute[0].g
    assert "LogSoftmax" not in [node.op_type for node in body.node]


def test_it_stops_at_the_most_steps(greedy, context):
    before = Model.open(greedy.folder)
    before = replace(before, program=replace(before.program, stop=6, max_length=3))
    found = answers(Loop().apply(before, context), greedy.inputs)
    np.testing.assert_array_equal(found["tokens"], answers(before, greedy.inputs)["tokens"])
    assert found["tokens"].shape[1] == 3


def test_a_state_that_no_encoder_gives_is_refused(greedy, context):
    model = Model.open(greedy.folder)
    alone = replace(model, parts={"decoder": model.parts["decoder"]}, program=replace(model.program, encoder=None))
    view = TaskView(Words(greedy.inputs["letters"]))
    with pytest.raises(CannotLoop, match="h_in starts from nothing"):
        looped({"decoder": (onnx_files.load(alone.main), alone.main)}, alone.program, False)
    with pytest.raises(Refused, match="this one does not"):
        Loop().apply(replace(alone, program=Single("decoder")), replace(context, task=view))


@pytest.mark.parametrize(("version", "why"), [(12, "different versions, 17 and 12"), (None, "sparse weights")])
def test_graphs_that_cannot_be_joined_are_refused(greedy, version, why):
    model = Model.open(greedy.folder)
    parts = {name: (onnx_files.load(part), part) for name, part in model.parts.items()}
    decoder = parts["decoder"][0]
    if version:
        decoder.opset_import[0].version = version
    else:
        decoder.graph.sparse_initializer.append(onnx.SparseTensorProto())
    with pytest.raises(CannotLoop, match=why):
        looped(parts, model.program, False)


def test_it_is_offered_to_decoders_alone(greedy, machine):
    facts = replace(Model.open(greedy.folder).facts, layers={"embedding": 1})
    assert not Loop.choices(facts, machine)
    (offered,) = Loop.choices(replace(facts, calls=7), machine)
    after = offered.predict(replace(facts, calls=7), machine)
    assert (after.calls, after.operations) == (1, 7 * facts.operations)
    assert isinstance(Model.open(greedy.folder).program, Greedy)

"""Export: the graph that comes out computes what torch computed, or is refused."""

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import torch

from trimtab.errors import Refused
from trimtab.fit import module
from trimtab.passes import Context
from trimtab.passes import onnx as export
from trimtab.passes.onnx import Onnx
from trimtab.run import onnx_check, onnx_files
from trimtab.sources.zoo import Zoo
from trimtab.values.facts import Facts
from trimtab.values.model import Model
from trimtab.values.task import Batch, Example, Task, TaskView


@dataclass(frozen=True)
class Sequences(Task):
    """Padded sequences of 3 to 9 steps."""

    name = "sequences"
    objective = "cross_entropy"
    labels = ("a", "b")
    metrics = ()

    def split(self, name):
        rng = np.random.default_rng(0)
        lengths = rng.integers(3, 10, 30)
        steps = [rng.normal(size=(int(n), 4)).astype(np.float32) for n in lengths]
        return [Example(str(i), {"sequence": s, "length": np.array(len(s))}, i % 2) for i, s in enumerate(steps)]

    def collate(self, examples):
        lengths = np.array([int(e.inputs["length"]) for e in examples])
        padded = np.zeros((len(examples), lengths.max(), 4), np.float32)
        for row, example in zip(padded, examples, strict=True):
            row[: len(example.inputs["sequence"])] = example.inputs["sequence"]
        return Batch({"sequence": padded, "length": lengths}, np.array([e.target for e in examples]))

    def score(self, outputs, batch):
        return np.zeros((len(batch), 1))


@dataclass(frozen=True)
class Images(Sequences):
    """Noise of 1 x 12 x 12."""

    def split(self, name):
        noise = np.random.default_rng(1).normal(size=(30, 1, 12, 12)).astype(np.float32)
        return [Example(str(i), {"image": image}, i % 2) for i, image in enumerate(noise)]

    def collate(self, examples):
        return Batch({"image": np.stack([e.inputs["image"] for e in examples])}, np.zeros(len(examples), int))


def exported(net, folder, machine, settings):
    recurrent = net.startswith(("lstm", "gru", "transformer"))
    view = TaskView(Sequences() if recurrent else Images())
    torch.set_num_threads(1)
    model = Zoo().open(net, folder / "torch", view)
    return model, Onnx(**settings).apply(model, Context(view, folder / "onnx", machine)), view


def same_as_torch(before, after, batch):
    session = onnx_check.session(after.main.path / "model.onnx")
    given = session.run(None, {s.name: batch.inputs[s.name] for s in after.main.signature.inputs})[0]
    with torch.no_grad():
        expected = module.load(before.main)(*module.arguments(batch, before.main.signature)).numpy()
    return np.allclose(given, expected, atol=1e-5)


@pytest.mark.parametrize(
    "net", ["mlp(width=8)", "vgg(width=4, depth=1)", "resnet(width=4)", "lstm(width=8)", "gru(width=8)"]
)
def test_outputs_equal_torch_at_an_unseen_batch(net, tmp_path, machine):
    before, after, view = exported(net, tmp_path, machine, {"exporter": "torchscript"})
    assert same_as_torch(before, after, next(view.batches("validation", 11)))
    assert after.notes["onnx"]["exporter"] == "torchscript"
    assert after.notes["onnx"]["max_difference"] < 1e-5
    assert after.main.signature.inputs == before.main.signature.inputs
    assert after.main.facts.operations == pytest.approx(before.main.facts.operations, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("net", ["resnet(width=4)", "lstm(width=8)", "transformer(width=16, depth=1)"])
def test_the_newer_exporter_equals_torch(net, tmp_path, machine):
    before, after, view = exported(net, tmp_path, machine, {})
    assert same_as_torch(before, after, next(view.batches("validation", 11)))
    assert (after.notes["onnx"]["exporter"], after.notes["onnx"]["failed_first"]) == ("dynamo", [])
    assert after.main.signature.inputs == before.main.signature.inputs


def test_batch_norms_are_folded_and_no_path_of_this_machine_stays(tmp_path, machine):
    _, after, _ = exported("resnet(width=4)", tmp_path, machine, {"exporter": "torchscript"})
    proto = onnx_files.load(after.main)
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}
    assert not any(node.doc_string or node.metadata_props for node in proto.graph.node)
    assert b".py" not in proto.SerializeToString()
    onnx.checker.check_model(proto)


def test_a_length_baked_into_the_graph_is_found_and_nothing_is_printed(tmp_path, machine, monkeypatch, capfd):
    monkeypatch.setattr(export, "_dynamo", lambda *a: (_ for _ in ()).throw(RuntimeError("not today")))
    with pytest.raises(Refused, match=r"torchscript: .*Reshape.*dynamo: not today"):
        exported("transformer(width=16, depth=1)", tmp_path, machine, {"exporter": "torchscript"})
    assert capfd.readouterr() == ("", "")


TORCHSCRIPT = export._torchscript


def scale_weights(proto):
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor) * 1.5
        tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), tensor.name))


def test_the_other_exporter_takes_over_and_is_named(tmp_path, machine, monkeypatch):
    monkeypatch.setattr(export, "_dynamo", lambda *a: (_ for _ in ()).throw(RuntimeError("no such operator\nmore")))
    before, after, view = exported("mlp(width=8)", tmp_path, machine, {})
    assert after.notes["onnx"]["exporter"] == "torchscript"
    assert after.notes["onnx"]["failed_first"] == ["dynamo: no such operator"]
    assert same_as_torch(before, after, next(view.batches("validation", 3)))


def test_a_graph_that_computes_something_else_is_refused_with_the_figure(tmp_path, machine, monkeypatch):
    def wrong(*arguments):
        proto = TORCHSCRIPT(*arguments)
        scale_weights(proto)
        return proto

    for name in ("_dynamo", "_torchscript"):
        monkeypatch.setattr(export, name, wrong)
    with pytest.raises(Refused, match=r"differs from torch by 0\.\d+ at batch 1; at most"):
        exported("mlp(width=8)", tmp_path, machine, {})


def test_running_out_of_memory_is_not_a_refusal(tmp_path, machine, monkeypatch):
    monkeypatch.setattr(export, "_dynamo", lambda *a: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        exported("mlp(width=8)", tmp_path, machine, {})


def test_models_of_several_parts_or_with_state_are_refused(stateful, cascade, machine):
    for program in (stateful, cascade):
        assert "one part without state" in Onnx().refuses(Model.open(program.folder), machine)


@pytest.mark.parametrize("settings", [{"opset": 9}, {"opset": 99}, {"exporter": "tensorflow"}])
def test_settings_that_fit_nothing(settings):
    with pytest.raises(ValueError, match=r"opset is 17 to 23|exporter is dynamo or torchscript"):
        Onnx(**settings)


def test_a_prediction_changes_the_format_only(machine):
    facts = Facts("torch", 10, 20, {"conv": 1})
    assert Onnx().predict(facts, machine) == Facts("onnx", 10, 20, {"conv": 1})
    assert Onnx.choices(facts, machine) == (Onnx(),)


def test_outputs_are_compared_at_two_batch_sizes_and_lengths(tmp_path, machine):
    one, five = export._batches(Context(TaskView(Sequences()), tmp_path, machine))
    assert (one.inputs["sequence"].shape[:2], five.inputs["sequence"].shape[:2]) == ((1, 3), (5, 9))

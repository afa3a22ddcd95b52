"""Export: the graph that comes out computes what torch computed, or is refused."""

from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import small_data
import small_texts
from trimtab.errors import Refused
from trimtab.fit import module
from trimtab.fit.code import code_hash
from trimtab.fit.exporting import reason
from trimtab.passes import Context
from trimtab.passes import _onnx_export as exporters
from trimtab.passes import onnx as export
from trimtab.passes.onnx import Onnx
from trimtab.run import onnx_check, onnx_files
from trimtab.run.program import drive
from trimtab.runtimes.onnxruntime import OnnxRuntime as Ort
from trimtab.runtimes.torch import Torch
from trimtab.sources.zoo import Zoo
from trimtab.values.facts import Facts
from trimtab.values.model import Cascade, Model, Scan, Signature, TensorSpec
from trimtab.values.registry import registry
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_length_baked_into_the_graph_is_found_and_nothing_is_printed(tmp_path, machine, monkeypatch, capfd):
    monkeypatch.setattr(exporters, "_dynamo", lambda *a: (_ for _ in ()).throw(RuntimeError("not today")))
    with pytest.raises(Refused, match=r"torchscript: .*Reshape.*dynamo: not today"):
        exported("transformer(width=16, depth=1)", tmp_path, machine, {"exporter": "torchscript"})
    assert capfd.readouterr() == ("", "")


TORCHSCRIPT = exporters._torchscript


def scale_weights(proto):
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor) * 1.5
        tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), tensor.name))


def test_the_other_exporter_takes_over_and_is_named(tmp_path, machine, monkeypatch):
    monkeypatch.setattr(exporters, "_dynamo", lambda *a: (_ for _ in ()).throw(RuntimeError("no such operator\nmore")))
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
        monkeypatch.setattr(exporters, name, wrong)
    with pytest.raises(Refused, match=r"differs from torch by 0\.\d+ at batch 1; at most"):
        exported("mlp(width=8)", tmp_path, machine, {})


def test_running_out_of_memory_is_not_a_refusal(tmp_path, machine, monkeypatch):
    monkeypatch.setattr(exporters, "_dynamo", lambda *a: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        exported("mlp(width=8)", tmp_path, machine, {})


def test_every_part_of_a_greedy_program_is_exported_with_its_state(tmp_path, machine):
    view = TaskView(small_data.cmudict(tmp_path))
    model = Zoo().open("g2p(width=8, pretrained=False)", tmp_path / "torch", view)
    after = Onnx(exporter="torchscript").apply(model, Context(view, tmp_path / "onnx", machine))
    assert after.program == model.program
    assert after.notes["onnx"]["exporter"] == "torchscript"
    for name, part in after.parts.items():
        assert (part.format, part.signature.inputs) == ("onnx", model.parts[name].signature.inputs)
    assert dict(after.parts["decoder"].signature.state) == {"state_out": "state"}
    assert after.parts["encoder"].facts.operations == pytest.approx(model.parts["encoder"].facts.operations, rel=0.1)
    inputs = next(view.batches("validation", 5)).inputs
    told, said = (
        drive(each, runtime().load(each, machine), inputs) for each, runtime in ((model, Torch), (after, Ort))
    )
    assert np.array_equal(told["tokens"], said["tokens"])
    np.testing.assert_allclose(told["log_probability"], said["log_probability"], atol=1e-5)


class Step(nn.Module):
    """One step of a recurrent net whose past grows: state [N, past]."""

    def forward(self, sequence, past):
        past = torch.cat([past, sequence.sum(1, keepdim=True)], dim=1)
        return {"total": past.sum(1, keepdim=True), "present": past}


def build_step():
    return Step()


def test_a_state_that_grows_is_exported_at_its_second_step_and_checked_at_the_first(tmp_path, machine):
    view = TaskView(Sequences())
    signature = Signature(
        (TensorSpec("sequence", "float32", ("batch", 4)), TensorSpec("past", "float32", ("batch", "past"))),
        (TensorSpec("total", "float32", ("batch", 1)), TensorSpec("present", "float32", ("batch", "past"))),
        {"present": "past"},
    )
    batch = Batch({"sequence": np.ones((2, 4), np.float32), "past": np.ones((2, 3), np.float32)}, None)
    build = {"ref": f"{__file__}:build_step", "arguments": {}, "sha256": code_hash(f"{__file__}:here")}
    part = module.save(Step(), tmp_path / "torch" / "main", signature, build, (), batch)
    model = Model({"main": part}, Scan("main", ("sequence",)))
    after = Onnx(exporter="torchscript").apply(model, Context(view, tmp_path / "onnx", machine))
    sequence = next(view.batches("validation", 3)).inputs["sequence"]
    said = drive(after, Ort().load(after, machine), {"sequence": sequence})
    np.testing.assert_allclose(said["total"][:, :, 0], sequence.sum(2).cumsum(1), rtol=1e-5)


def test_a_part_that_no_example_reaches_is_refused(tmp_path, machine):
    view = TaskView(Images())
    model = Zoo().open("mlp(width=4)", tmp_path / "torch", view)
    model = replace(model, parts={**model.parts, "spare": model.main})
    with pytest.raises(Refused, match="the part 'spare' was not run on any example"):
        Onnx(exporter="torchscript").apply(model, Context(view, tmp_path / "onnx", machine))


def test_both_stages_of_a_cascade_are_exported(tmp_path, machine):
    view = TaskView(Images())
    small, large = (Zoo().open(f"mlp(width={n})", tmp_path / f"{n}", view).main for n in (4, 6))
    model = Model({"small": small, "large": large}, Cascade(("small", "large"), (0.0,)))
    after = Onnx(exporter="torchscript").apply(model, Context(view, tmp_path / "onnx", machine))
    assert {name: part.format for name, part in after.parts.items()} == {"small": "onnx", "large": "onnx"}


class Branch(nn.Module):
    """Decides on a value: what an exporter cannot see in one run."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(144, 2)

    def forward(self, image):
        found = self.head(image.flatten(1))
        if found.sum() > 1e3:
            found = found * 2
        return found


class Packed(nn.Module):
    """Reads packed sequences: the last state alone, or the outputs unpacked again."""

    def __init__(self, unpack):
        super().__init__()
        self.unpack, self.core = unpack, nn.LSTM(4, 2, batch_first=True)

    def forward(self, sequence, length):
        packed = nn.utils.rnn.pack_padded_sequence(sequence, length, batch_first=True, enforce_sorted=False)
        steps, (state, _) = self.core(packed)
        if not self.unpack:
            return state[-1]
        steps, _ = nn.utils.rnn.pad_packed_sequence(steps, batch_first=True, total_length=sequence.shape[1])
        return steps.sum(1)


def build_branch():
    return Branch()


def build_packed(unpack):
    return Packed(unpack)


def own(folder, view, name, **arguments):
    """Return a model built by a function of this file."""
    net = globals()[name](**arguments)
    build = {"ref": f"{__file__}:{name}", "arguments": arguments, "sha256": code_hash(f"{__file__}:here")}
    return Model({"main": module.save(net, folder, module.signature(net, view), build, (), module.example(view))})


def test_a_branch_on_values_is_never_written_down_as_one_of_its_ways(tmp_path, machine, capfd, monkeypatch):
    monkeypatch.setattr(exporters, "_dynamo", lambda *a: (_ for _ in ()).throw(RuntimeError("not today")))
    view = TaskView(Images())
    model = own(tmp_path / "torch", view, "build_branch")
    says = r"torchscript: line \d+ of test_onnx.py decides on values that are known only at run time.* served by torch"
    with pytest.raises(Refused, match=says):
        Onnx(exporter="torchscript").apply(model, Context(view, tmp_path / "onnx", machine))
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_the_newer_exporter_names_the_line_too(tmp_path, machine):
    view = TaskView(Images())
    model = own(tmp_path / "torch", view, "build_branch")
    says = r"dynamo: line \d+ of test_onnx.py decides on values .*: if found.sum\(\) > 1e3:"
    with pytest.raises(Refused, match=says):
        Onnx().apply(model, Context(view, tmp_path / "onnx", machine))


@pytest.mark.slow
@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_an_encoder_of_transformers_reads_any_batch_and_length(tmp_path, machine, exporter):
    pytest.importorskip("transformers")
    folder, path = small_texts.write_encoder(tmp_path / "encoder"), small_texts.write_reviews(tmp_path / "reviews.csv")
    settings = {"target": "label", "text": "review", "tokenizer": str(folder), "max_length": 10}
    view = TaskView(registry("tasks").take("text")(str(path), **settings))
    (tmp_path / "torch").mkdir()
    model = registry("sources").take("hf")().open(str(folder), tmp_path / "torch", view)
    after = Onnx(exporter=exporter).apply(model, Context(view, tmp_path / "onnx", machine))
    assert after.notes["onnx"]["exporter"] == exporter
    assert [spec.shape for spec in after.main.signature.inputs] == [("batch", "time"), ("batch", "time")]
    for size in (1, 7):
        assert same_as_torch(model, after, next(view.batches("validation", size)))


@pytest.mark.parametrize("unpack", [True, False])
def test_packed_sequences(tmp_path, machine, monkeypatch, unpack):
    monkeypatch.setattr(exporters, "_dynamo", lambda *a: (_ for _ in ()).throw(RuntimeError("not today")))
    view = TaskView(Sequences())
    model = own(tmp_path / "torch", view, "build_packed", unpack=unpack)
    step, context = Onnx(exporter="torchscript"), Context(view, tmp_path / "onnx", machine)
    if not unpack:
        with pytest.raises(Refused, match="a packed sequence is never unpacked: read its last valid step from"):
            step.apply(model, context)
        return
    assert same_as_torch(model, step.apply(model, context), next(view.batches("validation", 11)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("No ONNX function found for <OpOverload(op='mine.twice', overload='default')>.", "operator mine.twice has no"),
        ("export failed on an operator with unrecognized namespace mine::twice. If you", "operator mine::twice has no"),
        ("Exporting the operator 'aten::foo' to ONNX opset version 20 is not supported", "operator aten::foo has no"),
        ("Failed\n## Exception summary\n\n<class 'TypeError'>: zeros() got a list\n", "zeros() got a list"),
        ("", "ValueError"),
    ],
)
def test_why_an_export_failed_is_said_in_one_line(text, says):
    said = reason(ValueError(text))
    assert says in said
    assert "\n" not in said


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


def test_answers_of_minus_infinity_and_truth_values_are_compared():
    masked, yes = np.array([[1.0, -np.inf]], np.float32), np.array([True, False])
    assert export._compare("output", masked, masked.copy(), 1) == 0.0
    assert export._compare("yes", yes, yes.copy(), 1) == 0.0
    for expected, given in ((masked, np.array([[1.0, 0.0]], np.float32)), (yes, ~yes)):
        with pytest.raises(Refused, match="differs from torch"):
            export._compare("output", expected, given, 1)

"""What a net reads becomes smaller in front of it: images by a resize, sequences by leaving off their end."""

from dataclasses import replace

import numpy as np
import pytest

from trimtab.errors import Refused
from trimtab.passes import Context
from trimtab.passes._graph import Graphs
from trimtab.run import onnx_files
from trimtab.run.program import drive
from trimtab.values.facts import Facts
from trimtab.values.model import Greedy, Model, Scan
from trimtab.values.task import Batch, Example, Task, TaskView

torch = pytest.importorskip("torch")
from trimtab.fit import code  # noqa: E402
from trimtab.fit import module as artefact  # noqa: E402
from trimtab.passes.distill import Distill  # noqa: E402
from trimtab.passes.downscale import Downscale  # noqa: E402
from trimtab.passes.truncate import Truncate  # noqa: E402

CODE = """
import torch
from torch import nn

def pooled():
    body = nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(4, 3))

def flat():
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 48 * 48, 3))

def dense():
    return nn.Conv2d(2, 4, 3, padding=1)

class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.core, self.head = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, sequence, length):
        steps, _ = self.core(sequence)
        return self.head(steps[torch.arange(len(length)), length - 1])

class Tagger(Reader):
    def forward(self, sequence, length):
        return self.head(self.core(sequence)[0])
"""


class Images(Task):
    """Random images of 2 channels."""

    name, objective, metrics, side = "images", "none", (), 48

    def split(self, name):
        rng = np.random.default_rng(len(name))
        return [
            Example(str(i), {"image": rng.normal(size=(2, self.side, self.side)).astype(np.float32)}) for i in range(4)
        ]

    def collate(self, examples):
        return Batch({"image": np.stack([one.inputs["image"] for one in examples])}, None)

    def score(self, outputs, batch):
        return outputs["output"]


class Sequences(Images):
    """Random sequences of 4 numbers a step, from 1 to 20 steps long."""

    def split(self, name):
        rng = np.random.default_rng(len(name))
        return [
            Example(str(i), {"sequence": rng.normal(size=(i + 1, 4)).astype(np.float32), "length": np.int64(i + 1)})
            for i in range(20)
        ]

    def collate(self, examples):
        longest = max(len(one.inputs["sequence"]) for one in examples)
        padded = [
            np.pad(one.inputs["sequence"], ((0, longest - len(one.inputs["sequence"])), (0, 0))) for one in examples
        ]
        return Batch(
            {"sequence": np.stack(padded), "length": np.array([one.inputs["length"] for one in examples])}, None
        )


@pytest.fixture
def make(tmp_path, machine):
    """make(name, task): the model of a callable in CODE, and a context for passes."""
    (tmp_path / "net.py").write_text(CODE)

    def opened(name, task):
        view = TaskView(task)
        ref = f"{tmp_path / 'net.py'}:{name}"
        build = {"ref": ref, "arguments": {}, "sha256": code.code_hash(ref)}
        net = code.build(build)
        part = artefact.save(net, tmp_path / "base", artefact.signature(net, view), build, (), artefact.example(view))
        (tmp_path / "to").mkdir()
        return Model({"main": part}), Context(view, tmp_path / "to", machine)

    return opened


def answer(model, **inputs):
    with torch.no_grad():
        return artefact.load(model.main)(*(torch.from_numpy(np.asarray(each)) for each in inputs.values())).numpy()


def test_images_are_resized_before_the_net(make):
    model, context = make("pooled", Images())
    after = Downscale().apply(model, context)
    image = np.random.default_rng(0).normal(size=(3, 2, 48, 48)).astype(np.float32)
    smaller = image.reshape(3, 2, 24, 2, 24, 2).mean((3, 5))
    np.testing.assert_allclose(answer(after, image=image), answer(model, image=smaller), rtol=1e-4, atol=1e-5)
    assert after.main.signature == model.main.signature
    assert after.notes["downscale"] == {"image": [[48, 48], [24, 24]]}
    assert after.main.facts.operations < 0.3 * model.main.facts.operations
    assert Distill.choices(after.main.facts, context.machine)
    again = Downscale().predict(model.facts, context.machine)
    assert again.operations == pytest.approx(after.main.facts.operations, rel=0.05)


def test_maps_get_their_size_back(make):
    model, context = make("dense", Images())
    after = Downscale().apply(model, context)
    image = np.ones((1, 2, 48, 48), np.float32)
    found, wanted = answer(after, image=image), answer(model, image=image)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found[:, :, 8:16, 8:16], wanted[:, :, 8:16, 8:16], rtol=1e-4, atol=1e-5)


def test_nets_that_are_made_for_one_size_refuse(make):
    model, context = make("flat", Images())
    with pytest.raises(Refused, match="cannot take: mat1 and mat2"):
        Downscale().apply(model, context)


def graph(make_onnx, folder, kind, side=48):
    """Write an ONNX graph of one convolution, and what makes an answer of it."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(size=(4, 2, 3, 3)),
        "head": rng.normal(size=(4 if kind == "pooled" else 4 * side**2, 3)),
    }
    constants = {name: value.astype(np.float32) for name, value in constants.items()}
    nodes = [("Conv", "image w", "output" if kind == "dense" else "c", {"pads": [1, 1, 1, 1]})]
    nodes += [("GlobalAveragePool", "c", "g", {})] if kind == "pooled" else []
    source = "g" if kind == "pooled" else "c"
    nodes += [("Flatten", source, "f", {}), ("MatMul", "f head", "output", {})] if kind != "dense" else []
    sides = ["h", "w_"] if kind == "dense" else [side, side]
    gives = [("output", "float32", ["batch", 4, "h", "w_"] if kind == "dense" else ["batch", 3])]
    used = {name: value for name, value in constants.items() if name == "w" or kind != "dense"}
    part = make_onnx(folder, nodes, [("image", "float32", ["batch", 2, *sides])], gives, used)
    return Model({"main": part})


@pytest.mark.parametrize(("kind", "opset"), [("pooled", 17), ("dense", 17), ("dense", 11)])
def test_graphs_are_resized_too(make_onnx, tmp_path, machine, kind, opset):
    model = graph(make_onnx, tmp_path / "main", kind)
    proto = onnx_files.load(model.main)
    proto.opset_import[0].version = opset
    (tmp_path / "main" / "model.onnx").write_bytes(proto.SerializeToString())
    (tmp_path / "to").mkdir()
    after = Downscale(scale=0.6).apply(model, Context(TaskView(Images()), tmp_path / "to", machine))
    assert after.notes["downscale"]["image"] == [[48, 48], [28, 28]]
    assert after.main.signature.inputs[0].shape == ("batch", 2, 48, 48), "its answers have the size of these images"
    image = np.ones((3, 2, 48, 48), np.float32)
    found, wanted = (drive(one, Graphs.of(one), {"image": image})["output"] for one in (after, model))
    assert found.shape == wanted.shape
    if kind == "dense":
        np.testing.assert_allclose(found[:, :, 8:16, 8:16], wanted[:, :, 8:16, 8:16], rtol=1e-4, atol=1e-5)
        assert after.main.facts.operations == 9 * 2 * 4 * 28 * 28


def test_graphs_that_are_made_for_one_size_refuse(make_onnx, tmp_path, machine):
    model = graph(make_onnx, tmp_path / "main", "flat")
    (tmp_path / "to").mkdir()
    with pytest.raises(Refused, match="smaller images this model cannot take"):
        Downscale().apply(model, Context(TaskView(Images()), tmp_path / "to", machine))


def test_the_end_of_sequences_is_not_read(make):
    model, context = make("Reader", Sequences())
    after = Truncate(share=0.3).apply(model, context)
    assert after.notes["truncate"]["length"] == 6  # three tenths of 19, which 95% of 1 to 20 do not exceed
    sequence = np.random.default_rng(0).normal(size=(2, 9, 4)).astype(np.float32)
    found = answer(after, sequence=sequence, length=[9, 4])
    np.testing.assert_allclose(found, answer(model, sequence=sequence[:, :6], length=[6, 4]), rtol=1e-5)
    sequence[:, 6:] += 1
    np.testing.assert_array_equal(found, answer(after, sequence=sequence, length=[9, 4]))


def test_what_they_do_not_take_is_told(make, machine):
    model, _ = make("Tagger", Sequences())
    assert "answers at each step" in Truncate().refuses(model, machine)
    assert "takes images" in Downscale().refuses(model, machine)
    for program in (Scan("main", ("sequence",)), Greedy(None, "main", 0, 1, 9)):
        other = Model(model.parts, program)
        assert "models of one network" in Truncate().refuses(other, machine)
        assert "models of one network" in Downscale().refuses(other, machine)


def test_small_images_and_fixed_inputs_stay(make, machine):
    class Small(Images):
        side = 40

    model, context = make("pooled", Small())
    with pytest.raises(Refused, match="40 pixels a side are too small"):
        Downscale(scale=0.5).apply(model, context)
    assert "any length" in Truncate().refuses(model, machine)


def test_arguments_and_offers(machine):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        Downscale(scale=1.0)
    with pytest.raises(ValueError, match="below 1"):
        Truncate(share=1.0)
    images = Facts("torch", 1000, 1000, {"conv": 2}, operations_by={"conv": 900})
    assert [str(one) for one in Downscale.choices(images, machine)] == ["downscale"]
    graphs = [str(one) for one in Downscale.choices(replace(images, format="onnx"), machine)]
    assert graphs == ["downscale(scale=0.8)", "downscale(scale=0.7)", "downscale(scale=0.6)"]
    assert not Truncate.choices(images, machine)
    texts = Facts("torch", 1000, 10**9, {"attention": 2})
    assert [str(one) for one in Truncate.choices(texts, machine)] == ["truncate"]
    assert not Downscale.choices(texts, machine)

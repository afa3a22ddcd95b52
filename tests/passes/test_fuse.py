"""Attention becomes one operator, whichever exporter wrote it."""

import warnings
from dataclasses import replace

import numpy as np
import onnx
import pytest

from trimtab.errors import Refused
from trimtab.passes import Context, _graph
from trimtab.run import onnx_check, onnx_files
from trimtab.sources.onnx import OnnxFile
from trimtab.values.task import Batch, Example, Task, TaskView

torch = pytest.importorskip("torch")
module = pytest.importorskip("trimtab.passes.fuse")
nn, Fuse = torch.nn, module.Fuse
WIDTH, HEADS = 16, 2


class Tokens(Task):
    """Ten numbers below 30 with a mask, 6 to 9 of them real."""

    name = "tokens"
    objective = "none"
    metrics = ()

    def split(self, name):
        chance = np.random.default_rng(len(name))
        mask = (np.arange(10) < chance.integers(6, 10, (6, 1))).astype(np.int64)
        ids = chance.integers(1, 30, (6, 10)) * mask
        return [Example(f"{name}{i}", {"input_ids": ids[i], "attention_mask": mask[i]}) for i in range(6)]

    def collate(self, examples):
        names = examples[0].inputs
        return Batch({name: np.stack([one.inputs[name] for one in examples]) for name in names}, None)

    def score(self, outputs, batch):
        return outputs["output"]


class Block(nn.Module):
    """An attention with its norm, written out as in BERT."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm = nn.LayerNorm(WIDTH)

    def heads(self, x):
        return x.view(x.shape[0], -1, HEADS, WIDTH // HEADS).transpose(1, 2)

    def forward(self, x, mask):
        query, key, value = (self.heads(layer(x)) for layer in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5 + mask
        mixed = (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).contiguous()
        return self.norm(x + self.out(mixed.view(x.shape[0], -1, WIDTH)))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, input_ids, attention_mask):
        mask = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * -10_000.0
        x = self.norm(self.embedding(input_ids))
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x[:, 0])


def export(path, newer):
    torch.manual_seed(0)
    inputs = (torch.randint(0, 30, (2, 10)), torch.ones(2, 10, dtype=torch.long))
    names = ["input_ids", "attention_mask"]
    free = {name: {0: "batch"} for name in (*names, "output")}
    how = {"dynamo": False, "opset_version": 14, "dynamic_axes": free}
    if newer:
        how = {"dynamo": True, "verbose": False, "dynamic_shapes": [{0: torch.export.Dim("batch", max=64)}] * 2}
    with onnx_check.quietly(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Encoder().eval(), inputs, str(path), input_names=names, output_names=["output"], **how)


@pytest.fixture
def view():
    return TaskView(Tokens())


@pytest.fixture
def context(tmp_path, view, machine):
    (tmp_path / "scratch").mkdir()
    return Context(view, tmp_path / "scratch", machine)


@pytest.mark.slow
@pytest.mark.parametrize(("newer", "tool"), [(True, "onnxscript"), (False, "onnxruntime")])
def test_attention_of_either_exporter_is_fused(tmp_path, view, context, machine, newer, tool):
    export(tmp_path / "net.onnx", newer)
    model = OnnxFile().open(str(tmp_path / "net.onnx"), tmp_path / "opened", view)
    assert model.facts.layers["attention"] == 2
    assert Fuse.choices(model.facts, machine) == (Fuse(),)
    after = Fuse().apply(model, context)
    notes = after.notes["fuse"]
    assert notes["by"] == tool
    assert sum(notes["operators"].get(kind, 0) for kind in module.ATTENTION) == 2
    kinds = [node.op_type for node in onnx_files.load(after.main).graph.node]
    assert "Softmax" not in kinds
    assert notes["largest_difference"] < 1e-5
    batch = next(view.batches("validation", 6))
    assert _graph.largest_difference(model, after, batch) < 1e-5
    assert after.main.facts == model.main.facts
    _by_openvino(after, batch, _graph.Graphs.of(model).run(batch.inputs)["output"])


def _by_openvino(model, batch, wanted):
    openvino = pytest.importorskip("openvino")
    graph = openvino.Core().read_model(model.main.path / "model.onnx")
    request = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert np.allclose(next(iter(request(dict(batch.inputs)).values())), wanted, atol=1e-5)


def small(tmp_path, view):
    """Return a graph of two nodes that claims to have attention."""
    helper = onnx.helper
    ids, mask = (helper.make_tensor_value_info(n, 7, ["batch", 10]) for n in ("input_ids", "attention_mask"))
    nodes = [
        helper.make_node("Add", ["input_ids", "attention_mask"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["output"], to=1),
    ]
    graph = helper.make_graph(nodes, "net", [ids, mask], [helper.make_tensor_value_info("output", 1, ["batch", 10])])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "net.onnx"
    )
    model = OnnxFile().open(str(tmp_path / "net.onnx"), tmp_path / "opened", view)
    claims = replace(model.main, facts=replace(model.main.facts, layers={"attention": 1}))
    return model, model.map_parts({"main": claims})


def test_without_attention_there_is_nothing_to_do(tmp_path, view, context, machine):
    plain, claims = small(tmp_path, view)
    assert Fuse.choices(plain.facts, machine) == ()
    assert "runtimes fuse themselves" in Fuse().refuses(plain, machine)
    assert Fuse().refuses(claims, machine) is None
    with pytest.raises(Refused, match="no attention of main has a form that can be fused"):
        Fuse().apply(claims, context)


def test_heads_are_found_where_tokens_are_int32(view):
    helper = onnx.helper
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["numbers"], to=1),
        helper.make_node("Unsqueeze", ["numbers", "axes"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"]),
        helper.make_node("MatMul", ["weights", "values"], ["mixed"]),
    ]
    axes = onnx.numpy_helper.from_array(np.array([1, 2]), "axes")
    values = onnx.numpy_helper.from_array(np.ones((2, 10, 4), np.float32), "values")
    taken = helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT32, ["batch", 10])
    given = helper.make_tensor_value_info("mixed", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "net", [taken], [given], [axes, values])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert module._heads(model, next(view.batches("train", 2))) == (2, 8)


def test_a_tool_that_fails_is_named(tmp_path, view, context, monkeypatch):
    def fails(*_, **__):
        raise KeyError("what")

    _, claims = small(tmp_path, view)
    monkeypatch.setattr(module, "optimize_for_ort", fails)
    with pytest.raises(Refused, match="onnxscript: KeyError: 'what'"):
        Fuse().apply(claims, context)

"""Simplifying leaves the answers alone and everything needless out."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trimtab.errors import Refused
from trimtab.passes import Context, _fold, _graph
from trimtab.run import onnx_check, onnx_files
from trimtab.sources.onnx import OnnxFile
from trimtab.values.task import Batch, Example, Task, TaskView

module = pytest.importorskip("trimtab.passes.simplify")
Simplify = module.Simplify
FLOAT = TensorProto.FLOAT
WEIGHT = np.random.default_rng(3).normal(size=(6, 2)).astype(np.float32)


class Pictures(Task):
    """Pictures of 2 x 3, scored by the output named `output`."""

    name = "pictures"
    objective = "none"
    metrics = ()
    wide = 3

    def split(self, name):
        values = np.random.default_rng(len(name)).normal(size=(6, 2, self.wide)).astype(np.float32)
        return [Example(f"{name}{i}", {"image": v}) for i, v in enumerate(values)]

    def collate(self, examples):
        return Batch({"image": np.stack([one.inputs["image"] for one in examples])}, None)

    def score(self, outputs, batch):
        return outputs["output"]


def branch(name, *nodes):
    return helper.make_graph(list(nodes), name, [], [helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, None)])


def write(path, axes="last"):
    """Write a graph whose branches hang on a constant input and on sizes that no example changes.

    Its weight is a `Constant`; it has an output that nobody reads, a mode that is fixed, a node and a twin too many.
    """
    flat = branch(
        "flat",
        helper.make_node("Constant", [], ["to"], value=numpy_helper.from_array(np.array([-1, 6]))),
        helper.make_node("Reshape", ["image", "to"], ["flattened"]),
    )
    other = branch("other", helper.make_node("ReduceSum", ["image", "last"], ["summed"], keepdims=0))
    wrong = branch("wrong", helper.make_node("Neg", ["inside"], ["negated"]))
    right = branch("right", helper.make_node("Identity", ["inside"], ["same"]))
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(WEIGHT)),
            helper.make_node("Shape", ["image"], ["shape"]),
            helper.make_node("Gather", ["shape", axes], ["width"]),
            helper.make_node("Equal", ["width", "three"], ["is_three"]),
            helper.make_node("If", ["is_three"], ["inside"], then_branch=flat, else_branch=other),
            helper.make_node("Equal", ["mode", "one"], ["is_one"]),
            helper.make_node("If", ["is_one"], ["decided"], then_branch=right, else_branch=wrong),
            helper.make_node("Dropout", ["decided"], ["kept"]),
            helper.make_node("ConstantOfShape", ["one"], ["zero"]),
            helper.make_node("Add", ["kept", "zero"], ["added"]),
            helper.make_node("MatMul", ["added", "w"], ["scores"]),
            helper.make_node("MatMul", ["added", "w"], ["twin"]),
            helper.make_node("Add", ["scores", "twin"], ["output"]),
            helper.make_node("Exp", ["scores"], ["unread"]),
        ],
        "net",
        [
            helper.make_tensor_value_info("image", FLOAT, ["n", "high", None]),
            helper.make_tensor_value_info("mode", TensorProto.INT64, []),
        ],
        [
            helper.make_tensor_value_info("output", FLOAT, ["n", 2]),
            helper.make_tensor_value_info("unread", FLOAT, None),
        ],
        [
            numpy_helper.from_array(np.array([2]), "last"),
            numpy_helper.from_array(np.array(2), "scalar"),
            numpy_helper.from_array(np.array([3]), "three"),
            numpy_helper.from_array(np.array([1]), "one"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return f"{path}(fixed='mode=1')"


@pytest.fixture
def view():
    return TaskView(Pictures())


@pytest.fixture
def model(tmp_path, view):
    return OnnxFile().open(write(tmp_path / "net.onnx"), tmp_path / "opened", view)


@pytest.fixture
def context(tmp_path, view, machine):
    (tmp_path / "scratch").mkdir()
    return Context(view, tmp_path / "scratch", machine)


def operators(model):
    return [node.op_type for node in onnx_files.load(model.main).graph.node]


def test_branches_are_decided_and_nothing_needless_is_left(model, context):
    after = Simplify().apply(model, context)
    assert sorted({*operators(after)} - {"Identity"}) == ["Add", "MatMul", "Reshape"]
    assert operators(after).count("MatMul") == 1
    graph = onnx_files.load(after.main).graph
    assert any(tuple(tensor.dims) == (6, 2) for tensor in graph.initializer)
    assert [spec.name for spec in after.main.signature.outputs] == ["output"]
    assert after.main.signature.inputs[0].shape == ("batch", 2, 3)
    notes = after.notes["simplify"]
    assert notes["branches"] == [2, 0]
    assert notes["outputs_dropped"] == ["unread"]
    assert notes["sizes"] == {"high": 2, "image_2": 3}
    assert notes["largest_difference"] < 1e-6
    assert after.notes["onnx"] == model.notes["onnx"]
    batch = next(context.task.batches("validation", 6))
    assert _graph.largest_difference(model, after, batch) < 1e-6


@pytest.mark.parametrize("axes", ["last", "scalar"])
def test_a_size_is_known_however_it_is_asked_for(tmp_path, view, context, axes):
    model = OnnxFile().open(write(tmp_path / "net.onnx", axes), tmp_path / "opened", view)
    assert Simplify().apply(model, context).notes["simplify"]["branches"] == [2, 0]


def test_one_example_at_a_time_has_no_free_size(model, context):
    after = Simplify(batch=1).apply(model, context)
    specs = (*after.main.signature.inputs, *after.main.signature.outputs)
    assert [spec.shape for spec in specs] == [(1, 2, 3), (1, 2)]
    batch = next(context.task.batches("validation", 5))
    assert _graph.largest_difference(model, after, batch) < 1e-6


def test_sizes_that_vary_stay_free(model, context):
    class Wider(Pictures):
        """The same, but wider in validation."""

        def split(self, name):
            return [
                replace(one, inputs={"image": np.tile(one.inputs["image"], (1, 2))}) if name == "validation" else one
                for one in super().split(name)
            ]

    after = Simplify().apply(model, replace(context, task=TaskView(Wider())))
    assert after.main.signature.inputs[0].shape == ("batch", 2, "image_2")
    assert after.notes["simplify"]["branches"] == [2, 1]
    assert Simplify(sizes=False).apply(model, context).main.signature.inputs[0].shape == ("batch", "high", "image_2")


def test_a_graph_that_would_answer_otherwise_is_refused(model, context, monkeypatch):
    def broken(proto, check_time):
        proto = module_folded(proto, check_time)
        tensor = next(t for t in proto.graph.initializer if len(t.dims) == 2)
        tensor.CopyFrom(numpy_helper.from_array(WEIGHT + 0.01, tensor.name))
        return proto

    module_folded = module.folded
    monkeypatch.setattr(module, "folded", broken)
    with pytest.raises(Refused, match="answers otherwise: outputs differ by 0"):
        Simplify().apply(model, context)


def test_a_graph_that_the_optimizer_cannot_read_is_refused(model, context, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(_fold, "optimize_ir", fails)
    with pytest.raises(Refused, match="cannot simplify this graph: no such thing"):
        Simplify().apply(model, context)


def test_it_is_offered_with_and_without_a_batch(model, machine):
    assert [str(one) for one in Simplify.choices(model.facts, machine)] == ["simplify", "simplify(batch=1)"]
    with pytest.raises(ValueError, match="0 for any"):
        Simplify(batch=-1)


@pytest.mark.parametrize(
    ("ours", "theirs", "wanted"),
    [
        (np.array([1.0, 2.2]), np.array([1.0, 2.0]), 0.1),
        (np.array([np.nan, 1.0]), np.array([np.nan, 1.0]), 0.0),
        (np.array([0.0, 1.0]), np.array([np.nan, 1.0]), np.inf),
        (np.array([np.inf]), np.array([-np.inf]), np.inf),
        (np.array([1]), np.array([2]), np.inf),
        (np.zeros(2), np.zeros(3), np.inf),
    ],
)
def test_differences(ours, theirs, wanted):
    assert _graph._difference(ours, theirs) == pytest.approx(wanted)


LOOK_UP = [("Gather", "table index", "row", {}), ("Gemm", "row w b", "output", {"transB": 1})]


def looking_up(make_onnx, folder, rows, nodes=LOOK_UP):
    """Write a table of `rows` rows of 6 that a product with 2 outputs reads."""
    rng = np.random.default_rng(0)
    constants = {"table": rng.normal(size=(rows, 6)), "w": rng.normal(size=(2, 6)), "b": rng.normal(size=2)}
    constants = {name: value.astype(np.float32) for name, value in constants.items()}
    specs = [("index", "int64", ["batch"])], [("output", "float32", ["batch", 2])]
    return onnx.load(make_onnx(folder, nodes, *specs, constants).path / "model.onnx"), constants


@pytest.mark.parametrize("rows", [1, 5])
def test_a_table_that_one_product_reads_holds_its_results(make_onnx, tmp_path, rows):
    before, c = looking_up(make_onnx, tmp_path / "main", rows)
    after = _fold.folded(before, lambda: None)
    assert [node.op_type for node in after.graph.node] == ["Gather"]
    index = np.arange(rows)
    (found,) = onnx_check.session(after.SerializeToString()).run(None, {"index": index})
    np.testing.assert_allclose(found, c["table"] @ c["w"].T + c["b"], rtol=1e-5)


SCALED = [LOOK_UP[0], ("Gemm", "row w b", "output", {"transB": 1, "alpha": 0.5})]
READ_TWICE = [
    *[LOOK_UP[0], ("Gemm", "row w b", "half", {"transB": 1})],
    *[("ReduceMax", "row", "top", {"axes": [1]}), ("Add", "half top", "output", {})],
]


@pytest.mark.parametrize("nodes", [SCALED, READ_TWICE], ids=["scaled", "read twice"])
def test_other_tables_stay(make_onnx, tmp_path, nodes):
    before, _ = looking_up(make_onnx, tmp_path / "main", 5, nodes)
    after = _fold.folded(before, lambda: None)
    assert "Gemm" in [node.op_type for node in after.graph.node]
    index = {"index": np.arange(5)}
    found, wanted = (onnx_check.session(one.SerializeToString()).run(None, index)[0] for one in (after, before))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)

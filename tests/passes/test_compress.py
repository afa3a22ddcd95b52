"""Weights are kept in 16 bits: the file halves, the answers hold, and what float16 cannot hold stays."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper

from trimtab.apply import Workshop
from trimtab.errors import Refused
from trimtab.passes import Context, _graph
from trimtab.recipe import bind, bind_runtime
from trimtab.run import onnx_files
from trimtab.run.program import drive
from trimtab.tasks import open_task
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model, Single
from trimtab.values.store import Store
from trimtab.values.task import TaskView

module = pytest.importorskip("trimtab.passes.compress")
Compress = module.Compress
SIDE = 64


def product(weight: np.ndarray, folder) -> Model:
    """Return the model that multiplies its input by a weight."""
    rows, columns = weight.shape
    given_, out = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", rows), ("y", columns))
    )
    node = helper.make_node("MatMul", ["x", "weight"], ["y"])
    graph = helper.make_graph([node], "g", [given_], [out], [numpy_helper.from_array(weight, "weight")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return Model({"main": onnx_files.save(proto, folder / "main")}, Single("main"))


@pytest.fixture
def context(tmp_path, machine):
    (tmp_path / "to").mkdir()
    return Context(TaskView(open_task("toy(examples=30)")), tmp_path / "to", machine)


def normal(scale: float) -> np.ndarray:
    return np.random.default_rng(0).normal(scale=scale, size=(SIDE, SIDE)).astype(np.float32)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_half_the_file_gives_the_same_answers(tmp_path, context, machine, runtime):
    before = product(normal(0.1), tmp_path)
    after = Compress().apply(before, context)
    sizes = [(model.main.path / onnx_files.MODEL).stat().st_size for model in (before, after)]
    assert sizes[1] < 0.55 * sizes[0]
    assert after.main.facts.size_mb == before.main.facts.size_mb / 2
    assert after.main.facts.weight_bits == 32, "at work they are as wide as before"
    assert after.notes["compress"] == {"main": {"weights": SIDE**2, "left": []}}
    x = {"x": np.random.default_rng(1).normal(size=(5, SIDE)).astype(np.float32)}
    served = bind_runtime(runtime)
    ours, theirs = (drive(model, served.load(model, machine), x)["y"] for model in (after, before))
    np.testing.assert_allclose(ours, theirs, atol=2e-3 * np.abs(theirs).max())
    assert (ours != theirs).any()


def test_a_runtime_widens_weights_before_the_first_call(tmp_path, context):
    """What is left to be done at each call is the product alone, as onnxruntime writes its graph down."""
    import onnxruntime

    after = Compress().apply(product(normal(0.1), tmp_path), context)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    onnxruntime.InferenceSession(str(after.main.path / onnx_files.MODEL), options, providers=["CPUExecutionProvider"])
    assert [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node] == ["MatMul"]


def test_weights_in_nodes_of_their_own_are_narrow_too(tmp_path, context):
    proto = onnx_files.load(product(normal(1.0), tmp_path).main)
    (weight,) = proto.graph.initializer
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["weight"], value=weight))
    del proto.graph.initializer[:]
    before = Model({"main": onnx_files.save(proto, tmp_path / "constant")}, Single("main"))
    after = onnx_files.load(Compress().apply(before, context).main)
    assert [node.op_type for node in after.graph.node] == ["Cast", "MatMul"]
    assert [tensor.data_type for tensor in after.graph.initializer] == [TensorProto.FLOAT16]


@pytest.mark.parametrize("scale", [1e6, 1e-7])
def test_what_float16_cannot_hold_stays(tmp_path, context, scale):
    with pytest.raises(Refused, match="no weights of 32 bits are there that 16 could hold"):
        Compress().apply(product(normal(scale), tmp_path), context)


@pytest.mark.parametrize("recipe", ["simplify", "quantize(method='dynamic')"])
def test_what_is_widened_again_counts_so(tmp_path, machine, recipe):
    """Passes that fold constants write wide weights, or narrower ones, again: the size tells."""
    task = open_task("toy(examples=60)")
    workshop = Workshop(task, Store(tmp_path / "store"), machine)
    base = workshop.open("zoo:mlp(width=64) | onnx")
    sizes = []
    for text in ("compress", f"compress | {recipe}", recipe):
        facts = workshop.apply(base, bind(text).passes, base).model.facts
        sizes.append((facts.parameters, facts.size_mb))
    assert sizes[0][1] < 0.6 * base.model.facts.size_mb
    assert sizes[1] == sizes[2]


def test_parts_add_up_to_the_size_of_the_whole(tmp_path, context):
    before = product(normal(0.1), tmp_path)
    after = Compress().apply(before, context)
    both = replace(before, parts={"main": before.main, "other": after.main})
    assert both.facts.size_mb == pytest.approx(1.5 * before.facts.size_mb)


def test_what_is_few_or_also_an_input_stays(tmp_path, context):
    few = product(normal(1.0)[:3, :5], tmp_path / "few")
    with pytest.raises(Refused):
        Compress().apply(few, context)
    proto = onnx_files.load(product(normal(1.0), tmp_path / "whole").main)
    proto.graph.input.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, [SIDE, SIDE]))
    with pytest.raises(Refused):
        Compress().apply(Model({"main": onnx_files.save(proto, tmp_path / "fed")}, Single("main")), context)


def test_weights_of_branches_are_narrow_too(tmp_path, context):
    def branch(name: str, scale: float) -> onnx.GraphProto:
        weight = numpy_helper.from_array(normal(scale), f"{name}/weight")
        out = helper.make_tensor_value_info(f"{name}/y", TensorProto.FLOAT, None)
        node = helper.make_node("MatMul", ["x", weight.name], [out.name])
        return helper.make_graph([node], name, [], [out], [weight])

    proto = onnx_files.load(product(normal(1.0), tmp_path).main)
    del proto.graph.node[:], proto.graph.initializer[:]
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    node = helper.make_node("If", ["yes"], ["y"], then_branch=branch("then", 1.0), else_branch=branch("else", 1e6))
    proto.graph.node.append(node)
    before = Model({"main": onnx_files.save(proto, tmp_path / "branches")}, Single("main"))
    after = Compress().apply(before, context)
    assert after.notes["compress"]["main"] == {"weights": SIDE**2, "left": ["else/weight"]}
    assert after.main.facts.stored == 0.75
    x = {"x": np.ones((2, SIDE), np.float32)}
    ours, theirs = (drive(model, _graph.session(model), x)["y"] for model in (after, before))
    np.testing.assert_allclose(ours, theirs, atol=2e-3 * np.abs(theirs).max())


@given(arrays.arrays(np.float32, (16, 16), elements=st.floats(-7e4, 7e4, width=32)))
def test_rounding_is_small_or_is_not_done(weight):
    narrow, size = module._narrow(weight), np.abs(weight)
    if narrow is None:
        assert ((size > 65504) | ((size > 0) & (size < 2.0**-14))).any(), "normal numbers of float16 are held"
    else:
        assert np.linalg.norm(weight - narrow.astype(np.float32)) <= 2.0**-11 * np.linalg.norm(weight)
        assert np.isfinite(narrow).all()


def test_only_wide_weights_that_tell_are_offered():
    machine = Machine("m", cores=2)
    wide = Facts("onnx", 1_000_000, 10_000_000, {"linear": 4})
    (once,) = Compress.choices(wide, machine)
    assert once.predict(wide, machine).size_mb == wide.size_mb / 2
    for facts in (once.predict(wide, machine), replace(wide, weight_bits=8), replace(wide, parameters=1000)):
        assert Compress.choices(facts, machine) == ()

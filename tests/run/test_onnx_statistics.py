"""What calibration tells: ranges as numpy has them, harms as a hand-quantized layer does them, and times."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from trimtab.errors import DataError
from trimtab.run import onnx_check, onnx_files, onnx_layers, onnx_precision, onnx_statistics
from trimtab.run.onnx_statistics import collect
from trimtab.values.model import Model
from trimtab.values.task import Batch, Example, Task, TaskView

RNG = np.random.default_rng(0)
A, B = (RNG.normal(size=shape).astype(np.float32) for shape in ((5, 32), (32, 3)))


class Points(Task):
    name = "points"
    objective = "cross_entropy"
    labels = ("a", "b", "c")
    metrics = ()
    spoilt = 0.0

    def split(self, name):
        points = np.random.default_rng(1).normal(size=(40, 5)).astype(np.float32)
        points[7, 2] += self.spoilt
        return [Example(str(i), {"features": p}, 0) for i, p in enumerate(points)]

    def collate(self, examples):
        return Batch({"features": np.stack([e.inputs["features"] for e in examples])}, np.zeros(len(examples)))

    def score(self, outputs, batch):
        return np.zeros((len(batch), 1))


def perceptron(folder, mask=0.0):
    nodes = [
        helper.make_node("MatMul", ["features", "A"], ["a"], "first"),
        helper.make_node("Add", ["a", "mask"], ["m"], "masked"),
        helper.make_node("Relu", ["m"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "B"], ["output"], "second"),
    ]
    held = {"A": A, "B": B, "mask": np.full(32, mask, np.float32)}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 5])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value, name) for name, value in held.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Model({"main": onnx_files.save(proto, folder)})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return perceptron(tmp_path_factory.mktemp("perceptron") / "main")


def gathered(model, *kinds, task=None):
    return collect(model, TaskView(task or Points()), kinds, 0, lambda: None)


def prepared(model):
    return onnx_layers.prepare(onnx_files.load(model.main))


def inputs():
    return Points().collate(Points().split("train")).inputs["features"]


def test_ranges_are_the_ends_of_what_flows(model):
    found = gathered(model, "ranges")["ranges"]
    hidden = np.maximum(inputs() @ A, 0)
    for name, values in (("features", inputs()), ("output", hidden @ B)):
        assert found[f"main/{name}"] == pytest.approx([values.min(), values.max()], rel=1e-5)


def test_histograms_count_every_value_between_the_ends(model):
    found = gathered(model, "histograms")["histograms"]["main/features"]
    assert found[:2] == pytest.approx([inputs().min(), inputs().max()])
    assert found[2:].sum() == inputs().size


def test_the_harm_of_weights_is_that_of_rounding_them_by_hand(model):
    found = gathered(model, "weights")["weights"]
    names = [layer.name for layer in onnx_layers.layers(prepared(model))]
    rounded = [(onnx_layers.rounded(A, 1), B), (A, onnx_layers.rounded(B, 1))]
    exact = np.maximum(inputs() @ A, 0) @ B
    for name, (a, b) in zip(names, rounded, strict=True):
        given = np.maximum(inputs() @ a, 0) @ b
        relative = np.sum((given - exact) ** 2) / np.sum(exact**2)
        assert found[f"main/{name}"][0] == pytest.approx(relative, rel=0.01)
        assert 0 <= found[f"main/{name}"][1] < 0.01


def test_harms_grow_as_bits_fall_and_are_near_those_of_the_real_quantizer(model):
    kinds = ("weights", "weights4", "dynamic", "static", "ranges")
    found = gathered(model, *kinds)
    for name, harm in found["weights"].items():
        assert 0 < harm[0] < found["dynamic"][name][0] < found["weights4"][name][0] < 0.1
        assert harm[0] < found["static"][name][0] < 0.01
    graph = prepared(model)
    ranges = onnx_statistics.of_part(found["ranges"], "main")
    first, second = (layer.name for layer in onnx_layers.layers(graph))
    for kept, left in ((first, second), (second, first)):
        after = onnx_precision.static(graph, ranges, onnx_precision.Settings(frozenset({left})))
        session = onnx_check.session(after.SerializeToString(), optimized=False)
        given, exact = session.run(None, {"features": inputs()})[0], np.maximum(inputs() @ A, 0) @ B
        relative = np.sum((given - exact) ** 2) / np.sum(exact**2)
        assert found["static"][f"main/{kept}"][0] == pytest.approx(relative, rel=0.5)


def test_what_reaches_infinity_has_no_range_and_is_left_alone(tmp_path):
    masked = perceptron(tmp_path / "main", -np.inf)
    found = gathered(masked, "ranges", "static")
    assert not any(name.endswith("/m") for name in found["ranges"])
    graph = prepared(masked)
    after = onnx_precision.static(graph, onnx_statistics.of_part(found["ranges"], "main"), onnx_precision.Settings())
    assert np.isfinite(onnx_check.session(after.SerializeToString()).run(None, {"features": inputs()})[0]).all()


def test_what_a_branch_takes_is_clipped_as_before(tmp_path):
    """onnxruntime's quantizer drops a Relu whose range clips; the branch would see what it should have cut off."""
    proto = onnx_files.load(perceptron(tmp_path / "plain").main)
    sides = []
    for name, nodes in (
        ("then", [helper.make_node("MatMul", ["r", "B"], ["t"], "inner")]),
        ("else", [helper.make_node("Neg", ["r"], ["n"]), helper.make_node("MatMul", ["n", "B"], ["e"])]),
    ):
        shown = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
        sides.append(helper.make_graph(nodes, name, [], [shown]))
    norm = helper.make_node("ReduceSum", ["features"], ["sum"], keepdims=0)
    more = helper.make_node("Greater", ["sum", "zero"], ["positive"])
    choice = helper.make_node("If", ["positive"], ["output"], then_branch=sides[0], else_branch=sides[1])
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0), "zero"))
    del proto.graph.node[-1]
    proto.graph.node.extend([norm, more, choice])
    model = Model({"main": onnx_files.save(proto, tmp_path / "main")})
    graph = prepared(model)
    after = onnx_precision.static(
        graph, onnx_statistics.of_part(gathered(model, "ranges")["ranges"], "main"), onnx_precision.Settings(bits=7)
    )  # 7 bits: without VNNI products of 8 saturate
    feed = {"features": inputs()}
    exact, given = (onnx_check.session(m.SerializeToString()).run(None, feed)[0] for m in (graph, after))
    assert "QuantizeLinear" in {node.op_type for node in after.graph.node}
    assert np.sum((given - exact) ** 2) / np.sum(exact**2) < 0.001


def test_no_logits_no_divergence(model):
    class Plain(Points):
        objective = "mse"

    found = gathered(model, "weights", task=Plain())["weights"]
    assert all(np.isnan(harm[1:]).all() and harm[0] > 0 for harm in found.values())


def test_milliseconds_are_found_for_each_kernel(model):
    found = gathered(model, "milliseconds")["milliseconds"]
    assert len(found) == 2
    assert all((times > 0).all() and times.max() < 100 for times in found.values())


def test_one_seed_gives_the_same_numbers(model):
    kinds = ("ranges", "static")
    first, again = gathered(model, *kinds), gathered(model, *kinds)
    assert all(np.array_equal(first[kind][name], again[kind][name]) for kind in kinds for name in first[kind])


def test_nan_in_calibration_data_names_the_example(model):
    class Spoilt(Points):
        spoilt = np.float32(np.nan)

    with pytest.raises(DataError, match="example '7'"):
        gathered(model, "ranges", task=Spoilt())


def test_a_strange_kind(model):
    with pytest.raises(ValueError, match="no statistic magic; known: ranges"):
        gathered(model, "magic")


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.floats(-9, 9, width=32)))
def test_codes_are_within_half_a_step(weight):
    for axis, bits in ((0, 8), (1, 7), (None, 4)):
        codes, scale = onnx_layers.codes(weight, axis, bits)
        top = {8: 127, 7: 64, 4: 7}[bits]
        assert np.abs(codes.astype(int)).max() <= top
        assert scale.shape == (() if axis is None else (weight.shape[axis],))
        near = np.abs(onnx_layers.rounded(weight, axis, bits) - weight)
        steps = scale if axis is None else np.expand_dims(scale, 1 - axis)
        assert (near <= steps * 0.501 + 1e-6).all()


@given(hnp.arrays(np.float64, 64, elements=st.integers(0, 50)))
def test_ranges_by_histogram_stay_within_the_ends(counts):
    for method in ("percentile", "mse"):
        low, high = onnx_precision.ranges_of({"x": np.concatenate([[-2.0, 3.0], counts])}, method)["x"]
        assert -2 <= low <= high <= 3


def test_an_outlier_is_cut_off_by_least_error_only_where_it_is_dear():
    counts = np.zeros(2048)
    counts[:40] = 1e6
    counts[-1] = 1
    assert onnx_precision.ranges_of({"x": np.concatenate([[0.0, 1.0], counts])}, "mse")["x"][1] < 0.5
    flat = np.concatenate([[0.0, 1.0], np.ones(2048)])
    assert onnx_precision.ranges_of({"x": flat}, "mse")["x"][1] > 0.97


def test_names_are_unique_and_old_operators_are_raised(model):
    old = onnx_files.load(model.main)
    for node in old.graph.node:
        node.name = "same"
    old.opset_import[0].version = 11
    found = onnx_layers.prepare(old)
    names = [node.name for node in found.graph.node]
    assert len(set(names)) == len(names)
    assert found.opset_import[0].version == onnx_layers.PER_CHANNEL
    onnx.checker.check_model(found)

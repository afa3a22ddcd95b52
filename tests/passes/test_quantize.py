"""Quantization: eight bits in the file, the accuracy kept, and every layer left in float named."""

from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from trimtab.errors import DataError, Refused
from trimtab.passes import Context
from trimtab.passes.quantize import Quantize
from trimtab.run import onnx_check, onnx_files
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model
from trimtab.values.task import Batch, Example, Task, TaskView

SIZE, CLASSES = 8, 10
MODERN = Machine("modern", 2, ("avx2", "avx512_vnni"))
RNG = np.random.default_rng(5)
PROTOTYPES = RNG.normal(size=(CLASSES, 1, SIZE, SIZE)).astype(np.float32)


@dataclass(frozen=True)
class Figures(Task):
    """Ten figures of 1 x 8 x 8 under noise."""

    name = "figures"
    objective = "cross_entropy"
    labels = tuple("0123456789")
    metrics = ()
    spoilt: float = 0.0

    def split(self, name):
        rng = np.random.default_rng(["train", "validation"].index(name))
        classes = rng.integers(0, CLASSES, 200)
        images = PROTOTYPES[classes] + rng.normal(0, 0.8, (200, 1, SIZE, SIZE)).astype(np.float32)
        images[17, 0, 3, 3] += np.float32(self.spoilt)
        return [Example(f"{name}{i}", {"image": x}, c) for i, (x, c) in enumerate(zip(images, classes, strict=True))]

    def collate(self, examples):
        (name,) = examples[0].inputs
        return Batch({name: np.stack([e.inputs[name] for e in examples])}, np.array([e.target for e in examples]))

    def score(self, outputs, batch):
        return (outputs["output"].argmax(1) == batch.targets)[:, None].astype(np.float64)


@dataclass(frozen=True)
class Sequences(Figures):
    """The same figures read row by row."""

    def split(self, name):
        return [replace(e, inputs={"sequence": e.inputs["image"][0]}) for e in super().split(name)]


def random(*shape):
    return (RNG.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def write(folder, nodes, weights, name="image", shape=(1, SIZE, SIZE)):
    graph = helper.make_graph(
        [helper.make_node(op, i.split(), o.split(), **more) for op, i, o, more in nodes],
        "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return Model({"main": onnx_files.save(model, folder)})


def convolutional(folder):
    """Matched filters: a convolution as large as the image, a 1x1 convolution that passes on, a linear head."""
    nodes = [
        ("Conv", "image filters", "c", {"pads": [1, 1, 1, 1]}),
        ("Relu", "c", "r", {}),
        ("Conv", "r mix", "m", {}),
        ("GlobalMaxPool", "m", "p", {}),
        ("Flatten", "p", "f", {}),
        ("Gemm", "f head", "output", {"transB": 1}),
    ]
    eye = np.eye(CLASSES, dtype=np.float32)
    weights = {"filters": PROTOTYPES / 64, "mix": eye[:, :, None, None] + 0.01 * random(10, 10, 1, 1), "head": eye * 4}
    return write(folder, nodes, weights)


def recurrent(folder, kind):
    gates = {"LSTM": 4, "GRU": 3}[kind]
    nodes = [
        ("Transpose", "sequence", "t", {"perm": [1, 0, 2]}),
        (kind, "t W R", "steps last", {"hidden_size": 16}),
        ("Squeeze", "last zero", "s", {}),
        ("MatMul", "s head", "output", {}),
    ]
    weights = {"W": random(1, gates * 16, SIZE), "R": random(1, gates * 16, 16), "zero": [0], "head": random(16, 10)}
    return write(folder, nodes, weights, "sequence", (SIZE, SIZE))


def run(model, folder, view, settings, machine=MODERN):
    return Quantize(**settings).apply(model, Context(view, folder / "int8", machine))


def outputs(model, view, name):
    session = onnx_check.session(model.main.path / "model.onnx")
    return [(session.run(None, {name: b.inputs[name]})[0], b.targets) for b in view.batches("validation", 50)]


def accuracy(model, view):
    return np.mean([np.mean(given.argmax(1) == targets) for given, targets in outputs(model, view, "image")])


@pytest.mark.parametrize("settings", [{}, {"weights": 7}, {"calibration": "percentile"}, {"per_channel": False}])
def test_accuracy_is_kept_and_the_file_is_a_quarter(tmp_path, settings):
    view = TaskView(Figures())
    before = convolutional(tmp_path / "float")
    after = run(before, tmp_path, view, settings)
    assert accuracy(before, view) > 0.95
    assert accuracy(after, view) >= accuracy(before, view) - 0.02
    assert after.main.facts.weight_bits == pytest.approx(8, abs=0.01)
    assert (after.main.facts.activation_bits, after.main.facts.operations) == (8, before.main.facts.operations)
    assert after.main.facts.parameters == before.main.facts.parameters
    assert after.main.signature == before.main.signature
    notes = after.notes["quantize"]
    assert notes["left_in_float"] == []
    assert 0 < notes["output_change"] < 0.05
    assert notes["kernel_error"] < 0.02


def test_the_file_holds_signed_eight_bit_codes_and_qdq_nodes(tmp_path):
    after = run(convolutional(tmp_path / "float"), tmp_path, TaskView(Figures()), {})
    proto = onnx_files.load(after.main)
    kinds = {node.op_type for node in proto.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= kinds
    codes = [t for t in proto.graph.initializer if len(t.dims) > 1]
    assert codes
    assert {t.data_type for t in codes} == {TensorProto.INT8}
    scales = [t for t in proto.graph.initializer if t.name.startswith("filters") and t.name.endswith("scale")]
    assert [list(t.dims) for t in scales] == [[CLASSES]]
    onnx.checker.check_model(proto)


def test_seven_bits_leave_the_room_that_16_bit_sums_need(tmp_path):
    after = run(convolutional(tmp_path / "float"), tmp_path, TaskView(Figures()), {"weights": 7})
    codes = [numpy_helper.to_array(t) for t in onnx_files.load(after.main).graph.initializer if len(t.dims) > 1]
    assert max(int(np.abs(c.astype(int)).max()) for c in codes) == 64
    assert 2 * 255 * 64 < 2**15 < 2 * 255 * 127


def test_a_saturating_machine_is_told_so(tmp_path, machine):
    model, view = convolutional(tmp_path / "float"), TaskView(Figures())
    assert "weights=7" in run(model, tmp_path / "old", view, {}, machine).notes["quantize"]["saturation"]
    assert "saturation" not in run(model, tmp_path / "new", view, {}).notes["quantize"]


def test_a_dynamic_lstm_has_eight_bits_and_nearly_the_same_answers(tmp_path):
    view = TaskView(Sequences())
    before = recurrent(tmp_path / "float", "LSTM")
    after = run(before, tmp_path, view, {"method": "dynamic"})
    assert {"DynamicQuantizeLSTM"} <= {n.op_type for n in onnx_files.load(after.main).graph.node}
    assert after.main.facts.weight_bits < 12
    assert after.notes["quantize"]["left_in_float"] == []
    pairs = zip(outputs(before, view, "sequence"), outputs(after, view, "sequence"), strict=True)
    assert max(float(np.abs(a - b).max()) for (a, _), (b, _) in pairs) < 0.02


def test_a_gru_stays_in_float_and_says_why(tmp_path):
    model = recurrent(tmp_path / "float", "GRU")
    for settings in ({}, {"method": "dynamic"}):
        after = run(model, tmp_path / str(len(settings)), TaskView(Sequences()), settings)
        (left,) = after.notes["quantize"]["left_in_float"]
        assert (left["kind"], left["why"]) == ("GRU", "onnxruntime has no int8 GRU")
        assert 25 < after.main.facts.weight_bits < 32


@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_calibration_inputs_that_are_no_numbers(tmp_path, spoilt):
    with pytest.raises(DataError, match=r"example 'train17' .* NaN or infinity in 'image'"):
        run(convolutional(tmp_path / "float"), tmp_path, TaskView(Figures(float(spoilt))), {})


def test_the_same_seed_gives_the_same_file(tmp_path):
    model, view = convolutional(tmp_path / "float"), TaskView(Figures())
    first, again = (run(model, tmp_path / n, view, {"samples": 32}).main.path / "model.onnx" for n in "ab")
    assert first.read_bytes() == again.read_bytes()


def test_weights_in_constant_nodes_are_quantized_too(tmp_path):
    proto = onnx_files.load(convolutional(tmp_path / "float").main)
    for tensor in list(proto.graph.initializer):
        proto.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del proto.graph.initializer[:]
    after = run(Model({"main": onnx_files.save(proto, tmp_path / "nodes")}), tmp_path, TaskView(Figures()), {})
    assert after.main.facts.weight_bits == pytest.approx(8, abs=0.01)


def test_nothing_is_printed(tmp_path, capfd):
    run(convolutional(tmp_path / "float"), tmp_path, TaskView(Figures()), {"calibration": "entropy"})
    assert capfd.readouterr() == ("", "")


def test_no_file_is_left_beside_the_part(tmp_path):
    after = run(convolutional(tmp_path / "float"), tmp_path, TaskView(Figures()), {})
    assert [path.name for path in after.main.path.rglob("*")] == ["model.onnx"]


def test_what_cannot_be_quantized_says_so(tmp_path, stateful, machine):
    once = run(convolutional(tmp_path / "float"), tmp_path, TaskView(Figures()), {})
    assert "quantized already" in Quantize().refuses(once, machine)
    assert "one part without state" in Quantize().refuses(Model.open(stateful.folder), machine)
    empty = write(
        tmp_path / "empty",
        [("Flatten", "image", "f", {}), ("Slice", "f a b", "output", {})],
        {"a": [0, 0], "b": [999, 10]},
    )
    assert "the model has none" in Quantize().refuses(empty, machine)
    with pytest.raises(Refused):
        run(empty, tmp_path / "more", TaskView(Figures()), {"method": "dynamic"})


@given(weights=st.integers(-8, 40), activations=st.integers(-8, 40))
def test_only_eight_bits_are_offered(weights, activations):
    if weights in (7, 8) and activations == 8:
        assert Quantize(weights, activations).weights == weights
    else:
        with pytest.raises(ValueError, match="weights are 8 or 7 bits"):
            Quantize(weights, activations)


@pytest.mark.parametrize("settings", [{"method": "magic"}, {"calibration": "guess"}, {"samples": 0}])
def test_settings_that_fit_nothing(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is "):
        Quantize(**settings)


def test_choices_follow_layers_and_machine(machine):
    def chosen(where, **layers):
        return [str(c) for c in Quantize.choices(Facts("onnx", 1, 1, layers), where)]

    assert chosen(MODERN, conv=3, linear=1) == ["quantize"]
    assert chosen(machine, conv=3, linear=1) == ["quantize", "quantize(weights=7)"]
    assert chosen(MODERN, linear=3) == ["quantize(method='dynamic')", "quantize"]
    assert chosen(MODERN, lstm=1, linear=1) == ["quantize(method='dynamic')"]
    assert chosen(MODERN, gru=1, linear=1) == []
    assert chosen(MODERN) == []
    assert Quantize.choices(Facts("onnx", 1, 1, {"conv": 1}, weight_bits=8.0), MODERN) == ()


def test_predictions(machine):
    cnn, gru = Facts("onnx", 1000, 1, {"conv": 3}), Facts("onnx", 1000, 1, {"gru": 1, "linear": 1})
    predicted = Quantize().predict(cnn, machine)
    assert (predicted.weight_bits, predicted.activation_bits) == (8, 8)
    assert 0 < predicted.quality_loss < Quantize(weights=7).predict(cnn, machine).quality_loss < 0.02
    assert Quantize().predict(gru, machine) == gru

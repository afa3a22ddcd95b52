"""Quantization: eight bits in the file, the accuracy kept, and every layer left in float named."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnx_toys import (
    CLASSES,
    MODERN,
    PROTOTYPES,
    Figures,
    Sequences,
    Texts,
    bert,
    convolutional,
    random,
    recurrent,
    write,
)
from trimtab import machines
from trimtab.errors import DataError, Refused
from trimtab.passes import Context, quantize
from trimtab.passes.quantize import Quantize
from trimtab.run import onnx_check, onnx_files, onnx_kernels
from trimtab.run.program import drive
from trimtab.values.facts import Facts
from trimtab.values.model import Model
from trimtab.values.task import Example, TaskView

SAFE = {"weights": 7} if machines.here().saturates else {}
"""Bits of weights whose products add up exactly on the processor that runs the tests."""


@pytest.fixture
def machine(machine):
    """Plain facts, of this machine."""
    return replace(machine, name="here")


def run(model, folder, view, settings, machine=MODERN):
    return Quantize(**settings).apply(model, Context(view, folder / "int8", machine))


def outputs(model, view, name):
    session = onnx_check.session(model.main.path / "model.onnx")
    return [(session.run(None, {name: b.inputs[name]})[0], b.targets) for b in view.batches("validation", 50)]


def accuracy(model, view):
    return np.mean([np.mean(given.argmax(1) == targets) for given, targets in outputs(model, view, "image")])


@pytest.mark.parametrize("settings", [{}, {"weights": 7}, {"calibration": "mse"}, {"samples": 40}])
def test_accuracy_is_kept_and_the_file_is_a_quarter(tmp_path, settings):
    view = TaskView(Figures())
    before = convolutional(tmp_path / "float")
    after = run(before, tmp_path, view, settings)
    assert not after.main.facts.dynamic
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


def test_a_saturating_machine_is_told_so(tmp_path, machine, monkeypatch):
    monkeypatch.setattr(onnx_kernels, "runtime_errors", lambda part, feeds, machine: {"openvino": 0.4, "other": 0.001})
    model, view = convolutional(tmp_path / "float"), TaskView(Figures())
    notes = run(model, tmp_path / "old", view, {}, machine).notes["quantize"]
    assert "outputs stray on openvino by 40.0%: weights=7" in notes["saturation"]
    assert notes["runtime_errors"]["openvino"] == 0.4
    assert "saturation" not in run(model, tmp_path / "new", view, {}).notes["quantize"]


def test_kernels_of_another_machine_are_not_looked_at_here(tmp_path, machine, monkeypatch):
    monkeypatch.setattr(onnx_kernels, "runtime_errors", None)
    model, view, box = convolutional(tmp_path / "float"), TaskView(Figures()), replace(machine, name="ssh:box")
    notes = run(model, tmp_path / "box", view, {}, box).notes["quantize"]
    assert notes["saturation"].startswith("ssh:box has no VNNI: 8-bit products may saturate there")
    with pytest.raises(Refused, match="exact=True looks at kernels at work, and ssh:box is not here"):
        run(model, tmp_path / "exact", view, {"exact": True}, box)
    offered = Quantize.choices(Facts("onnx", 1, 1, {"conv": 3}), box)
    assert not any(choice.exact for choice in offered)


def test_a_dynamic_lstm_has_eight_bits_and_nearly_the_same_answers(tmp_path):
    view = TaskView(Sequences())
    before = recurrent(tmp_path / "float", "LSTM")
    after = run(before, tmp_path, view, {"method": "dynamic"} | SAFE)
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
    run(
        convolutional(tmp_path / "float"),
        tmp_path,
        TaskView(Figures()),
        {"calibration": "percentile", "samples": 20, "per_channel": False},
    )
    assert capfd.readouterr() == ("", "")


def test_no_file_is_left_beside_the_part(tmp_path):
    after = run(convolutional(tmp_path / "float"), tmp_path, TaskView(Figures()), {})
    assert [path.name for path in after.main.path.rglob("*")] == ["model.onnx"]


def test_what_cannot_be_quantized_says_so(tmp_path, machine):
    once = run(convolutional(tmp_path / "float"), tmp_path, TaskView(Figures()), {})
    assert "quantized already" in Quantize().refuses(once, machine)
    empty = write(
        tmp_path / "empty",
        [("Flatten", "image", "f", {}), ("Slice", "f a b", "output", {})],
        {"a": [0, 0], "b": [999, 10]},
    )
    assert "the model has none" in Quantize().refuses(empty, machine)
    with pytest.raises(Refused):
        run(empty, tmp_path / "more", TaskView(Figures()), {"method": "dynamic"})


@given(weights=st.integers(-8, 40), activations=st.integers(-8, 40), method=st.sampled_from(quantize.METHODS))
def test_only_bits_with_kernels_are_offered(weights, activations, method):
    if weights in ((8, 4) if method == "weights" else (8, 7)) and activations == 8:
        assert Quantize(weights, activations, method).weights == weights
    else:
        with pytest.raises(ValueError, match="weights are 8 or"):
            Quantize(weights, activations, method)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "magic"},
        {"calibration": "guess"},
        {"samples": 0},
        {"harm": 1.5},
        {"group_size": 33},
    ],
)
def test_settings_that_fit_nothing(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is "):
        Quantize(**settings)


def test_choices_follow_layers_and_machine(machine):
    def chosen(where, parameters_by=None, **layers):
        facts = Facts("onnx", 1, 1, layers, parameters_by=parameters_by or {})
        return [str(c).removeprefix("quantize") for c in Quantize.choices(facts, where)]

    assert chosen(MODERN, conv=3, linear=1) == ["(harm=0.3)", ""]
    assert chosen(machine, conv=3, linear=1) == ["(weights=7, harm=0.3)", "(exact=True)", "(weights=7)"]
    assert chosen(MODERN, linear=3) == ["(method='dynamic')", "(harm=0.3)", ""]
    assert chosen(MODERN, lstm=1, linear=1) == ["(method='dynamic')"]
    assert chosen(MODERN, lstm=1, conv=1) == ["(harm=0.3)", ""]
    assert chosen(MODERN, gru=1, linear=1) == ["(method='weights')"]
    assert chosen(MODERN, {"linear": 10**9}, linear=3)[0] == "(weights=4, method='weights')"
    assert chosen(MODERN, {"linear": 1, "embedding": 9}, linear=3, embedding=1)[0] == "(method='weights')"
    assert chosen(MODERN) == []
    assert Quantize.choices(Facts("onnx", 1, 1, {"conv": 1}, weight_bits=8.0), MODERN) == ()


def test_predictions(machine):
    cnn, gru = Facts("onnx", 1000, 1, {"conv": 3}), Facts("onnx", 1000, 1, {"gru": 1, "linear": 1})
    predicted = Quantize().predict(cnn, machine)
    assert (predicted.weight_bits, predicted.activation_bits, predicted.dynamic) == (8, 8, False)
    assert 0 < predicted.quality_loss < Quantize(weights=7).predict(cnn, machine).quality_loss < 0.02
    assert Quantize().predict(gru, machine) == gru
    light = Quantize(method="weights").predict(gru, machine)
    assert (light.weight_bits, light.activation_bits) == (8.5, 32)
    told = Facts("onnx", 100, 1, {"conv": 1, "gru": 1}, parameters_by={"conv": 75, "gru": 25})
    assert Quantize().predict(told, machine).weight_bits == 14
    assert Quantize(harm=0.3).predict(cnn, machine).quality_loss < predicted.quality_loss
    assert Quantize(method="dynamic").predict(Facts("onnx", 9, 9, {"linear": 2}), machine).dynamic


def test_only_weights_in_few_bits_leave_activations_in_float(tmp_path):
    view = TaskView(Figures())
    before = convolutional(tmp_path / "float")
    after = run(before, tmp_path, view, {"method": "weights"})
    assert (after.main.facts.activation_bits, after.main.facts.dynamic) == (32, False)
    assert after.main.facts.weight_bits < 14
    assert {left["why"] for left in after.notes["quantize"]["left_in_float"]} == {"it has too few weights to matter"}
    assert accuracy(after, view) > 0.95


def test_a_gru_is_held_in_eight_bits_by_weights_alone(tmp_path):
    view = TaskView(Sequences())
    before = recurrent(tmp_path / "float", "GRU")
    after = run(before, tmp_path, view, {"method": "weights"})
    assert after.main.facts.weight_bits < 12
    pairs = zip(outputs(before, view, "sequence"), outputs(after, view, "sequence"), strict=True)
    assert max(float(np.abs(a - b).max()) for (a, _), (b, _) in pairs) < 0.02


def outlying(folder):
    """A net whose second convolution sees one channel a thousand times the others: hard on one scale a tensor."""
    spread = np.ones((CLASSES, 1, 1, 1), np.float32)
    spread[0] = 1000.0
    nodes = [
        ("Conv", "image filters", "c", {"pads": [3, 3, 4, 4]}),
        ("Conv", "c mix", "m", {}),
        ("Conv", "m last", "l", {}),
        ("GlobalAveragePool", "l", "p", {}),
        ("Flatten", "p", "output", {}),
    ]
    mix = np.eye(CLASSES, dtype=np.float32)[:, :, None, None] / spread.reshape(1, -1, 1, 1)
    last = random(CLASSES, CLASSES, 1, 1)
    return write(folder, nodes, {"filters": PROTOTYPES / 64 * spread, "mix": mix, "last": last})


def test_mixed_precision_leaves_the_layer_that_does_the_harm(tmp_path, monkeypatch):
    def timed(model, layers, feed, ranges):
        return {layer.name: np.array([2.0, 1.0, np.nan]) for layer in layers}

    monkeypatch.setattr("trimtab.run.onnx_profile.milliseconds", timed)
    view, before = TaskView(Figures()), outlying(tmp_path / "float")
    bold, mixed = (run(before, tmp_path / str(h), view, {"harm": h}).notes["quantize"] for h in (1.0, 0.3))
    dear = max(mixed["layers"], key=lambda layer: layer["harm"])
    reasons = {left["layer"]: left["why"] for left in mixed["left_in_float"]}
    assert 0 < len(reasons) < 3
    assert "% of the harm" in reasons[dear["layer"]] == dear["left"]
    assert mixed["output_error"] < 0.3 * bold["output_error"]
    taken = sum(layer["harm"] for layer in mixed["layers"] if "left" not in layer)
    assert taken <= 0.3 * sum(layer["harm"] for layer in mixed["layers"])


def test_layers_that_are_slower_in_eight_bits_stay_in_float(tmp_path, monkeypatch):
    def timed(model, layers, feed, ranges):
        return {layer.name: np.array([1.0, 3.0 if number else 0.5, np.nan]) for number, layer in enumerate(layers)}

    monkeypatch.setattr("trimtab.run.onnx_profile.milliseconds", timed)
    notes = run(convolutional(tmp_path / "float"), tmp_path, TaskView(Figures()), {"harm": 0.999}).notes["quantize"]
    assert [left["why"] for left in notes["left_in_float"]] == ["8 bits are slower here: 3 ms for 1"] * 2


def saturating(model, optimized=True, chosen=None, plain=onnx_check.session):
    """Sessions whose kernels hold weights of one layer alone in 6 bits: what saturation looks like from outside."""
    if optimized and isinstance(model, bytes):
        proto = onnx.ModelProto.FromString(model)
        for tensor in proto.graph.initializer:
            if tensor.data_type == TensorProto.INT8 and tensor.name.startswith("mix"):
                codes = np.clip(numpy_helper.to_array(tensor), -32, 32)
                tensor.CopyFrom(numpy_helper.from_array(codes, tensor.name))
        model = proto.SerializeToString()
    return plain(model, optimized, chosen)


def test_kernels_that_stray_are_named_and_can_be_left_out(tmp_path, machine, monkeypatch):
    monkeypatch.setattr(onnx_kernels, "runtime_errors", lambda part, feeds, machine: {})
    view, before = TaskView(Figures()), convolutional(tmp_path / "float")
    right = run(before, tmp_path / "right", view, SAFE, machine)
    assert right.notes["quantize"]["strayed"] == []
    assert all(e <= 1 / 255 for e in onnx_kernels.layer_errors(onnx_files.load(right.main), feeds()).values())
    monkeypatch.setattr(onnx_check, "session", saturating)
    plain, exact = (
        run(before, tmp_path / n, view, s, machine) for n, s in (("a", SAFE), ("b", {"exact": True} | SAFE))
    )
    (strayed,) = plain.notes["quantize"]["strayed"]
    assert strayed["error"] > 0.02
    assert "1 layers do on onnxruntime" in plain.notes["quantize"]["saturation"]
    assert plain.notes["quantize"]["kernel_error"] > 0.02
    (left,) = exact.notes["quantize"]["left_in_float"]
    assert (left["layer"], left["why"]) == (strayed["layer"], "its int8 kernel does not compute here what it should")
    assert exact.notes["quantize"]["strayed"] == []


def feeds():
    return [{"image": Figures().collate(Figures().split("train")[:9]).inputs["image"]}]


def test_dynamic_kernels_are_held_against_whole_numbers(tmp_path):
    after = run(recurrent(tmp_path / "float", "LSTM"), tmp_path, TaskView(Sequences()), {"method": "dynamic"} | SAFE)
    sequence = {"sequence": Sequences().collate(Sequences().split("train")[:9]).inputs["sequence"]}
    errors = onnx_kernels.layer_errors(onnx_files.load(after.main), [sequence])
    assert list(errors.values()) == [0.0]
    assert onnx_kernels._strayed([np.full((1, 2), 255), np.full((2, 1), 127), np.int64(0)], np.array([[32767]])) > 0.4


def test_statistics_gathered_before_are_used(tmp_path):
    view, before = TaskView(Figures()), convolutional(tmp_path / "float")
    ranges = {f"main/{name}": np.array([-1e-3, 1e-3]) for name in ("image", "r", "m", "p", "f", "output", "c")}
    context = Context(view, tmp_path / "int8", MODERN, statistics={"ranges": ranges})
    assert Quantize().apply(before, context).notes["quantize"]["output_error"] > 0.9
    assert Quantize().wants() == {"ranges"}
    assert Quantize(harm=0.5).wants() == {"ranges", "static", "milliseconds"}
    assert Quantize(harm=0.5, method="weights", weights=4).wants() == {"weights4", "milliseconds"}


def test_parts_of_programs_are_calibrated_on_what_they_are_fed(tmp_path, greedy, stateful):
    for number, program in enumerate((greedy, stateful)):
        view = TaskView(Rows(arrays=tuple(program.inputs.items())))
        before = Model.open(program.folder)
        after = Quantize(method="static", **SAFE).apply(before, Context(view, tmp_path / str(number), MODERN))
        assert all(part.facts.weight_bits < 16 for part in after.parts.values())
        sessions = ({n: onnx_check.session(p.path / "model.onnx") for n, p in m.parts.items()} for m in (before, after))
        exact, given = (drive(before, Served(graphs), program.inputs) for graphs in sessions)
        if "tokens" in exact:
            assert np.mean(exact["tokens"][:, 0] == given["tokens"][:, 0]) > 0.8
        else:
            assert np.abs(exact["output"] - given["output"]).max() < 0.05 * np.ptp(exact["output"])


@dataclass(frozen=True)
class Rows(Figures):
    """The rows of a program's inputs."""

    arrays: tuple = ()

    def split(self, name):
        size = len(self.arrays[0][1])
        return [Example(str(i), {name: array[i] for name, array in self.arrays}, 0) for i in range(size)]


@dataclass
class Served:
    graphs: dict

    def run(self, inputs, part="main"):
        graph = self.graphs[part]
        return dict(zip([o.name for o in graph.get_outputs()], graph.run(None, dict(inputs)), strict=True))


SATURATING = """
import sys
from pathlib import Path
from dataclasses import dataclass, replace
from onnx_toys import *
from test_quantize import *
folder = Path(sys.argv[1])
weights = {"W": np.full((CLASSES, SIZE * SIZE), 0.5, np.float32)}
before = write(folder / "float", [("Flatten", "image", "f", {}), ("Gemm", "f W", "output", {"transB": 1})], weights)
@dataclass(frozen=True)
class Bright(Figures):
    def split(self, name):
        return [replace(e, inputs={"image": np.ones((1, SIZE, SIZE), np.float32)}) for e in super().split(name)]
for bits in (8, 7):
    old = Machine("here", 2, ("sse4_2", "avx2"))
    notes = run(before, folder / str(bits), TaskView(Bright()), {"weights": bits}, old).notes["quantize"]
    print(bits, notes["runtime_errors"]["openvino"])
"""


@pytest.mark.slow
def test_openvino_saturates_without_vnni_and_seven_bits_do_not(tmp_path):
    """Its kernels for older processors are really run; onnxruntime's cannot be chosen."""
    pytest.importorskip("openvino")
    paths = [str(Path(__file__).parent), *sys.path]
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", SATURATING, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    errors = dict(line.split() for line in done.stdout.splitlines())
    assert float(errors["8"]) > 0.3
    assert float(errors["7"]) < 0.02


@pytest.mark.slow
def test_masked_attention_from_the_newer_exporter(tmp_path, monkeypatch):
    view, before = TaskView(Texts()), bert(tmp_path / "float")
    batch = Texts().collate(Texts().split("train")).inputs
    exact = onnx_check.session(before.main.path / "model.onnx").run(None, batch)[0]
    assert set(before.main.facts.operations_by) == {"attention", "linear"}
    assert before.main.facts.parameters_by["embedding"] == (90 + 16 + 2) * 64
    for number, settings in enumerate(({}, {"method": "dynamic"}, {"method": "weights"})):
        after = run(before, tmp_path / str(number), view, settings)
        given = onnx_check.session(after.main.path / "model.onnx").run(None, batch)[0]
        assert np.isfinite(given).all()
        assert np.sum((given - exact) ** 2) / np.sum(exact**2) < 0.03
        assert after.main.facts.weight_bits < 10
        assert not [left for left in after.notes["quantize"]["left_in_float"] if left["kind"] == "MatMul"]
        assert after.main.facts.dynamic == (settings.get("method") == "dynamic")

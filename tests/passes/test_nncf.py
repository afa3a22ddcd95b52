"""NNCF's quantizer in OpenVINO's format: a quarter of the size, the accuracy kept, what stays in float named."""

import importlib.util
import os
import sys
from dataclasses import replace

import numpy as np
import pytest

from onnx_toys import CLASSES, MODERN, PROTOTYPES, Figures, Sequences, Texts, bert, convolutional, recurrent, write
from trimtab import machines
from trimtab.errors import DataError, MissingExtra, Refused
from trimtab.passes import Context
from trimtab.passes.nncf import Nncf
from trimtab.run import onnx_check
from trimtab.run.program import drive
from trimtab.values.facts import Facts
from trimtab.values.model import Model
from trimtab.values.registry import registry
from trimtab.values.task import TaskView

HERE = machines.here()
SAFE = {"weights": 7} if HERE.saturates else {}


def run(model, folder, view, settings, machine=MODERN):
    made = Nncf(**settings).apply(model, Context(view, folder, machine))
    made.save(folder)
    return Model.open(folder)


def served(model, view):
    runtime = "openvino" if model.format == "openvino" else "onnxruntime"
    session = registry("runtimes").take(runtime)().load(model, HERE)
    return np.concatenate([drive(model, session, batch.inputs)["output"] for batch in view.batches("validation", 50)])


def test_choices_and_what_they_promise(machine, monkeypatch):
    facts = Facts("onnx", 1000, 1000, {"conv": 3}, parameters_by={"conv": 500, "norm": 500})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    assert Nncf.choices(facts, MODERN) == (Nncf(harm=0.1), Nncf(harm=0.3), Nncf())
    assert {choice.weights for choice in Nncf.choices(facts, machine)} == {7}, "8 bits would saturate"
    assert Nncf.choices(replace(facts, weight_bits=8.0), MODERN) == ()
    assert Nncf.choices(Facts("onnx", 1, 1, {"gru": 1}), MODERN) == ()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert Nncf.choices(facts, MODERN) == ()
    after = Nncf().predict(facts, MODERN)
    assert (after.format, after.weight_bits, after.activation_bits) == ("openvino", 20.0, 8.0)
    assert 0 < Nncf(harm=0.3).predict(facts, MODERN).quality_loss < after.quality_loss < 0.01
    assert Nncf().seconds(facts, MODERN) < Nncf().seconds(replace(facts, operations=10**10), MODERN)
    assert (Nncf().wants(), Nncf(harm=0.5).wants()) == (frozenset(), {"static", "milliseconds"})


@pytest.mark.parametrize("settings", [{"weights": 4}, {"samples": 0}, {"harm": 1.5}])
def test_settings_that_fit_nothing(settings):
    with pytest.raises(ValueError, match=rf"{next(iter(settings))} (is|are) "):
        Nncf(**settings)


def test_not_installed_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingExtra, match="nncf"):
        run(convolutional(tmp_path / "float"), tmp_path, TaskView(Figures()), {})


def test_what_it_cannot_take_is_refused(tmp_path):
    model = convolutional(tmp_path)
    coded = model.map_parts({"main": replace(model.main, facts=replace(model.main.facts, weight_bits=8.0))})
    assert "quantized already" in Nncf().refuses(coded, MODERN)
    none = model.map_parts({"main": replace(model.main, facts=replace(model.main.facts, layers={"gru": 1}))})
    assert "the model has none" in Nncf().refuses(none, MODERN)
    assert Nncf().refuses(model, MODERN) is None


@pytest.mark.slow
def test_the_accuracy_is_kept_in_a_fraction_of_the_size(tmp_path):
    pytest.importorskip("nncf")
    view, before = TaskView(Figures()), convolutional(tmp_path / "float")
    after = run(before, tmp_path / "int8", view, SAFE)
    targets = np.concatenate([batch.targets for batch in view.batches("validation", 50)])
    right, was = (np.mean(served(model, view).argmax(1) == targets) for model in (after, before))
    assert right >= was - 0.02
    assert after.main.facts.weight_bits < 20
    assert after.notes["nncf"]["quantized"] == 3
    assert after.notes["nncf"]["left_in_float"] == []
    assert 0 < after.notes["nncf"]["output_error"] < 0.02
    assert os.environ["NNCF_CI"] == "1", "its usage reports are off"


@pytest.mark.slow
def test_layers_that_do_the_harm_stay_in_float(tmp_path):
    pytest.importorskip("nncf")
    view, before = TaskView(Figures()), convolutional(tmp_path / "float")
    whole, mixed = (run(before, tmp_path / str(harm), view, {**SAFE, "harm": harm}) for harm in (1.0, 0.6))
    left = mixed.notes["nncf"]["left_in_float"]
    assert mixed.notes["nncf"]["quantized"] + len(left) == 3
    assert left
    assert all("of the harm" in one["why"] for one in left)
    assert mixed.notes["nncf"]["output_error"] < whole.notes["nncf"]["output_error"]


@pytest.mark.slow
def test_a_recurrent_layer_stays_in_float_beside_a_quantized_head(tmp_path):
    pytest.importorskip("nncf")
    model, view = recurrent(tmp_path / "float", "LSTM"), TaskView(Sequences())
    after = run(model, tmp_path / "int8", view, {})
    assert {one["kind"] for one in after.notes["nncf"]["left_in_float"]} == {"LSTM"}


@pytest.mark.slow
def test_calibration_inputs_with_nan_name_the_example(tmp_path):
    pytest.importorskip("nncf")
    with pytest.raises(DataError, match="'train17' of the train split has NaN"):
        run(convolutional(tmp_path / "float"), tmp_path, TaskView(Figures(spoilt=float("nan"))), {})


@pytest.mark.slow
def test_attention_is_smoothed(tmp_path):
    pytest.importorskip("nncf")
    view, before = TaskView(Texts()), bert(tmp_path / "float")
    batch = Texts().collate(Texts().split("train")).inputs
    exact = onnx_check.session(before.main.path / "model.onnx").run(None, batch)[0]
    after = run(before, tmp_path / "int8", view, SAFE)
    given = drive(after, registry("runtimes").take("openvino")().load(after, HERE), batch)["output"]
    assert np.sum((given - exact) ** 2) / np.sum(exact**2) < 0.03
    assert after.notes["nncf"]["quantized"] >= 12


@pytest.mark.slow
def test_a_graph_that_nncf_cannot_read_is_refused(tmp_path, monkeypatch):
    nncf = pytest.importorskip("nncf")

    def fails(*_, **__):
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr(nncf, "quantize", fails)
    with pytest.raises(Refused, match=r"NNCF cannot take this model: no such operator$"):
        run(convolutional(tmp_path / "float"), tmp_path, TaskView(Figures()), {})


@pytest.mark.slow
def test_layers_whose_names_openvino_changes_are_told_by_what_follows(tmp_path):
    pytest.importorskip("nncf")
    nodes = [
        ("Conv", "image filters", "c", {"pads": [1, 1, 1, 1]}),
        ("Mul", "c scale", "n", {}),
        ("Add", "n shift", "r", {}),
        ("Relu", "r", "a", {}),
        ("GlobalMaxPool", "a", "p", {}),
        ("Flatten", "p", "f", {}),
        ("Gemm", "f head", "output", {"transB": 1}),
    ]
    weights = {
        "filters": PROTOTYPES / 64, "scale": np.full((1, CLASSES, 1, 1), 2.0, np.float32),
        "shift": np.full((1, CLASSES, 1, 1), 0.1, np.float32), "head": np.eye(CLASSES, dtype=np.float32),
    }  # fmt: skip
    after = run(write(tmp_path / "float", nodes, weights), tmp_path / "int8", TaskView(Figures()), SAFE)
    assert after.notes["nncf"]["left_in_float"] == []
    assert after.notes["nncf"]["quantized"] == 2

"""The peers' own scripts: which knobs they turn on which processor, run where their tools are installed."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import kit
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

FLAGS = "flags\t\t: fpu sse4_2 avx avx2"


@pytest.fixture
def make_job(tmp_path):
    """make_job(variant, opset): one network of a convolution, as a peer is given it."""

    def make(variant, opset=17):
        given = tmp_path / "given"
        (given / "parts").mkdir(parents=True)
        weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
        node = helper.make_node("Conv", ["image", "w"], ["output"], name="conv")
        sides = [
            [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *shape])]
            for name, shape in (("image", (3, 8, 8)), ("output", (4, 6, 6)))
        ]
        graph = helper.make_graph([node], "graph", *sides, [numpy_helper.from_array(weights, "w")])
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
        onnx.save(proto, given / "parts" / "main.onnx")
        (given / "meta.json").write_text(json.dumps({"kind": "cnn", "parts": {"main": {}}}))
        image = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
        np.savez(given / "calibration.npz", **{"main/0000/image": image})
        (tmp_path / "out").mkdir()
        return kit.Job(given, tmp_path / "out", 60.0, variant)

    return make


@pytest.fixture(params=[True, False], ids=["saturates", "vnni"])
def saturates(request, monkeypatch):
    """Whether the processor adds products of 8 bits in 16, one after the other."""
    monkeypatch.setattr(kit, "saturates", lambda: request.param)
    return request.param


@pytest.mark.parametrize(
    ("flags", "expected"),
    [(FLAGS, True), (f"{FLAGS} avx512_vnni", False), (f"{FLAGS} avx_vnni", False), ("Features : asimd", False)],
)
def test_a_processor_saturates_where_it_has_avx_and_neither_vnni_nor_amx(tmp_path, monkeypatch, flags, expected):
    monkeypatch.setattr(kit, "PROCESSOR", tmp_path / "cpuinfo")
    assert not kit.saturates()
    kit.PROCESSOR.write_text(f"processor\t: 0\n{flags}\n")
    assert kit.saturates() is expected


TOOL = """
def check(message):
    return grown(message)


def grown(message):
    helper.run(1, message)
    if message is not None:
        raise RuntimeError(message)
    assert 1 == 2


import helper
"""


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (None, "AssertionError: no message (tool/deep/core.py: assert 1 == 2)"),
        (28, "RuntimeError: 28 (tool/deep/core.py: raise RuntimeError(message))"),
        ("in a helper", "KeyError: 'x' (tool/deep/core.py: helper.run(1, message))"),
        (
            "it failed. Check the logs above.",
            "RuntimeError: it failed. Check the logs above. (tool/deep/core.py: raise",
        ),
        ("it knows no such layers", "RuntimeError: it knows no such layers"),
    ],
)
def test_a_failure_that_says_little_names_the_line_of_the_tool(tmp_path, monkeypatch, message, expected):
    packages = tmp_path / "site-packages"
    (packages / "tool" / "deep").mkdir(parents=True)
    (packages / "tool" / "deep" / "core.py").write_text(TOOL)
    (packages / "helper.py").write_text("def run(x, message):\n    if message == 'in a helper':\n        {}['x']\n")
    monkeypatch.syspath_prepend(packages)
    for name in ("tool", "tool.deep", "tool.deep.core", "helper"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def work(job):
        from tool.deep import core

        core.check(message)

    monkeypatch.setattr(sys, "argv", ["tool.py", str(tmp_path), str(tmp_path / "out"), "10"])
    kit.main(work)
    told = json.loads((tmp_path / "out" / "artefact.json").read_text())["dash"]
    assert told.startswith(f"it fails with {expected}")
    assert str(tmp_path) not in told
    assert ("(" in told) is ("(" in expected)


def test_a_message_that_points_to_the_logs_makes_way_for_what_is_there():
    heard = kit.Heard("tool.of.this.test")
    logging.getLogger("tool.of.this.test").error("the axis %d is fixed\nand more", 1)
    assert kit.told(RuntimeError("Check the logs above"), heard.last) == "RuntimeError: the axis 1 is fixed"
    assert kit.told(RuntimeError("it knows no such layers"), heard.last) == "RuntimeError: it knows no such layers"


def shipped(job):
    return json.loads((job.out / "artefact.json").read_text())


def weights(job):
    proto = onnx.load(job.out / "main" / "model.onnx")
    return next(numpy_helper.to_array(t) for t in proto.graph.initializer if t.name.startswith("w_quantized"))


def test_onnxruntime_reduces_the_range_of_weights(saturates, make_job):
    import ort

    job = make_job("static")
    ort.work(job)
    assert shipped(job)["knobs"]["reduce_range"] is saturates
    assert np.abs(weights(job).astype(int)).max() in ((63, 64) if saturates else (127, 128))


@pytest.mark.parametrize("opset", [11, 13])
def test_onnxruntime_gets_an_opset_that_holds_a_scale_for_each_channel(make_job, opset):
    import ort

    job = make_job("static", opset)
    ort.work(job)
    model = job.out / "main" / "model.onnx"
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert session.run(None, job.feeds("main")[0])[0].shape == (1, 4, 6, 6)
    assert shipped(job)["knobs"]["per_channel"]
    assert ("main: opset 11 converted to 13" in shipped(job)["notes"]) is (opset == 11)
    scales = next(t for t in onnx.load(model).graph.initializer if t.name.startswith("w_scale"))
    assert list(scales.dims) == [4]


def test_onnxruntime_takes_one_scale_a_tensor_where_the_opset_does_not_convert(make_job, monkeypatch):
    import ort

    def fails(graph, opset):
        raise RuntimeError("no adapter")

    monkeypatch.setattr(onnx.version_converter, "convert_version", fails)
    job = make_job("static", 11)
    ort.work(job)
    onnxruntime.InferenceSession(job.out / "main" / "model.onnx", providers=["CPUExecutionProvider"])
    assert not shipped(job)["knobs"]["per_channel"]
    assert shipped(job)["notes"][0] == "main: opset 11 does not convert to 13 (no adapter), one scale a tensor"


@pytest.mark.parametrize(("variant", "fixed"), [("quantize", False), ("overflow", True)])
def test_nncf_fixes_overflow_where_it_is_asked_to(make_job, monkeypatch, variant, fixed):
    nncf = pytest.importorskip("nncf")
    import ptq

    asked = {}

    def quantize(network, **knobs):
        asked.update(knobs)
        return network

    monkeypatch.setattr(nncf, "quantize", quantize)
    job = make_job(variant)
    ptq.work(job)
    assert asked["advanced_parameters"].overflow_fix == (nncf.OverflowFix.ENABLE if fixed else None)
    assert shipped(job)["knobs"]["overflow_fix"] == ("enable" if fixed else "the default")


def test_olive_runs_its_own_configuration_with_a_reduced_range(saturates, make_job, monkeypatch):
    import auto

    ran = []

    def run(command, **how):
        ran.append(command[1])
        out = Path(command[command.index("-o") + 1]) if "-o" in command else Path(command[3]).parent
        out.mkdir(parents=True, exist_ok=True)
        if "--dry_run" in command:
            steps = {"a": {"type": "OnnxPeepholeOptimizer"}, "b": {"type": auto.QUANTIZATION, "precision": "int8"}}
            (out / "config.json").write_text(json.dumps({"passes": steps}))
        else:
            (out / "model.onnx").write_bytes(b"")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    job = make_job("int8")
    auto.work(job)
    assert ran == (["auto-opt", "run"] if saturates else ["auto-opt"])
    assert shipped(job)["knobs"]["reduce_range"] is saturates
    if saturates:
        config = json.loads((job.out / "main-olive" / "config.json").read_text())
        assert [step.get("reduce_range") for step in config["passes"].values()] == [None, True]


def test_torchao_reduces_the_range_where_it_says_so_itself(monkeypatch):
    pytest.importorskip("torch")
    configs = ModuleType("torchao.quantization")
    configs.Int8DynamicActivationInt8WeightConfig = lambda reduce_range: ("dynamic", reduce_range)
    configs.Int8WeightOnlyConfig = lambda: ("weights", None)
    configs.quantize_ = None
    advice = ModuleType("torchao.utils")
    advice.should_reduce_range = lambda device: device.type == "cpu"
    for name, module in (("torchao", ModuleType("torchao")), (configs.__name__, configs), (advice.__name__, advice)):
        monkeypatch.setitem(sys.modules, name, module)
    from trimtab.fit import module as loading

    monkeypatch.setattr(loading, "load", loading.load)  # the script puts its own in the place
    monkeypatch.delitem(sys.modules, "ao", raising=False)
    import ao

    assert (ao.config("dynamic"), ao.config("weights")) == (("dynamic", True), ("weights", None))

"""onnxruntime and openvino serve the same format, so they must agree with each other and with plain numpy."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from trimtab.errors import CorruptFile, RecipeError, UnsafeFile, WorkerMemory
from trimtab.run.client import open_worker
from trimtab.run.program import drive
from trimtab.runtimes.onnxruntime import OnnxRuntime
from trimtab.runtimes.openvino import OpenVino
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.model import Model
from trimtab.values.notation import Step

RUNTIMES = [
    OnnxRuntime(),
    OnnxRuntime(threads=2, level="none", spin=True, precise_int8=True),
    OpenVino(),
    OpenVino(threads=2, hint="throughput"),
    OpenVino(static=True),
]


def by_numpy(constants, image):
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    conv = np.einsum("bchwij,ocij->bohw", windows, constants["K"]) + constants["B"][:, None, None]
    return np.maximum(conv, 0).reshape(len(image), -1) @ constants["W"] + constants["b"]


@pytest.mark.parametrize("runtime", RUNTIMES, ids=str)
def test_a_convolutional_net_agrees_with_numpy(cnn, machine, runtime):
    folder, constants, inputs = cnn
    session = runtime.load(Model.open(folder), machine)
    for rows in (5, 1, 3):
        image = inputs["image"][:rows]
        outputs = session.run({"image": image})
        assert list(outputs) == ["output"]
        assert np.allclose(outputs["output"], by_numpy(constants, image), atol=1e-4)


def test_outputs_do_not_change_under_a_later_call(cnn, machine):
    folder, _, inputs = cnn
    for runtime in (OnnxRuntime(), OpenVino(), OpenVino(static=True)):
        session = runtime.load(Model.open(folder), machine)
        for image in (inputs["image"], inputs["image"][:1]):
            first = session.run({"image": image})["output"]
            kept = first.copy()
            session.run({"image": image * 2})
            assert np.array_equal(first, kept)


def test_a_static_openvino_model_serves_single_examples_from_a_graph_of_its_own(cnn, machine):
    session = OpenVino(static=True).load(Model.open(cnn[0]), machine)
    assert session.singles["main"][1].model_inputs[0].partial_shape.is_static
    assert not session.requests["main"].model_inputs[0].partial_shape.is_static


def test_a_model_with_another_free_axis_is_not_compiled_for_one_shape_when_loaded(stateful, greedy, machine):
    for program, parts in ((stateful, {"main"}), (greedy, {"decoder"})):
        session = OpenVino(static=True).load(Model.open(program.folder), machine)
        assert set(session.singles) == parts


def test_with_another_free_axis_the_first_shape_of_a_single_example_has_a_graph_of_its_own(greedy, machine):
    model, (name, given) = Model.open(greedy.folder), next(iter(greedy.inputs.items()))
    session, plain = (runtime.load(model, machine) for runtime in (OpenVino(static=True), OpenVino()))
    for rows in (given[:1], given[:1, :-1], given, given[:1]):
        found, expected = (drive(model, each, {**greedy.inputs, name: rows}) for each in (session, plain))
        assert all(np.array_equal(found[key], expected[key]) for key in expected)
        assert session.singles["encoder"][0][name] == given[:1].shape


def test_graphs_that_take_turns_do_not_spin_in_each_others_way(cnn, machine):
    one = Model.open(cnn[0])
    for model, stops in ((one, "0"), (replace(one, parts={"first": one.main, "main": one.main}), "1")):
        session = OnnxRuntime(threads=2, spin=True).load(model, machine)
        options = [graph.get_session_options() for graph in session.graphs.values()]
        assert {each.get_session_config_entry("session.force_spinning_stop") for each in options} == {stops}


@pytest.fixture(scope="module")
def ir(cnn, tmp_path_factory):
    """The same net in OpenVINO's own files."""
    import openvino

    root = tmp_path_factory.mktemp("ir")
    plain = Model.open(cnn[0])
    openvino.save_model(openvino.Core().read_model(plain.main.path / "model.onnx"), root / "main" / "model.xml")
    part = replace(plain.main, format="openvino", path=root / "main")
    plain.map_parts({"main": part}).save(root)
    return root


def test_openvino_serves_its_own_files_alike(cnn, ir, machine):
    _, constants, inputs = cnn
    outputs = OpenVino().load(Model.open(ir), machine).run(inputs)
    assert np.allclose(outputs["output"], by_numpy(constants, inputs["image"]), atol=2e-2)  # weights in half


@pytest.mark.parametrize("spoil", ["missing", "link"])
def test_openvino_reads_plain_files_of_the_parts_folder_only(ir, machine, tmp_path, spoil):
    shutil.copytree(ir, tmp_path / "copy")
    weights = tmp_path / "copy" / "main" / "model.bin"
    weights.rename(tmp_path / "elsewhere.bin")
    if spoil == "link":
        weights.symlink_to(tmp_path / "elsewhere.bin")
    error = {"missing": CorruptFile, "link": UnsafeFile}[spoil]
    with pytest.raises(error, match=r"model\.bin"):
        OpenVino().load(Model.open(tmp_path / "copy"), machine)


@pytest.mark.parametrize("name", ["stateful", "greedy", "cascade"])
def test_openvino_serves_every_program(request, machine, name):
    program = request.getfixturevalue(name)
    model = Model.open(program.folder)
    outputs = drive(model, OpenVino().load(model, machine), program.inputs)
    for key, expected in program.expected.items():
        assert np.allclose(outputs[key], expected, atol=1e-4), key


@pytest.mark.slow
@pytest.mark.parametrize("runtime", [OnnxRuntime(), OpenVino()], ids=str)
def test_a_memory_limit_stops_a_batch_that_is_too_large(cnn, machine, runtime):
    folder, _, inputs = cnn
    with open_worker(folder, runtime, machine, memory_limit_mb=100) as worker:
        assert len(worker.run(inputs)["output"]) == 5
        with pytest.raises(WorkerMemory, match="ran out of memory"):
            worker.run({"image": np.zeros((50_000, 1, 12, 12), np.float32)})


def test_settings_are_checked():
    with pytest.raises(RecipeError, match="level is one of none, basic"):
        Step.parse("onnxruntime(level=most)").build(OnnxRuntime)
    with pytest.raises(RecipeError, match="hint is latency or throughput"):
        Step.parse("openvino(hint=speed)").build(OpenVino)
    with pytest.raises(RecipeError, match="threads is from 1 to"):
        Step.parse("openvino(0)").build(OpenVino)


def test_openvino_refuses_processors_it_is_not_built_for(cnn):
    model = Model.open(cnn[0])
    assert OpenVino().refuses(model, Machine("old", 1, ("sse2",))) is not None
    assert OpenVino().refuses(model, Machine("new", 1, ("avx2", "fma"))) is None
    assert OpenVino().refuses(model, Machine("unknown", 1)) is None


def test_openvino_offers_bf16_for_float_models_where_the_processor_has_it(cnn):
    model, modern = (
        Model.open(cnn[0]),
        Machine("modern", 2, ("avx2", "amx_bf16"), 8.0, {"fp32": 100.0, "bf16": 400.0}, 20.0),
    )
    plain = Machine("plain", 2, ("avx2",))
    large = Facts("onnx", 10_000, 500_000_000, {"conv": 4})
    offered = [str(choice) for choice in OpenVino.choices(large, modern)]
    assert offered[2:] == [
        "openvino(static=True, precision='bf16')",
        "openvino(threads=2, static=True, precision='bf16')",
    ]
    assert [str(choice) for choice in OpenVino.choices(replace(large, layers={"lstm": 1}), plain)] == [
        "openvino",
        "openvino(threads=2)",
    ]
    assert len(OpenVino.choices(large, plain)) == 2
    assert len(OpenVino.choices(replace(large, activation_bits=8.0), modern)) == 4
    assert OpenVino.choices(replace(large, activation_bits=8.0, dynamic=True), modern) == ()
    brief = OpenVino(precision="bf16")
    assert brief.predict(large, modern)["latency_ms"] < OpenVino().predict(large, modern)["latency_ms"] / 1.9
    assert "needs amx_bf16 or avx512_bf16; plain has avx2" in brief.refuses(model, plain)
    assert brief.refuses(model, modern) is None
    with pytest.raises(RecipeError, match="precision is f32 or bf16"):
        Step.parse("openvino(precision=f16)").build(OpenVino)


def test_onnxruntime_offers_spinning_for_large_nets_and_precision_where_int8_overflows():
    def offered(facts, *isa, cores=2):
        return [str(choice) for choice in OnnxRuntime.choices(facts, Machine("here", cores, isa))]

    small = Facts("onnx", 10_000, 1_000_000, activation_bits=8.0)
    plain = ["onnxruntime", "onnxruntime(threads=2)"]
    assert offered(small, "avx2", "avx512_vnni") == offered(replace(small, activation_bits=32.0), "avx2") == plain
    assert offered(small, "avx2") == [*plain, "onnxruntime(precise_int8=True)"]
    large = replace(small, operations=500_000_000)
    assert offered(large, "avx2", "avx_vnni") == [*plain, "onnxruntime(threads=2, spin=True)"]
    assert offered(large, "avx_vnni", cores=1) == ["onnxruntime"]


@pytest.mark.parametrize("kind", [OnnxRuntime, OpenVino])
def test_predictions_rank_as_one_would(kind, machine):
    def latency(facts, threads=1):
        return kind(threads=threads).predict(facts, machine)["latency_ms"]

    small = Facts("onnx", 10_000, 1_000_000, {"conv": 4})
    large = Facts("onnx", 10_000, 500_000_000, {"conv": 4})
    whole = Facts("onnx", 10_000, 500_000_000, {"conv": 4}, weight_bits=8, activation_bits=8)
    assert 0 < latency(small) < latency(large)
    assert latency(whole) < latency(large)
    assert latency(large, threads=2) < latency(large)

"""ONNX files: what is refused before a byte of it is believed, and counts against figures worked out by hand."""

import os
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from trimtab.errors import CorruptFile, Refused, UnsafeFile
from trimtab.run import onnx_files

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


def linear(name: str = "batch_size", **changes) -> onnx.ModelProto:
    weight = numpy_helper.from_array(WEIGHT, "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [name, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [name, 4])],
        [weight],
    )
    return helper.make_model(graph, **{"opset_imports": [helper.make_opsetid("", 20)], "ir_version": 10} | changes)


def external(folder: Path, **entries) -> Path:
    """Write `linear` with its weight in `weights.bin`, the external data entries changed as told."""
    model = linear()
    tensor = model.graph.initializer[0]
    (folder / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "weights.bin", "offset": "0", "length": "48"} | entries).items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def weight(model: onnx.ModelProto) -> np.ndarray:
    return numpy_helper.to_array(model.graph.initializer[0])


def test_saved_part_opens_again_with_its_signature(tmp_path):
    part = onnx_files.save(linear(), tmp_path / "main")
    assert part.signature.inputs[0].shape == ("batch", 3)
    assert part.signature.outputs[0].shape == ("batch", 4)
    assert np.array_equal(weight(onnx_files.load(part)), WEIGHT)
    assert (part.facts.parameters, part.facts.operations, dict(part.facts.layers)) == (12, 12, {"linear": 1})


def test_the_file_itself_names_the_batch(tmp_path):
    part = onnx_files.save(linear("N"), tmp_path)
    assert onnx.load(part.path / "model.onnx").graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_beyond_the_limit_weights_go_beside_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_files, "LIMIT", 40)
    model = linear()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((300, 4), np.float32), "weight"))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 300
    part = onnx_files.save(model, tmp_path)
    assert onnx_files.check_external(tmp_path) == (tmp_path / "model.data",)
    assert weight(onnx_files.load(part)).sum() == weight(model).sum() == 1200


def test_external_data_is_read_from_its_offset(tmp_path):
    path = external(tmp_path, offset=16)
    (tmp_path / "weights.bin").write_bytes(bytes(16) + WEIGHT.tobytes())
    assert onnx_files.check_external(path) == (tmp_path / "weights.bin",)
    assert np.array_equal(weight(onnx_files.load(path)), WEIGHT)


def test_external_data_in_a_folder_below(tmp_path):
    (tmp_path / "deep").mkdir()
    path = external(tmp_path, location="deep/weights.bin")
    (tmp_path / "weights.bin").rename(tmp_path / "deep" / "weights.bin")
    assert np.array_equal(weight(onnx_files.load(path)), WEIGHT)


@pytest.mark.parametrize(
    "location",
    ["../weights.bin", "/etc/passwd", "a/../../weights.bin", "", ".", "..", "a//b", "C:weights", "a\\b", "./w"],
)
def test_a_location_outside_the_folder_is_refused(tmp_path, location):
    with pytest.raises(UnsafeFile, match="only a plain path inside"):
        onnx_files.load(external(tmp_path, location=location))


@given(pieces=st.lists(st.sampled_from(["..", ".", "", "a", "secret", "/", "\\"]), max_size=5))
def test_no_path_reaches_a_file_beside_the_folder(tmp_path_factory, pieces):
    root = tmp_path_factory.mktemp("root")
    (root / "secret").write_bytes(bytes(48))
    (root / "folder").mkdir()
    path = external(root / "folder", location="/".join(pieces))
    with pytest.raises((UnsafeFile, CorruptFile)):
        onnx_files.load(path)


def test_a_symlink_is_refused(tmp_path):
    path = external(tmp_path)
    (tmp_path / "weights.bin").rename(tmp_path / "elsewhere")
    (tmp_path / "weights.bin").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeFile, match="plain file"):
        onnx_files.load(path)


def test_a_symlinked_folder_is_refused(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "model").mkdir()
    path = external(tmp_path / "model", location="data/weights.bin")
    (tmp_path / "model" / "weights.bin").rename(tmp_path / "outside" / "weights.bin")
    (tmp_path / "model" / "data").symlink_to(tmp_path / "outside")
    with pytest.raises(UnsafeFile, match="plain file"):
        onnx_files.check_external(path)


def test_a_hard_link_is_refused(tmp_path):
    path = external(tmp_path)
    os.link(tmp_path / "weights.bin", tmp_path / "other")
    with pytest.raises(UnsafeFile, match="hard link"):
        onnx_files.load(path)


def test_a_pipe_is_refused_and_does_not_hang(tmp_path):
    path = external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    os.mkfifo(tmp_path / "weights.bin")
    with pytest.raises(UnsafeFile, match="not a regular file"):
        onnx_files.load(path)


def test_a_file_with_holes_is_refused(tmp_path):
    path = external(tmp_path)
    os.truncate(tmp_path / "weights.bin", 2**30)
    with (tmp_path / "weights.bin").open("rb") as file:
        if os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 2**30:
            pytest.skip("this file system shows no holes")
    with pytest.raises(UnsafeFile, match="holes"):
        onnx_files.load(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": 1}, "has 48 bytes"),
        ({"offset": 2**62}, "has 48 bytes"),
        ({"offset": "-48"}, "offset or length"),
        ({"offset": "٣"}, "offset or length"),
        ({"length": 44}, "declares 48 bytes and points at 44"),
        ({"length": 2**40}, "declares 48 bytes"),
        ({"location": "absent.bin"}, "No such file"),
    ],
)
def test_sizes_that_do_not_fit_are_corrupt(tmp_path, entries, message):
    path = external(tmp_path, **entries)
    for reader in (onnx_files.load, onnx_files.check_external):
        with pytest.raises(CorruptFile, match=message):
            reader(path)


def test_a_length_left_out_is_the_declared_size(tmp_path):
    assert np.array_equal(weight(onnx_files.load(external(tmp_path, length=None))), WEIGHT)


def test_an_entry_given_twice_is_refused(tmp_path):
    path = external(tmp_path)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data.add(key="location", value="other.bin")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsafeFile, match="twice"):
        onnx_files.load(path)


def test_two_tensors_on_the_same_bytes_are_refused(tmp_path):
    path = external(tmp_path)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer.add().CopyFrom(model.graph.initializer[0])
    model.graph.initializer[1].name = "again"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsafeFile, match="shares external bytes"):
        onnx_files.load(path)


def test_external_data_of_a_constant_node_is_checked_too(tmp_path):
    path = external(tmp_path, location="../weights.bin")
    model = onnx.load(path, load_external_data=False)
    node = helper.make_node("Constant", [], ["weight"])
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(model.graph.initializer[0])
    model.graph.node.insert(0, node)
    del model.graph.initializer[:]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsafeFile, match="plain path"):
        onnx_files.load(path)


def test_a_tensor_that_claims_more_than_it_brings_is_corrupt(tmp_path):
    model = linear()
    model.graph.initializer[0].dims[0] = 2**40
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CorruptFile, match="brings 48"):
        onnx_files.load(tmp_path)


@given(cut=st.integers(0, len(linear().SerializeToString()) - 1))
def test_every_truncation_is_noticed(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("cut") / "model.onnx"
    path.write_bytes(linear().SerializeToString()[:cut])
    with pytest.raises(CorruptFile, match="not a complete ONNX file"):
        onnx_files.load(path)


def test_a_pickle_is_never_opened(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(pickle.dumps({"weights": [1.0]}))
    with pytest.raises(CorruptFile, match="looks like a pickle"):
        onnx_files.load(path)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(CorruptFile, match="cannot read"):
        onnx_files.load(tmp_path / "none.onnx")


def test_unknown_operators_and_opsets_are_named(tmp_path):
    custom = linear(opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("acme", 1)])
    custom.graph.node[0].domain = "acme"
    newer = linear(opset_imports=[helper.make_opsetid("", 999)])
    for model, message in ((custom, r"acme\.MatMul"), (newer, "opset 999")):
        (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(Refused, match=message):
            onnx_files.load(tmp_path)


def test_an_unknown_operator_is_found_inside_branches(tmp_path):
    branch = helper.make_graph(
        [helper.make_node("Turn", ["x"], ["z"], domain="acme")],
        "branch",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    model = linear(opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("acme", 1)])
    model.graph.node.append(helper.make_node("If", ["asked"], ["w"], then_branch=branch, else_branch=branch))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(Refused, match=r"acme\.Turn"):
        onnx_files.load(tmp_path)


def layer(kind, inputs, weights, output, **attributes):
    """Return a model of one node whose inputs after the first ones are weights of the shapes given."""
    names = [f"w{i}" for i in range(len(weights))]
    given = [f"x{i}" for i in range(len(inputs))]
    graph = helper.make_graph(
        [helper.make_node(kind, [*given, *names], ["y"], **attributes)],
        "layer",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(given, inputs, strict=True)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(np.zeros(s, np.float32), n) for n, s in zip(names, weights, strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("model", "operations", "kind"),
    [
        (layer("Conv", [["b", 4, 8, 8]], [(6, 2, 3, 3)], ["b", 6, 6, 6], group=2), 6 * 36 * 18, "conv"),
        (layer("ConvTranspose", [["b", 4, 5, 5]], [(4, 3, 2, 2)], ["b", 3, 6, 6]), 100 * 12, "conv"),
        (layer("Gemm", [["b", 5]], [(7, 5), (7,)], ["b", 7], transB=1), 35, "linear"),
        (layer("MatMul", [["b", "t", 5]], [(5, 7)], ["b", "t", 7]), 3 * 35, "linear"),
        (layer("MatMul", [["b", 2, "t", 5], ["b", 2, 5, "t"]], [], ["b", 2, "t", "t"]), 2 * 3 * 5 * 3, None),
        (layer("LSTM", [["t", "b", 5]], [(1, 16, 5), (1, 16, 4)], None, hidden_size=4), 3 * 16 * 9, "lstm"),
        (layer("GRU", [["t", "b", 5]], [(1, 12, 5), (1, 12, 4)], None, hidden_size=4), 3 * 12 * 9, "gru"),
        (layer("Einsum", [["b", "t", 5]], [(5, 7)], ["b", "t", 7], equation="btk, kn -> btn"), 3 * 35, None),
    ],
)
def test_operations_of_one_example(model, operations, kind):
    facts = onnx_files.facts(model, {"t": 3})
    assert facts.operations == operations
    assert dict(facts.layers) == ({kind: 1} if kind else {})


def test_bits_are_weighed_by_elements():
    model = layer("Gemm", [["b", 5]], [(7, 5), (7,)], ["b", 7], transB=1)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((7, 5), np.int8), "w0"))
    assert onnx_files.facts(model).weight_bits == pytest.approx((35 * 8 + 7 * 32) / 42)

"""ONNX files as a source: copied whole, named as the task names things, refused with one clear line."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trimtab.errors import CorruptFile, DataError, UnsafeFile
from trimtab.run import onnx_check, onnx_files
from trimtab.sources.onnx import OnnxFile, rename

WEIGHT = np.random.default_rng(3).normal(size=(5, 3)).astype(np.float32)


def write(folder, taken="features", given="output", shape=("batch", 5), kind=TensorProto.FLOAT):
    """Write a linear classifier of the toy task's five features, through an inner value called `output`."""
    inner = "inner" if "output" in (taken, given) else "output"
    graph = helper.make_graph(
        [helper.make_node("MatMul", [taken, "w"], [inner]), helper.make_node("Identity", [inner], [given])],
        "net",
        [helper.make_tensor_value_info(taken, kind, shape)],
        [helper.make_tensor_value_info(given, kind, ["batch", 3])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def outside(folder):
    """Write the classifier with its weights beside it."""
    path = write(folder)
    onnx.save_model(
        onnx.load(path), path, save_as_external_data=True, location="net.data", size_threshold=0, convert_attribute=True
    )
    return path


def answer(model, features):
    return onnx_check.session(model.main.path / "model.onnx").run(["output"], {"features": features})[0]


@pytest.mark.parametrize(
    ("taken", "given"), [("features", "output"), ("x", "logits"), ("output", "features"), ("x", "y")]
)
def test_the_model_answers_by_the_tasks_names(tmp_path, toy_view, taken, given):
    model = OnnxFile().open(str(write(tmp_path / "from", taken, given)), tmp_path / "to", toy_view)
    features = next(toy_view.batches("train", 4)).inputs["features"]
    assert np.allclose(answer(model, features), features @ WEIGHT, atol=1e-6)
    assert [s.name for s in (*model.main.signature.inputs, *model.main.signature.outputs)] == ["features", "output"]
    assert model.main.signature.inputs[0].shape == ("batch", 5)
    assert (model.main.facts.parameters, model.main.facts.operations) == (15, 15)
    assert model.frontend["labels"] == ["a", "b", "c"]


def test_external_data_comes_along(tmp_path, toy_view):
    path = outside(tmp_path / "from")
    model = OnnxFile().open(str(path), tmp_path / "to", toy_view)
    for file in (tmp_path / "from").iterdir():
        file.unlink()
    features = next(toy_view.batches("train", 4)).inputs["features"]
    assert np.allclose(answer(model, features), features @ WEIGHT, atol=1e-6)
    assert onnx_files.check_external(model.main.path) == (model.main.path / "net.data",)


def test_external_data_that_leaves_its_folder_is_not_copied(tmp_path, toy_view):
    path = outside(tmp_path / "from")
    (tmp_path / "secret").write_bytes((tmp_path / "from" / "net.data").read_bytes())
    (tmp_path / "from" / "net.data").unlink()
    (tmp_path / "from" / "net.data").symlink_to(tmp_path / "secret")
    for attempt in (
        lambda: OnnxFile().open(str(path), tmp_path / "to", toy_view),
        lambda: OnnxFile().fingerprint(str(path)),
    ):
        with pytest.raises(UnsafeFile):
            attempt()
    assert not list((tmp_path / "to").glob("**/*.data"))


def test_external_data_may_not_take_the_models_place(tmp_path, toy_view):
    path = outside(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"net.data", b"aux.data"))
    (tmp_path / "net.data").rename(tmp_path / "aux.data")
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        next(pair for pair in tensor.external_data if pair.key == "location").value = "model.onnx"
    path.write_bytes(proto.SerializeToString())
    (tmp_path / "aux.data").rename(tmp_path / "model.onnx")
    with pytest.raises(UnsafeFile, match="rename it"):
        OnnxFile().open(str(path), tmp_path / "to", toy_view)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": ("batch", 6)}, "the sizes differ"),
        ({"shape": ("batch", 5, 1)}, "1 axes besides the batch, the model wants 2"),
        ({"shape": (1, 5)}, "dynamic batch"),
        ({"kind": TensorProto.DOUBLE}, "float64 and float32"),
    ],
)
def test_an_input_that_cannot_fit(tmp_path, toy_view, options, message):
    with pytest.raises(DataError, match=message) as caught:
        OnnxFile().open(str(write(tmp_path, **options)), tmp_path / "to", toy_view)
    assert "features float32[batch, 5]" in str(caught.value)


def test_more_inputs_than_the_task_has(tmp_path, toy_view):
    proto = onnx.load(write(tmp_path))
    proto.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["batch", 5]))
    onnx.save(proto, tmp_path / "two.onnx")
    with pytest.raises(DataError, match="gives features float32"):
        OnnxFile().open(str(tmp_path / "two.onnx"), tmp_path / "to", toy_view)


def test_files_that_are_not_models(tmp_path, toy_view):
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(CorruptFile, match="not a complete ONNX file"):
        OnnxFile().open(str(tmp_path / "text.onnx"), tmp_path / "to", toy_view)
    with pytest.raises(DataError, match="no file"):
        OnnxFile().open(str(tmp_path / "none.onnx"), tmp_path / "to", toy_view)


def test_the_fingerprint_knows_every_byte(tmp_path):
    path = outside(tmp_path)
    before = OnnxFile().fingerprint(str(path))
    assert before == OnnxFile().fingerprint(str(path))
    data = bytearray((tmp_path / "net.data").read_bytes())
    data[7] ^= 1
    (tmp_path / "net.data").write_bytes(data)
    assert OnnxFile().fingerprint(str(path)) != before


def test_a_name_in_use_inside_a_branch_gives_way():
    branch = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["image"])], "b", [], [helper.make_tensor_value_info("image", 1, ["n"])]
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        "net",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, []), helper.make_tensor_value_info("x", 1, ["n"])],
        [helper.make_tensor_value_info("y", 1, ["n"])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    rename(proto, {"x": "image"})
    onnx.checker.check_model(proto, full_check=True)
    session = onnx_check.session(proto.SerializeToString())
    assert session.run(None, {"c": np.array(True), "image": np.ones(2, np.float32)})[0].tolist() == [-1, -1]

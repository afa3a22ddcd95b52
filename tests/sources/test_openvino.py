"""OpenVINO's own files as a source: copied as they are, held against the task, refused with one clear line."""

import numpy as np
import pytest

from trimtab.errors import CorruptFile, DataError, UnsafeFile
from trimtab.values.notation import Step

openvino = pytest.importorskip("openvino")
OpenVino = pytest.importorskip("trimtab.runtimes.openvino").OpenVino
OpenVinoFile = pytest.importorskip("trimtab.sources.openvino").OpenVinoFile

WEIGHT = np.random.default_rng(3).normal(size=(5, 3)).astype(np.float32)


@pytest.fixture(scope="session")
def folder(tmp_path_factory, make_onnx):
    """A linear classifier of the toy task's five features, as onnx and as converted."""
    root = tmp_path_factory.mktemp("net")
    specs = [("features", "float32", ["batch", 5])], [("output", "float32", ["batch", 3])]
    part = make_onnx(root / "onnx", [("MatMul", "features w", "output", {})], *specs, {"w": WEIGHT})
    network = openvino.Core().read_model(part.path / "model.onnx")
    openvino.save_model(network, root / "net.xml", compress_to_fp16=False)
    return root


def test_the_model_answers_as_its_weights_say(folder, toy_view, machine, tmp_path):
    source = OpenVinoFile()
    model = source.open(str(folder / "net.xml"), tmp_path, toy_view)
    features = next(toy_view.batches("train", 4)).inputs["features"]
    answer = OpenVino().load(model, machine).run({"features": features})["output"]
    assert np.allclose(answer, features @ WEIGHT, atol=1e-5)
    assert model.main.signature.inputs[0].shape == ("batch", 5)
    assert (model.main.facts.parameters, model.main.facts.layers) == (15, {"linear": 1})
    assert model.frontend["labels"] == ["a", "b", "c"]
    assert source.fingerprint(str(folder / "net.xml")) == source.fingerprint(str(folder / "net.xml"))


def test_an_output_without_a_name_gets_one(folder, toy_view, machine, tmp_path):
    network = openvino.Core().read_model(folder / "net.xml")
    network.outputs[0].get_tensor().set_names(set())
    openvino.save_model(network, tmp_path / "net.xml", compress_to_fp16=False)
    model = OpenVinoFile().open(str(tmp_path / "net.xml"), tmp_path / "to", toy_view)
    features = next(toy_view.batches("train", 4)).inputs["features"]
    answer = OpenVino().load(model, machine).run({"features": features})["output"]
    assert np.allclose(answer, features @ WEIGHT, atol=1e-5)


def copied(folder, target):
    for name in ("net.xml", "net.bin"):
        (target / name).write_bytes((folder / name).read_bytes())
    return target / "net.xml"


def test_the_fingerprint_is_of_both_files(folder, tmp_path):
    path = copied(folder, tmp_path)
    before = OpenVinoFile().fingerprint(str(path))
    weights = bytearray((tmp_path / "net.bin").read_bytes())
    weights[0] ^= 1
    (tmp_path / "net.bin").write_bytes(weights)
    assert OpenVinoFile().fingerprint(str(path)) != before


@pytest.mark.parametrize(
    ("spoil", "error", "told"),
    [
        (lambda path: path.unlink(), DataError, "there is no file"),
        (lambda path: path.with_suffix(".bin").unlink(), CorruptFile, r"net\.bin is missing"),
        (lambda path: path.write_text("<net"), CorruptFile, "is not a whole OpenVINO model"),
        (lambda path: path.with_suffix(".bin").write_bytes(b""), CorruptFile, "is not a whole OpenVINO model"),
    ],
)
def test_what_is_no_model_is_told_in_one_line(folder, toy_view, tmp_path, spoil, error, told):
    path = copied(folder, tmp_path)
    spoil(path)
    (tmp_path / "to").mkdir()
    with pytest.raises(error, match=told) as caught:
        OpenVinoFile().open(str(path), tmp_path / "to", toy_view)
    assert "\n" not in str(caught.value)


def test_links_are_not_followed(folder, toy_view, tmp_path):
    path = copied(folder, tmp_path)
    path.with_suffix(".bin").unlink()
    path.with_suffix(".bin").symlink_to(folder / "net.bin")
    with pytest.raises(UnsafeFile, match="is a link"):
        OpenVinoFile().open(str(path), tmp_path / "to", toy_view)


def test_inputs_that_the_task_does_not_give_are_named(folder, tmp_path):
    from trimtab.tasks.toy import Toy
    from trimtab.values.task import TaskView

    network = openvino.Core().read_model(folder / "net.xml")
    network.inputs[0].get_tensor().set_names({"pixels"})
    openvino.save_model(network, tmp_path / "other.xml", compress_to_fp16=False)
    with pytest.raises(DataError, match="the model takes pixels float32 with 2 axes, toy gives features float32"):
        OpenVinoFile().open(str(tmp_path / "other.xml"), tmp_path / "to", TaskView(Toy(features=5)))


def test_an_input_of_another_type_is_told_how_to_cast(make_onnx, toy_view, tmp_path):
    specs = [("features", "int64", ["batch", 5])], [("output", "float32", ["batch", 5])]
    part = make_onnx(tmp_path / "onnx", [("Cast", "features", "output", {"to": 1})], *specs, {})
    openvino.save_model(openvino.Core().read_model(part.path / "model.onnx"), tmp_path / "whole.xml")
    with pytest.raises(DataError, match="int64 and float32: give the model an input of float32"):
        OpenVinoFile().open(str(tmp_path / "whole.xml"), tmp_path / "to", toy_view)


def test_its_references_are_written_in_recipes():
    assert Step.parse("openvino(static=True)").build(OpenVino) == OpenVino(static=True)

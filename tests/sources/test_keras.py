import json
import os
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from trimtab.errors import CorruptFile, DataError, RecipeError, Refused, UnsafeFile
from trimtab.fit import module as artefact
from trimtab.sources import _keras_net, _keras_reader, keras
from trimtab.sources._keras_net import Unknown
from trimtab.tasks import open_task
from trimtab.testing import check_source
from trimtab.values.registry import registry
from trimtab.values.task import TaskView
from trimtab.values.trust import code_named_by

MAKE = """
import sys
import keras
import numpy as np
from keras import Input, Model, Sequential, layers as L

def save(name, model):
    rng = np.random.default_rng(0)
    for w in model.weights:
        if "seed" not in w.path:
            value = rng.normal(size=w.shape).astype("float32") * 0.4
            w.assign(abs(value) + 0.5 if "variance" in w.path else value)
    model.save(f"{sys.argv[1]}/{name}.keras")

save("cnn", Sequential([
    Input((8, 8, 1)), L.Rescaling(2.0, 0.1), L.Conv2D(6, 3, padding="same", activation="relu"),
    L.BatchNormalization(), L.MaxPooling2D(), L.Conv2D(5, 3, strides=2, padding="same"), L.LeakyReLU(),
    L.Flatten(), L.Dropout(0.3), L.Dense(10, activation="softmax")]))
x = Input((8, 8, 1))
a = L.Conv2D(8, 3, padding="same", activation="relu")(x)
b = L.SeparableConv2D(8, 3, padding="same")(L.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(a))
c = L.ZeroPadding2D(1)(L.Concatenate()([L.Add()([a, b]), a]))
c = L.GlobalAveragePooling2D()(L.MaxPooling2D(3, strides=2, padding="same")(c))
save("graph", Model(x, L.Dense(10)(L.LayerNormalization()(c))))
x = Input((6, 3))
h = L.Bidirectional(L.LSTM(4, return_sequences=True))(L.Conv1D(5, 3, padding="same", activation="tanh")(x))
save("rnn", Model(x, L.Dense(2)(L.Bidirectional(L.GRU(3))(L.GRU(3, return_sequences=True)(h)))))
x = Input((8, 8, 1))
save("ops", Model(x, L.Dense(10)(L.GlobalMaxPooling2D()(keras.ops.gelu(L.Conv2D(3, 3)(x)) * 2.0))))
x = Input((4,))
Sequential([x, L.Lambda(lambda v: v * 2), L.Dense(3)]).save(f"{sys.argv[1]}/lambda.keras")

@keras.saving.register_keras_serializable()
class Mine(L.Layer):
    def call(self, v):
        return v

Sequential([Input((4,)), Mine(), L.Dense(3)]).save(f"{sys.argv[1]}/mine.keras")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Keras models that were made, as any user's are, in another process."""
    pytest.importorskip("h5py")
    folder = tmp_path_factory.mktemp("keras")
    words = [sys.executable, "-c", textwrap.dedent(MAKE), str(folder)]
    settings = {"KERAS_BACKEND": "torch", "KERAS_HOME": str(folder)}
    done = subprocess.run(words, env=os.environ | settings, capture_output=True, text=True, check=False)
    if "No module named 'keras'" in done.stderr:
        pytest.skip("no Keras here")
    assert done.returncode == 0, done.stderr
    rng = np.random.default_rng(0)
    target = np.tile([0, 1], 100)
    np.savez(folder / "turned.npz", pixels=rng.random((200, 8, 8, 1), np.float32), target=target)
    np.savez(folder / "steps.npz", sequence=rng.normal(size=(200, 6, 3)).astype(np.float32), target=target)
    return folder


@pytest.fixture(scope="module")
def source():
    return registry("sources").take("keras")()


def config_file(path, config):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", json.dumps(config))


@pytest.mark.slow
def test_an_image_model_keeps_the_contract_and_is_a_plain_torch_net(made, source, tmp_path):
    model = check_source(source, str(made / "cnn.keras"), tmp_path, open_task("digits"))
    assert model.format == "torch"
    assert model.facts.layers == {"conv": 2, "norm": 1, "linear": 1}
    assert model.main.signature.inputs[0].shape == ("batch", 1, 8, 8)
    assert model.notes["keras"]["max_difference"] < 1e-5
    assert "left off" in model.notes["keras"]["softmax"]
    assert code_named_by(model) == [], "the builder is trimtab's own"
    assert "keras" not in sys.modules, "it stays out of this process"
    logits = artefact.load(model.main)(torch.randn(3, 1, 8, 8))
    assert not torch.allclose(logits.sum(1), torch.ones(3)), "no softmax at the end"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task", "kind", "layers"),
    [
        ("cnn", "turned.npz", "torch", {"conv": 2, "norm": 1, "linear": 1}),
        ("graph", "digits", "torch", {"conv": 4, "norm": 1, "linear": 1}),
        ("rnn", "steps.npz", "torch", {"conv": 1, "lstm": 1, "gru": 2, "linear": 1}),
        ("ops", "digits", "onnx", {"conv": 1, "linear": 1}),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_other_models_open_with_the_answers_of_keras(made, source, tmp_path, name, task, kind, layers):
    task = open_task(task if task == "digits" else str(made / task))
    model = source.open(str(made / f"{name}.keras"), tmp_path, TaskView(task))
    assert (model.format, dict(model.facts.layers)) == (kind, layers)
    if kind == "torch":
        assert 0 < model.notes["keras"]["max_difference"] < 1e-5
    else:
        assert "no torch module for Multiply" in model.notes["keras"]["reason"]
        assert [spec.name for spec in model.main.signature.inputs] == ["image"]
        assert model.main.signature.inputs[0].shape[1:] == (1, 8, 8)


@pytest.mark.slow
def test_files_with_code_are_refused_before_keras_sees_them(made, source, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.subprocess, "run", lambda *a, **k: pytest.fail("Keras was started"))
    view = TaskView(open_task("digits"))
    with pytest.raises(UnsafeFile, match="Lambda layer, whose code would run"):
        source.open(str(made / "lambda.keras"), tmp_path, view)
    with pytest.raises(UnsafeFile, match=r"uses Mine .*not Keras's own.*onnx:model.onnx"):
        source.open(str(made / "mine.keras"), tmp_path, view)


def test_inputs_are_arranged_as_the_model_wants_them():
    image = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    array, turned = _keras_reader.arranged(image, (None, 4, 5, 3), "float32")
    assert turned
    assert array.dtype == np.float32
    assert np.array_equal(array, image.transpose(0, 2, 3, 1))
    assert _keras_reader.arranged(image, (None, None, None, 5), "int32")[1] is False
    with pytest.raises(_keras_reader.Misfit, match=r"takes \[batch, 8\]; the task gives \[batch, 3, 4, 5\]"):
        _keras_reader.arranged(image, (None, 8), "float32")


@pytest.mark.parametrize(
    ("name", "content", "kind", "said"),
    [
        ("m.h5", b"x", UnsafeFile, "older formats can carry code"),
        ("m.keras", b"not a zip", CorruptFile, "not a whole .keras file"),
        ("m.keras", {"class_name": "system", "module": "os", "config": {}}, UnsafeFile, r"uses system \(os\)"),
        ("m.keras", {"layers": [{"module": "kerasx.y", "class_name": "A"}]}, UnsafeFile, "not Keras's own"),
    ],
)
def test_bad_files(source, tmp_path, toy_view, name, content, kind, said):
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else config_file(path, content)
    with pytest.raises(kind, match=said):
        source.open(str(path), tmp_path / "out", toy_view)


def test_what_keras_says_becomes_an_error_of_ours(source, tmp_path, toy_view, monkeypatch):
    path = tmp_path / "m.keras"
    config_file(path, {"class_name": "Functional", "module": "keras", "config": {}})

    def saying(text):
        monkeypatch.setattr(keras.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, text, ""))

    for text, kind, said in (
        ('{"error": "TypeError: no such layer\\nmore"}', Refused, "TypeError: no such layer$"),
        ('{"misfit": "the model takes [batch, 8]"}', DataError, r"does not fit toy: the model takes \[batch, 8\]"),
        ('{"missing": "keras"}', RecipeError.__bases__[0], r"pip install 'trimtab\[keras\]'"),
        ("Segmentation fault", CorruptFile, "Keras cannot open"),
    ):
        saying(text)
        with pytest.raises(kind, match=said):
            source.open(str(path), tmp_path / "out", toy_view)


def layer(kind, **config):
    return {"name": "x", "kind": kind, "config": config, "inputs": ["in"], "shapes": [[None, 8, 8, 3]]}


@pytest.mark.parametrize(
    "step",
    [
        layer("Conv3D"),
        layer("BatchNormalization", axis=1, epsilon=1e-3, momentum=0.9),
        layer("ReLU", negative_slope=0.0, max_value=3.0, threshold=0.0),
        layer("Activation", activation="hard_sigmoid"),
        layer("MaxPooling2D", pool_size=[2, 2], strides=[2, 2], padding="valid", data_format="channels_first"),
    ],
    ids=lambda step: step["kind"],
)
def test_what_has_no_torch_module_is_named(step):
    with pytest.raises(Unknown, match=r"Conv3D \(x\)|axis 1|max_value=3.0|hard_sigmoid|channels_first"):
        _keras_net.build({"inputs": ["in"], "outputs": ["x"], "steps": [step]})


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "wanted"),
    [
        (8, 3, 1, (1, 1)),
        (8, 3, 2, (0, 1)),
        (7, 3, 2, (1, 1)),
        (8, 2, 1, (0, 1)),
        (224, 7, 2, (2, 3)),
        (5, 1, 3, (0, 0)),
    ],
)
def test_padding_same_is_that_of_keras(size, kernel, stride, wanted):
    config = {"padding": "same", "strides": [stride]}
    assert _keras_net.pads(config, [size], [kernel]) == [wanted]


@pytest.mark.parametrize(
    ("ours", "said"), [(np.full((2, 3), np.nan), "differ from its own by nan"), (np.zeros((2, 4)), "of shape")]
)
def test_answers_that_are_no_numbers_are_not_the_same(ours, said):
    with pytest.raises(Unknown, match=said):
        keras._largest([np.zeros((2, 3)), ours], [np.zeros((2, 3)), np.zeros((2, 3))])

import json
import os
import subprocess
import textwrap

import numpy as np
import pytest

from trimtab.errors import CorruptFile, DataError, Refused, UnsafeFile
from trimtab.run import onnx_check
from trimtab.run.environment import interpreter
from trimtab.sources import tf
from trimtab.tasks import open_task
from trimtab.values.registry import registry
from trimtab.values.task import TaskView

MAKE = """
import sys
import numpy as np, tensorflow as tf

class Net(tf.Module):
    def __init__(self):
        super().__init__()
        random = tf.random.Generator.from_seed(0)
        self.kernel = tf.Variable(random.normal((3, 3, 1, 4)))
        self.weight = tf.Variable(random.normal((4, 10)))

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.float32)])
    def __call__(self, image):
        hidden = tf.nn.relu(tf.nn.conv2d(image, self.kernel, 1, "SAME"))
        return tf.reduce_mean(hidden, (1, 2)) @ self.weight

class Reads(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.float32)])
    def __call__(self, image):
        return image + tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32)

for name, net in (("net", Net()), ("reads", Reads())):
    tf.saved_model.save(net, f"{sys.argv[1]}/{name}", signatures={"serving_default": net.__call__})
net = Net()
image = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
restored = tf.saved_model.load(f"{sys.argv[1]}/net")
np.savez(f"{sys.argv[1]}/answer.npz", image=image, answer=restored(image).numpy())
"""


@pytest.fixture
def source():
    return registry("sources").take("tf")()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """SavedModels, made by the TensorFlow of the environment that $TRIMTAB_TF_PYTHON names or the user's cache has."""
    if not os.environ.get("TRIMTAB_TF_PYTHON") and os.environ.get("TRIMTAB_TEST_TF") != "1":
        pytest.skip("1.6 GB to install: TRIMTAB_TEST_TF=1 makes the environment, TRIMTAB_TF_PYTHON names one")
    folder = tmp_path_factory.mktemp("tf")
    words = [str(interpreter("tf", tf.PINS, "TensorFlow")), "-c", textwrap.dedent(MAKE), str(folder)]
    quiet = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(words, env=os.environ | quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_a_saved_model_answers_as_in_tensorflow(saved, source, tmp_path):
    model = source.open(str(saved / "net"), tmp_path, TaskView(open_task("digits")))
    assert model.format == "onnx"
    assert model.main.signature.inputs[0].shape == ("batch", 1, 8, 8)
    assert model.notes["tf"]["channels_turned"] == [True]
    with np.load(saved / "answer.npz") as known:
        image, answer = known["image"].transpose(0, 3, 1, 2), known["answer"]
    session = onnx_check.session((model.main.path / "model.onnx").read_bytes())
    assert np.allclose(session.run(["output"], {"image": image})[0], answer, atol=1e-5)


@pytest.mark.slow
def test_operators_that_reach_beyond_the_model_are_refused(saved, source, tmp_path):
    with pytest.raises(UnsafeFile, match="ReadFile, which reaches beyond"):
        source.open(str(saved / "reads"), tmp_path, TaskView(open_task("digits")))


def fake(tmp_path):
    (tmp_path / "saved").mkdir(exist_ok=True)
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"graph")
    return str(tmp_path / "saved")


@pytest.mark.parametrize(
    ("said", "kind", "told"),
    [
        ('{"error": "ValueError: no op\\nmore"}', Refused, "cannot convert .*: ValueError: no op$"),
        ('{"unsafe": "PyFunc"}', UnsafeFile, "PyFunc, which reaches beyond"),
        ("Aborted", CorruptFile, "cannot open"),
    ],
)
def test_what_the_converter_says_becomes_an_error_of_ours(source, tmp_path, toy_view, monkeypatch, said, kind, told):
    monkeypatch.setenv("TRIMTAB_TF_PYTHON", "/nowhere/python")
    monkeypatch.setattr(tf.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, said, ""))
    with pytest.raises(kind, match=told):
        source.open(fake(tmp_path), tmp_path / "out", toy_view)


def test_the_converter_runs_apart_from_everything_here(source, tmp_path, toy_view, monkeypatch):
    ran = []

    def run(command, **settings):
        ran.append(command)
        return subprocess.CompletedProcess(command, 0, json.dumps({"error": "enough"}), "")

    monkeypatch.setenv("TRIMTAB_TF_PYTHON", "/nowhere/python")
    monkeypatch.setattr(tf.subprocess, "run", run)
    with pytest.raises(Refused):
        source.open(fake(tmp_path), tmp_path / "out", toy_view)
    assert ran[0][:2] == ["/nowhere/python", "-I"], "without this environment's paths"
    assert ran[0][2].endswith("_tf_convert.py")


def test_what_is_no_saved_model(source, tmp_path, toy_view):
    with pytest.raises(DataError, match="is no folder"):
        source.open(str(tmp_path / "none"), tmp_path, toy_view)
    with pytest.raises(DataError, match=r"holds no saved_model\.pb"):
        source.open(str(tmp_path), tmp_path, toy_view)


def test_the_fingerprint_is_of_the_content(source, tmp_path):
    folder = fake(tmp_path)
    before = source.fingerprint(folder)
    assert before == source.fingerprint(folder)
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"another")
    assert source.fingerprint(folder) != before

"""Three programs that keep the contracts honest, each through store, worker, meters, pack and load."""

import json
import shutil
from dataclasses import dataclass

import numpy as np
import pytest

import trimtab
from trimtab.apply import Made, gather
from trimtab.errors import CorruptFile
from trimtab.meters import Probe
from trimtab.pack import pack
from trimtab.run.client import open_worker
from trimtab.runtimes.onnxruntime import OnnxRuntime
from trimtab.testing import check_kept, check_meter, check_runtime
from trimtab.values.model import Model
from trimtab.values.registry import registry
from trimtab.values.store import Store, files_of
from trimtab.values.task import Batch, Example, Metric, Task, TaskView

PROGRAMS = ("stateful", "greedy", "cascade")
RUNTIME = OnnxRuntime()


class Right(Metric):
    name, better, unit, binary = "right", "higher", "share", True

    def reduce(self, rows, weights):
        return weights @ rows[:, 0] / weights.sum(axis=1)

    def values(self, rows):
        return rows[:, 0]


@dataclass(frozen=True)
class Answers(Task):
    """A fixture's inputs in every split; what plain numpy answers is right."""

    inputs: dict
    expected: dict

    name = "answers"
    objective = "cross_entropy"

    @property
    def metrics(self):
        return (Right(),)

    def split(self, name):
        rows = range(len(next(iter(self.inputs.values()))))
        return [Example(f"{name}{i}", {k: v[i] for k, v in self.inputs.items()}, i) for i in rows]

    def collate(self, examples):
        inputs = {name: np.stack([e.inputs[name] for e in examples]) for name in self.inputs}
        return Batch(inputs, np.array([e.target for e in examples]))

    def score(self, outputs, batch):
        rows = np.ones((len(batch), 1))
        for name, expected in self.expected.items():
            near = np.isclose(outputs[name], expected[batch.targets], atol=1e-4)
            rows[:, 0] *= near.reshape(len(batch), -1).all(axis=1)
        return rows


@pytest.fixture(params=PROGRAMS)
def program(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def bundle(program, machine, tmp_path):
    made = Made(Model.open(program.folder), "key", program.folder)
    pack(made, RUNTIME, tmp_path / "bundle", {"verdict": "PASS", "machine": machine.to_json(), "command": "test"})
    return tmp_path / "bundle"


def check_answers(outputs, expected):
    assert set(expected) <= set(outputs)
    for name, wanted in expected.items():
        assert outputs[name].shape == wanted.shape, name
        assert np.allclose(outputs[name], wanted, atol=1e-4), name


@pytest.mark.slow
def test_the_store_keeps_them_and_notices_a_changed_byte(program, machine, tmp_path):
    store = Store(tmp_path / "store")
    model = Model.open(program.folder)

    def build(scratch):
        check_kept(gather(model, scratch), scratch)

    folder = store.make("a", build)
    found = Store(tmp_path / "store").get("a")
    assert found == folder
    again = Model.open(found)
    assert again.program == model.program
    assert {n: (p.signature, p.facts) for n, p in again.parts.items()} == {
        n: (p.signature, p.facts) for n, p in model.parts.items()
    }
    flip(folder / next(iter(model.parts)) / "model.onnx")
    broken = Store(tmp_path / "store")
    assert broken.get("a") is None
    assert "model.onnx has changed" in broken.warnings[0]
    with open_worker(broken.make("a", build), RUNTIME, machine) as worker:
        check_answers(worker.run(program.inputs), program.expected)


@pytest.mark.slow
def test_meters_read_them_in_a_worker(program, machine):
    model = Model.open(program.folder)
    view = TaskView(Answers(program.inputs, program.expected))
    probe = Probe(view, "validation", model, machine, batch=2, seconds=0.01)
    with open_worker(program.folder, RUNTIME, machine) as worker:
        readings = {
            name: check_meter(registry("meters").take(name)(), worker, probe) for name in registry("meters").names()
        }
    assert [(f.name, f.value) for f in readings["quality"].figures] == [("right", 1.0)]
    assert readings["operations"].figures[0].value == model.facts.operations
    files = sum(path.stat().st_size for path in program.folder.rglob("*.onnx"))
    assert readings["size"].figures[0].value == files / 1e6


@pytest.mark.parametrize(
    "name", [n for n in registry("runtimes").names() if "onnx" in registry("runtimes").take(n).formats]
)
def test_runtimes_answer_examples_alone_as_in_company(program, machine, name):
    runtime = registry("runtimes").take(name)()
    outputs = check_runtime(runtime, Model.open(program.folder), Batch(program.inputs, None), machine)
    check_answers(outputs, program.expected)


def test_a_bundle_answers_as_numpy_does(bundle, program):
    with trimtab.load(bundle) as loaded:
        check_answers(loaded.predict(program.inputs), program.expected)
        (array,) = program.inputs.values()
        check_answers(loaded.predict(array), program.expected)
    about = json.loads((bundle / "bundle.json").read_text())
    assert set(about["signatures"]) == set(Model.open(program.folder).parts)
    assert about["runtime"] == "onnxruntime"
    readme = (bundle / "README.md").read_text()
    (name,) = program.inputs
    assert f'.predict({{"{name}": {name}}})' in readme
    assert "this model needs trimtab's driver" in readme


def test_a_bundle_can_be_moved_and_the_model_it_came_from_deleted(bundle, program, tmp_path):
    moved = tmp_path / "elsewhere" / "model v2"
    shutil.copytree(bundle, moved)
    shutil.rmtree(bundle)
    check_answers(trimtab.load(str(moved)).predict(program.inputs), program.expected)
    for file in files_of(moved):
        assert str(program.folder).encode() not in file.read_bytes(), file


def test_a_changed_byte_in_any_file_of_a_bundle_is_refused(bundle):
    files = files_of(bundle)
    assert len(files) >= 5
    for file in files:
        kept = file.read_bytes()
        for place in (0, len(kept) // 2, len(kept) - 1):
            flip(file, place)
            with pytest.raises(CorruptFile):
                trimtab.load(bundle)
            file.write_bytes(kept)
        file.write_bytes(kept[:-1])
        with pytest.raises(CorruptFile):
            trimtab.load(bundle)
        file.unlink()
        with pytest.raises(CorruptFile):
            trimtab.load(bundle)
        file.write_bytes(kept)
    trimtab.load(bundle)


def test_a_file_or_a_link_more_in_a_bundle_is_refused(bundle, tmp_path):
    (bundle / "model" / "more.bin").write_bytes(b"x")
    with pytest.raises(CorruptFile, match="no part of the bundle"):
        trimtab.load(bundle)
    (bundle / "model" / "more.bin").unlink()
    readme = bundle / "README.md"
    readme.rename(tmp_path / "README.md")
    readme.symlink_to(tmp_path / "README.md")
    with pytest.raises(CorruptFile):
        trimtab.load(bundle)


def flip(file, place=0):
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from trimtab.errors import Refused
from trimtab.machines import here
from trimtab.run.client import open_worker
from trimtab.runtimes import inductor
from trimtab.runtimes.inductor import Inductor
from trimtab.runtimes.torch import Torch
from trimtab.tasks import open_task
from trimtab.testing import check_runtime
from trimtab.values.facts import Facts
from trimtab.values.machine import Machine
from trimtab.values.registry import registry
from trimtab.values.task import TaskView

needs_compiler = pytest.mark.skipif(inductor.compiler() is None, reason="no g++ here")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Sequences of 4 to 12 steps of 3 numbers."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(int(rng.integers(4, 13)), 3)).astype("float32").tolist() for _ in range(60)]
    path = tmp_path_factory.mktemp("sequences") / "data.parquet"
    parquet.write_table(pyarrow.table({"sequence": rows, "target": ["a", "b"] * 30}), path)
    return open_task(f"{path}(target='target')")


def opened(text, task, folder):
    model = registry("sources").take("zoo")().open(text, folder, TaskView(task))
    model.save(folder)
    return model


def test_without_a_compiler_it_says_what_to_install(monkeypatch, tmp_path, machine):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    assert "apt-get install g++" in Inductor().refuses(None, machine)
    assert Inductor().refuses(None, Machine("ssh:box", 2)) is None, "the other machine has its own"
    with pytest.raises(Refused, match="finds no g"):
        Inductor().load(None, machine)


def test_it_is_expected_to_cost_less_per_layer_than_torch(machine):
    deep = Facts("torch", 1000, 1000, {"linear": 50})
    assert Inductor().predict(deep, machine)["latency_ms"] < Torch().predict(deep, machine)["latency_ms"]
    assert [choice.threads for choice in Inductor.choices(deep, machine)] == [1, 2]


@needs_compiler
@pytest.mark.slow
def test_it_keeps_the_contract_of_runtimes(task, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    model = opened("lstm(width=8)", task, tmp_path / "model")
    outputs = check_runtime(Inductor(), model, task.collate(list(task.split("train"))[:20]), here())
    assert outputs["output"].shape == (20, 2)


@needs_compiler
@pytest.mark.slow
def test_one_compilation_serves_all_lengths_and_batches(task, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    model = opened("transformer(width=16, depth=1)", task, tmp_path / "model")
    examples = task.split("train")
    plain = Torch().load(model, here())
    torch._dynamo.utils.counters.clear()
    session = Inductor().load(model, here())
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert compiled == 2
    for rows in ([0], [5], [1, 2, 3], list(range(30))):
        inputs = task.collate([examples[i] for i in rows]).inputs
        expected = plain.run(inputs)["output"]
        assert np.allclose(session.run(inputs)["output"], expected, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled, "no length or batch was compiled for"


@needs_compiler
@pytest.mark.slow
def test_a_worker_compiles_while_loading(tmp_path):
    task = open_task("digits")
    folder = tmp_path / "model"
    opened("mlp(width=8, depth=1)", task, folder)
    inputs = task.collate(list(task.split("validation"))[:20]).inputs
    with open_worker(folder, Torch(), here()) as plain, open_worker(folder, Inductor(), here(), seconds=300) as worker:
        worker.seconds = 5
        assert np.allclose(worker.run(inputs)["output"], plain.run(inputs)["output"], atol=1e-5)

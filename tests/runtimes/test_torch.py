import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from trimtab.fit import module
from trimtab.run.client import open_worker
from trimtab.runtimes import torch as runtime
from trimtab.runtimes.torch import Torch
from trimtab.values.facts import Facts
from trimtab.values.model import Model, Part, Signature, TensorSpec
from trimtab.values.task import Batch


class Two(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, first, second):
        assert torch.is_inference_mode_enabled()
        total, product = first + second, first * second
        return {"tensor": total, "tuple": (total, product), "dict": {"product": product, "total": total}}[self.kind]


def part(outputs, tmp_path):
    specs = [TensorSpec(name, "float32", ("batch",)) for name in ("first", "second")]
    signature = Signature(tuple(specs), tuple(TensorSpec(name, "float32", ("batch",)) for name in outputs))
    return Part("torch", tmp_path, signature, Facts("torch", 0, 0))


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [("tensor", ["output"]), ("tuple", ["total", "product"]), ("dict", ["total", "product"])],
)
def test_inputs_go_in_by_place_and_outputs_come_out_by_name(monkeypatch, tmp_path, machine, kind, outputs):
    monkeypatch.setattr(runtime.module, "load", lambda part: Two(kind))
    session = Torch().load(Model({"main": part(outputs, tmp_path)}), machine)
    second = np.array([2.0, 3.0], np.float32)
    second.flags.writeable = False
    answer = session.run({"second": second, "first": np.array([10.0, 20.0], np.float32)})
    assert answer[outputs[0]].tolist() == [12, 23]
    if len(outputs) > 1:
        assert answer["product"].tolist() == [20, 60]
    assert torch.get_num_threads() == 1


def test_it_takes_views_that_torch_would_not(monkeypatch, tmp_path, machine):
    monkeypatch.setattr(runtime.module, "load", lambda part: Two("tensor"))
    session = Torch().load(Model({"main": part(["output"], tmp_path)}), machine)
    backwards = np.arange(3, dtype=np.float32)[::-1]
    assert session.run({"first": backwards, "second": backwards})["output"].tolist() == [4, 2, 0]


@pytest.mark.slow
def test_a_module_of_this_process_is_served_by_a_worker(tmp_path, machine):
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    shapes = (TensorSpec("features", "float32", ("batch", 5)),), (TensorSpec("output", "float32", ("batch", 3)),)
    features = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    build = module.live_build(module.register_live(net))
    part = module.save(net, tmp_path / "main", Signature(*shapes), build, [], Batch({"features": features}, None))
    Model({"main": part}).save(tmp_path)
    with open_worker(tmp_path, Torch(), machine, memory_limit_mb=500) as worker:
        outputs = worker.run({"features": features})
    with torch.inference_mode():
        expected = net(torch.from_numpy(features)).numpy()
    assert np.allclose(outputs["output"], expected, atol=1e-6)

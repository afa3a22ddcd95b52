import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from trimtab.fit import module
from trimtab.runtimes import torch as runtime
from trimtab.runtimes.torch import Torch
from trimtab.values.facts import Facts
from trimtab.values.model import Model, Part, Signature, TensorSpec


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
    monkeypatch.setattr(module, "load", lambda part: Two(kind))
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

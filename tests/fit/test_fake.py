import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trimtab.fit.fake import FakeInput, FakeWeight, attach, detach
from trimtab.fit.program import Net
from trimtab.values.task import Batch


@settings(max_examples=12, deadline=None)
@given(st.integers(2, 8), st.integers(0, 100))
def test_a_weight_lies_on_its_grid_and_stays_there(bits, seed):
    weight = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(seed))
    weight[1] *= 100
    fake = FakeWeight(bits)
    rounded = fake(weight)
    scale = weight.flatten(1).abs().amax(1)[:, None, None] / fake.most
    steps = rounded / scale
    torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)
    assert ((rounded - weight).abs() <= scale * 0.5001).all()
    torch.testing.assert_close(fake(rounded), rounded, atol=0, rtol=1e-6)


def test_gradients_pass_as_if_nothing_was_rounded_within_the_range():
    weight = torch.randn(4, 3, requires_grad=True)
    FakeWeight(4)(weight).sum().backward()
    assert torch.equal(weight.grad, torch.ones(4, 3))
    fake = FakeInput(8)
    fake(torch.tensor([-1.0, 1.0]))
    value = torch.tensor([0.5, 9.0], requires_grad=True)
    fake.eval()(value).sum().backward()
    assert value.grad.tolist() == [1.0, 0.0]


def test_a_range_holds_zero_follows_slowly_and_rests_in_evaluation():
    fake = FakeInput(8)
    assert fake.eval()(torch.tensor([3.3])).item() == pytest.approx(3.3)
    fake.train()(torch.tensor([2.0, 4.0]))
    assert (fake.low.item(), fake.high.item()) == (0.0, 4.0)
    fake(torch.tensor([-1.0, 14.0]))
    assert (fake.low.item(), fake.high.item()) == pytest.approx((-0.05, 4.5))
    rounded = fake.eval()(torch.tensor([0.0, 100.0]))
    assert rounded[0] == 0.0
    assert rounded[1] == pytest.approx(4.5, abs=0.02)
    assert fake.high.item() == pytest.approx(4.5)


def test_attached_and_detached_leaves_a_plain_net_on_the_grid():
    torch.manual_seed(0)
    tied = nn.Linear(6, 6)
    layers = [nn.Linear(4, 6), nn.ReLU(), tied, nn.GRU(6, 6), nn.Identity()]

    class Body(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.head = nn.ModuleList(layers), nn.Linear(6, 3)
            self.table = nn.Embedding(6, 6)
            self.table.weight = tied.weight

        def forward(self, features):
            hidden = self.layers[2](self.layers[1](self.layers[0](features)))
            return self.head(self.layers[3](hidden[None])[0][0])

    net = Net.of(Body())
    names, plain = sorted(net.state_dict()), net.parts[0].layers[0].weight.clone()
    left = attach(net, weights=4, activations=8)
    assert left == {
        "main/layers.2": "its weight is also that of parts.0.table.weight",
        "main/layers.3": "a GRU is not quantized in training",
        "main/table": "a Embedding is not quantized in training",
    }
    batch = Batch({"features": np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)}, None)
    net.train()(batch)
    fake = net.eval()(batch)["output"]
    ranges = detach(net)
    assert set(ranges) == {"main/layers.0", "main/head"}
    assert ranges["main/layers.0"] == pytest.approx([batch.inputs["features"].min(), batch.inputs["features"].max()])
    assert sorted(net.state_dict()) == names
    assert type(net.parts[0].head) is nn.Linear
    assert not any(module._forward_pre_hooks for module in net.modules())
    assert not torch.equal(net.parts[0].layers[0].weight, plain)
    assert torch.equal(net.parts[0].layers[0].weight, FakeWeight(4)(plain))
    assert (net(batch)["output"] - fake).abs().max() < 0.05

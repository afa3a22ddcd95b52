import copy

import pytest
import torch
from torch import nn

from trimtab.errors import CorruptFile, Refused
from trimtab.fit import channels
from trimtab.fit.units import cuts_of, read_cuts, repeat

IMAGE = (torch.zeros(2, 3, 8, 8),)


def groups(module, image, importance):
    return channels.groups("main", module, image, importance, lambda items: None)


def cut(module, image, plan):
    """Remove channels of groups by their root; returns the cuts."""
    found = {group.root: group for group in groups(module, image, "magnitude")}
    cuts = cuts_of([(found[root], units) for root, units in plan.items()])["main"]
    repeat(module, cuts)
    return cuts


class Joined(nn.Module):
    """Residual sum, concatenation, depthwise and grouped convolutions."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.side = nn.Conv2d(3, 8, 1)
        self.grouped = nn.Conv2d(24, 24, 1, groups=2)
        self.after = nn.Conv2d(24, 12, 1)
        self.head = nn.Linear(12, 5)

    def forward(self, image):
        x = self.a(image)
        x = x + self.depthwise(self.b(x).relu())
        x = self.after(torch.cat([x, self.side(image)], 1)).relu()
        return self.head(x.mean((2, 3)))


class Grouped(Joined):
    def forward(self, image):
        x = self.grouped(torch.cat([self.a(image), self.side(image)], 1))
        return self.head(self.after(x).mean((2, 3)))


def test_coupled_layers_are_one_group_and_the_output_is_kept():
    found = {group.root: group for group in groups(Joined().eval(), IMAGE, "magnitude")}
    assert found["head"].kept_because == "gives the model's output"
    roots = [root for root in found if not found[root].kept_because]
    assert len({"a", "b", "depthwise"} & set(roots)) == 1
    assert {"side", "after"} <= set(roots)


def test_grouped_convolutions_are_left_alone_with_a_reason():
    found = {group.root: group.kept_because for group in groups(Grouped().eval(), IMAGE, "magnitude")}
    assert found["a"] == found["side"] == found["grouped"] == "is split into groups of channels"
    assert found["after"] == ""


def test_repeating_a_cut_gives_the_same_net():
    torch.manual_seed(0)
    module, image = Joined().eval(), (torch.randn(2, 3, 8, 8),)
    module.head.weight.requires_grad_(False)
    other = copy.deepcopy(module)
    root = next(group.root for group in groups(module, image, "magnitude") if group.root in ("a", "b", "depthwise"))
    cuts = cut(module, image, {root: [0, 3, 15], "side": [7], "after": [1, 2]})
    assert torch.equal(repeat(other, cuts)(*image), module(*image))
    assert (module.a.out_channels, module.depthwise.groups, module.after.in_channels) == (13, 13, 20)
    assert (module.after.out_channels, module.head.in_features, module.head.out_features) == (10, 10, 5)
    assert [p.shape for p in other.parameters()] == [p.shape for p in module.parameters()]


def test_removing_dead_channels_changes_no_answer():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)).eval()
    with torch.no_grad():
        net[1].weight[[2, 5]] = 0
        net[1].bias[[2, 5]] = 0
    image = (torch.randn(2, 3, 8, 8),)
    expected = net(*image)
    (group,) = (group for group in groups(net, image, "batch_norm") if group.root == "0")
    weakest = group.scores.argsort()[:2].tolist()
    assert sorted(weakest) == [2, 5]
    cut(net, image, {"0": weakest})
    assert net[4].in_features == 216
    torch.testing.assert_close(net(*image), expected)


def test_what_does_not_fit_or_trace_is_said():
    with pytest.raises(CorruptFile, match="the recorded cut of gone does not fit"):
        repeat(Joined(), [["gone", "out", [0]]])
    for cuts in (None, 5, [5], [["a", "out"]], [["a", "up", [0]]], [["a", "out", ["x"]]], [[1, "in", [0]]]):
        with pytest.raises(CorruptFile, match="the recorded cuts are not a list of"):
            read_cuts(cuts)
    assert read_cuts([["a", "out", [0]]]) == [["a", "out", [0]]]
    with pytest.raises(Refused, match="cannot be traced for pruning"):
        groups(nn.Linear(3, 2), (torch.zeros(1, 7),), "magnitude")

"""A step as its operators: names, counts, work, and the memory that it holds at once."""

import pytest
import torch
from torch import nn

from trimtab.fit.tape import named, recorded, steady_s


def net_of(width=64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 2))


def test_what_runs_is_counted_with_its_work():
    net, x = net_of(), torch.randn(4, 8)
    with torch.no_grad():
        tape = recorded(lambda: net(x), net)
    products = {name: count for name, count in tape.counts.items() if name.startswith("aten.addmm.")}
    assert sum(products.values()) == 2
    assert sum(tape.work[name][0] for name in products) == 2 * 4 * (8 * 64 + 64 * 2)
    assert tape.modules == 4
    assert tape.allocated == 4 * (4 * 64 + 4 * 64 + 4 * 2)


def test_views_hold_nothing_and_what_is_dropped_is_freed():
    def step():
        x = torch.zeros(1000)
        x.view(10, 100).t()
        del x
        return torch.zeros(500)

    tape = recorded(step, nn.Identity())
    assert tape.allocated == 6000
    assert tape.peak == 4000


def test_training_holds_more_than_answering_and_sees_the_backward_pass():
    net, x = net_of(), torch.randn(32, 8)

    def train():
        net.zero_grad(set_to_none=True)
        net(x).square().mean().backward()

    train()
    both = recorded(train, net)
    with torch.no_grad():
        forward = recorded(lambda: net(x), net)
    assert both.peak > forward.peak
    assert any(name.startswith("aten.threshold_backward.") for name in both.counts)


def test_operators_are_timed_once_and_left_as_they_were():
    net, x, times = net_of(), torch.ones(4, 8), {}
    with torch.no_grad():
        recorded(lambda: x.add_(1.0), net, times)
        assert torch.equal(x, torch.full((4, 8), 2.0))
        first = dict(times)
        recorded(lambda: x.add_(1.0), net, times)
    assert times == first
    assert all(value > 0 for value in times.values())


def test_names_tell_layouts_apart():
    image = torch.randn(2, 3, 4, 4)
    relu = torch.ops.aten.relu.default
    plain, last = (named(relu, (x,), {}) for x in (image, image.contiguous(memory_format=torch.channels_last)))
    turned = named(relu, (torch.randn(3, 2).t(),), {})
    assert plain == "aten.relu.default(float32[2, 3, 4, 4])"
    assert last == "aten.relu.default(float32[2, 3, 4, 4]last)"
    assert turned == "aten.relu.default(float32[2, 3]@[1, 2])"


def test_a_step_takes_time():
    assert steady_s(lambda: sum(range(1000)), seconds=0.01) > 0
    with pytest.raises(ZeroDivisionError):
        steady_s(lambda: 1 / 0, seconds=0.01)

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trimtab.errors import CorruptFile
from trimtab.fit import factors
from trimtab.fit.factors import Spectrum


def split(layer, moment, rank):
    one = factors.spectrum("layer", layer, moment, 1000)
    box = factors.split(nn.ModuleDict({"layer": layer}), {"layer": rank})
    factors.fill(box, one, "layer", layer)
    return one, box["layer"]


@pytest.mark.parametrize(("read", "given_"), [(48, 24), (24, 48)])
def test_the_error_is_the_one_that_the_layer_makes_and_least(read, given_):
    torch.manual_seed(0)
    rows = torch.randn(500, read) * torch.linspace(0.1, 3, read)
    layer = nn.Linear(read, given_).requires_grad_(False)
    one, pair = split(layer, rows.T @ rows / len(rows), 8)
    expected, given_rows = layer(rows), pair(rows).detach()
    whole = (expected - layer.bias).square().sum()
    error = float((expected - given_rows).square().sum() / whole)
    assert error == pytest.approx(factors.error_at(one, 8), rel=1e-3)
    left, values, right = torch.linalg.svd(layer.weight, full_matrices=False)
    plain = (left[:, :8] * values[:8]) @ right[:8]
    assert error < float((rows @ (layer.weight - plain).T).square().sum() / whole)
    torch.testing.assert_close(rows @ pair.weight.T + pair.bias, given_rows, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_a_convolution_of_low_rank_is_split_without_error(mode):
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 32, 3, stride=2, padding=1, padding_mode=mode)
    with torch.no_grad():
        layer.weight.copy_((torch.randn(32, 8) @ torch.randn(8, 144)).reshape(32, 16, 3, 3))
    image = torch.randn(2, 16, 9, 9)
    _, pair = split(layer, torch.eye(16), 8)  # of channels alone
    assert [tuple(one.weight.shape) for one in pair] == [(8, 16, 3, 3), (32, 8, 1, 1)]
    torch.testing.assert_close(pair(image), layer(image), rtol=1e-3, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.floats(0.001, 1), min_size=3, max_size=3), min_size=2, max_size=3),
    st.floats(0.3, 1.0),
)
def test_what_the_price_picks_is_the_best_there_is_at_its_cost(errors, share):
    costs = torch.tensor([25.0, 50.0, 75.0, 100.0], dtype=torch.float64)
    spectra = [
        Spectrum(
            str(i), torch.tensor([*sorted(each, reverse=True), 0.0], dtype=torch.float64), (8, 16, 24, 0), costs, costs
        )
        for i, each in enumerate(errors)
    ]
    most = share * 100 * len(spectra)
    ranks = factors.least_error(spectra, most)
    picks = [one.ranks.index(ranks.get(one.name, 0)) for one in spectra]
    cost, error = (
        sum(float(getattr(one, what)[p]) for one, p in zip(spectra, picks, strict=True)) for what in ("costs", "errors")
    )
    assert cost <= most
    for other in itertools.product(range(4), repeat=len(spectra)):
        if sum(float(costs[p]) for p in other) <= cost:
            assert sum(float(one.errors[p]) for one, p in zip(spectra, other, strict=True)) >= error - 1e-9


def test_layers_that_cannot_be_cheaper_are_left_alone():
    assert factors.unfit(nn.Linear(12, 8)) == "is too small to be cheaper as two"
    assert factors.unfit(nn.Conv2d(64, 64, 3, groups=64)) == "is split into groups of channels"
    assert factors.unfit(nn.LSTM(3, 4)) == "is no linear layer or convolution in one or two dimensions"
    assert factors.unfit(nn.Linear(64, 64)) == ""
    for name, rank in (("gone", 8), ("a", 8), ("b", 65), ("b", 0)):
        with pytest.raises(CorruptFile, match=f"the recorded rank of {name} does not fit"):
            factors.split(nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(64, 64)}), {name: rank})

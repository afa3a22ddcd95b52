import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trimtab.errors import CorruptFile
from trimtab.fit import recurrent
from trimtab.fit.units import repeat


@settings(max_examples=12, deadline=None)
@given(
    kind=st.sampled_from([nn.LSTM, nn.GRU, nn.RNN]),
    levels=st.integers(1, 3),
    both=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_cut_layer_gives_what_is_left_of_the_silenced_one(kind, levels, both, bias, seed):
    torch.manual_seed(seed)
    width, gone_each = 6, seed % 5 + 1
    layer = kind(3, width, levels, batch_first=True, bidirectional=both, bias=bias).eval()
    count = recurrent.sections(layer)
    gone = [[*torch.randperm(width)[:gone_each].tolist()] for _ in range(count)]
    flat = [section * width + unit for section, units in enumerate(gone) for unit in units]
    silent, small = copy.deepcopy(layer), copy.deepcopy(layer)
    with torch.no_grad():
        for section, units in enumerate(gone):
            level, backward = divmod(section, 2) if both else (section, 0)
            for name, value in silent.named_parameters():
                if name.endswith(f"_l{level}{'_reverse' if backward else ''}"):
                    value.reshape(-1, width, *value.shape[1:])[:, units] = 0
    recurrent.cut_hidden(small, flat)
    steps = torch.randn(2, 5, 3)
    whole, cut = silent(steps)[0], small(steps)[0]
    left = [
        at * width + unit
        for at, section in enumerate(recurrent.last_sections(layer))
        for unit in range(width)
        if unit not in gone[section]
    ]
    assert small.hidden_size == width - gone_each
    torch.testing.assert_close(cut, whole[..., left])
    assert whole[..., [i for i in range(whole.shape[-1]) if i not in left]].abs().max() == 0


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells_and_inputs_are_cut_too(kind):
    torch.manual_seed(0)
    cell = kind(4, 6)
    small = copy.deepcopy(cell)
    with torch.no_grad():
        recurrent.silence(cell, "hidden", [1, 5])
    recurrent.cut_hidden(small, [1, 5])
    recurrent.cut_inputs(small, [2])
    x = torch.randn(3, 4)
    x[:, 2] = 0
    whole, cut = cell(x), small(x[:, [0, 1, 3]])
    whole, cut = (whole[0], cut[0]) if isinstance(whole, tuple) else (whole, cut)
    torch.testing.assert_close(cut, whole[:, [0, 2, 3, 4]])


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match="projects its hidden state"):
        recurrent.cut_hidden(nn.LSTM(3, 6, proj_size=2), [0])
    with pytest.raises(ValueError, match="2 sections of 4 units cannot keep"):
        recurrent.cut_hidden(nn.GRU(3, 4, 2), [0])
    with pytest.raises(CorruptFile, match="the recorded cut of layer does not fit"):
        repeat(nn.ModuleDict({"layer": nn.GRU(3, 4)}), [["layer", "hidden", [9]]])


def test_columns_sum_over_all_that_reads_a_unit():
    layer = nn.LSTM(3, 4, 2, bidirectional=True)
    values = {name: torch.ones(value.shape[-1]) for name, value in layer.named_parameters() if value.ndim > 1}
    # The first level is read by itself and by both directions of the second.
    assert recurrent.columns(layer, "hidden", values).tolist() == [3.0] * 8 + [1.0] * 8
    assert recurrent.columns(layer, "in", values).tolist() == [2.0] * 3
    assert recurrent.columns(layer, "in", {}) is None
    assert recurrent.strength(layer, "hidden").shape == (16,)


@settings(max_examples=12, deadline=None)
@given(
    kind=st.sampled_from([nn.LSTM, nn.GRU, nn.RNN]),
    both=st.booleans(),
    bias=st.booleans(),
    gone=st.sets(st.integers(1, 3), min_size=1),
)
def test_what_is_left_of_levels_computes_as_they_did(kind, both, bias, gone):
    torch.manual_seed(len(gone))
    layer = kind(3, 4, 4, batch_first=True, bidirectional=both, bias=bias, dropout=0.5).double().eval()
    small = recurrent.without_levels(layer, sorted(gone))
    steps = torch.randn(2, 5, 3).double()
    result = steps
    for level in sorted({0, 1, 2, 3} - gone):
        alone = kind(result.shape[-1], 4, 1, batch_first=True, bidirectional=both, bias=bias).double()
        marks = {f"_l{level}": "_l0", f"_l{level}_reverse": "_l0_reverse"}
        own = {
            f"{name.partition('_l')[0]}{marks[mark]}": value
            for name, value in layer.state_dict().items()
            if (mark := f"_l{name.partition('_l')[2]}") in marks
        }
        alone.load_state_dict(own)
        result = alone(result)[0]
    torch.testing.assert_close(small(steps)[0], result, rtol=0, atol=0)
    assert (small.num_layers, small.training) == (4 - len(gone), False)


@pytest.mark.parametrize(
    ("layer", "gone"), [(nn.LSTM(3, 4, 2), [0]), (nn.LSTM(3, 4, 2), [2]), (nn.LSTM(3, 4, 2, proj_size=2), [1])]
)
def test_levels_that_cannot_go_are_refused(layer, gone):
    with pytest.raises(ValueError, match=r"any but the first|projects"):
        recurrent.without_levels(layer, gone)


def test_the_deepest_stack_has_the_levels():
    module = nn.ModuleDict({"a": nn.GRU(3, 4), "b": nn.Sequential(nn.LSTM(3, 4, 3)), "c": nn.LSTM(3, 4, 2)})
    assert recurrent.levels(module) == ("b.0:0", "b.0:1", "b.0:2")
    assert recurrent.levels(nn.LSTM(3, 4, 2)) == (":0", ":1")
    assert recurrent.levels(nn.GRU(3, 4)) == ()

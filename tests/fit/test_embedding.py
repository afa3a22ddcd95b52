import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trimtab.errors import CorruptFile
from trimtab.fit.embedding import remapped
from trimtab.fit.units import repeat


@settings(max_examples=25, deadline=None)
@given(gone=st.sets(st.integers(0, 11), min_size=1, max_size=11))
def test_ids_left_keep_their_rows_and_the_others_share_their_mean(gone):
    layer = nn.Embedding(12, 3)
    small = remapped(layer, sorted(gone))
    ids = torch.arange(12)
    expected = layer.weight.detach().clone()
    expected[sorted(gone)] = layer.weight.detach()[sorted(gone)].mean(0)
    torch.testing.assert_close(small(ids), expected)
    assert len(small.weight) == 12 - len(gone) + 1


def test_the_row_of_padding_stays_as_it_is_in_training():
    small = remapped(nn.Embedding(12, 3, padding_idx=5), [0, 2, 9])
    small(torch.tensor([5, 4, 5])).sum().backward()
    assert small.weight.grad[int(small.index[5])].tolist() == [0, 0, 0]
    assert small.weight.grad[int(small.index[4])].tolist() == [1, 1, 1]


def test_what_does_not_fit_is_said():
    for layer in (nn.Embedding(4, 2, max_norm=1.0), nn.Linear(2, 2)):
        with pytest.raises(ValueError, match=r"scales its rows|is no plain embedding"):
            remapped(layer, [0])
    for gone in ([], [4], [0, 1, 2, 3]):
        with pytest.raises(ValueError, match="it has 4 rows"):
            remapped(nn.Embedding(4, 2), gone)
    with pytest.raises(CorruptFile, match="the recorded cut of words does not fit"):
        repeat(nn.ModuleDict({"words": nn.Linear(2, 2)}), [["words", "rows", [0]]])

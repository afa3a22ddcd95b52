import pytest
import torch
from torch import nn

from trimtab.fit import attention
from trimtab.fit.units import repeat


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_the_twin_computes_the_same_with_and_without_masks(bias, norm_first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=norm_first, bias=bias).eval()
    x, padding = torch.randn(3, 5, 16), torch.arange(5) >= torch.tensor([[5], [3], [1]])
    causal = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
    masks = ({}, {"src_key_padding_mask": padding}, {"src_mask": causal}, {"src_mask": torch.zeros(5, 5)})
    with torch.no_grad():
        before = [layer(x, **mask) for mask in masks]
        assert attention.swap(layer) == (["self_attn"], {})
        for mask, expected in zip(masks, before, strict=True):
            torch.testing.assert_close(layer(x, **mask), expected)


@pytest.mark.parametrize("average", [True, False])
def test_the_twin_shows_the_weights_that_were_asked_for(average):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    x, padding = torch.randn(3, 5, 16), torch.arange(5) >= torch.tensor([[5], [3], [1]])
    for given in ({}, {"key_padding_mask": padding}):
        wanted = layer(x, x, x, average_attn_weights=average, **given)
        torch.testing.assert_close(attention.swapped(layer)(x, x, x, average_attn_weights=average, **given), wanted)
    assert attention.swapped(layer)(x, x, x, need_weights=False)[1] is None


def test_without_heads_it_gives_what_the_whole_gives_with_them_silenced():
    torch.manual_seed(0)
    layer = attention.swapped(nn.MultiheadAttention(12, 3, batch_first=True)).eval()
    x, gone = torch.randn(2, 4, 12), [4, 5, 6, 7]
    handle = layer.output.register_forward_pre_hook(lambda _, given: given[0].index_fill(-1, torch.tensor(gone), 0.0))
    expected = layer(x, x, x)[0]
    handle.remove()
    sides = [[f"layer.{name}", "out", gone] for name in ("query", "key", "value")]
    box = repeat(nn.ModuleDict({"layer": layer}), [*sides, ["layer.output", "in", gone], ["layer", "heads", [1]]])
    torch.testing.assert_close(box["layer"](x, x, x)[0], expected)
    assert attention.heads_of(layer).count == 2
    with pytest.raises(ValueError, match="has no 2 heads to lose"):
        attention.forget(layer, 2)


def test_layers_that_cannot_be_swapped_keep_their_heads():
    net = nn.ModuleDict({"a": nn.MultiheadAttention(8, 2), "b": nn.MultiheadAttention(8, 2, kdim=4, batch_first=True)})
    done, kept = attention.swap(net)
    assert done == []
    assert set(kept) == {"a", "b"}
    assert all(reason.startswith("keeps its heads: it is not batch first") for reason in kept.values())
    assert attention.is_attention(net["a"])
    assert attention.heads_of(net["a"]) is None

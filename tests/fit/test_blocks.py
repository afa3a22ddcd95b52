from collections import OrderedDict

import pytest
import torch
from torch import nn

from trimtab.errors import CorruptFile
from trimtab.fit.blocks import Mean, find, leave_out, put_mean


class Residual(nn.Module):
    def __init__(self, channels, size):
        super().__init__()
        self.body, self.short = nn.Conv2d(channels, size, 3, padding=1), nn.Conv2d(channels, size, 1)

    def forward(self, x):
        return self.body(x).relu() + self.short(x)


def net():
    blocks = [Residual(4, 4), Residual(4, 4), Residual(4, 8), Residual(8, 8)]
    return nn.Sequential(nn.Conv2d(3, 4, 1), *blocks, nn.Flatten(), nn.Linear(8 * 16, 2))


def test_blocks_that_keep_the_shape_are_found_and_left_out():
    module, image = net().eval(), (torch.randn(2, 3, 4, 4),)
    assert find(module, image) == ("1", "2", "4")
    expected = module[6](module[5](module[3](module[1](module[0](*image)))))
    assert torch.equal(leave_out(module, ["4", "2"])(*image), expected)
    assert len(module) == 5
    assert find(module, image) == ()
    assert find(nn.Linear(3, 3), (torch.zeros(1, 3),)) == ()


def test_blocks_go_by_their_names_where_those_are_no_places():
    image = torch.randn(2, 4, 4, 4)
    later = nn.Sequential(*[Residual(4, 4) for _ in range(4)])[1:].eval()
    expected = later[2](later[1](image))
    assert find(later, (image,)) == ("1", "2", "3"), "a part of a list keeps the numbers of the whole"
    assert torch.equal(leave_out(later, ["1"])(image), expected)
    named = nn.Sequential(OrderedDict((name, Residual(4, 4)) for name in "abc")).eval()
    expected = named[1](image)
    assert torch.equal(leave_out(named, ["a", "c"])(image), expected)


def test_counts_beside_a_list_follow():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    x = torch.randn(2, 4, 16)
    assert find(encoder, (x,)) == ("layers.0", "layers.1", "layers.2")
    expected = encoder.layers[2](encoder.layers[0](x))
    leave_out(encoder, ["layers.1"])
    assert encoder.num_layers == 2
    torch.testing.assert_close(encoder(x), expected)


def test_a_mean_in_place_of_all_layers_reads_any_mask_and_the_count_follows():
    states = torch.randn(2, 5, 3)
    words = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    expected = torch.stack([states[0, :3].mean(0), states[1].mean(0)])[:, None].expand(2, 5, 3)
    full = words[:, None, None].bool()
    for mask in (words, full, full.expand(2, 1, 5, 5), (1.0 - full.float()) * -10_000.0):
        torch.testing.assert_close(Mean()(states, mask), expected)
        torch.testing.assert_close(Mean()(states, attention_mask=mask), expected)
    torch.testing.assert_close(Mean()(states), states.mean(1, keepdim=True).expand(2, 5, 3))
    assert torch.isfinite(Mean()(states, torch.zeros_like(words))).all()
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    gone = ["layers.0", "layers.1"]
    put_mean(leave_out(encoder, gone), gone)
    assert (len(encoder.layers), encoder.num_layers) == (1, 1)
    for names in ([], ["a.0", "b.0"], ["nowhere.0"]):
        with pytest.raises(CorruptFile, match="no one list of blocks"):
            put_mean(encoder, names)


@pytest.mark.parametrize("name", ["9", "nowhere.1", "0.x", ""])
def test_what_does_not_fit_is_said(name):
    with pytest.raises(CorruptFile, match="has no block"):
        leave_out(net(), [name])

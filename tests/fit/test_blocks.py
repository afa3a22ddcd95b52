import pytest
import torch
from torch import nn

from trimtab.errors import CorruptFile
from trimtab.fit.blocks import find, leave_out


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


def test_counts_beside_a_list_follow():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    x = torch.randn(2, 4, 16)
    assert find(encoder, (x,)) == ("layers.0", "layers.1", "layers.2")
    expected = encoder.layers[2](encoder.layers[0](x))
    leave_out(encoder, ["layers.1"])
    assert encoder.num_layers == 2
    torch.testing.assert_close(encoder(x), expected)


@pytest.mark.parametrize("name", ["9", "nowhere.1", "0.x", ""])
def test_what_does_not_fit_is_said(name):
    with pytest.raises(CorruptFile, match="has no block"):
        leave_out(net(), [name])

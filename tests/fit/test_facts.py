import pytest
import torch
from torch import nn

from trimtab.fit.facts import count, layers, operations


def test_counts_convolution_and_linear_by_hand():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16, 5)).eval()
    facts = count(net, (torch.zeros(4, 3, 4, 4),))
    assert facts.operations == 16 * 9 * 3 * 8 + 8 * 16 * 5
    assert facts.parameters == 3 * 8 * 9 + 8 + 16 + 128 * 5 + 5
    assert dict(facts.layers) == {"conv": 1, "norm": 1, "linear": 1}


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3)])
def test_counts_recurrent_steps(kind, gates):
    net = kind(5, 7, num_layers=2, batch_first=True).eval()
    steps = 6
    assert operations(net, (torch.zeros(3, steps, 5),)) == steps * gates * 7 * ((5 + 7) + (7 + 7))


def test_counts_attention_products_and_the_fast_path():
    width, steps = 16, 5
    layer = nn.TransformerEncoderLayer(width, 2, 32, batch_first=True).eval()
    projections = 4 * steps * width * width
    products = 2 * steps * steps * width
    feed_forward = 2 * steps * width * 32
    assert operations(layer, (torch.zeros(2, steps, width),)) == projections + products + feed_forward
    assert torch.backends.mha.get_fastpath_enabled()


def test_projections_of_attention_are_no_layers_of_their_own():
    assert layers(nn.TransformerEncoderLayer(16, 2, 32)) == {"attention": 1, "linear": 2, "norm": 2}

import pytest
import torch
from torch import nn

from trimtab.fit.facts import count, layers, operations, operations_of_layers


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


class Mixed(nn.Module):
    """Attention of a library's kind, a product outside layers, and a weight outside layers."""

    def __init__(self):
        super().__init__()
        self.num_heads = 2
        self.query, self.key, self.value = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.scale = nn.Parameter(torch.ones(8))
        self.words = nn.Embedding(5, 8)

    def forward(self, ids):
        x = self.words(ids)
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        return scores.softmax(-1) @ self.value(x) * self.scale


def test_work_and_weights_are_told_apart_by_kind_of_layer():
    facts = count(Mixed().eval(), (torch.zeros(2, 4, dtype=torch.int64),))
    projections, products = 3 * 4 * 8 * 8, 2 * 4 * 4 * 8
    assert dict(facts.operations_by) == {"linear": projections, "attention": products}
    assert facts.operations == projections + products
    assert dict(facts.parameters_by) == {"linear": 192, "embedding": 40, "other": 8}
    assert dict(facts.layers) == {"linear": 3, "embedding": 1, "attention": 1}
    assert operations_of_layers(Mixed().eval(), (torch.zeros(2, 4, dtype=torch.int64),)) == {
        "": products,
        "query": 256,
        "key": 256,
        "value": 256,
    }


def test_blocks_are_counted():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    facts = count(encoder, (torch.zeros(2, 5, 16),))
    assert facts.blocks == 3
    assert set(facts.operations_by) == {"attention", "linear"}
    assert sum(facts.operations_by.values()) == facts.operations
    assert sum(facts.parameters_by.values()) == facts.parameters
    assert count(layer.eval(), (torch.zeros(2, 5, 16),)).blocks == 0

"""Counts a torch module: parameters, multiply-accumulates for one example, and layers by kind.

Operations are counted where they happen, by `torch.utils.flop_counter` on the operators that run: every convolution,
matrix product and scaled dot-product attention, also those in functional code, loops, LSTM and GRU cells. Fused CPU
kernels that hide their products (oneDNN's recurrent layers, the transformer fast path) are off while counting.
Element-wise work, normalization, pooling and embedding look-ups are not counted.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trimtab.values.facts import Facts

KINDS: Mapping[str, tuple[type[nn.Module], ...]] = {
    "conv": (nn.modules.conv._ConvNd,),
    "lstm": (nn.LSTM, nn.LSTMCell),
    "gru": (nn.GRU, nn.GRUCell),
    "attention": (nn.MultiheadAttention,),
    "linear": (nn.Linear, nn.Bilinear),
    "embedding": (nn.Embedding, nn.EmbeddingBag),
    "norm": (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
}


def count(module: nn.Module, arguments: tuple[Tensor, ...]) -> Facts:
    """Return the facts of a module in eval mode, run once on the first example of `arguments` (batch axis in front)."""
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Facts("torch", parameters, operations(module, arguments), layers(module))


def operations(module: nn.Module, arguments: tuple[Tensor, ...]) -> int:
    """Return multiply-accumulates for the first example of `arguments`."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), _unfused(), counter:
        module(*(argument[:1] for argument in arguments))
    return int(counter.get_total_flops()) // 2


def layers(module: nn.Module) -> dict[str, int]:
    """Return how many layers of each kind there are; projections inside an attention layer belong to it."""
    inside = {id(child) for m in module.modules() if isinstance(m, nn.MultiheadAttention) for child in m.children()}
    kinds = (kind_of(layer) for layer in module.modules() if id(layer) not in inside)
    return dict(Counter(kind for kind in kinds if kind))


def kind_of(layer: nn.Module) -> str:
    """Return the kind of one layer, empty for what has no kind of its own."""
    return next((kind for kind, types in KINDS.items() if isinstance(layer, types)), "")


@contextmanager
def _unfused() -> Iterator[None]:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # setting the flags speaks of Intel GPUs
            with torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)

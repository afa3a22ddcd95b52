"""Attention heads: where they are, and an attention layer that can lose some.

`nn.MultiheadAttention` holds its projections in one weight and takes its width for heads x size, so it cannot lose
heads; `Attention` computes the same with a projection for each of query, key and value, which may be narrower than the
model. Layers of other libraries keep their own code: most reshape to (-1, head size), which fewer heads fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROJECTIONS = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q_proj", "k_proj", "v_proj"))
"""Names of the projections to query, key and value in attention layers of common libraries."""
HEADS = ("num_attention_heads", "n_heads", "num_heads")
"""Attributes that hold the number of heads."""
WIDTHS = ("all_head_size",)
"""Attributes that hold heads x size."""


class Attention(nn.Module):
    """Computes what `nn.MultiheadAttention` does, with any number of heads (Vaswani et al. 2017, section 3.2.2)."""

    batch_first = True
    in_proj_bias = None  # what nn.TransformerEncoderLayer asks before it takes its fused path
    _qkv_same_embed_dim = False

    def __init__(self, width: int, heads: int, size: int, bias: bool, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.size, self.dropout = heads, size, dropout
        self.query, self.key, self.value = (nn.Linear(width, heads * size, bias=bias) for _ in range(3))
        self.output = nn.Linear(heads * size, width, bias=bias)

    def forward(  # noqa: PLR0913  (the call of nn.MultiheadAttention)
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the attended values [N, T, width], and the weights where they are needed.

        Weights are [N, T, T], the mean over heads, or of each, [N, heads, T, T]. Masks are as `nn.MultiheadAttention`
        takes them.
        """
        projected = [project(x) for project, x in ((self.query, query), (self.key, key), (self.value, value))]
        heads = [x.view(*x.shape[:2], -1, self.size).transpose(1, 2) for x in projected]
        mask = _mask(key_padding_mask, attn_mask, query)
        if need_weights:
            scores = heads[0] @ heads[1].transpose(2, 3) / math.sqrt(self.size)
            weights = (scores if mask is None else scores + mask).softmax(3)
            attended = F.dropout(weights, self.dropout, self.training) @ heads[2]
            shown = weights.mean(1) if average_attn_weights else weights
            return self.output(attended.transpose(1, 2).flatten(2)), shown
        dropped = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=mask, dropout_p=dropped)
        return self.output(attended.transpose(1, 2).flatten(2)), None


def _mask(padding: Tensor | None, attention: Tensor | None, query: Tensor) -> Tensor | None:
    """Return padding [N, T] and attention mask [T, T] as one that is added to the scores; True means left out."""
    total = None
    for mask in (None if padding is None else padding[:, None, None, :], attention):
        if mask is None:
            continue
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(mask, float("-inf"))
        total = mask if total is None else total + mask
    return total


def swapped(layer: nn.MultiheadAttention) -> Attention:
    """Return an `Attention` that computes what `layer` does; raises ValueError where it cannot."""
    if not layer.batch_first or layer.bias_k is not None or layer.add_zero_attn or layer.in_proj_weight is None:
        raise ValueError("it is not batch first, adds keys of its own, or takes keys and values of another width")
    bias = layer.in_proj_bias is not None
    twin = Attention(layer.embed_dim, layer.num_heads, layer.head_dim, bias, layer.dropout)
    state = layer.state_dict()
    parts = {"weight": state["in_proj_weight"].chunk(3)} | ({"bias": state["in_proj_bias"].chunk(3)} if bias else {})
    new = {f"{name}.{part}": chunks[i] for part, chunks in parts.items() for i, name in enumerate(PROJECTIONS[0])}
    twin.load_state_dict(new | {f"output.{part}": state[f"out_proj.{part}"] for part in parts})
    return twin.train(layer.training)


def swap(module: nn.Module) -> tuple[list[str], dict[str, str]]:
    """Swap every attention layer that can be, in place; returns their names, and the others with the reason."""
    done, kept = list[str](), dict[str, str]()
    for name, layer in [*module.named_modules()]:
        if isinstance(layer, nn.MultiheadAttention):
            try:
                twin = swapped(layer)
            except ValueError as error:
                kept[name] = f"keeps its heads: {error}"
            else:
                parent, _, child = name.rpartition(".")
                setattr(module.get_submodule(parent), child, twin)
                done.append(name)
    return done, kept


@dataclass(frozen=True)
class Heads:
    """An attention layer with the names of its projections and how many heads it has."""

    projections: tuple[str, str, str]
    count: int


def heads_of(layer: nn.Module) -> Heads | None:
    """Return what is known of an attention layer that keeps its projections as linear layers; None for others."""
    for names in PROJECTIONS:
        found = [getattr(layer, name, None) for name in names]
        if all(isinstance(each, nn.Linear) for each in found):
            counts = [getattr(layer, name) for name in HEADS if isinstance(getattr(layer, name, None), int)]
            return Heads(names, counts[0]) if counts and counts[0] > 0 else None
    return None


def is_attention(layer: nn.Module) -> bool:
    """Whether the layer mixes positions by attention, of a kind that is known here."""
    return isinstance(layer, nn.MultiheadAttention) or heads_of(layer) is not None


def forget(layer: nn.Module, gone: int) -> None:
    """Lower the numbers that a layer keeps of its heads by `gone` heads, once their projections are cut."""
    known = heads_of(layer)
    if known is None or not 0 < gone < known.count:
        raise ValueError(f"{type(layer).__name__} has no {gone} heads to lose")
    for name in HEADS:
        if isinstance(getattr(layer, name, None), int):
            setattr(layer, name, known.count - gone)
    for name in WIDTHS:
        if isinstance(getattr(layer, name, None), int):
            setattr(layer, name, getattr(layer, name) * (known.count - gone) // known.count)

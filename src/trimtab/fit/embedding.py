"""Embeddings whose rows were thinned out: ids keep their meaning, ids that lost their row share one.

A vocabulary made for all texts is mostly never met in one task, yet it can hold more than half of a small encoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class RemapEmbedding(nn.Module):
    """An embedding behind a table from ids to rows; the last row, the mean of those removed, is for all unseen ids."""

    def __init__(self, ids: int, rows: int, width: int) -> None:
        super().__init__()
        self.register_buffer("index", torch.zeros(ids, dtype=torch.int32))
        self.table = nn.Embedding(rows, width)

    @property
    def weight(self) -> Tensor:
        """The rows that are left, [rows, width]."""
        return self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Return [..., width] for ids [...]."""
        return self.table(self.index[ids])  # type: ignore[no-any-return, index]


def remapped(layer: nn.Module, gone: Sequence[int]) -> RemapEmbedding:
    """Return the layer without the rows of the ids `gone`, which come to share their mean.

    Raises:
        ValueError: the layer is no plain embedding, or `gone` does not fit it.
    """
    reason = unfit(layer)
    if reason or not isinstance(layer, nn.Embedding):
        raise ValueError(f"{type(layer).__name__} {reason or 'is no embedding'}")
    ids = layer.num_embeddings
    if not gone or not 0 <= min(gone) <= max(gone) < ids or len(gone) >= ids:
        raise ValueError(f"it has {ids} rows, the cut names {len(gone)} up to {max(gone, default=-1)}")
    left = torch.ones(ids, dtype=torch.bool)
    left[list(gone)] = False
    rows = int(left.sum())
    new = RemapEmbedding(ids, rows + 1, layer.embedding_dim)
    with torch.no_grad():
        new.table.weight.copy_(torch.cat([layer.weight[left], layer.weight[~left].mean(0, keepdim=True)]))
        new.index[left] = torch.arange(rows, dtype=torch.int32)  # type: ignore[operator]
        new.index[~left] = rows  # type: ignore[operator]
    if layer.padding_idx is not None and left[layer.padding_idx]:
        new.table.padding_idx = int(left[: layer.padding_idx].sum())  # stays as it is in training
    return new.train(layer.training)


def unfit(layer: nn.Module) -> str:
    """Return why an embedding's rows cannot be thinned out; empty where they can."""
    if not isinstance(layer, nn.Embedding) or type(layer).forward is not nn.Embedding.forward:
        return "is no plain embedding"
    return "scales its rows by their norm or frequency" if layer.max_norm or layer.scale_grad_by_freq else ""

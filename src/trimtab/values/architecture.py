"""A transformer as numbers: what the planner needs to know of a model before any weight exists."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from trimtab.errors import DataError


@dataclass(frozen=True)
class Architecture:
    """A decoder (or encoder) of equal layers; mixtures of experts may have a few dense layers first.

    >>> gpt3 = Architecture("gpt:175b", layers=96, hidden=12288, heads=96, ffn=49152, vocab=51200, positions=2048)
    >>> round(gpt3.parameters / 1e9)
    175
    """

    name: str
    layers: int
    hidden: int
    heads: int
    ffn: int
    """Width of the feed-forward part; of a dense layer, where there are experts."""
    vocab: int
    kv_heads: int = 0
    """Grouped-query attention; 0: as many as heads."""
    head_dim: int = 0
    """0: hidden / heads."""
    gated: bool = False
    """Three matrices in the feed-forward part (SwiGLU), not two."""
    tied: bool = True
    """The embedding is the output layer too."""
    positions: int = 0
    """Learned positions; 0: none, as with rotary embeddings."""
    experts: int = 0
    """Routed experts of a layer; 0: a dense model."""
    active: int = 0
    """Of them, those that a token goes through."""
    shared: int = 0
    """Experts that every token goes through."""
    expert_ffn: int = 0
    dense_layers: int = 0
    """Layers without experts, of a model that has them."""
    q_rank: int = 0
    """Latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): rank of the queries; 0: none."""
    kv_rank: int = 0
    """Rank of keys and values, cached in their place."""
    rope_dim: int = 0
    """Of each head, beside `head_dim`, for positions alone."""

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "heads", "ffn", "vocab"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise DataError(f"{self.name}: {name} is a whole number from 1 on, got {value!r}")
        if self.heads % self.kv:
            raise DataError(f"{self.name}: {self.heads} heads cannot share {self.kv} key-value heads evenly")
        if self.experts and not (0 < self.active <= self.experts and self.expert_ffn > 0):
            raise DataError(f"{self.name}: with experts, active is from 1 to {self.experts} and expert_ffn above 0")

    @property
    def kv(self) -> int:
        """Key-value heads."""
        return self.kv_heads or self.heads

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.head_dim or self.hidden // self.heads

    @property
    def matrices(self) -> int:
        """Of a feed-forward part."""
        return 3 if self.gated else 2

    @property
    def attention_parameters(self) -> int:
        """Weights of one layer's projections."""
        if self.kv_rank:
            wide = self.heads * (self.head + self.rope_dim)
            queries = self.hidden * self.q_rank + self.q_rank * wide if self.q_rank else self.hidden * wide
            latent = self.hidden * (self.kv_rank + self.rope_dim) + self.kv_rank * self.heads * 2 * self.head
            return queries + latent + self.heads * self.head * self.hidden
        return self.hidden * self.head * (2 * self.heads + 2 * self.kv)

    @property
    def dense_ffn_parameters(self) -> int:
        """Weights of a dense layer's feed-forward part."""
        return self.matrices * self.hidden * self.ffn

    @property
    def expert_parameters(self) -> int:
        """Weights of one expert."""
        return self.matrices * self.hidden * self.expert_ffn

    @property
    def inner(self) -> int:
        """Width of what a token goes through between the feed-forward products of a layer."""
        return (self.active + self.shared) * self.expert_ffn if self.experts else self.ffn

    @property
    def expert_layers(self) -> int:
        """Layers that have experts."""
        return self.layers - self.dense_layers if self.experts else 0

    @property
    def embedding_parameters(self) -> int:
        """Weights of embedding, output layer and positions."""
        return self.hidden * (self.vocab * (1 if self.tied else 2) + self.positions)

    @cached_property
    def parameters(self) -> int:
        """All weights; biases and norms left out."""
        experts = (self.experts + self.shared) * self.expert_parameters + self.hidden * self.experts
        return self._whole(experts)

    @property
    def active_parameters(self) -> int:
        """Weights that one token goes through."""
        return self._whole((self.active + self.shared) * self.expert_parameters + self.hidden * self.experts)

    def _whole(self, experts: int) -> int:
        dense = (self.layers - self.expert_layers) * self.dense_ffn_parameters
        return (
            self.layers * self.attention_parameters + dense + self.expert_layers * experts + self.embedding_parameters
        )

    @classmethod
    def from_json(cls, name: str, data: dict[str, Any]) -> Architecture:
        """Read numbers by the names of the fields; raises DataError on others."""
        known = {f.name for f in fields(cls)} - {"name"}
        strange = sorted(set(data) - known)
        if strange:
            raise DataError(f"{name} has unknown numbers {', '.join(strange)}; known: {', '.join(sorted(known))}")
        try:
            return cls(name, **data)
        except TypeError as error:
            raise DataError(f"{name}: {error}") from error

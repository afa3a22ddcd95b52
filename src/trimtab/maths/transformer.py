"""The work of a transformer: matrix products, attention and bytes of one layer, on one of the chips that share it.

A product of m x k by k x n takes 2 m n k operations. Sources: Kaplan et al. 2020 (arXiv 2001.08361, section 2.1) for
operations; Korthikanti et al. 2022 (arXiv 2205.05198, section 4) for what tensor and sequence parallelism share out;
DeepSeek-V2 (arXiv 2405.04434, section 2.1) for latent attention.
"""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.values.architecture import Architecture


@dataclass(frozen=True)
class Product:
    """`count` matrix products of m x k by k x n."""

    m: float
    n: float
    k: float
    count: float = 1.0

    @property
    def operations(self) -> float:
        """Additions and multiplications.

        >>> Product(2, 3, 4).operations
        48.0
        """
        return self.count * 2.0 * self.m * self.n * self.k

    @property
    def elements(self) -> float:
        """Numbers read and written."""
        return self.count * (self.m * self.k + self.k * self.n + self.m * self.n)


def projections(arch: Architecture, tokens: float, tp: int) -> tuple[Product, ...]:
    """Return the products of one layer's attention but for the scores: queries, keys, values and output."""
    wide = arch.heads * arch.head / tp
    out = Product(tokens, arch.hidden, wide)
    if not arch.kv_rank:
        return Product(tokens, (arch.heads + 2 * arch.kv) * arch.head / tp, arch.hidden), out
    queries = arch.heads * (arch.head + arch.rope_dim) / tp
    narrow = (arch.q_rank or 0) + arch.kv_rank + arch.rope_dim
    up = Product(tokens, queries, arch.q_rank or arch.hidden), Product(tokens, 2 * wide, arch.kv_rank)
    return Product(tokens, narrow, arch.hidden), *up, out


def feed_forward(arch: Architecture, tokens: float, width: float, count: float = 1.0) -> tuple[Product, Product]:
    """Return the products of a feed-forward part of this width: up (and gate), and down."""
    inner = (arch.matrices - 1) * width
    return Product(tokens, inner, arch.hidden, count), Product(tokens, arch.hidden, width, count)


def score_operations(arch: Architecture, tokens: float, context: float, tp: int) -> float:
    """Return the operations of scores and weighted sums: each token against `context` others.

    Causal masks halve the context where the kernel leaves out what is masked.
    """
    return 2.0 * tokens * context * arch.heads / tp * (2 * arch.head + arch.rope_dim)


def layer_operations(arch: Architecture, tokens: float, context: float) -> float:
    """Return the forward operations of an average layer, all chips together.

    >>> gpt = Architecture("gpt", layers=96, hidden=12288, heads=96, ffn=49152, vocab=51200)
    >>> layer_operations(gpt, 1, 0) / (24 * gpt.hidden**2)
    1.0
    """
    dense = sum(p.operations for p in (*projections(arch, tokens, 1), *feed_forward(arch, tokens, arch.ffn)))
    total = dense + score_operations(arch, tokens, context, 1)
    if not arch.experts:
        return total
    experts = feed_forward(arch, tokens * (arch.active + arch.shared), arch.expert_ffn)
    own = sum(p.operations for p in feed_forward(arch, tokens, arch.ffn))
    return total + (sum(p.operations for p in experts) - own) * arch.expert_layers / arch.layers


def model_operations(arch: Architecture, tokens: float, seq: float) -> float:
    """Return the operations of training on tokens, forward and backward, recomputation left out: three forward passes.

    Attention counts the full square of the sequence, as Narayanan et al. 2021 (arXiv 2104.04473, equation 3) do.

    >>> gpt3 = Architecture("gpt", layers=96, hidden=12288, heads=96, ffn=49152, vocab=51200)
    >>> round(model_operations(gpt3, 300e9, 2048) / 3.14e23, 2)
    1.03
    """
    logits = Product(tokens, arch.vocab, arch.hidden).operations
    return 3 * (arch.layers * layer_operations(arch, tokens, seq) + logits)

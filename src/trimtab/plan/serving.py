"""How long a served transformer takes to read a prompt and to write each token, and how many it writes a second.

A decoding step reads every weight that some sequence of the batch needs, and each sequence's keys and values (Pope et
al. 2022, arXiv 2211.05102, section 2). With continuous batching (Yu et al. 2022, Orca, OSDI) the prompts of newcomers
go through in the same steps: while one sequence writes its answer, every other slot reads one prompt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

from trimtab.errors import UsageError
from trimtab.maths.transformer import Product, feed_forward, projections, score_operations
from trimtab.plan.rates import Constants, Rates, constants
from trimtab.values.architecture import Architecture
from trimtab.values.chip import DTYPE_BYTES, Chip

FREE = 0.9
"""Share of a chip's memory that weights, keys and values may take."""


@dataclass(frozen=True)
class Serving:
    """A model served on `tp` chips."""

    arch: Architecture
    chip: Chip
    prompt: int
    """Tokens read."""
    output: int
    """Tokens written."""
    batch: int = 1
    """Sequences at once."""
    tp: int = 1
    weights: str = "bf16"
    """Number format of weights, and of products where the chip has them in it; else those are in bf16."""
    cache: str = "bf16"
    """Number format of keys and values."""
    fitted: Constants = field(default_factory=constants)

    def __post_init__(self) -> None:
        if min(self.prompt, self.output, self.batch, self.tp) < 1:
            raise UsageError(
                f"prompt, output, batch and tp are from 1 on, got {self.prompt}, {self.output}, {self.batch}, {self.tp}"
            )
        if self.arch.heads % self.tp:
            raise UsageError(f"tp={self.tp} does not divide the {self.arch.heads} heads of {self.arch.name}")

    @cached_property
    def rates(self) -> Rates:
        """What the chip does a second."""
        return Rates(self.chip, self.fitted)

    @property
    def products(self) -> str:
        """Number format of products."""
        return self.weights if self.chip.has(self.weights) else "bf16"

    @property
    def weight_bytes(self) -> float:
        """Of all weights, on each chip; embedding and output layer stay in two bytes."""
        arch = self.arch
        inner = arch.parameters - arch.embedding_parameters
        return (inner * DTYPE_BYTES[self.weights] + 2 * arch.embedding_parameters) / self.tp

    @property
    def token_bytes(self) -> float:
        """Keys and values of one token, on each chip; chips that share a key-value head each keep it."""
        arch, size = self.arch, DTYPE_BYTES[self.cache]
        if arch.kv_rank:
            return arch.layers * (arch.kv_rank + arch.rope_dim) * size
        return arch.layers * 2 * max(1.0, arch.kv / self.tp) * arch.head * size

    @property
    def memory_bytes(self) -> float:
        """Weights, and keys and values of every sequence at its longest, on each chip."""
        return self.weight_bytes + self.batch * (self.prompt + self.output) * self.token_bytes

    @cached_property
    def slots(self) -> float:
        """Sequences that are answered at once: as many as memory holds on average, halfway through their answers."""
        free = FREE * self.chip.memory_gb * 1e9 - self.weight_bytes
        return min(float(self.batch), max(1.0, free / ((self.prompt + self.output / 2) * self.token_bytes)))

    def prefill_s(self, tokens: float) -> float:
        """Return the time of reading so many tokens of prompts."""
        layers, kernels = self._layer_s(tokens, self.prompt / 2), self.fitted.step_us * 1e-6
        return self.arch.layers * layers + self._output_s(max(1.0, tokens / self.prompt)) + kernels

    @property
    def first_token_s(self) -> float:
        """Time to read one prompt alone."""
        return self.prefill_s(self.prompt)

    def step_s(self, reading: float = 0.0) -> float:
        """Return the time of one decoding step in which, beside, so many tokens of prompts are read."""
        context = self.prompt + self.output / 2
        layer = self._layer_s(self.slots + reading, 0.0)
        scores = score_operations(self.arch, reading, self.prompt / 2, self.tp) / self.rates.attention_rate("native")
        cached = self.slots * context * self.token_bytes / self._reading
        return self.arch.layers * (layer + scores) + cached + self._output_s(self.slots) + self.fitted.step_us * 1e-6

    @property
    def token_s(self) -> float:
        """Time between two tokens of a sequence, while every other slot reads a prompt in the time of an answer."""
        return self._mixed_s((self.slots - 1) / self.output)

    @property
    def waiting_s(self) -> float:
        """Time to the first token while all slots are in use; those without a slot wait for others to end.

        Answers of like length end in clumps, so prompts come in clumps too; of random ones, the size grows with the
        root of the slots. A request that is served alone waits for nothing but its prompt.
        """
        ahead = self.fitted.queue * math.sqrt(self.slots - 1)
        turn = (self.batch / self.slots - 1) * self.output * self.token_s
        others = (1 - 1 / self.slots) * (self.fitted.accept_ms * 1e-3 + self.token_s)
        return others + self.prefill_s(self.prompt) * (1 + ahead) + turn

    @property
    def tokens_per_s(self) -> float:
        """Tokens written a second, all sequences together, prompts read included."""
        return self.slots / self._busy_step_s

    @property
    def _busy_step_s(self) -> float:
        return self._mixed_s(self.slots / self.output)

    def _mixed_s(self, prompts: float) -> float:
        """Return the mean time of steps in which so many prompts are read, each whole: of few, most steps read none."""
        if prompts >= 1:
            return self.step_s(prompts * self.prompt)
        return prompts * self.step_s(self.prompt) + (1 - prompts) * self.step_s()

    @property
    def busy(self) -> tuple[float, float]:
        """Shares of peak arithmetic and of the memory's bandwidth that are used while all slots are in use."""
        seconds = self._busy_step_s
        tokens = self.slots * (1 + self.prompt / self.output)
        operations = 2 * self.arch.active_parameters * tokens / self.tp
        cached = self.slots * (self.prompt + self.output / 2) * self.token_bytes
        peak, wide = self.chip.peak(self.products) * 1e12, self.chip.bandwidth_gbs * 1e9
        return min(1.0, operations / seconds / peak), min(1.0, (self._read_bytes + cached) / seconds / wide)

    @property
    def _read_bytes(self) -> float:
        """Weights that one step reads: those of the experts that some token chose."""
        arch = self.arch
        if not arch.experts:
            return self.weight_bytes
        chosen = self._chosen(self.slots * (1 + self.prompt / self.output))
        routed = arch.expert_layers * arch.experts * arch.expert_parameters * DTYPE_BYTES[self.weights] / self.tp
        return self.weight_bytes - routed * (1 - chosen)

    @property
    def _reading(self) -> float:
        """Bytes a second at which weights, keys and values are read."""
        return self.chip.bandwidth_gbs * 1e9 * self.fitted.decode_bandwidth

    def _chosen(self, tokens: float) -> float:
        """Return the share of experts that some of so many tokens chose."""
        return 1 - math.pow(1 - self.arch.active / self.arch.experts, tokens)

    def _layer_s(self, tokens: float, context: float) -> float:
        """Return the time of one layer for so many tokens: arithmetic or the weights' traffic, and talk."""
        arch, rates = self.arch, self.rates
        products = [*projections(arch, tokens, self.tp)]
        share = arch.expert_layers / arch.layers
        dense = feed_forward(arch, tokens, arch.ffn / self.tp)
        seconds = self._products_s(products)
        if share < 1:
            seconds += (1 - share) * self._products_s(dense)
        if share:
            seconds += share * self._experts_s(tokens)
        if context:
            seconds += score_operations(arch, tokens, context, self.tp) / rates.attention_rate("native")
        stream = (8 * arch.hidden + 2 * arch.ffn / self.tp) * 2 * tokens
        seconds += rates.stream(stream) + self.fitted.serve_layer_us * 1e-6
        return seconds + 2 * self._talk_s(tokens)

    def _products_s(self, products: list[Product] | tuple[Product, ...]) -> float:
        rate = self.rates.product_rate(self.products) * self.fitted.serve_product
        size = DTYPE_BYTES[self.weights]
        return sum(
            math.hypot(p.operations / rate, p.count * p.k * p.n * size / self._reading)
            + 2 * p.count * p.m * (p.k + p.n) / self.rates.bandwidth
            for p in products
        )

    def _experts_s(self, tokens: float) -> float:
        """Return the time of the experts: the weights of those that some token chose are read, and tokens sorted."""
        arch = self.arch
        chosen = arch.experts * self._chosen(tokens)
        routed = tokens * arch.active / chosen
        seconds = self._products_s(feed_forward(arch, routed, arch.expert_ffn / self.tp, chosen))
        if arch.shared:
            seconds += self._products_s(feed_forward(arch, tokens, arch.shared * arch.expert_ffn / self.tp))
        return seconds + self.fitted.expert_us * 1e-6

    def _output_s(self, answers: float) -> float:
        arch = self.arch
        read = 2 * arch.vocab * arch.hidden / self.tp / self._reading
        return math.hypot(
            read, Product(answers, arch.vocab / self.tp, arch.hidden).operations / self.rates.product_rate("bf16")
        )

    def _talk_s(self, tokens: float) -> float:
        """Return the time of one all-reduce of the activations: all from all at once, or around a ring where shorter.

        Each chip reads what all others have, or two shares of a ring's; the ring takes longer to begin (Thakur et al.
        2005, IJHPCA 19(1):49, section 4.5, on when either is the shorter).
        """
        if self.tp == 1:
            return 0.0
        wires = self.rates.wires
        size = 2 * tokens * self.arch.hidden / (wires.link if self.tp <= wires.node else wires.network)
        direct = self.fitted.reduce_us * 1e-6 + (self.tp - 1) * size
        return min(direct, self.fitted.ring_us * 1e-6 + 2 * (self.tp - 1) / self.tp * size)

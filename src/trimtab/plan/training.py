"""How long one step of a training takes on a layout of chips, and where the time goes.

A step is micro-batches through a pipeline (Narayanan et al. 2021, arXiv 2104.04473, section 2), then the exchange of
gradients and the optimizer. A layer's time is its products, attention, elementwise traffic and talk one after the
other, or the time in which the host launches them, whichever is longer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

from trimtab.maths.transformer import Product, feed_forward, model_operations, projections, score_operations
from trimtab.plan.layout import Layout
from trimtab.plan.rates import Constants, Rates, constants
from trimtab.plan.stack import Stack
from trimtab.values.architecture import Architecture
from trimtab.values.chip import Chip

Parts = defaultdict[str, float]
"""Seconds by what they are spent on."""
KERNELS = {"forward": 22, "backward": 44, "talk": 2}
"""Launches of a layer, by pass; of each exchange of activations, whose call takes as long as so many kernels."""
BACKWARD = {"products": 2.0, "attention": 2.5, "elementwise": 1.5}
"""Time of a backward pass over that of a forward pass, by part; flash attention computes its scores again."""
PLAIN_BACKWARD = 1.5
"""The same of attention that keeps its scores. With that, a layer's backward pass takes about 1.6 times as long as its
forward pass, as Korthikanti et al. 2022 (Table 4) measured."""
LEAST_EXPOSED = 0.3
"""Share of a flat ring's talk that is never hidden."""
SMALL = 2e9
"""Parameters of models whose layers are launched more slowly than they run."""
SHARPNESS = 2.0
"""How sharply the longer of two times that overlap wins: the p of a p-norm."""


@dataclass(frozen=True)
class Training:
    """A model, how it is trained, and on what."""

    arch: Architecture
    chip: Chip
    batch: int
    """Sequences of a step, all replicas together."""
    seq: int
    layout: Layout
    stack: Stack
    dtype: str = "bf16"
    """Of the products: bf16, fp16, fp8."""
    causal: bool = True
    frozen: bool = False
    """Low-rank adapters alone are trained (LoRA): the weights have no gradients and no optimizer."""
    fitted: Constants = field(default_factory=constants)

    @cached_property
    def rates(self) -> Rates:
        """What the chip does a second."""
        return Rates(self.chip, self.fitted)

    @property
    def tokens(self) -> float:
        """Tokens of a micro-batch on one chip."""
        return self.layout.micro_batch * self.seq / self.layout.cp

    @property
    def operations(self) -> float:
        """Of the model in a step, recomputation left out (Chowdhery et al. 2022, PaLM, appendix B)."""
        whole = model_operations(self.arch, self.batch * self.seq, self.seq)
        return whole * (2 / 3 if self.frozen else 1)

    @cached_property
    def parts(self) -> dict[str, float]:
        """Seconds of a step by what they are spent on."""
        return dict(_step(self))

    @property
    def seconds(self) -> float:
        """Of a step."""
        return sum(self.parts.values())

    @property
    def layers(self) -> int:
        """Of the largest stage."""
        return math.ceil(self.arch.layers / self.layout.pp)

    @property
    def alone(self) -> Training:
        """The same as far as one layer sees it, which stages and replicas leave as it is."""
        return replace(self, batch=0, layout=replace(self.layout, pp=1, dp=1, interleave=1, zero=0, shard=0))

    @cached_property
    def weights(self) -> Weights:
        """Weights of one chip."""
        arch, layout = self.arch, self.layout
        experts = arch.expert_layers * arch.experts * arch.expert_parameters
        others = arch.parameters - arch.embedding_parameters - experts
        stage = self.layers / arch.layers
        ends = 2 if layout.pp > 1 and not arch.tied else 1
        ranks = layout.sharers
        return Weights(
            others * stage / layout.tp,
            experts * stage / layout.ep,
            arch.embedding_parameters / (layout.tp * ends),
            ranks,
            max(1, ranks * layout.tp // layout.ep),
        )


@dataclass(frozen=True)
class Weights:
    """Weights of one chip's stage, and how many chips hold the same."""

    shared: float
    """Of layers, but for routed experts."""
    routed: float
    ends: float
    """Of embedding and output layer."""
    ranks: int
    expert_ranks: int
    """Chips that hold the same routed experts."""

    @property
    def layers(self) -> float:
        """Of layers."""
        return self.shared + self.routed

    @property
    def groups(self) -> tuple[tuple[float, int], tuple[float, int]]:
        """Weights, and the chips that hold the same, of experts and of all others."""
        return (self.shared + self.ends, self.ranks), (self.routed, self.expert_ranks)

    def each(self, sharded: bool) -> float:
        """Return the weights that a chip has for itself, shared out among those that hold the same or not."""
        return sum(count / (ranks if sharded else 1) for count, ranks in self.groups)


def regime_of(job: Training) -> str:
    """Return the regime whose spread a training's predictions have (`intervals.toml`)."""
    layout, kind = job.layout, "moe" if job.arch.experts else "dense"
    if layout.zero == 3:
        return f"sharded-{job.stack.name}"
    if job.stack.name == "megatron-core":
        return "core-long" if layout.cp > 1 else f"core-{kind}"
    if job.arch.parameters < SMALL and layout.chips <= job.chip.link_chips:
        return "small"
    return "pipeline" if layout.pp > 1 else "tensor"


def _step(job: Training) -> Parts:
    layout = job.layout
    count = layout.micro_batches(job.batch)
    micro = _scaled(_layer(job.alone), job.layers)
    micro["output layer"] = _output_layer(job) * (1 + 1 / layout.pp) / 2  # the last stage has it, the others wait half
    micro["pipeline talk"] += _sends(job)
    one = sum(micro.values())
    step = _scaled(micro, count)
    step["pipeline bubble"] = one * (layout.pp - 1) / layout.interleave
    step["data-parallel talk"] = _exchange(job, one, count)
    if not job.frozen:
        step["optimizer"] = job.weights.each(layout.zero > 0) * job.fitted.optimizer_bytes / job.rates.bandwidth
    return Parts(float, {name: value for name, value in step.items() if value})


@lru_cache(maxsize=1 << 12)
def _layer(job: Training) -> Parts:
    """Return the parts of one layer's forward and backward pass, recomputation included."""
    forward, once = _forward(job), Parts(float)
    back = {**BACKWARD, **({"products": 1.0} if job.frozen else {})}
    if job.stack.attention == "plain":
        back["attention"] = PLAIN_BACKWARD
    for name, seconds in forward.items():
        once[name] += seconds * (1 + back[name])
    talk = _talk(job)
    once["tensor-parallel talk"] += 4 * talk * (1 - job.stack.tensor_overlap)
    once["expert talk"] += 2 * _dispatch(job)
    once["context talk"] += _pass_around(job)
    once["recomputation"] += _again(job, forward, talk)
    return _launched(job, once)


def _forward(job: Training) -> Parts:
    arch, layout, rates, tokens = job.arch, job.layout, job.rates, job.tokens
    parts = Parts(float)
    parts["products"] = rates.product(*projections(arch, tokens, layout.tp), dtype=job.dtype)
    dense = rates.product(*feed_forward(arch, tokens, arch.ffn / layout.tp), dtype=job.dtype)
    share = arch.expert_layers / arch.layers
    parts["products"] += dense * (1 - share) + (_experts(job) * share if share else 0.0)
    parts["attention"] = _attention(job)
    parts["elementwise"] = _elementwise(job)
    return parts


def _experts(job: Training) -> float:
    """Return the time of the experts that a chip holds: tokens of ep ranks come to it, the weights of all are read."""
    arch, layout = job.arch, job.layout
    held = arch.experts / layout.ep
    routed = job.tokens / layout.tp * layout.ep * arch.active / arch.experts
    total = job.rates.product(*feed_forward(arch, routed, arch.expert_ffn, held), dtype=job.dtype)
    if arch.shared:
        width = arch.shared * arch.expert_ffn / layout.tp
        total += job.rates.product(*feed_forward(arch, job.tokens, width), dtype=job.dtype)
    return total + job.rates.stream(job.fitted.expert_traffic * 12 * job.tokens / layout.tp * arch.active * arch.hidden)


def _attention(job: Training) -> float:
    arch, layout, rates = job.arch, job.layout, job.rates
    plain = job.stack.attention == "plain"
    context = job.seq * (0.5 if job.causal and not plain else 1.0)
    seconds = score_operations(arch, job.tokens, context, layout.tp) / rates.attention_rate(job.stack.attention)
    if plain:
        seconds += 14 * arch.heads / layout.tp * job.tokens * job.seq / rates.bandwidth
    return seconds


def _elementwise(job: Training) -> float:
    """Norms, residuals, rotations, activations and dropout: two bytes a number, read and written."""
    arch, layout = job.arch, job.layout
    whole = 24 * arch.hidden / (layout.tp if layout.sequence else 1)
    shared = ((6 if arch.gated else 4) * arch.inner + 6 * arch.heads * arch.head) / layout.tp
    seconds = job.rates.stream(job.stack.traffic * (whole + shared) * job.tokens)
    if job.stack.casts:
        seconds += job.rates.stream(6 * (arch.attention_parameters + arch.dense_ffn_parameters) / layout.tp)
    if job.dtype == "fp8":
        cast = 3 * (4 * arch.hidden + arch.inner * arch.matrices / 2) / layout.tp * job.tokens
        seconds += job.rates.stream(cast * job.fitted.fp8_traffic)
    return seconds + 10 * job.fitted.launch_us * 1e-6


def _talk(job: Training) -> float:
    """Return the time of one exchange of activations among tensor-parallel chips; a layer has four, and two more when
    it is recomputed."""
    return job.rates.wires.reduce_s(2 * job.tokens * job.arch.hidden, job.layout.tp)


def _dispatch(job: Training) -> float:
    """Return the time of sending tokens to their experts and back."""
    arch, layout = job.arch, job.layout
    size = 2 * job.tokens / layout.tp * arch.active * arch.hidden
    return 2 * job.rates.wires.exchange_s(size, layout.ep) * arch.expert_layers / arch.layers


def _pass_around(job: Training) -> float:
    """Return the time in which keys and values go around, half of it hidden (Liu et al. 2023, arXiv 2310.01889)."""
    if job.layout.cp == 1:
        return 0.0
    size = 2 * 2 * job.arch.kv * job.arch.head / job.layout.tp * job.tokens * job.layout.cp
    return 0.5 * 3 * job.rates.wires.gather_s(size, job.layout.cp, job.layout.tp)


def _again(job: Training, forward: Parts, talk: float) -> float:
    kind = job.layout.recompute
    if kind == "operators":
        return 0.5 * forward["products"] + forward["elementwise"]
    if kind == "selective":
        return forward["attention"] * (1.0 if job.stack.attention == "plain" else 0.3)
    if kind != "full":
        return 0.0
    spared = 0.0
    if job.stack.early_stop:
        spared = job.rates.product(feed_forward(job.arch, job.tokens, job.arch.ffn / job.layout.tp)[1], dtype=job.dtype)
    return sum(forward.values()) - spared + 2 * talk * (1 - job.stack.tensor_overlap) + _dispatch(job)


def _launched(job: Training, once: Parts) -> Parts:
    """Add the time that the host takes longer to launch the kernels than the chip to run them."""
    busy = sum(once.values())
    count = KERNELS["forward"] + KERNELS["backward"] + (4 * KERNELS["talk"] if job.layout.tp > 1 else 0)
    count += KERNELS["forward"] if job.layout.recompute == "full" else 0
    host = count * job.fitted.host_us * 1e-6 * job.stack.host
    once["launching"] += math.pow(busy**SHARPNESS + host**SHARPNESS, 1 / SHARPNESS) - busy
    return once


def _output_layer(job: Training) -> float:
    """Return the time of embedding, output layer and loss, forward and backward."""
    arch, tp = job.arch, job.layout.tp
    seconds = 3 * job.rates.product(Product(job.tokens, arch.vocab / tp, arch.hidden), dtype="bf16")
    traffic = (20 if job.stack.traffic <= 1 else 32) * arch.vocab / tp + 12 * arch.hidden
    return seconds + traffic * job.tokens / job.rates.bandwidth


def _sends(job: Training) -> float:
    layout = job.layout
    if layout.pp == 1:
        return 0.0
    size = 2 * job.tokens * job.arch.hidden / layout.tp
    span = layout.tp if layout.tp * layout.pp <= job.chip.link_chips else job.chip.link_chips
    return 2 * layout.interleave * job.rates.wires.send_s(size, span)


def _exchange(job: Training, one: float, count: float) -> float:
    """Return what is not hidden of exchanging gradients, and weights where they are sharded."""
    layout, wires = job.layout, job.rates.wires
    if layout.zero == 3:
        return count * _sharded(job, one) + _among_copies(job, one)
    if job.frozen:
        return 0.0
    back = 2 if layout.zero else job.stack.grad_bytes
    talk = 0.0
    for weights, ranks in job.weights.groups:
        stride = layout.chips // layout.pp // ranks if ranks > 1 else 1
        talk += wires.gather_s(weights * job.stack.grad_bytes, ranks, stride)
        talk += wires.gather_s(weights * back, ranks, stride)
    hidden = job.stack.data_overlap
    return max(talk * (1 - hidden), talk - 0.66 * one * hidden)


def _sharded(job: Training, one: float) -> float:
    """Return what of gathering weights twice, and scattering gradients, a micro-batch does not hide."""
    wires, layout = job.rates.wires, job.layout
    if job.stack.flat:
        talk = 3 * wires.flat_s(2 * job.weights.layers, layout.sharers)
        return max(talk - job.stack.shard_overlap * one, LEAST_EXPOSED * talk)
    talk = 0.0
    copies = layout.dp * layout.cp // layout.sharers
    for weights, ranks in ((job.weights.shared, job.weights.ranks), (job.weights.routed, job.weights.expert_ranks)):
        talk += 3 * wires.gather_s(2 * weights, ranks, max(1, layout.chips // copies // ranks))
    exposed = job.fitted.exposed * job.stack.exposed
    return exposed * talk + max(0.0, (1 - exposed) * talk - one)


def _among_copies(job: Training, one: float) -> float:
    """Return what a micro-batch does not hide of adding up gradients among hybrid sharding's copies, once a step."""
    layout = job.layout
    copies = layout.dp * layout.cp // layout.sharers
    size = job.weights.each(sharded=True) * job.stack.grad_bytes
    return max(0.0, job.rates.wires.reduce_s(size, copies, layout.sharers * layout.tp) - 0.66 * one)


def _scaled(parts: Parts, factor: float) -> Parts:
    return Parts(float, {name: value * factor for name, value in parts.items()})

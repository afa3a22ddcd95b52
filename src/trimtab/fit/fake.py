"""Fake quantizers: a net in training meets the rounding that its int8 form will make, and learns to bear it.

A real number r is held as r = scale x (q - zero), q a whole number (Jacob et al. 2018, arXiv 1712.05877, section 2.1).
Weights are symmetric with a scale for each output channel, so that a batch norm folded into them later only changes
scales; activations have one range a tensor, followed by an exponential moving average (section 3.1). Rounding passes
gradients on as they are, within the range (Bengio et al. 2013, arXiv 1308.3432).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from trimtab.fit.program import Net

TAKEN = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
LEARNT = (*TAKEN, nn.modules.conv._ConvTransposeNd, nn.RNNBase, nn.RNNCellBase, nn.Embedding, nn.MultiheadAttention)
SMOOTH = 0.95
"""Share of the range so far in a new range."""
NARROW = {7: 64}
"""onnxruntime's weights of 7 bits go from -64 to 64."""
NAME = "fake_input"


class FakeWeight(nn.Module):
    """Rounds a weight to the whole numbers of its bits, with a scale for each output channel."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.most = NARROW.get(bits, 2 ** (bits - 1) - 1)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight as it will be; the first axis is the output channels."""
        scale = (weight.detach().flatten(1).abs().amax(1) / self.most).clamp(min=1e-12)
        zero = torch.zeros(len(weight), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -self.most, self.most)


class FakeInput(nn.Module):
    """Rounds an activation to unsigned whole numbers over the range seen in training."""

    low: Tensor
    high: Tensor
    met: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.most = 2**bits - 1
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("met", torch.zeros((), dtype=torch.bool))

    def forward(self, given: Tensor) -> Tensor:
        """Return the activation as it will be; in training, follow its range, which always holds 0."""
        if self.training:
            self._follow(given.detach().float())
        if not self.met:
            return given
        scale = ((self.high - self.low) / self.most).clamp(min=1e-12)
        zero = torch.round(-self.low / scale).to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(given.float(), scale, zero, 0, self.most)

    def _follow(self, given: Tensor) -> None:
        low, high = given.min().clamp(max=0.0), given.max().clamp(min=0.0)
        share = SMOOTH if self.met else 0.0
        self.low.mul_(share).add_(low, alpha=1 - share)
        self.high.mul_(share).add_(high, alpha=1 - share)
        self.met.fill_(True)


def attach(net: Net, weights: int, activations: int) -> dict[str, str]:
    """Put fake quantizers on every convolution and linear layer; returns `part/layer` -> why, of those left alone.

    A layer that several places share is rounded once, as it has one weight.
    """
    left: dict[str, str] = {}
    for path, layer in _layers(net):
        reason = _reason(net, path, layer)
        if reason:
            left[path] = reason
            continue
        parametrize.register_parametrization(layer, "weight", FakeWeight(weights))
        layer.add_module(NAME, FakeInput(activations))
        layer.register_forward_pre_hook(_rounded)
    return left


def detach(net: Net) -> dict[str, list[float]]:
    """Take the quantizers off, weights stay on their grid; returns `part/layer` -> its input range [low, high]."""
    ranges = {}
    for path, layer in _layers(net):
        fake = getattr(layer, NAME, None)
        if not isinstance(fake, FakeInput):
            continue
        if fake.met:
            ranges[path] = [float(fake.low), float(fake.high)]
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        delattr(layer, NAME)
        for key, hook in list(layer._forward_pre_hooks.items()):
            if hook is _rounded:
                del layer._forward_pre_hooks[key]
    return ranges


def _rounded(layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return (getattr(layer, NAME)(given[0]), *given[1:])


def _layers(net: Net) -> list[tuple[str, nn.Module]]:
    parts: Mapping[str, nn.Module] = dict(zip(net.names, net.parts, strict=True))
    found = [(part, name, layer) for part, module in parts.items() for name, layer in module.named_modules()]
    return [(f"{part}/{name}", layer) for part, name, layer in found if isinstance(layer, LEARNT)]


def _reason(net: Net, path: str, layer: nn.Module) -> str:
    if not isinstance(layer, TAKEN):
        return f"a {type(layer).__name__} is not quantized in training"
    if isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return "its attention layer reads the weight itself"
    if parametrize.is_parametrized(layer, "weight"):
        return "its weight is computed from others"
    shared = [name for name, other in net.named_parameters(remove_duplicate=False) if other is layer.weight]
    return f"its weight is also that of {shared[1]}" if len(shared) > 1 else ""

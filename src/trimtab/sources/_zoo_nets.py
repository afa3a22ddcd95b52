"""Small nets of the usual kinds, made for the task at hand: mlp, vgg, resnet, lstm, gru, transformer.

Two facts of physics in this file: a residual net's gradient reaches early layers through the sum unchanged (He et al.
2016, arXiv 1512.03385); recurrent nets and encoders read only the valid steps of a padded sequence, through a mask.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trimtab.fit.halves import Halves


def mlp(shape: Sequence[int], classes: int, width: int = 256, depth: int = 2) -> nn.Module:
    """Return a multilayer perceptron: `depth` hidden layers of `width`, on any input of fixed shape."""
    sizes = [math.prod(shape)] + [width] * depth
    hidden = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], classes))


def vgg(shape: Sequence[int], classes: int, width: int = 32, depth: int = 2) -> nn.Module:
    """Return a VGG-style net on [C, H, W]: three stages of `depth` 3x3 convolutions, width x 1, 2, 4."""
    channels = _image(shape)
    layers: list[nn.Module] = []
    for stage, size in enumerate((width, 2 * width, 4 * width)):
        layers += [nn.MaxPool2d(2)] if stage else []
        for _ in range(depth):
            layers += [*_convolution(channels, size), nn.ReLU()]
            channels = size
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def resnet(shape: Sequence[int], classes: int, width: int = 48, depth: int = 1) -> nn.Module:
    """Return a residual net for small images [C, H, W]: three stages of `depth` blocks, width x 1, 2, 4.

    The first convolution halves images of 24 pixels and more: half the work, and no loss seen on handwritten digits.
    """
    channels = width
    layers = [*_convolution(_image(shape), width, 3, 2 if min(shape[1:]) >= 24 else 1), nn.ReLU()]
    for stage, size in enumerate((width, 2 * width, 4 * width)):
        for block in range(depth):
            layers.append(Residual(channels, size, stride=2 if stage and block == 0 else 1))
            channels = size
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def lstm(shape: Sequence[int], classes: int, width: int = 128, depth: int = 1, vocabulary: int = 0) -> nn.Module:
    """Return an LSTM classifier of sequences [T, D], or of tokens [T] where `vocabulary` is given."""
    return Recurrent(nn.LSTM, _width_in(shape, vocabulary), classes, (width, depth, vocabulary))


def gru(shape: Sequence[int], classes: int, width: int = 128, depth: int = 1, vocabulary: int = 0) -> nn.Module:
    """Return a GRU classifier of sequences [T, D], or of tokens [T] where `vocabulary` is given."""
    return Recurrent(nn.GRU, _width_in(shape, vocabulary), classes, (width, depth, vocabulary))


def transformer(shape: Sequence[int], classes: int, width: int = 64, depth: int = 2, vocabulary: int = 0) -> nn.Module:
    """Return a transformer encoder for sequences [T, D], or tokens [T]; heads of 16, sine positions."""
    return Encoder(_width_in(shape, vocabulary), classes, width, depth, vocabulary)


class Residual(nn.Module):
    """Two convolutions and a short cut around them."""

    def __init__(self, channels: int, size: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_convolution(channels, size, 3, stride), nn.ReLU(), *_convolution(size, size))
        same = stride == 1 and channels == size
        self.short = nn.Identity() if same else nn.Sequential(*_convolution(channels, size, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(body(x) + short(x)): [N, size, H / stride, W / stride]."""
        return torch.relu(self.body(x) + self.short(x))


class Recurrent(nn.Module):
    """A unidirectional LSTM or GRU; the state after the last valid step answers."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU], features: int, classes: int, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        width, depth, vocabulary = sizes
        self.embed = nn.Embedding(vocabulary, features) if vocabulary else nn.Identity()
        self.core = kind(features, width, depth, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, sequence: Tensor, length: Tensor | None = None) -> Tensor:
        """Return logits [N, classes] of `sequence` [N, T, D] or [N, T]; `length` [N] steps count, or tokens above 0."""
        steps, _ = self.core(self.embed(sequence))
        if length is None and sequence.ndim == 3:
            return self.head(steps[:, -1])  # type: ignore[no-any-return]
        length = (sequence != 0).sum(1) if length is None else length
        last = (length - 1).clamp(min=0).reshape(-1, 1, 1).expand(-1, 1, steps.shape[2])
        return self.head(steps.gather(1, last)[:, 0])  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """A transformer encoder whose answer is read off the mean of the valid steps."""

    def __init__(self, features: int, classes: int, width: int, depth: int, vocabulary: int) -> None:
        super().__init__()
        if width % 16:
            raise ValueError(f"a transformer's width is a multiple of 16, got {width}")
        self.embed = nn.Embedding(vocabulary, width) if vocabulary else nn.Linear(features, width)
        layer = nn.TransformerEncoderLayer(width, width // 16, 4 * width, 0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, sequence: Tensor, length: Tensor | None = None) -> Tensor:
        """Return logits [N, classes] of `sequence` [N, T, D] or [N, T]; without `length`, token 0 is padding."""
        valid = _valid(sequence, length)
        return self.head(_mean(self.norm(self.through(sequence, valid)), valid))  # type: ignore[no-any-return]

    def through(self, sequence: Tensor, valid: Tensor) -> Tensor:
        """Return the states [N, T, width] after the layers."""
        x = self.embed(sequence)
        x = x + _positions(x)
        return self.layers(x, src_key_padding_mask=~valid)  # type: ignore[no-any-return]

    def places(self) -> int:
        """Return the number of layers."""
        return len(self.layers.layers)

    def halves(self, after: int, inputs: Sequence[str]) -> Halves:
        """Return the layers up to `after` and those behind it; see `trimtab.fit.halves`."""
        below, above = copy.deepcopy(self), copy.deepcopy(self)
        for half, kept in ((below, slice(after)), (above, slice(after, None))):
            half.layers.layers = half.layers.layers[kept]
            half.layers.num_layers = len(half.layers.layers)
        del below.norm, below.head, above.embed
        takes = inputs[1:] or (inputs[:1] if isinstance(self.embed, nn.Embedding) else ())
        return Halves(Below(below), Above(above), tuple(takes))


class Below(nn.Module):
    """The first layers of an encoder, with the mean of their states over the valid steps."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, sequence: Tensor, length: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the mean [N, width] and the states [N, T, width]."""
        valid = _valid(sequence, length)
        states = self.encoder.through(sequence, valid)
        return _mean(states, valid), states


class Above(nn.Module):
    """The later layers of an encoder."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, hidden: Tensor, told: Tensor | None = None) -> Tensor:
        """Return logits [N, classes] of states [N, T, width]; `told`: lengths [N] or tokens [N, T]."""
        tokens = told is not None and told.ndim == 2
        valid = _valid(told, None) if tokens and told is not None else _valid(hidden, told)
        states = self.encoder.norm(self.encoder.layers(hidden, src_key_padding_mask=~valid))
        return self.encoder.head(_mean(states, valid))  # type: ignore[no-any-return]


def _image(shape: Sequence[int]) -> int:
    if len(shape) != 3:
        raise ValueError(f"it takes an image [C, H, W], the task gives {list(shape)}; mlp takes any shape")
    return shape[0]


def _width_in(shape: Sequence[int], vocabulary: int) -> int:
    if len(shape) != (1 if vocabulary else 2):
        raise ValueError(f"it takes a sequence [T, D] of numbers or [T] of tokens, the task gives {list(shape)}")
    return 64 if vocabulary else shape[1]


def _convolution(channels: int, size: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(channels, size, kernel, stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(size)]


def _positions(x: Tensor) -> Tensor:
    """Return sine positions [T, width] (Vaswani et al. 2017, section 3.5), for any T."""
    width = x.shape[2]
    rate = torch.exp(torch.arange(0, width, 2, device=x.device) * (-math.log(10000.0) / width))
    angle = torch.arange(x.shape[1], device=x.device).unsqueeze(1) * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def _mean(x: Tensor, valid: Tensor) -> Tensor:
    weight = valid.unsqueeze(2).to(x.dtype)
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1)


def _valid(sequence: Tensor, length: Tensor | None) -> Tensor:
    """Return which steps [N, T] are not padding; the first always counts, or attention would have nothing to read."""
    if length is not None:
        return torch.arange(sequence.shape[1], device=sequence.device) < length.clamp(min=1).unsqueeze(1)
    if sequence.ndim == 2:
        first = torch.arange(sequence.shape[1], device=sequence.device) == 0
        return (sequence != 0) | first
    return torch.ones(sequence.shape[:2], dtype=torch.bool, device=sequence.device)

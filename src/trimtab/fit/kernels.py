"""Which of torch's kernels may run a net."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

EVEN, PIXEL = 8, 4
"""Channels that kernels work through at once, and the most that an image has."""


@contextmanager
def sound_kernels(module: nn.Module) -> Iterator[None]:
    """Leave oneDNN's kernels out for convolutions of odd widths.

    Training a pruned net of the zoo (`resnet(width=8) | prune(0.5)`) corrupted memory with torch 2.13 on a processor
    with AVX2 alone, and did not without these kernels. That widths which are no multiple of 8 do it is a guess.
    """
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.modules.conv._ConvNd)]
    odd = any(c.out_channels % EVEN or (c.in_channels % EVEN and c.in_channels > PIXEL) for c in convolutions)
    kernels: Any = torch.backends.mkldnn
    before = kernels.enabled
    kernels.enabled = before and not odd
    try:
        yield
    finally:
        kernels.enabled = before

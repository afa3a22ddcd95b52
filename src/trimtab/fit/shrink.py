"""Makes what a net reads smaller before it reads it: images by averaging pixels, sequences by leaving off their end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.values.model import Signature, TensorSpec

TIME, LENGTH = "time", "length"


class Shrunk(nn.Module):
    """A net behind a change of each of its inputs."""

    def __init__(self, inner: nn.Module, changes: Sequence[Callable[[Tensor], Tensor] | None]) -> None:
        super().__init__()
        self.inner, self.changes = inner, tuple(changes)

    def forward(self, *inputs: Tensor) -> Any:
        """Return what the net gives for the smaller inputs."""
        changed = zip(inputs, self.changes, strict=True)
        return self.inner(*(change(each) if change else each for each, change in changed))


def averaged(inner: nn.Module, images: Sequence[bool], factor: int) -> Shrunk:
    """Put a mean over `factor` x `factor` pixels before those inputs that are images [N, C, H, W]."""
    return Shrunk(inner, [(lambda each: F.avg_pool2d(each, factor)) if image else None for image in images])


def cut_off(inner: nn.Module, roles: Sequence[str], length: int) -> Shrunk:
    """Keep the first `length` steps of inputs whose role is `time` [N, T, ...], and clip those that are `length`."""
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        TIME: lambda each: each[:, :length],
        LENGTH: lambda each: each.clamp(max=length),
    }
    return Shrunk(inner, [changes.get(role) for role in roles])


def is_image(spec: TensorSpec) -> bool:
    """Whether an input is an image of a fixed size, channels first."""
    return spec.dtype == "float32" and len(spec.shape) == 4 and all(isinstance(size, int) for size in spec.shape[1:])


def roles(signature: Signature) -> list[str]:
    """Return for each input `time` where its second axis is one of steps, `length` where it counts them, or nothing."""
    steps = [TIME if len(spec.shape) > 1 and spec.shape[1] == TIME else "" for spec in signature.inputs]
    return [
        LENGTH if spec.name == LENGTH and not role else role for spec, role in zip(signature.inputs, steps, strict=True)
    ]

"""Makes what a net reads smaller before it reads it: images by a resize, sequences by leaving off their end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.errors import Refused
from trimtab.fit import halves
from trimtab.fit.halves import Halves
from trimtab.values.model import Signature

TIME, LENGTH = "time", "length"


class Resized(nn.Module):
    """A net that reads images at a size of (height, width); dense answers get the size of the images back."""

    def __init__(self, inner: nn.Module, sizes: Sequence[Sequence[int] | None], dense: bool) -> None:
        super().__init__()
        self.inner, self.dense = inner, dense
        self.sizes = [None if size is None else (int(size[0]), int(size[1])) for size in sizes]

    def places(self) -> int:
        """Return how many blocks of the net run one after the other; see `trimtab.fit.halves`."""
        return halves.places(self.inner)

    def halves(self, after: int, inputs: Sequence[str]) -> Halves:
        """Return the halves of the net, the first of which reads smaller images."""
        if self.dense:
            raise Refused("a net whose answers get the size of its images back cannot be cut in two")
        body, main, takes = halves.cut(self.inner, after, inputs)
        return Halves(Resized(body, self.sizes, False), main, takes)

    def forward(self, *inputs: Tensor) -> Any:
        """Return what the net gives for the smaller images."""
        pairs = list(zip(inputs, self.sizes, strict=True))
        found = self.inner(*(each if size is None else _resize(each, size) for each, size in pairs))
        if not self.dense:
            return found
        whole = next(each.shape[2:] for each, size in pairs if size is not None)
        return _resize(found, (int(whole[0]), int(whole[1])))


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


class CutOff(nn.Module):
    """A net that reads the first `length` steps of sequences [N, T, ...]; inputs that count steps are clipped."""

    def __init__(self, inner: nn.Module, roles: Sequence[str], length: int) -> None:
        super().__init__()
        self.inner, self.roles, self.length = inner, list(roles), length

    def forward(self, *inputs: Tensor) -> Any:
        """Return what the net gives for the shorter sequences."""
        return self.inner(*(self._short(each, role) for each, role in zip(inputs, self.roles, strict=True)))

    def _short(self, each: Tensor, role: str) -> Tensor:
        if role == TIME:
            return each[:, : self.length]
        return each.clamp(max=self.length) if role == LENGTH else each


def roles(signature: Signature) -> list[str]:
    """Return for each input `time` where its second axis is one of steps, `length` where it counts them, or nothing."""
    steps = [TIME if len(spec.shape) > 1 and spec.shape[1] == TIME else "" for spec in signature.inputs]
    return [
        LENGTH if spec.name == LENGTH and not role else role for spec, role in zip(signature.inputs, steps, strict=True)
    ]

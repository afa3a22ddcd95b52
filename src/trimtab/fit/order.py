"""Which examples a step sees: shuffled anew each epoch, those of like length together where lengths differ.

Padding is work for nothing. Sorting all examples would take the chance out of batches; sorting within windows of the
shuffled order keeps most of it and saves most padding (Khomenko et al. 2017, arXiv 1708.05604).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from trimtab.values.task import Example

WINDOW = 32
"""Batches that are sorted together."""
LOOKED_AT = 64
"""Examples that tell whether lengths differ."""


class Order:
    """The batches of every epoch, a function of the seed alone: of `batch` examples, or one less to be of like size."""

    def __init__(self, examples: Sequence[Example], batch: int, seed: int) -> None:
        self.count, self.batches, self.seed = len(examples), math.ceil(len(examples) / batch), seed
        self.lengths = lengths(examples)
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    def chosen(self, step: int) -> list[int]:
        """Return the numbers of the examples of a step."""
        epoch, index = divmod(step, self.batches)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._batches(epoch)
        return self._epoch[1][index]

    def by_length(self) -> list[int]:
        """Return the numbers of all examples, those of like length beside each other."""
        if self.lengths is None:
            return list(range(self.count))
        return [int(i) for i in np.lexsort((self.lengths[:, 1], self.lengths[:, 0]))]

    def padding(self) -> tuple[float, float]:
        """Return the share of steps along the first axis that is padding in the first epoch: as it is, and unsorted."""
        if self.lengths is None:
            return 0.0, 0.0
        plain = [part.tolist() for part in self._shuffled(0).tensor_split(self.batches)]
        return _padded(self.lengths, self._batches(0)), _padded(self.lengths, plain)

    def _batches(self, epoch: int) -> list[list[int]]:
        parts = [part.tolist() for part in self._shuffled(epoch).tensor_split(self.batches)]
        if self.lengths is None:
            return parts
        ordered: list[list[int]] = []
        for start in range(0, len(parts), WINDOW):
            window = parts[start : start + WINDOW]
            ends = np.cumsum([len(part) for part in window])[:-1]
            together = np.concatenate(window)
            keys = self.lengths[together]
            ranked = together[np.lexsort((keys[:, 1], keys[:, 0]))]
            ordered += [part.tolist() for part in np.split(ranked, ends)]
        return [ordered[i] for i in torch.randperm(len(ordered), generator=generator(self.seed, epoch, -2)).tolist()]

    def _shuffled(self, epoch: int) -> torch.Tensor:
        return torch.randperm(self.count, generator=generator(self.seed, epoch, -1))


def lengths(examples: Sequence[Example]) -> NDArray[np.int64] | None:
    """Return int64[n, 2], the first axis of each example's longest input and of its target; None where inputs agree."""
    few = {tuple(array.shape for array in examples[i].inputs.values()) for i in range(min(LOOKED_AT, len(examples)))}
    if len(few) < 2:
        return None
    return np.array([(_length(examples[i]), np.size(examples[i].target)) for i in range(len(examples))], dtype=np.int64)


def mix(*numbers: int) -> int:
    """Return a seed that depends on every number, also on their order."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:6])


def generator(*numbers: int) -> torch.Generator:
    """Return a generator of its own, seeded by `mix`."""
    return torch.Generator().manual_seed(mix(*numbers))


def _length(example: Example) -> int:
    return max(len(array) for array in example.inputs.values() if array.ndim)


def _padded(sizes: NDArray[np.int64], batches: Sequence[Sequence[int]]) -> float:
    room = sum(int(sizes[batch, 0].max()) * len(batch) for batch in batches)
    return 1 - int(sizes[:, 0].sum()) / max(room, 1)

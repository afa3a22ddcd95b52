"""Times calls over several real batches, because one batch repeated is not what a model meets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trimtab.values.task import Example, Split, TaskView

BATCHES = 8
"""Real batches that a block of timing goes through."""
MANY = 96
"""The same of a model that takes another way for some examples: how many do so must show."""
LOOKED_AT = 512
"""Examples among which short and long ones are chosen."""


def known(bound: float) -> float | None:
    """Return a bound, or None where the sample could give none.

    >>> known(1.5), known(float("inf"))
    (1.5, None)
    """
    return bound if math.isfinite(bound) else None


class Timed(Protocol):
    """A session that times itself."""

    def time(self, inputs: Mapping[str, NDArray[Any]], seconds: float) -> NDArray[np.float64]:
        """Return the seconds of each call."""
        ...


def real_batches(view: TaskView, split: Split, size: int, most: int = BATCHES) -> list[Mapping[str, NDArray[Any]]]:
    """Return the inputs of up to `most` batches of exactly `size` examples; of one smaller if the split has fewer.

    Examples that come alone and differ in length are taken from short to long, evenly from the first 512; larger
    batches are in the split's order, each padded to its longest.
    """
    alone = _spread(view, split, most) if size == 1 else []
    batches = [view.task.collate([example]) for example in alone] or list(view.batches(split, size, size * most))
    return [batch.inputs for batch in batches if len(batch) == size] or [batch.inputs for batch in batches[:1]]


def _spread(view: TaskView, split: Split, most: int) -> list[Example]:
    """Return `most` examples, evenly by length; [] where all have the same, or there are too few."""
    examples = view.split(split)
    first = [examples[i] for i in range(min(BATCHES, len(examples)))]
    if len({_size(example) for example in first}) < 2 or len(first) < BATCHES:
        return []
    known = sorted((examples[i] for i in range(min(LOOKED_AT, len(examples)))), key=_size)
    count = min(most, len(known))
    return [known[int((place + 0.5) * len(known) / count)] for place in range(count)]


def _size(example: Example) -> int:
    return sum(array.size for array in example.inputs.values())


def shape_conditions(batches: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, Any]:
    """Return what the batches look like: shapes, as "7-59" where they differ; and the mean length and the padding.

    >>> one, two = ({"attention_mask": np.ones((1, length), int)} for length in (3, 5))
    >>> shape_conditions([one, two])
    {'shapes': {'attention_mask': [1, '3-5']}, 'mean_length': 4.0, 'padding_share': 0.0}
    """
    sizes = {name: list(zip(*(inputs[name].shape for inputs in batches), strict=True)) for name in batches[0]}
    shapes = {name: [_range(size) for size in axes] for name, axes in sizes.items()}
    lengths = [_lengths(inputs) for inputs in batches]
    if any(length is None for length, _ in lengths):
        return {"shapes": shapes}
    valid = np.concatenate([length for length, _ in lengths if length is not None])
    padded = sum(width * len(length) for length, width in lengths if length is not None)
    share = 1 - float(valid.sum()) / padded
    return {"shapes": shapes, "mean_length": round(float(valid.mean()), 1), "padding_share": round(share, 3)}


def _range(sizes: Sequence[int]) -> int | str:
    return sizes[0] if min(sizes) == max(sizes) else f"{min(sizes)}-{max(sizes)}"


def _lengths(inputs: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any] | None, int]:
    """Return how many steps of each example are not padding, and to how many they are padded."""
    if "attention_mask" in inputs:
        mask = inputs["attention_mask"]
        return mask.sum(axis=1), mask.shape[1]
    timed = [array for name, array in inputs.items() if name != "length" and array.ndim > 1]
    return (inputs["length"], timed[0].shape[1]) if "length" in inputs and timed else (None, 0)


def call_seconds(session: Timed, batches: Iterable[Mapping[str, NDArray[Any]]], seconds: float) -> NDArray[np.float64]:
    """Return the seconds of calls, as many of each batch: at least one, whatever the time, so that fast and slow
    models are timed on the same inputs, and short calls do not outvote long ones.

    Raises:
        ValueError: there is no batch.
    """
    listed = list(batches)
    if not listed:
        raise ValueError("timing takes at least one batch; the split is empty")
    gathered = [session.time(inputs, seconds / len(listed)) for inputs in listed]
    fewest = min(len(times) for times in gathered)
    return np.concatenate([times[:fewest] for times in gathered])

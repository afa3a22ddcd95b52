"""Times calls over several real batches, because one batch repeated is not what a model meets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trimtab.values.task import Split, TaskView

BATCHES = 8
"""Real batches that a block of timing goes through."""


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


def real_batches(view: TaskView, split: Split, size: int) -> list[Mapping[str, NDArray[Any]]]:
    """Return the inputs of up to eight batches of exactly `size` examples; of one smaller if the split has fewer."""
    batches = list(view.batches(split, size, size * BATCHES))
    return [batch.inputs for batch in batches if len(batch) == size] or [batch.inputs for batch in batches[:1]]


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

"""Scores a split: outputs of a session become rows that can be paired, resampled and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import DataError
from trimtab.values.task import Split, TaskView

BATCH = 64
Floats = NDArray[np.float64]


class Runs(Protocol):
    """A session that runs a whole program."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs of a batch."""
        ...


def score_rows(
    session: Runs, view: TaskView, split: Split, stop: Callable[[Floats], str] | None = None, batch: int = BATCH
) -> tuple[Floats, str]:
    """Return rows [n, k] of the split in its order, and the sentence with which `stop` ended it, or an empty one.

    `stop` sees all rows so far after each batch, and ends the scoring by returning a sentence.

    Raises:
        DataError: the split is empty.
    """
    gathered: list[Floats] = []
    for part in view.batches(split, batch):
        gathered.append(np.asarray(view.task.score(session.run(part.inputs), part), dtype=np.float64))
        reason = stop(np.concatenate(gathered)) if stop else ""
        if reason:
            return np.concatenate(gathered), reason
    if not gathered:
        raise DataError(f"the {split} split of {view.task.name} is empty; scoring takes at least one example")
    return np.concatenate(gathered), ""

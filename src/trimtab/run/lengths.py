"""Whether a model takes inputs as long as a task has them, tried once before anything is built on it.

Tables of positions end, and graphs are exported for one length: the fault would show on the first example that is
longer, perhaps on the sealed split at the very end. Of that split lengths alone are read: what is run is an example
that may be seen, repeated up to that length.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import DataError, one_line
from trimtab.values.task import SPLITS, Batch, Split, TaskView

Answer = Callable[[Batch], Any]
Place = tuple[Split, int]
SEEN: tuple[Split, ...] = ("train", "validation")
SEQUENCES = (1, 2)
"""Axes of an example's array whose first may be time; images have three."""
CUT = "MODEL | truncate(share=0.5)"


def check_lengths(answer: Answer, view: TaskView, truncates: bool) -> None:
    """Raise DataError where a model fails on the task's longest inputs for their length, and answers the shortest.

    `truncates`: whether the pass `truncate` takes the model.
    """
    found = _varying(view)
    if found is None:
        return
    name, *ends, length = found
    short, long = (view.task.collate([view.split(split)[place]]) for split, place in ends)
    if not all(name in batch.inputs and batch.inputs[name].ndim > 1 for batch in (short, long)):
        return
    width, length = short.inputs[name].shape[1], max(long.inputs[name].shape[1], length)
    error = "" if length == width else _error(answer, long, name, length)
    if not error or _error(answer, short, name, width) or not _error(answer, short, name, length):
        return
    longer = range(width + 1, length + 1)
    most = width + bisect_left(longer, True, key=lambda size: bool(_error(answer, short, name, size)))
    where = f"say max_length={most} in the task" if hasattr(view.task, "max_length") else "cut them off in the task"
    raise DataError(
        f"{view.task.name} has inputs up to {length} long ({name}), on which the model fails ({error}); up to {most} "
        f"it answers them: {where}{f', or have their beginning read alone: {CUT}' if truncates else ''}"
    )


def _varying(view: TaskView) -> tuple[str, Place, Place, int] | None:
    """Return the first input whose length varies: where the shortest and longest lie, and the greatest length of all.

    The places are of splits that may be seen.
    """
    examples = view.split("train")
    inputs = examples[0].inputs if len(examples) else {}
    for name in (name for name, array in inputs.items() if array.ndim in SEQUENCES):
        lengths = {split: view.lengths(name, split) for split in SPLITS}
        seen = [(size, (split, place)) for split in SEEN for place, size in enumerate(lengths[split])]
        (least, shortest), (_, longest) = min(seen), max(seen)
        most = max(size for sizes in lengths.values() for size in sizes)
        if most > least:
            return name, shortest, longest, most
    return None


def _error(answer: Answer, batch: Batch, name: str, length: int) -> str:
    """Return why the model does not answer a batch whose inputs are repeated up to a length; empty where it does."""
    width = batch.inputs[name].shape[1]
    try:
        inputs = {key: _repeated(array, width, length) for key, array in batch.inputs.items()}
        answer(Batch(inputs, batch.targets))
    except MemoryError:
        raise
    except Exception as error:  # libraries raise what they like
        return one_line(error)
    return ""


def _repeated(array: NDArray[Any], width: int, length: int) -> NDArray[Any]:
    """Repeat what has `width` steps up to `length`, and let numbers that count these steps say the new length."""
    if array.ndim > 1 and array.shape[1] == width:
        return array.take(np.arange(length) % max(width, 1), 1)
    counts = array.ndim == 1 and array.dtype.kind in "iu" and bool((array == width).all())
    return np.full_like(array, length) if counts else array

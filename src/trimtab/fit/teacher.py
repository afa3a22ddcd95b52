"""The teacher's answers, asked once for what comes again.

A teacher is as large as the base: asked at each step it costs more than a small pupil. Where the task does not change
its examples from epoch to epoch, the answers are worked out beforehand, in blocks that do not depend on the order of
training. Where it does, batches come again after VIEWS epochs, and they and their answers are kept from the first time
on. Either way a resumed training sees the same bits, and the next training in this process with the same teacher and
task finds the answers ready: the candidates of a search share one teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from trimtab.fit import checkpoint, tensors
from trimtab.fit.order import Order
from trimtab.fit.program import Net
from trimtab.values.task import Batch, Task, TaskView

BLOCK = 64
LIMIT_MB = 256.0
"""Memory that kept answers may take, and kept batches."""
VIEWS = 4
"""Epochs after which changed examples come again: a pruned net learnt as much from 4 views of each as from 8."""
TOGETHER = 4
"""Batches of changed examples that are asked for at once: large ones are answered quicker than small ones."""


@dataclass
class Kept:
    """Answers of one teacher to one task's training examples, each cut to its valid length."""

    key: str
    task: Task
    rows: list[Tensor] = field(default_factory=list)
    """Of every example, where the task does not change them."""
    batches: dict[int, Tensor] = field(default_factory=dict)
    """Of the batch of a step, where it does."""
    inputs: dict[int, Batch] = field(default_factory=dict)
    """The batch of a step itself."""


_LAST: list[Kept] = []
"""The answers of the last teacher."""


class Teacher:
    """Answers for a net that does not learn."""

    def __init__(self, module: nn.Module, view: TaskView, precision: str = "fp32", threads: int = 1) -> None:
        self.net, self.view, self.precision = Net.of(module).eval(), view, precision
        self.threads = threads
        """For several batches at once."""
        self.kept = Kept("", view.task)
        self.period = 0
        """Steps after which batches come again; 0: never, or what they hold is known."""
        self.keeps = False
        """Whether the answers to a period's batches are few enough to be kept."""
        self.keeps_batches = False
        """Whether the batches themselves are."""
        self.note = ""

    def prepare(self, order: Order, steps: int, check_time: Callable[[], None]) -> None:
        """Ask for every training example once, in blocks of like length, if they come more than once in `steps`.

        Where the task changes its examples, batches get a `period` instead. `note` says so, or why the answers must be
        asked at each step. Raises TimeoutError from `check_time`.
        """
        about = f"{self.precision} {torch.get_num_threads()} {self.threads} {order.count} {order.batches} {order.seed}"
        made_by = [str(part.path) for part in self.net.model.parts.values()] if self.net.model else repr(self.net)
        key = f"{tensors.digest(checkpoint.copy_state(self.net))} {made_by} {about}"
        if not (_LAST and _LAST[0].key == key and _LAST[0].task is self.view.task):
            _LAST[:] = [Kept(key, self.view.task)]
        self.kept = _LAST[0]
        examples, numbers = self.view.split("train"), order.by_length()
        few = self.view.task.collate([examples[i] for i in numbers[:1]])
        if self.view.task.augment(few, 0) is not few:
            self.period = VIEWS * order.batches
            self.keeps = _fit(self._asked(few).nbytes, VIEWS * order.count)
            self.keeps_batches = _fit(sum(array.nbytes for array in few.inputs.values()), VIEWS * order.count)
            self.note = f"training examples change from epoch to epoch, and come again after {VIEWS} epochs"
        elif not self.kept.rows and steps > order.batches:
            self.kept.rows = self._rows(numbers, check_time)

    def _rows(self, numbers: Sequence[int], check_time: Callable[[], None]) -> list[Tensor]:
        rows: list[Tensor | None] = [None] * len(numbers)
        examples = self.view.split("train")
        for start in range(0, len(numbers), BLOCK):
            check_time()
            chosen = numbers[start : start + BLOCK]
            batch = self.view.task.collate([examples[i] for i in chosen])
            answers = self._asked(batch)
            self.note = self._why_not(batch, answers, len(numbers))
            if self.note:
                return []
            for index, answer, count in zip(chosen, answers, _valid(batch, answers), strict=True):
                rows[index] = answer[:count].clone()
        return [row for row in rows if row is not None]

    def batch(self, step: int, batch_of: Callable[[int], Batch]) -> Batch:
        """Return what `batch_of` gives for a step below `period`, kept from the first time on where there is room.

        The arrays are the caller's own: a net may change them.
        """
        if not self.keeps_batches:
            return batch_of(step)
        if step not in self.kept.inputs:
            self.kept.inputs[step] = batch_of(step)
        batch = self.kept.inputs[step]
        return replace(batch, inputs={name: array.copy() for name, array in batch.inputs.items()})

    def answer(self, batch: Batch, chosen: Sequence[int], step: int, batch_of: Callable[[int], Batch]) -> Tensor:
        """Return the answers to the batch of a step, which holds the `chosen` examples; from memory if they are there.

        Steps count from 0 to below `period` where there is one; `batch_of` gives the batch of any of them.
        """
        if self.period:
            return self._again(batch, step, batch_of)
        if not self.kept.rows:
            return self._asked(batch)
        rows = [self.kept.rows[i] for i in chosen]
        return torch.stack(rows) if batch.targets is None or rows[0].ndim == 1 else _padded(rows, batch)

    def _again(self, batch: Batch, step: int, batch_of: Callable[[int], Batch]) -> Tensor:
        if not self.keeps:
            return self._asked(batch)
        if step not in self.kept.batches:
            first = step - step % TOGETHER
            steps = range(first, min(first + TOGETHER, self.period))
            answers = self._together([batch if one == step else self.batch(one, batch_of) for one in steps])
            self.kept.batches.update(zip(steps, answers, strict=True))
        return self.kept.batches[step]

    def _together(self, batches: Sequence[Batch]) -> Sequence[Tensor]:
        """Return the answers to several batches, asked for at once where their examples have one shape."""
        if any(batch.targets is not None and np.ndim(batch.targets) > 1 for batch in batches):
            return [self._asked(batch) for batch in batches]
        names = batches[0].inputs
        if len({tuple(batch.inputs[name].shape[1:] for name in names) for batch in batches}) > 1:
            return [self._asked(batch) for batch in batches]
        joined = Batch({name: np.concatenate([batch.inputs[name] for batch in batches]) for name in names}, None)
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            return [each.clone() for each in self._asked(joined).split([len(batch) for batch in batches])]
        finally:
            torch.set_num_threads(threads)

    @torch.no_grad()
    def _asked(self, batch: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            return self.net.scores(batch).float()

    def _why_not(self, batch: Batch, answers: Tensor, count: int) -> str:
        steps = {array.shape[1] for array in batch.inputs.values() if array.ndim > 1}
        stepwise = answers.ndim > 1 and answers.shape[1] in steps if batch.targets is None else answers.ndim > 2
        if stepwise and np.asarray(batch.targets).shape != answers.shape[:-1]:
            return "the teacher answers anew at each step: the valid length of its answers is not known"
        if not _fit(answers[:1].nbytes, count):
            return f"the teacher answers anew at each step: its answers take more than {LIMIT_MB:g} MB"
        return ""


def _fit(size: int, count: int) -> bool:
    """Tell whether so many things of so many bytes may be kept."""
    return size * count <= LIMIT_MB * 1e6


def valid(batch: Batch, answers: Tensor) -> Tensor | None:
    """Return which places of answers [B, L, K] have a target, bool[B, L]; None where every answer counts."""
    if answers.ndim < 3 or batch.targets is None or np.asarray(batch.targets).shape != answers.shape[:-1]:
        return None
    return torch.from_numpy(np.asarray(batch.targets) >= 0)


def _valid(batch: Batch, answers: Tensor) -> list[int | None]:
    """Return how many places of each answer are kept; all where it has no places."""
    counted = valid(batch, answers)
    return (
        [None] * len(answers)
        if counted is None
        else [int(row.nonzero().max()) + 1 if row.any() else 0 for row in counted]
    )


def _padded(rows: Sequence[Tensor], batch: Batch) -> Tensor:
    padded = torch.zeros(len(rows), np.asarray(batch.targets).shape[1], rows[0].shape[-1])
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded

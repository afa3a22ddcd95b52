"""The teacher's answers, asked once for each training example where every epoch would ask the same.

A teacher is as large as the base: asked at each step it costs as much as the pupil. Where the task does not change its
examples from epoch to epoch, the answers are worked out beforehand, in blocks that do not depend on the order of
training, so that a resumed training sees the same bits; the next training in this process with the same teacher and
task finds them ready.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from trimtab.fit import checkpoint, tensors
from trimtab.fit.program import Net
from trimtab.values.task import Batch, Task, TaskView

BLOCK = 64
LIMIT_MB = 256.0
"""Memory that kept answers may take."""


@dataclass
class Kept:
    """Answers of one teacher to one task's training examples, each cut to its valid length."""

    key: str
    task: Task
    rows: list[Tensor]


_LAST: list[Kept] = []
"""The answers of the last teacher: the candidates of a search share one."""


class Teacher:
    """Answers for a net that does not learn."""

    def __init__(self, module: nn.Module, view: TaskView) -> None:
        self.net, self.view = Net.of(module).eval(), view
        self.rows: list[Tensor] = []
        self.note = ""

    def prepare(self, order: Sequence[int], check_time: Callable[[], None]) -> None:
        """Ask for every training example once, in blocks along `order`, unless the task changes its examples.

        Raises TimeoutError from `check_time`. `note` says where the answers must be asked at each step, and why.
        """
        key = f"{tensors.digest(checkpoint.copy_state(self.net))} {torch.get_num_threads()} {len(order)}"
        if _LAST and _LAST[0].key == key and _LAST[0].task is self.view.task:
            self.rows = _LAST[0].rows
            return
        rows: list[Tensor | None] = [None] * len(order)
        examples = self.view.split("train")
        for start in range(0, len(order), BLOCK):
            check_time()
            chosen = order[start : start + BLOCK]
            batch = self.view.task.collate([examples[i] for i in chosen])
            answers = self._asked(batch)
            self.note = self._why_not(batch, answers, len(order))
            if self.note:
                return
            for index, answer, count in zip(chosen, answers, _valid(batch, answers), strict=True):
                rows[index] = answer[:count].clone()
        self.rows = [row for row in rows if row is not None]
        _LAST[:] = [Kept(key, self.view.task, self.rows)]

    def answer(self, batch: Batch, chosen: Sequence[int], unchanged: bool) -> Tensor:
        """Return the answers to a batch, from memory where the batch holds the examples as they are."""
        if not self.rows or not unchanged:
            return self._asked(batch)
        rows = [self.rows[i] for i in chosen]
        return torch.stack(rows) if batch.targets is None or rows[0].ndim == 1 else _padded(rows, batch)

    @torch.no_grad()
    def _asked(self, batch: Batch) -> Tensor:
        return self.net.scores(batch).float()

    def _why_not(self, batch: Batch, answers: Tensor, count: int) -> str:
        if self.view.task.augment(batch, 0) is not batch:
            return "the teacher answers anew at each step: training examples change from epoch to epoch"
        if answers.ndim > 2 and np.asarray(batch.targets).shape != answers.shape[:-1]:
            return "the teacher answers anew at each step: the valid length of its answers is not known"
        if answers[:1].nbytes * count > LIMIT_MB * 1e6:
            return f"the teacher answers anew at each step: its answers take more than {LIMIT_MB:g} MB"
        return ""


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

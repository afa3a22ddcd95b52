"""One step of training or of answering as a call, on one batch again and again: what a planner records and times."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from trimtab.errors import DataError
from trimtab.fit.losses import hard
from trimtab.fit.module import example
from trimtab.fit.optimizer import optimizer, settled
from trimtab.fit.program import Net
from trimtab.fit.settings import Settings
from trimtab.fit.tape import Call
from trimtab.values.task import TaskView


def use_threads(count: int) -> None:
    """Let this process's operators use so many threads."""
    torch.set_num_threads(count)


def step_of(phase: str, net: Net, view: TaskView, batch: int) -> Call:
    """Return a step as `train` does it (AdamW, images channels last), or one answer; data is at hand in both.

    Raises:
        DataError: the task has no targets to train on, or no examples.
    """
    for parameter in net.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return _training(net, view, batch) if phase == "train" else _answering(net, view, batch)


def _training(net: Net, view: TaskView, size: int) -> Call:
    batch = example(view, size)
    if batch.targets is None:
        raise DataError(f"{view.task.name} has no targets to train on")
    settings = settled(Settings(batch=size), net)
    rule, loss_of = optimizer(net, settings), hard(view.task.objective, view.task.class_weights)
    targets = torch.from_numpy(np.asarray(batch.targets))
    net.train()

    def step() -> None:
        loss = loss_of(net.scores(batch).float(), targets)
        rule.zero_grad(set_to_none=True)
        loss.backward()
        if settings.clip:
            nn.utils.clip_grad_norm_(net.parameters(), settings.clip)
        rule.step()

    return step


def _answering(net: Net, view: TaskView, size: int) -> Call:
    batch = example(view, size)
    net.eval()

    return lambda: net.answer(batch)

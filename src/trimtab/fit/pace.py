"""How much longer training takes here than operations tell: a few steps of the base, timed before a search begins."""

from __future__ import annotations

from trimtab.errors import DataError, Refused
from trimtab.fit.effort import step_seconds
from trimtab.fit.loop import step_time
from trimtab.fit.program import Net, unfit
from trimtab.fit.settings import Settings, Surroundings
from trimtab.values.machine import Machine
from trimtab.values.model import Model
from trimtab.values.task import TaskView

BATCH = 16
FASTEST, SLOWEST = 0.2, 50.0
"""Bounds of what is believed."""


def measured(model: Model, view: TaskView, machine: Machine, seed: int, threads: int) -> float:
    """Return the seconds of a training step of a torch model over those expected; 1 where it cannot be trained."""
    expected = step_seconds(model.facts, machine, BATCH)
    if unfit(model) or not expected:
        return 1.0
    try:
        net = Net.load(model, editable=True)
        seconds = step_time(net, view, Settings(steps=BATCH, batch=BATCH), Surroundings(seed, threads))
    except (DataError, Refused):  # no targets to learn from, or a module of another process
        return 1.0
    return min(max(seconds / expected, FASTEST), SLOWEST)

"""Losses of language models: the law fitted on small runs, held against ten times larger ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import numpy as np

from trimtab.maths.scaling import FEWEST, PER_OPERATION, fit
from trimtab.plan.evidence import Case, Row, Skipped

FILES = (
    "scaling_chinchilla_besiroglu_points.csv",
    "scaling_gadre2024_104runs.csv",
    "scaling_cerebras_gpt.csv",
)
COLUMNS = {
    "scaling_chinchilla_besiroglu_points": ("N", "D", "loss", ""),
    "scaling_gadre2024_104runs": ("params", "tokens", "loss_c4_val", "train_set"),
    "scaling_cerebras_gpt": ("params", "tokens", "pile_test_xent_card", ""),
}
FURTHER = 10.0
"""How many times more operations than the largest run fitted on."""


def cases(table: str, rows: Sequence[Row]) -> Iterator[Case | Skipped]:
    """Yield the cases of each set of runs."""
    *numbers, group = COLUMNS[table]
    for name, members in groupby(sorted(rows, key=lambda row: row.get(group, "")), key=lambda row: row.get(group, "")):
        yield from _set(table, name or table, [[float(row[column]) for column in numbers] for row in members])


def _set(table: str, name: str, rows: Iterable[Sequence[float]]) -> Iterator[Case | Skipped]:
    runs = np.array(list(rows))
    spent = PER_OPERATION * runs[:, 0] * runs[:, 1]
    small = spent <= spent.max() / FURTHER
    far = spent >= spent[small].max() * FURTHER if small.any() else np.zeros(len(runs), dtype=bool)
    for _ in range(int((~far).sum())):
        yield Skipped("runs that the scaling law is fitted on, or that are not ten times larger")
    if small.sum() < FEWEST:
        for _ in range(int(far.sum())):
            yield Skipped("too few small runs to fit a scaling law on")
        return
    law = fit(*runs[small].T)
    last = float(runs[small][np.argmax(spent[small]), 2])
    for parameters, tokens, loss in runs[far]:
        label = f"{name} {parameters:.3g} x {tokens:.3g}"
        predicted = law.loss(parameters, tokens)
        yield Case(f"{table}:10x", "loss", label, f"{table}-{name}", "loss", loss, predicted, last, name)

"""Whole trainings as their papers and model cards tell them: hours of accelerators for so many tokens.

How they were laid out is not told: it is the fastest layout that the planner finds, as for a user who asks. Most hours
are those of whole runs, so lost time counts; those of llm.c are the time of a step times the steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from trimtab.plan import trainings
from trimtab.plan.evidence import GUESSED, Case, NotPlanned, Row, Skipped, by_row, system_of, whole
from trimtab.plan.evidence._names import architecture, chip
from trimtab.plan.intervals import WHOLE_RUN

FILES = ("train_published_runs.csv",)
MANY = 1024
"""Chips of a run that tells its hours only."""
SEQ = {"llama2": 4096, "llama3": 8192}
"""Tokens of a sequence, where the positions of the model do not tell; 2048 of others."""
STEPS = re.compile(r"\d+ steps x ")
HOUR = 3600.0


@by_row
def cases(table: str, row: Row) -> Iterator[Case | Skipped]:
    """Yield the case of a row."""
    if row["tier"] != "A":
        yield Skipped("a run whose hours are its readers' estimate")
        return
    if not row["accel_hours"]:
        yield Skipped("a run that does not tell its hours")
        return
    arch, system = architecture(row["model"]), chip(row["accelerator"])
    count, tokens = whole(row["accel_count"], MANY), float(row["tokens_b"]) * 1e9
    seq = arch.positions or SEQ.get(arch.name.partition(":")[0], 2048)
    found = trainings.best(trainings.Order(arch, tokens, seq), system, count)
    if isinstance(found, str):
        raise NotPlanned(found)
    peak = system.peak(found.job.dtype) * 1e12
    yield Case(
        table,
        "accelerator_hours",
        f"{row['model']} on {system.name}",
        system_of(found.job),
        GUESSED if STEPS.search(row["note"]) else WHOLE_RUN,
        float(row["accel_hours"]),
        found.seconds * count / HOUR,
        found.steps * found.job.operations / peak / HOUR,
        system.name,
    )

"""Measured power: MLPerf training with power (v4.0), Patterson et al. 2021, and ML.ENERGY's served models."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.plan.evidence import Case, NotPlanned, Row, Skipped, by_row, whole
from trimtab.plan.evidence._names import architecture, chip
from trimtab.plan.power import draw
from trimtab.plan.rates import constants
from trimtab.plan.serving import Serving
from trimtab.values.chip import Chip

FILES = ("energy_mlperf_training_power.csv", "energy_patterson2021.csv", "energy_mlenergy_inference.csv")
TRAINED = 0.3
"""Share of peak arithmetic, and twice of it of memory, that MLPerf's nets use where the planner knows no better."""
PROMPT = {"lm-arena-chat": 100, "gpqa": 250, "sourcegraph-fim": 300}
"""Tokens of a prompt, about."""


@by_row
def cases(table: str, row: Row) -> Iterator[Case | Skipped]:
    """Yield the case of a row."""
    if table == "energy_patterson2021":
        yield _patterson(table, row)
    elif table == "energy_mlperf_training_power":
        yield _mlperf(table, row)
    else:
        yield _served(table, row)


def _case(table: str, label: str, kind: str, used: Chip, numbers: tuple[float, float]) -> Case:
    observed, predicted = numbers
    if not used.full_w:
        raise NotPlanned(f"the watts of {used.name} are not known")
    system = f"{table}-{label.split(' ')[0]}"
    return Case(
        table, f"{kind}_w_per_chip", label, system, f"watts-{kind}", observed, predicted, used.full_w, used.name
    )


def _patterson(table: str, row: Row) -> Case:
    used = chip(row["processor"])
    busy = float(row["measured_tflops"]) / float(row["peak_tflops"])
    watts = draw(used, busy, 2 * busy, constants()).system_w
    return _case(
        table,
        f"{row['model']} on {row['processor']}",
        "training",
        used,
        (float(row["measured_system_w_per_accel"]), watts),
    )


def _mlperf(table: str, row: Row) -> Case:
    used = chip(row["accelerator"])
    watts = draw(used, TRAINED, 2 * TRAINED, constants()).system_w
    return _case(
        table,
        f"{row['benchmark']} on {used.name}",
        "training",
        used,
        (float(row["mean_watts_per_accel_system"]), watts),
    )


def _served(table: str, row: Row) -> Case | Skipped:
    if row["task"] not in PROMPT:
        return Skipped(
            f"ML.ENERGY {row['task']}: the length of its prompts is not known, or it makes pictures or video"
        )
    arch, used = architecture(row["model_id"]), chip(row["gpu"])
    count = whole(row["num_gpus"])
    weights = {"fp8": "fp8", "mxfp4": "fp4"}.get(row["weight_precision"], "bf16")
    job = Serving(
        arch,
        used,
        PROMPT[row["task"]],
        max(1, round(float(row["avg_output_len"]))),
        max(1, round(float(row["avg_batch_size"]))),
        tp=count if arch.heads % count == 0 else 1,
        weights=weights,
    )
    watts = draw(used, *job.busy, constants()).chip_w
    return _case(
        table,
        f"{row['model_id']} x {row['max_num_seqs']} on {count}",
        "serving",
        used,
        (float(row["avg_power_w"]) / count, watts),
    )

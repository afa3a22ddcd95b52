"""Measured power: MLPerf training with power (v4.0), Patterson et al. 2021, and ML.ENERGY's served models."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.plan import chips, models
from trimtab.plan.evidence import Case, Row, Skipped, by_row, whole
from trimtab.plan.evidence.mlperf import chip_of
from trimtab.plan.power import draw
from trimtab.plan.rates import constants
from trimtab.plan.serving import Serving
from trimtab.values.chip import Chip

FILES = ("energy_mlperf_training_power.csv", "energy_patterson2021.csv", "energy_mlenergy_inference.csv")
TRAINED = 0.3
"""Share of peak arithmetic, and twice of it of memory, that MLPerf's nets use where the planner knows no better."""
PROMPT = {"lm-arena-chat": 100, "gpqa": 250, "sourcegraph-fim": 300}
"""Tokens of a prompt, about."""
SERVED = {
    "Qwen/Qwen3-8B": "qwen3:8b",
    "Qwen/Qwen3-14B": "qwen3:14b",
    "Qwen/Qwen3-32B": "qwen3:32b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama3:8b",
    "meta-llama/Llama-3.1-70B-Instruct": "llama3:70b",
    "meta-llama/Llama-3.3-70B-Instruct": "llama3:70b",
    "meta-llama/Llama-3.1-405B-Instruct-FP8": "llama3:405b",
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": "llama4:scout",
    "openai/gpt-oss-20b": "gpt-oss:20b",
    "openai/gpt-oss-120b": "gpt-oss:120b",
}
PREFIXES = {
    "Qwen/Qwen3-30B-A3B": "qwen3:30b-a3b",
    "Qwen/Qwen3-Coder-30B": "qwen3:30b-a3b",
    "Qwen/Qwen3-235B": "qwen3:235b-a22b",
}
PROCESSORS = {"V100": "v100-sxm2-32gb", "TPU v3": "tpu-v3", "TPU v4": "tpu-v4"}
CHIPS = {"H100": "h100-sxm-80gb", "A100": "a100-sxm-80gb", "H200": "h200-sxm-141gb", "B200": "b200-sxm-180gb"}


@by_row
def cases(table: str, row: Row) -> Iterator[Case | Skipped]:
    """Yield the case of a row."""
    if table == "energy_patterson2021":
        yield _patterson(table, row)
    elif table == "energy_mlperf_training_power":
        yield _mlperf(table, row)
    else:
        yield _served(table, row)


def _case(table: str, label: str, kind: str, chip: Chip, numbers: tuple[float, float]) -> Case:
    observed, predicted = numbers
    system = f"{table}-{label.split(' ')[0]}"
    return Case(
        table, f"{kind}_w_per_chip", label, system, f"watts-{kind}", observed, predicted, chip.full_w, chip.name
    )


def _patterson(table: str, row: Row) -> Case | Skipped:
    name = PROCESSORS.get(row["processor"])
    if name is None:
        return Skipped(f"no chip {row['processor']}")
    chip = chips.load(name)
    busy = float(row["measured_tflops"]) / float(row["peak_tflops"])
    watts = draw(chip, busy, 2 * busy, constants()).system_w
    return _case(
        table,
        f"{row['model']} on {row['processor']}",
        "training",
        chip,
        (float(row["measured_system_w_per_accel"]), watts),
    )


def _mlperf(table: str, row: Row) -> Case | Skipped:
    chip = chip_of(row["accelerator"])
    if chip is None:
        return Skipped(f"no chip {row['accelerator']}")
    watts = draw(chip, TRAINED, 2 * TRAINED, constants()).system_w
    return _case(
        table,
        f"{row['benchmark']} on {chip.name}",
        "training",
        chip,
        (float(row["mean_watts_per_accel_system"]), watts),
    )


def _served(table: str, row: Row) -> Case | Skipped:
    name = SERVED.get(row["model_id"]) or next(
        (to for start, to in PREFIXES.items() if row["model_id"].startswith(start)), None
    )
    if name is None or row["gpu"] not in CHIPS or row["task"] not in PROMPT:
        return Skipped("ML.ENERGY: pictures, video, or a model whose architecture is not known")
    arch, chip = models.named(name), chips.load(CHIPS[row["gpu"]])
    count = whole(row["num_gpus"])
    weights = {"fp8": "fp8", "mxfp4": "fp8"}.get(row["weight_precision"], "bf16")
    job = Serving(
        arch,
        chip,
        PROMPT[row["task"]],
        max(1, round(float(row["avg_output_len"]))),
        max(1, round(float(row["avg_batch_size"]))),
        tp=count if arch.heads % count == 0 else 1,
        weights=weights,
    )
    watts = draw(chip, *job.busy, constants()).chip_w
    return _case(
        table,
        f"{row['model_id']} x {row['max_num_seqs']} on {count}",
        "serving",
        chip,
        (float(row["avg_power_w"]) / count, watts),
    )

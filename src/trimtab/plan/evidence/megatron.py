"""Megatron-LM on A100s: Narayanan et al. 2021, Korthikanti et al. 2022, and MT-NLG 530B (Smith et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from trimtab.plan.evidence import Case, Row, Skipped, by_row, system_of, whole
from trimtab.plan.evidence._names import chip
from trimtab.plan.layout import Layout
from trimtab.plan.stack import stack
from trimtab.plan.training import Training, regime_of
from trimtab.values.architecture import Architecture

FILES = (
    "train_megatron_2021_table1.csv",
    "train_megatron_2021_table2_zero3.csv",
    "train_korthikanti_2022.csv",
    "train_mtnlg_530b.csv",
    "train_megatron_time_estimates.csv",
)
VOCAB = 51200


@by_row
def cases(table: str, row: Row) -> Iterator[Case | Skipped]:
    """Yield the case of a row."""
    if table == "train_megatron_time_estimates":
        yield Skipped("an estimate of its paper, not a measurement")
    elif "iter_time_s" in row:
        yield _time(table, row)
    else:
        yield _rate(table, row)


def _job(row: Row, layout: Layout, program: str = "megatron-2021") -> Training:
    hidden, seq = int(row["hidden"]), int(row["seq_len"])
    arch = Architecture("gpt", int(row["layers"]), hidden, int(row["heads"]), 4 * hidden, VOCAB, positions=seq)
    batch = int(row["global_batch_seqs"])
    return Training(arch, chip(row["gpu"]), batch, seq, layout, stack(program))


def counted(job: Training) -> float:
    """Operations of a step as that paper counts them, one more forward pass for recomputation (its equation 3)."""
    arch = job.arch
    inner = 1 + job.seq / (6 * arch.hidden) + arch.vocab / (16 * arch.layers * arch.hidden)
    return 96 * job.batch * job.seq * arch.layers * arch.hidden**2 * inner


def _rate(table: str, row: Row) -> Case:
    gpus, sharded = int(row["gpus"]), row.get("scheme") == "ZeRO-3"
    tp, pp = int(row["tp"]), int(row["pp"])
    layout = Layout(tp, pp, gpus // (tp * pp), micro_batch=int(row["micro_batch"]), recompute="full", sequence=False)
    layout = replace(layout, zero=3 if sharded else 0, interleave=whole(row.get("interleave_v", "")))
    job = _job(row, layout, "deepspeed-2021" if sharded else "megatron-2021")
    kind = "zero3" if sharded else "tp_pp"
    return Case(
        f"{table}:{kind}" if "scheme" in row else table,
        "tflops_per_gpu",
        f"{row['params_b']}B on {gpus}",
        system_of(job),
        regime_of(job),
        float(row["achieved_tflops_per_gpu"]),
        counted(job) / job.seconds / gpus / 1e12,
        job.chip.peak("bf16"),
        job.chip.name,
        grows=True,
    )


def _time(table: str, row: Row) -> Case:
    mode = row.get("mode", "full")
    full = mode.startswith("full")
    layout = Layout(
        int(row["tp"]),
        int(row["pp"]),
        int(row["dp"]),
        micro_batch=whole(row.get("micro_batch", "")),
        interleave=whole(row.get("interleave_v", "")),
        recompute="full" if full else "selective",
        sequence=not full,
        zero=0,
    )
    job = _job(row, layout)
    gpus = int(row["gpus"])
    return Case(
        table,
        "iteration_s",
        f"{row.get('model', '530B')} {mode} on {gpus}",
        system_of(job),
        regime_of(job),
        float(row["iter_time_s"]),
        job.seconds,
        counted(job) * (1 if full else 0.75) / (gpus * job.chip.peak("bf16") * 1e12),
        job.chip.name,
    )

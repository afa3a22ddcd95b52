"""Small models on one node of A100s, measured by the authors of vTrain (MICRO 2024, arXiv 2312.12391)."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.plan.evidence import Case, Row, by_row, system_of
from trimtab.plan.evidence._names import chip
from trimtab.plan.layout import Layout
from trimtab.plan.stack import stack
from trimtab.plan.training import Training, regime_of
from trimtab.values.architecture import Architecture

FILES = ("train_vtrain_singlenode.csv",)
VOCAB = 51200


@by_row
def cases(table: str, row: Row) -> Iterator[Case]:
    """Yield the case of a row."""
    hidden, seq, gpus = int(row["hidden"]), int(row["seq_len"]), int(row["gpus"])
    arch = Architecture("gpt", int(row["layers"]), hidden, int(row["heads"]), 4 * hidden, VOCAB, positions=seq)
    tp, pp, dp = (int(row[key]) for key in ("tp", "pp", "dp"))
    layout = Layout(tp, pp, dp, micro_batch=int(row["micro_batch"]), zero=0, sequence=False)
    job = Training(arch, chip(row["gpu"]), int(row["global_batch_seqs"]), seq, layout, stack("megatron-2021"))
    yield Case(
        table,
        "iteration_ms",
        f"{hidden} x {arch.layers} {layout}",
        system_of(job),
        regime_of(job),
        float(row["iter_time_ms"]),
        job.seconds * 1e3,
        job.operations / (gpus * job.chip.peak("bf16") * 1e12) * 1e3,
        job.chip.name,
    )

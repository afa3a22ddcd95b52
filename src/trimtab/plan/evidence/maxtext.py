"""MaxText on TPUs (AI-Hypercomputer): dense models, fully sharded inside a slice and repeated across slices.

The tables name sizes; the shapes are those of the scripts that MaxText keeps for them (src/maxtext/configs/tpu).
"""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.plan.evidence import Case, NotPlanned, Row, by_row, system_of
from trimtab.plan.evidence._names import chip
from trimtab.plan.layout import Layout
from trimtab.plan.stack import stack
from trimtab.plan.training import Training, regime_of
from trimtab.values.architecture import Architecture

FILES = ("train_maxtext_tpu.csv",)
VOCAB = 32768
SHAPES = {
    "22B dense": (Architecture("maxtext:22b", 48, 6144, 24, 24576, VOCAB, head_dim=256), 13, 1),
    "52B dense": (Architecture("maxtext:52b", 32, 12288, 32, 49152, VOCAB, head_dim=256), 7, 1),
    "16B dense": (Architecture("maxtext:16b", 32, 4096, 64, 28672, VOCAB, head_dim=128, gated=True), 6, 1),
    "32B dense": (Architecture("maxtext:32b", 32, 8192, 64, 28672, VOCAB, head_dim=128, gated=True), 4, 1),
    "64B dense": (Architecture("maxtext:64b", 64, 8192, 64, 28672, VOCAB, head_dim=128, gated=True), 2, 1),
    "128B dense": (Architecture("maxtext:128b", 64, 8192, 128, 57344, VOCAB, head_dim=128, gated=True), 1, 16),
}
"""Size -> shape, sequences of a chip, and tensor parallelism."""


@by_row
def cases(table: str, row: Row) -> Iterator[Case]:
    """Yield the case of a row; v4's scripts are of 2023, with two matrices in a feed-forward part and wider heads."""
    if row["model"] not in SHAPES:
        raise NotPlanned(f"no shape is known of MaxText's {row['model']}")
    arch, sequences, tp = SHAPES[row["model"]]
    system, chips, inside = chip(row["accelerator"]), int(row["chips"]), int(row["chips_per_slice"])
    dp, shard = chips // tp, inside // tp
    layout = Layout(tp, dp=dp, micro_batch=sequences * tp, zero=3, shard=0 if dp == shard else shard, recompute="full")
    job = Training(arch, system, sequences * chips, int(row["seq_len"]), layout, stack("xla"))
    yield Case(
        table,
        "tflops_per_chip",
        f"{row['model']} on {chips} {system.name}",
        system_of(job),
        regime_of(job),
        float(row["tflops_per_chip"]),
        job.operations / job.seconds / chips / 1e12,
        system.peak(job.dtype),
        system.name,
        grows=True,
    )

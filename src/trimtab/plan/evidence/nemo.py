"""NVIDIA NeMo and Megatron-Bridge: pre-training and fine-tuning in fp8 on Hopper and Blackwell."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.plan.evidence import Case, Row, by_row, known, system_of, whole
from trimtab.plan.evidence._names import architecture, chip
from trimtab.plan.layout import Layout
from trimtab.plan.stack import stack
from trimtab.plan.training import Training, regime_of

FILES = ("train_nvidia_nemo.csv", "train_nvidia_nemo_longseq.csv")
FORMATS = {"bf16": "bf16", **dict.fromkeys(("", "fp8", "fp8-cs", "fp8-ds", "fp8-mx", "fp8-sc", "mxfp8"), "fp8")}
"""What is not told is fp8; kinds of scales are not told apart."""


@by_row
def cases(table: str, row: Row) -> Iterator[Case]:
    """Yield the cases of a row: the best layout, and that of a finer kind of fp8 in parentheses is left aside."""
    arch, system = architecture(row["model"]), chip(row["system"])
    tp, pp, cp, ep = (max(1, whole(row.get(key, ""))) for key in ("tp", "pp", "cp", "ep"))
    gpus, seq = int(row["gpus"]), int(row["seq_len"])
    layout = Layout(
        tp,
        pp,
        gpus // (tp * pp * cp),
        cp,
        ep,
        micro_batch=whole(row.get("mbs", "")),
        interleave=max(1, whole(row.get("vp", ""))),
        zero=3 if whole(row.get("fsdp", ""), 0) > 0 and pp == 1 else 1,
        sequence=tp > 1,
    )
    batch = int(row["gbs"] if "gbs" in row else row["global_batch_seqs"])
    dtype = known(FORMATS, row["precision"], "precision")
    frozen = row.get("task") == "LoRA"
    job = Training(arch, system, batch, seq, layout, stack("megatron-core"), dtype, frozen=frozen)
    yield from _scored(table, row, job, f"{row['model']} on {gpus} {system.name}")


def _scored(table: str, row: Row, job: Training, label: str) -> Iterator[Case]:
    tokens, gpus = job.batch * job.seq, job.layout.chips
    peak = job.chip.peak(job.dtype) * 1e12
    kind = "moe" if job.arch.experts else "dense"
    name, system, regime = job.chip.name, system_of(job), regime_of(job)
    if "tokens_per_s_per_gpu" in row:
        measured, rate = float(row["tokens_per_s_per_gpu"]), tokens / gpus
        yield Case(
            f"{table}:{kind}",
            "tokens_per_s_per_gpu",
            label,
            system,
            regime,
            measured,
            rate / job.seconds,
            tokens * peak / job.operations,
            name,
            grows=True,
        )
    else:
        yield Case(
            table,
            "tflops_per_gpu",
            f"{label} x {job.seq}",
            system,
            regime,
            float(row["tflops_per_gpu_with_cp"]),
            job.operations / job.seconds / gpus / 1e12,
            peak / 1e12,
            name,
            grows=True,
        )

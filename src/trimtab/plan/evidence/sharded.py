"""Fully sharded trainings: MosaicML's LLM Foundry and torchtitan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from trimtab.plan.evidence import Case, Row, by_row, known
from trimtab.plan.evidence._names import architecture, chip
from trimtab.plan.layout import Layout
from trimtab.plan.memory import GIB, Memory
from trimtab.plan.stack import stack
from trimtab.plan.training import Training, regime_of
from trimtab.values.architecture import Architecture
from trimtab.values.chip import Chip

FILES = ("train_mpt_llmfoundry.csv", "train_torchtitan.csv")
RECOMPUTE = {
    **dict.fromkeys(("selective", "selective op", "op", "per-op sac", "sac"), "operators"),
    **dict.fromkeys(("none", "off", "no", "0", ""), "none"),
    "full": "full",
}
FORMATS = {
    **dict.fromkeys(("", "0", "none", "float8 rowwise", "bf16", "amp_bf16"), "bf16"),
    **dict.fromkeys(("1", "float8 tensorwise", "float8", "mxfp8", "fp8", "amp_fp8"), "fp8"),
}
"""What products are computed in; with scales of rows, those in float8 were no faster than in bf16."""


@by_row
def cases(table: str, row: Row) -> Iterator[Case]:
    """Yield the cases of a row."""
    if table == "train_mpt_llmfoundry":
        yield from _mpt(table, row)
    else:
        yield from _titan(table, row)


def _mpt(table: str, row: Row) -> Iterator[Case]:
    gpu = chip(row["gpu"])
    hidden, seq, gpus = int(row["hidden"]), int(row["seq_len"]), int(row["gpus"])
    vocab = int(row["vocab"])
    arch = Architecture(row["model"], int(row["layers"]), hidden, int(row["heads"]), 4 * hidden, vocab, positions=seq)
    layout = Layout(
        dp=gpus,
        micro_batch=int(row["micro_batch"]),
        zero=3 if row["sharding"] == "FULL_SHARD" else 2,
        recompute="full" if row["act_checkpointing"] == "True" else "none",
    )
    dtype = known(FORMATS, row["precision"], "precision")
    job = Training(arch, gpu, int(row["global_batch_seqs"]), seq, layout, stack("fsdp-2023"), dtype)
    label, system = f"{row['model']} x {seq} on {gpus} {gpu.name}", f"{gpu.name}-{row['model']}"
    yield _throughput(table, label, system, row, job)
    fitted = float(Memory(job).verdict != "does not fit")
    yield Case(f"{table}:fitted", "fitted", label, system, "memory-fit", 1.0, fitted, 1.0, gpu.name)


def _gpu(text: str) -> Chip:
    if text != "H100-96GB-HBM2e-500W":
        return chip(text)
    return replace(chip("H100-SXM"), full_w=500.0, bandwidth_gbs=2400.0, memory_gb=96.0)


def _titan(table: str, row: Row) -> Iterator[Case]:
    gpu = _gpu(row["gpu"])
    local, dp, pp = int(row["local_batch"]), int(row["fsdp"]), int(row["pp"])
    layout = Layout(
        tp=int(row["tp"]),
        pp=pp,
        cp=int(row["cp"]),
        dp=dp,
        micro_batch=max(1, local // pp),  # torchtitan's usual: as many micro-batches as stages
        interleave=2 if pp > 1 and row["pp_schedule"].lower().startswith("interleaved") else 1,
        zero=3,
        recompute=known(RECOMPUTE, row["act_ckpt"], "recomputation"),
    )
    program = stack("fsdp-compiled" if row["torch_compile"] == "1" else "fsdp")
    program = replace(program, tensor_overlap=0.6 if row["async_tp"] == "1" else 0.0)
    dtype = known(FORMATS, row["float8"], "precision")
    job = Training(architecture(row["model"]), gpu, local * dp, int(row["seq_len"]), layout, program, dtype)
    label = f"{row['model']} x {row['seq_len']} tp={layout.tp} cp={layout.cp} {row['act_ckpt']} {row['float8']}"
    system = f"{row['model']}-{row['gpus']}-{row['float8']}"
    yield _throughput(table, label, system, row, job)
    if row["peak_mem_gib"]:
        memory = Memory(job)
        static = sum(memory.parts[name] for name in ("weights", "gradients", "optimizer"))
        measured = float(row["peak_mem_gib"])
        yield Case(
            f"{table}:memory",
            "peak_gib",
            label,
            system,
            "memory-peak",
            measured,
            memory.total / GIB,
            static / GIB,
            gpu.name,
        )


def _throughput(table: str, label: str, system: str, row: Row, job: Training) -> Case:
    tokens, chips_used = job.batch * job.seq, job.layout.chips
    ideal = tokens / (job.operations / (job.chip.peak(job.dtype) * 1e12 * chips_used))
    return Case(
        table,
        "tokens_per_s_per_gpu",
        label,
        system,
        regime_of(job),
        float(row["tokens_per_s_per_gpu"]),
        tokens / job.seconds / chips_used,
        ideal / chips_used,
        job.chip.name,
        grows=True,
    )

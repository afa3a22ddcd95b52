"""NVIDIA NeMo and Megatron-Bridge: pre-training and fine-tuning in fp8 on Hopper and Blackwell."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.maths.transformer import model_operations
from trimtab.plan import chips, models
from trimtab.plan.evidence import Case, Row, Skipped, by_row, system_of, whole
from trimtab.plan.layout import Layout
from trimtab.plan.stack import stack
from trimtab.plan.training import Training, regime_of

FILES = ("train_nvidia_nemo.csv", "train_nvidia_nemo_longseq.csv")
SYSTEMS = {
    "DGX-H100": "h100-sxm-80gb",
    "DGX-H200": "h200-sxm-141gb",
    "DGX-B200": "b200-sxm-180gb",
    "DGX-GB200": "gb200-186gb",
    "DGX-B300": "b300-sxm-288gb",
    "DGX-GB300": "gb300-288gb",
    "DGX-A100": "a100-sxm-80gb",
}
NAMES = {
    "gpt3": "gpt",
    "llama2": "llama2",
    "llama3": "llama3",
    "llama3.1": "llama3",
    "nemotron": "nemotron",
    "deepseekv3": "deepseek:v3",
    "qwen3_30b_a3b": "qwen3:30b-a3b",
    "qwen3_235b_a22b": "qwen3:235b-a22b",
    "mixtral": "mixtral",
}


def model_name(text: str) -> str | None:
    """Return the architecture that the table means.

    >>> model_name("LLAMA3.1_405B"), model_name("GPT3-175B"), model_name("DeepSeekV3 (tokendrop)")
    ('llama3:405b', 'gpt:175b', 'deepseek:v3')
    """
    word = text.lower().split(" ")[0]
    if word in NAMES:
        return NAMES[word]
    family, _, size = word.replace("_", "-", 1).partition("-")
    found = f"{NAMES.get(family, family)}:{size}"
    return found if found in models.names() else None


@by_row
def cases(table: str, row: Row) -> Iterator[Case | Skipped]:
    """Yield the cases of a row: the best layout, and that of a finer kind of fp8 in parentheses is left aside."""
    name, system = model_name(row["model"]), SYSTEMS.get(row["system"])
    if name is None or system is None:
        yield Skipped(f"no architecture {row['model']}" if name is None else f"no chip {row['system']}")
        return
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
        zero=3 if whole(row.get("fsdp", ""), 0) > 1 and pp == 1 else 1,
        sequence=tp > 1,
    )
    batch = int(row["gbs"] if "gbs" in row else row["global_batch_seqs"])
    dtype = "bf16" if row["precision"].lower() == "bf16" else "fp8"
    frozen = row.get("task") == "LoRA"
    job = Training(
        models.named(name), chips.load(system), batch, seq, layout, stack("megatron-core"), dtype, frozen=frozen
    )
    yield from _scored(table, row, job, f"{row['model']} on {gpus} {system}")


def _scored(table: str, row: Row, job: Training, label: str) -> Iterator[Case]:
    tokens, gpus = job.batch * job.seq, job.layout.chips
    work = model_operations(job.arch, tokens, job.seq) * (2 / 3 if job.frozen else 1)
    peak = job.chip.peak(job.dtype) * 1e12
    kind = "moe" if job.arch.experts else "dense"
    chip, system, regime = job.chip.name, system_of(job), regime_of(job)
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
            tokens * peak / work,
            chip,
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
            work / job.seconds / gpus / 1e12,
            peak / 1e12,
            chip,
            grows=True,
        )

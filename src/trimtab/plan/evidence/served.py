"""Served transformers: TensorRT-LLM v0.6.1, NVIDIA's aiconfigurator measured on silicon, FasterTransformer."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.maths.transformer import model_operations
from trimtab.plan import chips, models
from trimtab.plan.evidence import Case, Row, Skipped, by_row, whole
from trimtab.plan.serving import Serving

FILES = (
    "infer_trtllm_v061.csv",
    "infer_aiconfigurator_silicon.csv",
    "infer_fastertransformer_13b.csv",
    "infer_pope2022.csv",
)
MODELS = {
    "GPT-J 6B": "gpt-j:6b",
    "LLaMA 7B": "llama:7b",
    "LLaMA 70B": "llama:70b",
    "Falcon 180B": "falcon:180b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama3:8b",
    "meta-llama/Llama-3.1-70B": "llama3:70b",
    "Qwen/Qwen3-32B": "qwen3:32b",
    "Qwen/Qwen3-235B-A22B-FP8": "qwen3:235b-a22b",
    "openai/gpt-oss-120b": "gpt-oss:120b",
    "13B GPT": "opt:13b",
}
GPUS = {
    "H100": "h100-sxm-80gb",
    "A100": "a100-sxm-80gb",
    "L40S": "l40s-48gb",
    "A100-40GB": "a100-sxm-40gb",
    "h100_sxm": "h100-sxm-80gb",
    "h200_sxm": "h200-sxm-141gb",
    "a100_sxm": "a100-sxm-80gb",
    "b200_sxm": "b200-sxm-180gb",
    "gb200_sxm": "gb200-186gb",
    "l40s": "l40s-48gb",
}


@by_row
def cases(table: str, row: Row) -> Iterator[Case | Skipped]:
    """Yield the cases of a row."""
    if table == "infer_pope2022":
        yield Skipped("TPUs that share weights in two dimensions: no such layout")
        return
    known = MODELS.get(row.get("model_path") or row["model"]), GPUS.get(row.get("system") or row["gpu"])
    if None in known:
        yield Skipped(
            f"no architecture or chip for {row.get('model_path') or row['model']} on {row.get('system') or row['gpu']}"
        )
    elif table == "infer_trtllm_v061":
        yield from _trtllm(table, row)
    elif table == "infer_fastertransformer_13b":
        yield from _faster(table, row)
    else:
        yield from _silicon(table, row)


def _served(row: Row, weights: str, cache: str, sizes: tuple[int, int, int, int]) -> Serving:
    """Return the job of a row; sizes: prompt, output, batch, tp."""
    model, gpu = MODELS[row.get("model_path") or row["model"]], GPUS[row.get("system") or row["gpu"]]
    return Serving(models.named(model), chips.load(gpu), *sizes, weights=weights, cache=cache)


def _case(table: str, quantity: str, job: Serving, observed: float, predicted: float) -> Case:
    first = "first" in quantity
    work = (
        model_operations(job.arch, job.prompt, job.prompt / 2) / 3
        if first
        else 2 * job.arch.active_parameters * job.batch
    )
    compute = work / (job.chip.peak(job.weights) * 1e12 * job.tp)
    memory = (job.weight_bytes + (0 if first else job.batch * job.prompt * job.token_bytes)) / (
        job.chip.bandwidth_gbs * 1e9
    )
    ideal = max(compute, memory) * 1e3
    rate = quantity.endswith("per_gpu")
    label = f"{job.arch.name} {job.prompt}/{job.output} batch {job.batch} tp={job.tp} {job.chip.name}"
    kind = "moe" if job.arch.experts else "dense"
    return Case(
        f"{table}:{quantity}" + (":moe" if kind == "moe" else ""),
        quantity,
        label,
        f"served-{job.arch.name}-{job.chip.name}",
        f"{'first' if first else 'decode'}-{kind}",
        observed,
        predicted,
        job.batch / ideal * 1e3 / job.tp if rate else ideal,
        job.chip.name,
        grows=rate,
    )


def _trtllm(table: str, row: Row) -> Iterator[Case]:
    fp8 = row["precision"] == "FP8"
    sizes = (int(row["input_len"]), int(row["output_len"]), int(row["batch"]), int(row["tp"]))
    job = _served(row, "fp8" if fp8 else "bf16", "fp8" if fp8 else "bf16", sizes)
    value = float(row["value"])
    if row["metric"] == "first_token_latency_ms":
        yield _case(table, "first_token_ms", job, value, job.first_token_s * 1e3)
    else:
        yield _case(table, "tokens_per_s_per_gpu", job, value, job.tokens_per_s / job.tp)


def _silicon(table: str, row: Row) -> Iterator[Case | Skipped]:
    if row["mode"] != "agg":
        yield Skipped("prompts and answers served on chips of their own: no such layout")
        return
    if whole(row["pp_size"]) > 1 or whole(row["attention_dp_size"]) > 1:
        yield Skipped("served in pipeline stages or with data-parallel attention: no such layout")
        return
    weights = {"fp8": "fp8", "fp8_block": "fp8", "": "bf16", "nvfp4": "fp4"}.get(row["gemm_quant_mode"], "bf16")
    model = models.named(MODELS[row["model_path"]])
    tp = whole(row["tp_size"])
    if weights == "fp4" or model.heads % tp:
        yield Skipped(
            "weights in fp4 on a chip without such products" if weights == "fp4" else "heads that tp does not divide"
        )
        return
    sizes = (int(row["isl"]), int(row["osl"]), whole(row["batch_size"]), tp)
    job = _served(row, weights, "fp8" if weights == "fp8" else "bf16", sizes)
    yield _case(table, "token_ms", job, float(row["silicon_tpot_ms"]), job.token_s * 1e3)
    yield _case(table, "first_token_ms", job, float(row["silicon_ttft_ms"]), job.waiting_s * 1e3)


def _faster(table: str, row: Row) -> Iterator[Case]:
    job = _served(row, "bf16", "bf16", (512, 10, 1, int(row["tp"])))
    yield _case(table, "first_token_ms", job, float(row["prefill_ms"]), job.first_token_s * 1e3)
    yield _case(table, "token_ms", job, float(row["decode_ms"]), job.step_s() * 1e3)

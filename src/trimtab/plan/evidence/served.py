"""Served transformers: TensorRT-LLM v0.6.1, NVIDIA's aiconfigurator measured on silicon, FasterTransformer."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.maths.transformer import model_operations
from trimtab.plan.evidence import Case, NotPlanned, Row, Skipped, by_row, whole
from trimtab.plan.evidence._names import architecture, chip
from trimtab.plan.serving import Serving

FILES = (
    "infer_trtllm_v061.csv",
    "infer_aiconfigurator_silicon.csv",
    "infer_fastertransformer_13b.csv",
    "infer_pope2022.csv",
)
GPT_13B = "OPT 13B"
"""The shape of the model that FasterTransformer's rows call 13B GPT."""
FORMATS = {
    "fp8": ("fp8", "fp8"),
    "fp8_block": ("fp8", "fp8"),
    "nvfp4": ("fp4", "bf16"),
    "fp4": ("fp4", "fp8"),
    "int8": ("int8", "bf16"),
    "": ("bf16", "bf16"),
    "fp16": ("bf16", "bf16"),
    "bf16": ("bf16", "bf16"),
}
"""Number formats of weights, and of keys and values, by what tables call them."""


@by_row
def cases(table: str, row: Row) -> Iterator[Case | Skipped]:
    """Yield the cases of a row."""
    if table == "infer_pope2022":
        yield Skipped("TPUs that share weights in two dimensions: no such layout")
    elif table == "infer_trtllm_v061":
        yield from _trtllm(table, row)
    elif table == "infer_fastertransformer_13b":
        yield from _faster(table, row)
    else:
        yield from _silicon(table, row)


def _served(model: str, gpu: str, formats: str, sizes: tuple[int, int, int, int]) -> Serving:
    """Return the job of a row; sizes: prompt, output, batch, tp."""
    arch, tp = architecture(model), sizes[3]
    if formats.lower() not in FORMATS:
        raise NotPlanned(f"weights in {formats}")
    if arch.heads % tp:
        raise NotPlanned("heads that tp does not divide")
    weights, cache = FORMATS[formats.lower()]
    return Serving(arch, chip(gpu), *sizes, weights=weights, cache=cache)


def _case(table: str, quantity: str, job: Serving, observed: float, predicted: float) -> Case:
    first = "first" in quantity
    work = (
        model_operations(job.arch, job.prompt, job.prompt / 2) / 3
        if first
        else 2 * job.arch.active_parameters * job.batch
    )
    compute = work / (job.chip.peak(job.products) * 1e12 * job.tp)
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
    sizes = (int(row["input_len"]), int(row["output_len"]), int(row["batch"]), int(row["tp"]))
    job = _served(row["model"], row["gpu"], row["precision"], sizes)
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
    job = _laid_out(row, whole(row["tp_size"]))
    tp, groups = whole(row["moe_tp_size"]), whole(row["moe_ep_size"])
    if tp == groups > 1:
        # Told in both ways, the chips are counted twice: the same measurement stands there as tp 8 with 8 groups of
        # experts and as tp 64 with 8 x 8.
        fewer = _laid_out(row, tp)
        job = fewer if fewer.weight_bytes < fewer.chip.memory_gb * 1e9 else job
    yield _case(table, "token_ms", job, float(row["silicon_tpot_ms"]), job.token_s * 1e3)
    yield _case(table, "first_token_ms", job, float(row["silicon_ttft_ms"]), job.waiting_s * 1e3)


def _laid_out(row: Row, tp: int) -> Serving:
    sizes = (int(row["isl"]), int(row["osl"]), whole(row["batch_size"]), tp)
    return _served(row["model_path"], row["system"], row["gemm_quant_mode"], sizes)


def _faster(table: str, row: Row) -> Iterator[Case]:
    model = GPT_13B if row["model"] == "13B GPT" else row["model"]
    job = _served(model, row["gpu"], "", (512, 10, 1, int(row["tp"])))
    yield _case(table, "first_token_ms", job, float(row["prefill_ms"]), job.first_token_s * 1e3)
    yield _case(table, "token_ms", job, float(row["decode_ms"]), job.step_s() * 1e3)

"""MLPerf training: ResNet-50, BERT and large language models, by many submitters (MLCommons).

`mean_last_progress` says how long a run trained: epochs of ImageNet for ResNet-50, sequences for BERT, whose sequences
of up to 512 tokens are packed, or their padding left out; tokens for GPT-3, sequences for the others. How a language
model was laid out is not told, but for its micro-batches: it is the fastest layout that the planner finds with as many.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from trimtab.plan import models, trainings
from trimtab.plan.evidence import GUESSED, Case, NotPlanned, Row, Skipped, by_row, whole
from trimtab.plan.evidence._names import chip
from trimtab.plan.layout import Layout
from trimtab.plan.nets import RESNET50, NetTraining
from trimtab.plan.rates import constants
from trimtab.plan.stack import stack
from trimtab.plan.training import Training
from trimtab.values.chip import Chip

FILES = ("train_mlperf_all_rounds.csv",)
IMAGENET = 1281167
LANGUAGE = {
    "gpt3": ("gpt:175b", 2048, "tokens"),
    "llama2_70b_lora": ("llama2:70b", 8192, "sequences"),
    "llama31_405b": ("llama3:405b", 8192, "sequences"),
    "llama31_8b": ("llama3:8b", 8192, "sequences"),
}
"""Benchmark -> architecture, tokens of a sequence, and what its progress counts."""
TOKENS = 250
"""Of a BERT sequence, on average, without padding."""
HOPPER = ("h100", "h200", "gh200", "b200", "gb200", "b300", "gb300")
"""Chips whose submitters trained BERT in fp8."""
NODE = 8
"""Chips of a node at most; what is linked to more is linked across nodes."""
EPOCHS = 5000.0
"""`mean_last_progress` of BERT below this counts something else."""
CARDS = re.compile(r"(\d+) ?x (?:(?!\d+ ?x ).)*?(\d+) ?Gb", re.IGNORECASE)
"""Network cards, and the 1e9 bits a second of each."""


def network_gbs(text: str, chips_of_node: int) -> float:
    """Return a chip's share of the network cards that a submitter names, 1e9 bytes a second; 0 where none is told.

    >>> network_gbs("2x ConnectX-6 IB HDR 200Gb/Sec", 4)
    12.5
    >>> network_gbs("Storage: 2x ConnectX-7 IB NDR 400Gb/s, Compute: 8x ConnectX-7 IB NDR 400Gb/s", 8)
    50.0
    """
    parts = re.split(r",\s*(?=\w+:)", text)
    named = [part for part in parts if re.match(r"(storage|management)\b", part, re.IGNORECASE) is None]
    rates = [int(count) * float(rate) for part in named for count, rate in CARDS.findall(part)]
    return max(rates, default=0.0) / 8 / max(1, chips_of_node)


@by_row
def cases(table: str, row: Row) -> Iterator[Case | Skipped]:
    """Yield the case of a row."""
    yield _case(table, row)


def _case(table: str, row: Row) -> Case | Skipped:
    kind = row["benchmark"]
    if kind not in ("resnet", "bert", *LANGUAGE):
        return Skipped(f"MLPerf {kind}: its net is not planned")
    if row["accelerator"] == "N/A":
        return Skipped("MLPerf on CPUs")
    gpu = chip(row["accelerator"])
    near = int(row["accel_per_node"])
    network = network_gbs(row["host_net"], near) or gpu.network_gbs
    together = near if gpu.link_chips <= NODE else max(near, gpu.link_chips)
    gpu = replace(gpu, link_chips=together, network_gbs=network)
    if row["division"] != "closed":
        return Skipped("MLPerf open division: another net or target")
    count, batch = int(float(row["nodes"])) * int(row["accel_per_node"]), int(row["global_batch_size"])
    progress = float(row["mean_last_progress"])
    if kind == "bert" and progress < EPOCHS:
        return Skipped("MLPerf BERT whose progress is not told in sequences")
    reader = {"resnet": _resnet, "bert": _bert}.get(kind, _language)
    seconds, ideal = reader(gpu, count, batch, progress, row)
    return Case(
        f"{table}:{kind}",
        "minutes",
        f"{row['round']} {row['submitter']} {count} x {gpu.name}",
        f"mlperf-{kind}-{gpu.name}",
        GUESSED if kind in LANGUAGE else kind,
        float(row["minutes_olympic_mean"]),
        seconds * (1 + constants().evaluation) / 60,
        ideal / 60,
        gpu.name,
    )


def _resnet(gpu: Chip, count: int, batch: int, epochs: float, row: Row) -> tuple[float, float]:
    images = epochs * IMAGENET
    ideal = 3 * RESNET50.operations * images / (gpu.peak("bf16") * 1e12 * count)
    return images / batch * NetTraining(RESNET50, gpu, batch, count).seconds, ideal


def _bert(gpu: Chip, count: int, batch: int, sequences: float, row: Row) -> tuple[float, float]:
    arch = models.named("bert:large")
    local = max(1, round(batch / count / max(1, int(row["grad_accum"] or 1))))
    layout = Layout(dp=count, micro_batch=local, zero=1)
    dtype = "fp8" if gpu.name.startswith(HOPPER) else "bf16"
    job = Training(arch, gpu, batch, TOKENS, layout, stack("mlperf"), dtype, causal=False)
    steps = sequences / batch
    return steps * job.seconds, steps * job.operations / (gpu.peak("bf16") * 1e12 * count)


def _language(gpu: Chip, count: int, batch: int, progress: float, row: Row) -> tuple[float, float]:
    name, seq, counted = LANGUAGE[row["benchmark"]]
    arch = models.named(name)
    seq = whole(row["seq_len"], seq)
    sequences = progress / seq if counted == "tokens" else progress
    dtype = "fp8" if gpu.has("fp8") else "bf16"
    order = trainings.Order(arch, 1.0, seq, batch, dtype, frozen="lora" in row["benchmark"])
    jobs = [
        memory.job
        for memory in trainings.tried(order, gpu, count)
        if memory.verdict != "does not fit" and _accumulates(memory.job, whole(row["grad_accum"], 0))
    ]
    if not jobs:
        raise NotPlanned("MLPerf: no layout that is tried has as many micro-batches")
    seconds, steps = min(job.seconds for job in jobs), sequences / batch
    return steps * seconds, steps * jobs[0].operations / (gpu.peak(dtype) * 1e12 * count)


def _accumulates(job: Training, told: int) -> bool:
    """Tell whether each replica has as many micro-batches as were told; 0: any."""
    return not told or job.layout.micro_batches(job.batch) == told

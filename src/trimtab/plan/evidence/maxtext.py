"""MaxText on TPUs (AI-Hypercomputer): sharded inside a slice, and repeated across slices.

Tables name sizes; their shapes, and what a row does not tell, are those of the scripts that MaxText keeps for them
(src/maxtext/configs/tpu), and of its scale by powers of two (`get_individual_scales`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from trimtab.plan.evidence import Case, NotPlanned, Row, by_row, known, system_of
from trimtab.plan.evidence._names import architecture, chip
from trimtab.plan.layout import Layout
from trimtab.plan.stack import stack
from trimtab.plan.training import Training, regime_of
from trimtab.values.architecture import Architecture

FILES = ("train_maxtext_tpu.csv",)
VOCAB = 32768
OF_2023 = {
    "22b": Architecture("maxtext:22b", 48, 6144, 24, 24576, VOCAB, head_dim=256),
    "52b": Architecture("maxtext:52b", 32, 12288, 32, 49152, VOCAB, head_dim=256),
}
"""Written out in their scripts."""
SCRIPTS = {
    "tpu-v4 22b": (13, 1, "full"),
    "tpu-v4 52b": (7, 1, "full"),
    "tpu-v5p 32b": (6, 4, "selective"),
    "tpu-v5p 64b": (3, 4, "selective"),
    "tpu-v5p 128b": (1, 8, "selective"),
    "tpu-v5p 256b": (1, 8, "selective"),
    "tpu-v5p 512b": (2, 8, "full"),
    "tpu-v5p 1024b": (2, 16, "full"),
}
"""Chip and size -> sequences of a chip, tensor parallelism, recomputation."""
DENSE = re.compile(r"(\d+)b dense")


def scaled(billions: int) -> Architecture:
    """Return the model of a scale.

    >>> round(scaled(16).parameters / 1e9), round(scaled(128).parameters / 1e9)
    (16, 125)

    Raises:
        NotPlanned: the scale is no power of two.
    """
    power = billions.bit_length() - 1
    if billions != 1 << power:
        raise NotPlanned(f"no shape is known of MaxText's {billions}B")
    deep, rest = divmod(power, 3)
    wide, width = deep + (rest > 0), deep + (rest > 1)
    sizes = (16 << deep, 2048 << width, 16 << wide, 7168 << wide)
    return Architecture(f"maxtext:{billions}b", *sizes, VOCAB, head_dim=128, gated=True)


@by_row
def cases(table: str, row: Row) -> Iterator[Case]:
    """Yield the case of a row."""
    if not row["tflops_per_chip"]:
        raise NotPlanned("MaxText's row does not tell its operations a second")
    name, note = row["model"].lower(), row["note"]
    dense = DENSE.fullmatch(name)
    size = f"{dense[1]}b" if dense else name
    arch = OF_2023.get(size) or (scaled(int(dense[1])) if dense else architecture(name))
    system, chips, inside = chip(row["accelerator"]), int(row["chips"]), int(row["chips_per_slice"])
    sequences, tp, recompute = SCRIPTS.get(f"{system.name} {size}", (1, 1, "full"))
    sequences, tp = _told(note, "per_device_batch", sequences), _told(note, "tp", tp)
    dp, shard = chips // tp, inside // tp if inside < chips else 0
    layout = Layout(tp, dp=dp, micro_batch=sequences * tp, zero=3, shard=shard, recompute=recompute)
    dtype = known({"": "bf16", "bf16": "bf16", "int8": "int8", "fp8": "fp8"}, row["precision"], "precision")
    job = Training(arch, system, sequences * chips, int(row["seq_len"]), layout, stack("xla"), dtype)
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


def _told(note: str, word: str, usual: int) -> int:
    found = re.search(rf"\b{word} (\d+)", note)
    return int(found[1]) if found else usual

"""What the training program does with a chip: its kernels, what it overlaps, what it recomputes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from trimtab.errors import UnknownName


@dataclass(frozen=True)
class Stack:
    """A program of a time, as far as it matters to speed."""

    name: str
    attention: str = "flash2"
    """plain (scores are written), flash1 (Dao et al. 2022), flash2 (Dao 2023), or native: written for the chip."""
    traffic: float = 1.0
    """Bytes that elementwise operations move, of what hand-fused kernels move."""
    host: float = 1.0
    """Time in which the processor launches a kernel, of that of a plain PyTorch program."""
    tensor_overlap: float = 0.0
    """Share of tensor-parallel talk that is hidden behind products."""
    data_overlap: float = 0.0
    """Share of a step's last backward pass behind which gradients are exchanged."""
    exposed: float = 1.0
    """Of gathering sharded weights, what is not hidden, of what programs on GPUs leave (`constants.toml`)."""
    shard_overlap: float = 1.0
    """Share of the computation behind which sharded weights are gathered."""
    flat: bool = False
    """Weights are gathered in one ring through every chip's own network card."""
    early_stop: bool = False
    """Recomputation ends with the last tensor that is needed, which leaves out the last product of a block."""
    casts: bool = False
    """Weights are kept in fp32 and cast in each pass."""
    grad_bytes: float = 4.0
    kept: float = 1.0
    """Share of activations that are kept between the passes; a compiler fuses some away."""
    score_bytes: float = 6.0
    """Memory for each score of the output layer: in two bytes, and in four its gradient, or a copy of both too."""


PLAIN = Stack("eager", traffic=1.5, casts=True, data_overlap=0.9)
STACKS = {
    stack.name: stack
    for stack in (
        Stack("megatron-2021", attention="plain"),
        Stack("deepspeed-2021", attention="plain", flat=True, shard_overlap=0.5),
        replace(PLAIN, name="fsdp-2023", attention="flash1", early_stop=True),
        replace(PLAIN, name="fsdp", early_stop=True, traffic=2.0, score_bytes=12.0),
        replace(
            PLAIN,
            name="fsdp-compiled",
            early_stop=True,
            traffic=1.0,
            casts=False,
            host=0.5,
            kept=0.85,
            score_bytes=12.0,
        ),
        Stack("megatron-core", attention="native", traffic=0.8, host=0.5, tensor_overlap=0.7, data_overlap=0.95),
        Stack("mlperf", attention="native", traffic=0.8, host=0.1, data_overlap=0.3, grad_bytes=2.0),
        Stack("xla", host=0.1, tensor_overlap=0.9, data_overlap=0.95, exposed=0.3, kept=0.85),
        PLAIN,
    )
}
DEFAULT = "megatron-core"
USUAL = {"tpu": "xla"}
"""Kind of chip -> the program it is mostly used with, where that is another."""


def stack(name: str, kind: str = "") -> Stack:
    """Return the stack of that name, or without one the usual of a kind of chip; raises UnknownName."""
    name = name or USUAL.get(kind, DEFAULT)
    if name not in STACKS:
        raise UnknownName("stack", name, STACKS)
    return STACKS[name]

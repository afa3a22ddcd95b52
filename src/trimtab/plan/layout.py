"""How a training is laid out over chips, and the rules of what fits together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trimtab.values.architecture import Architecture

RECOMPUTE = ("none", "selective", "operators", "full")
"""Nothing; attention's scores (Korthikanti et al. 2022); every other product, and what is elementwise; all."""


@dataclass(frozen=True)
class Layout:
    """Degrees of parallelism; together they are the chips: tp x pp x cp x dp."""

    tp: int = 1
    """Tensor parallelism: chips that share each layer's matrices."""
    pp: int = 1
    """Pipeline stages."""
    dp: int = 1
    """Data parallelism: replicas, or shards of one."""
    cp: int = 1
    """Context parallelism: chips that share each sequence."""
    ep: int = 1
    """Expert parallelism, within dp x cp (x tp)."""
    micro_batch: int = 1
    """Sequences of a replica that go through together."""
    interleave: int = 1
    """Pieces of a stage (Narayanan et al. 2021, section 2.2)."""
    zero: int = 1
    """What replicas share out (Rajbhandari et al. 2020): 0 nothing, 1 the optimizer, 2 gradients, 3 weights (FSDP)."""
    recompute: str = "none"
    sequence: bool = True
    """Sequence parallelism beside tensor parallelism (Korthikanti et al. 2022)."""

    @property
    def chips(self) -> int:
        """All of them."""
        return self.tp * self.pp * self.cp * self.dp

    def micro_batches(self, batch: int) -> float:
        """Return how many micro-batches of each replica make a step's batch (sequences)."""
        return batch / (self.dp * self.micro_batch)

    def broken(self, arch: Architecture, batch: int) -> Iterator[str]:
        """Yield each rule that is broken, with the numbers."""
        name, layers, kv = arch.name, arch.layers, arch.kv
        pieces, sequences = self.interleave * self.pp, self.dp * self.micro_batch
        rules = {
            f"tp={self.tp} does not divide the {arch.heads} heads of {name}": arch.heads % self.tp,
            f"tp={self.tp} and the {kv} key-value heads of {name} do not divide each other": kv % self.tp
            and self.tp % kv,
            f"pp={self.pp} is more stages than the {layers} layers of {name}": self.pp > layers,
            f"interleave={self.interleave} needs pp above 1": self.interleave > 1 and self.pp == 1,
            f"interleave x pp = {pieces} is more than the {layers} layers of {name}": pieces > layers >= self.pp,
            f"a batch of {batch} sequences does not divide into dp={self.dp} x micro_batch={self.micro_batch}": batch
            % sequences,
            f"ep={self.ep} needs experts, and {name} has none": self.ep > 1 and not arch.experts,
            f"ep={self.ep} does not divide the {arch.experts} experts of {name}": arch.experts % self.ep,
            f"ep={self.ep} does not divide dp x cp x tp": self.ep > 1 and (self.dp * self.cp * self.tp) % self.ep,
            f"recompute is one of {', '.join(RECOMPUTE)}, got {self.recompute!r}": self.recompute not in RECOMPUTE,
            "zero=3 shares out the weights of whole models; with pp above 1, zero is at most 2": self.zero == 3
            and self.pp > 1,
        }
        yield from (rule for rule, is_broken in rules.items() if is_broken)

    def __str__(self) -> str:
        degrees = {"tp": self.tp, "pp": self.pp, "cp": self.cp, "ep": self.ep, "dp": self.dp}
        words = [f"{name}={value}" for name, value in degrees.items() if value > 1]
        extras = [f"micro_batch={self.micro_batch}", f"zero={self.zero}", f"recompute={self.recompute}"]
        return " ".join([*words, *([f"interleave={self.interleave}"] if self.interleave > 1 else []), *extras])

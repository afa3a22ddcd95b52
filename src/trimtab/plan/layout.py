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
    shard: int = 0
    """With zero=3, chips that share out one copy of all, hybrid sharding (Zhao et al. 2023, arXiv 2304.11277, section
    3.2.2); 0: all replicas."""
    recompute: str = "none"
    sequence: bool = True
    """Sequence parallelism beside tensor parallelism (Korthikanti et al. 2022)."""

    @property
    def chips(self) -> int:
        """All of them."""
        return self.tp * self.pp * self.cp * self.dp

    @property
    def sharers(self) -> int:
        """Chips that share out one copy of what is sharded."""
        return self.shard or self.dp * self.cp

    def micro_batches(self, batch: int) -> float:
        """Return how many micro-batches of each replica make a step's batch (sequences)."""
        return batch / (self.dp * self.micro_batch)

    def rules(self, arch: Architecture, batch: int) -> Iterator[tuple[frozenset[str], str]]:
        """Yield each rule that is broken: the degrees that it is about, and the rule with its numbers."""
        shared, sequences = self.dp * self.cp * self.tp, self.dp * self.micro_batch
        pieces, kv = self.interleave * self.pp, arch.kv
        checks = (
            (arch.heads % self.tp, "tp", "tp={tp} does not divide the {heads} heads of {name}"),
            (
                kv % self.tp and self.tp % kv,
                "tp",
                "tp={tp} and the {kv} key-value heads of {name} do not divide each other",
            ),
            (self.pp > arch.layers, "pp", "pp={pp} is more stages than the {layers} layers of {name}"),
            (self.interleave > 1 and self.pp == 1, "interleave pp", "interleave={interleave} needs pp above 1"),
            (
                pieces > arch.layers >= self.pp,
                "interleave pp",
                "interleave x pp = {pieces} is more than the {layers} layers of {name}",
            ),
            (
                batch % sequences,
                "dp micro_batch",
                "a batch of {batch} sequences does not divide into dp={dp} x micro_batch={micro_batch}",
            ),
            (self.ep > 1 and not arch.experts, "ep", "ep={ep} needs experts, and {name} has none"),
            (arch.experts % self.ep, "ep", "ep={ep} does not divide the {experts} experts of {name}"),
            (self.ep > 1 and shared % self.ep, "ep dp cp tp", "ep={ep} does not divide dp x cp x tp"),
            (self.recompute not in RECOMPUTE, "recompute", "recompute is one of {kinds}, got {recompute!r}"),
            (self.shard and self.zero != 3, "shard zero", "shard={shard} needs zero=3: nothing else is shared out so"),
            (self.shard and self.dp * self.cp % self.shard, "shard dp cp", "shard={shard} does not divide dp x cp"),
            (
                self.zero == 3 and self.pp > 1,
                "zero pp",
                "zero=3 shares out the weights of whole models; with pp above 1, zero is at most 2",
            ),
        )
        for is_broken, degrees, text in checks:
            if is_broken:
                numbers = {**vars(arch), **vars(self), "kv": kv, "pieces": pieces, "batch": batch}
                yield frozenset(degrees.split()), text.format(**numbers, kinds=", ".join(RECOMPUTE))

    def broken(self, arch: Architecture, batch: int) -> Iterator[str]:
        """Yield each rule that is broken, with the numbers."""
        return (text for _, text in self.rules(arch, batch))

    def __str__(self) -> str:
        degrees = {"tp": self.tp, "pp": self.pp, "cp": self.cp, "ep": self.ep, "dp": self.dp}
        words = [f"{name}={value}" for name, value in degrees.items() if value > 1]
        shard = [f"shard={self.shard}"] if self.shard else []
        extras = [f"micro_batch={self.micro_batch}", f"zero={self.zero}", *shard, f"recompute={self.recompute}"]
        return " ".join([*words, *([f"interleave={self.interleave}"] if self.interleave > 1 else []), *extras])

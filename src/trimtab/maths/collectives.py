"""How long chips talk: rings within a node and between nodes.

Source: Thakur, Rabenseifner and Gropp (2005), "Optimization of Collective Communication Operations in MPICH", section
4; a node's network cards carry a ring's traffic side by side, as NCCL lets them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Wires:
    """What joins the chips: achieved rates, not peaks."""

    link: float
    """Bytes a second to the neighbours in a node, each direction."""
    network: float
    """Bytes a second of one chip's share of the network."""
    node: int
    """Chips that links join."""
    delay: float = 0.0
    """Seconds that a message takes whatever its size."""

    def gather_s(self, size: float, ranks: int, stride: int = 1) -> float:
        """Return the seconds of an all-gather, or reduce-scatter, of `size` bytes among ranks `stride` chips apart.

        >>> Wires(link=100.0, network=10.0, node=8).gather_s(800.0, ranks=4)
        6.0
        >>> Wires(link=100.0, network=10.0, node=8).gather_s(800.0, ranks=4, stride=8)
        60.0
        """
        if ranks <= 1 or not size:
            return 0.0
        moved = (ranks - 1) / ranks * size
        together = max(1, min(ranks, self.node // stride)) if stride < self.node else 1
        seconds = moved / self.link
        if ranks > together:
            seconds = max(seconds, moved / (self.network * together))
        return seconds + self.delay * 2 * math.log2(ranks)

    def reduce_s(self, size: float, ranks: int, stride: int = 1) -> float:
        """Return the seconds of an all-reduce: a reduce-scatter and an all-gather.

        >>> Wires(link=100.0, network=10.0, node=8).reduce_s(800.0, ranks=4)
        12.0
        """
        return 2 * self.gather_s(size, ranks, stride)

    def flat_s(self, size: float, ranks: int) -> float:
        """Return the seconds of an all-gather whose one ring goes through every chip's own card."""
        return (ranks - 1) / ranks * size / (self.network if ranks > self.node else self.link) if ranks > 1 else 0.0

    def exchange_s(self, size: float, ranks: int) -> float:
        """Return the seconds of an all-to-all in which each rank has `size` bytes for all.

        >>> Wires(link=100.0, network=10.0, node=8).exchange_s(800.0, ranks=8)
        7.0
        """
        if ranks <= 1:
            return 0.0
        near = min(ranks, self.node)
        inside = (near - 1) / ranks * size / self.link
        return max(inside, (ranks - near) / ranks * size / self.network) + self.delay

    def send_s(self, size: float, span: int) -> float:
        """Return the seconds of sending to a neighbour `span` chips away."""
        return size / (self.link if span < self.node else self.network) + self.delay

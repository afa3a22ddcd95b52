"""What a training keeps in each chip's memory, and whether that fits.

Sources: Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054, section 3) for weights, gradients and Adam's state;
Korthikanti et al. 2022 (arXiv 2205.05198, section 4) for activations of a layer, without dropout's masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from trimtab.plan.training import Training

GIB = 2.0**30
SLACK = 0.03
"""What the allocator cannot use, of all but the static part."""
OWN_BYTES = 1.0e9
"""Of the driver's context and the communication library."""
FULL = 0.94
"""Share of a chip's memory above which a layout fits within the margin of error only."""
KEPT = {"none": 1.0, "selective": 1.0, "operators": 0.5}
"""Share of a layer's activations that are kept; its input is kept anyway."""


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest chip."""

    job: Training

    @cached_property
    def parts(self) -> dict[str, float]:
        """Bytes by what they hold."""
        weights, gradients, optimizer = self._static
        own, activations = OWN_BYTES, self._activations
        moving = {"activations": activations, "output layer": self._scores, "buffers": self._buffers}
        slack = SLACK * sum(moving.values())
        return {"weights": weights, "gradients": gradients, "optimizer": optimizer, **moving, "allocator": slack + own}

    @cached_property
    def total(self) -> float:
        """All of them."""
        return sum(self.parts.values())

    @property
    def room(self) -> float:
        """Bytes that the chip has."""
        return self.job.chip.memory_gb * 1e9

    @property
    def verdict(self) -> str:
        """`fits`, `within the margin` or `does not fit`."""
        share = self.total / self.room
        return "fits" if share <= FULL else "within the margin" if share <= 1.03 else "does not fit"

    @property
    def _static(self) -> tuple[float, float, float]:
        """Mixed-precision Adam: 2 bytes a weight and 12 of state, or 4 and 8 where weights are sharded in fp32."""
        job, zero, weights = self.job, self.job.layout.zero, self.job.weights
        kept, state = (4.0, 8.0) if zero == 3 else (2.0, 12.0)
        if job.frozen:
            return 2.0 * weights.each(zero == 3), 0.0, 0.0
        return (
            kept * weights.each(zero == 3),
            job.stack.grad_bytes * weights.each(zero >= 2),
            state * weights.each(zero >= 1),
        )

    @property
    def _layer_bytes(self) -> float:
        """Activations of one layer and micro-batch, all kept."""
        job = self.job
        arch, layout = job.arch, job.layout
        shared = (
            2 * (arch.heads + 2 * arch.kv) * arch.head + 2 * arch.heads * arch.head + 2 * arch.matrices * arch.inner
        )
        whole = 10 * arch.hidden / (layout.tp if layout.sequence else 1)
        return job.tokens * (whole + shared / layout.tp)

    @property
    def _plain_scores(self) -> float:
        """Attention's scores, where they are kept: 5 a s bytes a token (Korthikanti et al. 2022, equation 2)."""
        job = self.job
        if job.stack.attention != "plain":
            return 0.0
        return 5 * job.arch.heads / job.layout.tp * job.seq * job.tokens

    @property
    def _activations(self) -> float:
        job, layout = self.job, self.job.layout
        count = layout.micro_batches(job.batch)
        flight = min(count, layout.pp) * (
            1 + (layout.pp - 1) / (layout.pp * layout.interleave) * (layout.interleave > 1)
        )
        entry = 2 * job.tokens * job.arch.hidden / (layout.tp if layout.sequence else 1)
        layer, scores = self._layer_bytes, self._plain_scores
        gathered = 4 * job.tokens * job.arch.hidden if layout.tp > 1 else 0.0
        if layout.recompute == "full":
            kept, once = entry, 2 * (layer + scores + gathered)
        else:
            share = KEPT[layout.recompute] * job.stack.kept
            again = layout.recompute == "selective"
            kept, once = max(entry, share * layer) + (0.0 if again else scores), scores if again else 0.0
        return kept * job.layers * flight + once

    @property
    def _scores(self) -> float:
        return self.job.stack.score_bytes * self.job.tokens * self.job.arch.vocab / self.job.layout.tp

    @property
    def _buffers(self) -> float:
        """Layers gathered for use, and the gradients of one, where weights are sharded."""
        job = self.job
        if job.layout.zero != 3:
            return 0.0
        layer = job.weights.layers / job.layers
        return 2 * 2 * layer + 4 * layer + 6 * job.arch.vocab * job.arch.hidden / job.layout.tp

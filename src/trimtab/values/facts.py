"""What is known of a model without running it: the ground on which predictions are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Facts:
    """Counts of one model part; a pass's `predict` maps facts to facts before any work is done.

    >>> Facts(format="onnx", parameters=1_000_000, operations=5_000_000).size_mb
    4.0
    """

    format: str
    parameters: int
    operations: int
    """Multiply-accumulates of one call for one example."""
    layers: Mapping[str, int] = field(default_factory=dict)
    """How many layers of each kind: conv, linear, lstm, gru, attention, embedding, norm."""
    weight_bits: float = 32.0
    activation_bits: float = 32.0
    quality_loss: float = 0.0
    """Predicted loss of the task's score against the base, as a share of 1; 0 for the base."""
    cut: float = 0.0
    """Share of structure removed and not yet retrained: above 0, recovery is worth trying."""
    whole: int = 0
    """Operations of the net that it was cut from, where it was recovered since; 0 where it was not."""
    recovered: float = 0.0
    """Epochs of recovery since then, as `trimtab.fit.effort.epochs_worth` counts them."""
    operations_by: Mapping[str, int] = field(default_factory=dict)
    """Multiply-accumulates by kind of layer, kinds as in `layers`; empty where they were not told apart."""
    parameters_by: Mapping[str, int] = field(default_factory=dict)
    """Parameters by kind of layer; empty where they were not told apart."""
    blocks: int = 0
    """How many blocks in a row have the same shape and could be left out one by one (layers of an encoder)."""
    calls: int = 1
    """How many times the part is called for one example: once a step where a sequence is walked along."""
    reached: float = 1.0
    """Share of the layers that an example comes through on average: below 1 where early answers spare it the rest.
    `operations` are counted so already."""
    dynamic: bool = False
    """Activations are quantized with ranges found at each call, which costs time."""
    stored: float = 1.0
    """Bits of a weight on disk over `weight_bits`: below 1 where weights are widened when they are loaded."""

    @property
    def size_mb(self) -> float:
        """Weights on disk, in megabytes (1e6 bytes)."""
        return self.parameters * self.weight_bits * self.stored / 8e6

    def to_json(self) -> dict[str, Any]:
        """Return the facts as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Facts:
        """Read what `to_json` wrote."""
        return cls(**data)

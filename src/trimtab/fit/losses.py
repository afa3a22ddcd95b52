"""Maps a task's objective to a training loss, and adds what a teacher says.

Distillation (Hinton et al. 2015, arXiv 1503.02531, section 2): alpha T^2 KL(teacher/T || student/T) + (1 - alpha) hard;
T^2 keeps the size of the soft gradient the same at every temperature T.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.errors import DataError, suggest

Loss = Callable[[Tensor, Tensor], Tensor]


def hard(objective: str, class_weights: Sequence[float] | None = None, smoothing: float = 0.0) -> Loss:
    """Return the loss(outputs, targets) of an objective, a scalar mean over the batch.

    `class_weights`: one for each class; `smoothing`: share of the target spread over all classes (cross entropy only).
    """
    weight = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)

    def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets.long(), weight=weight, label_smoothing=smoothing)

    def binary(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, _like(targets, outputs), weight=weight)

    plain: Mapping[str, Loss] = {
        "cross_entropy": cross_entropy,
        "binary_cross_entropy": binary,
        "mse": lambda outputs, targets: F.mse_loss(outputs, _like(targets, outputs)),
        "mae": lambda outputs, targets: F.l1_loss(outputs, _like(targets, outputs)),
    }
    if objective not in plain:
        raise DataError(f"no loss is known for objective {objective!r}{suggest(objective, plain)}")
    return plain[objective]


def soft(objective: str, temperature: float) -> Loss:
    """Return the loss(student outputs, teacher outputs): T^2 KL for class logits, squared error for numbers."""
    if objective != "cross_entropy":
        return F.mse_loss

    def divergence(student: Tensor, teacher: Tensor) -> Tensor:
        logs = [F.log_softmax(logits / temperature, dim=1) for logits in (student, teacher)]
        return temperature**2 * F.kl_div(logs[0], logs[1], reduction="batchmean", log_target=True)

    return divergence


def _like(targets: Tensor, outputs: Tensor) -> Tensor:
    if targets.numel() != outputs.numel():
        raise DataError(f"targets have shape {list(targets.shape)}, the model gives {list(outputs.shape)}")
    return targets.to(outputs.dtype).reshape(outputs.shape)

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
Soft = Callable[[Tensor, Tensor, Tensor | None], Tensor]
IGNORED = -1
"""Target of a place that is padding."""
CHOICES = ("cross_entropy", "token_nll", "softmax_ranking")
"""Objectives whose outputs are logits of one choice among the last axis."""


def hard(objective: str, class_weights: Sequence[float] | None = None, smoothing: float = 0.0) -> Loss:
    """Return the loss(outputs, targets) of an objective, a scalar mean over the batch.

    cross_entropy: logits [B, K], classes int64[B]. token_nll: logits [B, L, K], tokens int64[B, L] padded with -1; the
    mean is over tokens. softmax_ranking: scores [B, K] of K items, the item int64[B] or the wanted items [B, K] as
    weights, each row's scaled to add up to 1 (Liang et al. 2018, arXiv 1802.05814, equation 2). binary_cross_entropy:
    logits and 0 or 1 for each label. mse, mae: numbers of equal shape.

    `class_weights`: one for each class; `smoothing`: share of the target spread over all classes, of a cross entropy.
    """
    weight = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)

    def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets.long(), weight=weight, label_smoothing=smoothing)

    def tokens(outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.shape[:-1] != targets.shape:
            raise DataError(f"targets have shape {list(targets.shape)}, the model gives {list(outputs.shape)}")
        flat, wanted = outputs.flatten(0, -2), targets.long().flatten()
        return F.cross_entropy(flat, wanted, weight=weight, ignore_index=IGNORED, label_smoothing=smoothing)

    def ranking(outputs: Tensor, targets: Tensor) -> Tensor:
        if targets.ndim == 1:
            return cross_entropy(outputs, targets)
        wanted = _like(targets, outputs)
        total = wanted.sum(dim=1, keepdim=True)
        rows = (total > 0).squeeze(1)
        return F.cross_entropy(outputs[rows], (wanted / total)[rows]) if rows.any() else outputs.sum() * 0

    def binary(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, _like(targets, outputs), weight=weight)

    plain: Mapping[str, Loss] = {
        "cross_entropy": cross_entropy,
        "token_nll": tokens,
        "softmax_ranking": ranking,
        "binary_cross_entropy": binary,
        "mse": lambda outputs, targets: F.mse_loss(outputs, _like(targets, outputs)),
        "mae": lambda outputs, targets: F.l1_loss(outputs, _like(targets, outputs)),
    }
    if objective == "none":
        raise DataError("the task has no targets to train on; distill(...) can follow a base without them")
    if objective not in plain:
        raise DataError(f"no loss is known for objective {objective!r}{suggest(objective, plain)}")
    return plain[objective]


def soft(objective: str, temperature: float) -> Soft:
    """Return the loss(student outputs, teacher outputs, valid): a scalar mean over the batch.

    T^2 KL of the choice for logits of one, T^2 binary KL for logits of each label, squared error for all else.
    `valid` bool[B, L] tells which places of outputs [B, L, K] count; None counts all.
    """

    def divergence(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        student, teacher = _counted(student, teacher, valid)
        logs = [F.log_softmax(logits / temperature, dim=-1).flatten(0, -2) for logits in (student, teacher)]
        return temperature**2 * F.kl_div(logs[0], logs[1], reduction="batchmean", log_target=True)

    def labels(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        student, teacher = _counted(student, teacher, valid)
        wanted = torch.sigmoid(teacher / temperature)
        entropy = F.binary_cross_entropy_with_logits(teacher / temperature, wanted)
        return temperature**2 * (F.binary_cross_entropy_with_logits(student / temperature, wanted) - entropy)

    def squares(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        return F.mse_loss(*_counted(student, teacher, valid))

    if objective in CHOICES:
        return divergence
    return labels if objective == "binary_cross_entropy" else squares


def _counted(student: Tensor, teacher: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    if student.shape != teacher.shape:
        raise DataError(f"the teacher answers with shape {list(teacher.shape)}, the model with {list(student.shape)}")
    return (student, teacher) if valid is None else (student[valid], teacher[valid])


def _like(targets: Tensor, outputs: Tensor) -> Tensor:
    if targets.numel() != outputs.numel():
        raise DataError(f"targets have shape {list(targets.shape)}, the model gives {list(outputs.shape)}")
    return targets.to(outputs.dtype).reshape(outputs.shape)

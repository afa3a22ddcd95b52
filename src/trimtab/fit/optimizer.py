"""The optimizer of a training, and the settings that suit a net where the user leaves them open."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from trimtab.errors import Refused
from trimtab.fit.settings import LR, Settings

LARGE, LARGE_LR = 5_000_000, 0.0001
"""Nets with attention and so many weights come pretrained: a high learning rate would undo that."""
DEEP, DEEP_LR = 20, 0.0005
"""Nets of so many convolutions come pretrained, too; what is recovered after a cut still knows most of it."""
CLIP = 1.0
"""For nets whose gradients are known to explode (Pascanu et al. 2013, section 3): with attention or recurrence."""
RECURRENT = (nn.RNNBase, nn.RNNCellBase)


def settled(settings: Settings, module: nn.Module, recovering: bool = False) -> Settings:
    """Return the settings with the learning rate and the clipping that suit the net, where they are not set.

    `recovering`: the net was trained before, and a teacher wins back what it lost.
    """
    attentive = any("attention" in type(m).__name__.lower() for m in module.modules())
    large = attentive and sum(parameter.numel() for parameter in module.parameters()) > LARGE
    clip = CLIP if attentive or any(isinstance(m, RECURRENT) for m in module.modules()) else None
    deep = recovering and sum(isinstance(m, nn.modules.conv._ConvNd) for m in module.modules()) >= DEEP
    lr = LARGE_LR if large else DEEP_LR if deep else LR
    return replace(settings, lr=settings.lr or lr, clip=settings.clip or clip)


def optimizer(module: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Return the optimizer of the weights that may change; raises Refused where there are none."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise Refused("the model has no weights to train")
    # Biases and norms are not decayed: it would pull them to zero without making the net any smoother.
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.peak, fused=True)
    return torch.optim.SGD(groups, lr=settings.peak, momentum=settings.momentum, nesterov=settings.momentum > 0)

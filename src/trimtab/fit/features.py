"""Matches a pupil's hidden states to its teacher's, through projections that are thrown away afterwards.

Each block of the pupil follows one of the teacher's blocks, evenly spaced (Jiao et al. 2020, arXiv 1909.10351, section
3), through a learnt linear map, as widths may differ (Romero et al. 2015, arXiv 1412.6550). Maps of pixels are averaged
to vectors first. Differences are measured in units of the teacher's own spread, so that deep and shallow blocks count
the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.fit.program import Net
from trimtab.values.task import Batch

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
LEAVES = (nn.modules.conv._ConvNd, nn.Linear)


def blocks(module: nn.Module) -> list[nn.Module]:
    """Return the outermost modules of the type that repeats most, in order: a net's layers or stages.

    Where no module of several layers repeats, its convolutions or else its linear layers but the last; [] where
    there are fewer than two.
    """
    composed = [m for m in module.modules() if next(m.children(), None) is not None and not isinstance(m, CONTAINERS)]
    counts = Counter(type(m) for m in composed)
    outer = list(_outermost(module, {kind for kind, count in counts.items() if count > 1}))
    most = max(Counter(type(m) for m in outer).items(), key=lambda pair: pair[1], default=(None, 0))
    if most[1] > 1:
        return [m for m in outer if type(m) is most[0]]
    for kind in LEAVES:
        found: list[nn.Module] = [m for m in module.modules() if isinstance(m, kind)]
        if len(found) > 2:
            return found[:-1]
    return []


def _outermost(module: nn.Module, kinds: set[type[nn.Module]]) -> Sequence[nn.Module]:
    if type(module) in kinds:
        return [module]
    return [found for child in module.children() for found in _outermost(child, kinds)]


class Features(nn.Module):
    """Hooks on both nets, and the projections that are learnt beside the pupil."""

    def __init__(self, pupil: Net, teacher: Net, batch: Batch) -> None:
        super().__init__()
        own, others = blocks(pupil), blocks(teacher)
        self.pairs = len(own) if others else 0
        followed = [others[round((i + 1) * len(others) / len(own)) - 1] for i in range(self.pairs)]
        self.seen: dict[str, dict[int, Tensor]] = {"pupil": {}, "teacher": {}}
        self.hooks = [
            block.register_forward_hook(self._keeper("pupil", i)) for i, block in enumerate(own[: self.pairs])
        ]
        self.hooks += [block.register_forward_hook(self._keeper("teacher", i)) for i, block in enumerate(followed)]
        with torch.no_grad():
            pupil.eval()(batch), teacher(batch)
        width = {side: [self.seen[side][i].shape[-1] for i in range(self.pairs)] for side in self.seen}
        self.maps = nn.ModuleList(nn.Linear(a, b) for a, b in zip(width["pupil"], width["teacher"], strict=True))

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean squared difference of the last calls of both nets, 1 where the pupil explains nothing."""
        mask = torch.from_numpy(batch.inputs["attention_mask"]) > 0 if "attention_mask" in batch.inputs else None
        losses = []
        for i, projection in enumerate(self.maps):
            own, wanted = self.seen["pupil"][i].float(), self.seen["teacher"][i].float()
            if own.shape[:-1] != wanted.shape[:-1]:
                own, wanted = (x.flatten(1, -2).mean(1) if x.ndim > 2 else x for x in (own, wanted))
            elif mask is not None and own.shape[:-1] == mask.shape:
                own, wanted = own[mask], wanted[mask]
            losses.append((projection(own) - wanted).square().mean() / wanted.var().clamp(min=1e-6))
        return torch.stack(losses).mean()

    def close(self) -> None:
        """Take the hooks off."""
        for hook in self.hooks:
            hook.remove()

    def _keeper(self, side: str, index: int) -> Any:
        def keep(module: nn.Module, given: Any, output: Any) -> None:
            self.seen[side][index] = _vectors(output)

        return keep


def _vectors(output: Any) -> Tensor:
    """Return a block's first tensor as vectors along its last axis; pixels [B, C, ...] are averaged to [B, C]."""
    if isinstance(output, Mapping):
        output = next(value for value in output.values() if isinstance(value, Tensor))
    tensor: Tensor = output[0] if isinstance(output, tuple | list) else output
    return tensor.flatten(2).mean(2) if tensor.ndim >= 4 else tensor

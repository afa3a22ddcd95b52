"""Proves that a cut is right: the smaller net must answer as the whole one does with the removed units silenced.

Tracing can misread a net (a width used in a formula, a norm across channels, a reshape with a remembered size). So each
cut runs on real inputs beside a masked copy of the whole net: weights of removed units are zero, and layer norms count
only what is left. Where the answers differ, the cut is not made and the reason is noted.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.errors import TrimtabError, one_line
from trimtab.fit import recurrent
from trimtab.fit.program import Net
from trimtab.fit.units import Cut, Plan, cuts_of, narrowed, repeat, replace_layer, weight_of
from trimtab.maths.gap import gap
from trimtab.values.model import Model
from trimtab.values.session import Arrays
from trimtab.values.task import Batch

TOLERANCE = 1e-3
"""Largest difference, as a share of the largest answer (at least FAINTEST): float32 sums in another order."""
FAINTEST = 0.01


class MaskedNorm(nn.Module):
    """A layer norm that counts only some features; the others come out as zero."""

    def __init__(self, norm: nn.LayerNorm, gone: Sequence[int]) -> None:
        super().__init__()
        left = [index for index in range(norm.normalized_shape[-1]) if index not in set(gone)]
        self.norm, self.left = norm, torch.tensor(left)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., features], of which only those left are normalized."""
        weight, bias = (None if value is None else value[self.left] for value in (self.norm.weight, self.norm.bias))
        result = F.layer_norm(x[..., self.left], (len(self.left),), weight, bias, self.norm.eps)
        return torch.zeros_like(x).index_copy(-1, self.left, result)


def masked(module: nn.Module, cuts: Sequence[Cut]) -> nn.Module:
    """Return a copy of the module, of the same sizes, in which what the cuts remove has no effect."""
    module = copy.deepcopy(module)
    for name, side, indices in cuts:
        layer = module.get_submodule(name)
        if side == "swap":
            repeat(module, [[name, side, indices]])
        elif isinstance(layer, nn.LayerNorm):
            replace_layer(module, name, MaskedNorm(layer, indices))
        else:
            _silence(layer, side, indices)
    return module


@torch.no_grad()
def _silence(layer: nn.Module, side: str, gone: Sequence[int]) -> None:
    if isinstance(layer, recurrent.KINDS):
        recurrent.silence(layer, side, gone)
    elif side == "rows":
        layer.weight[list(gone)] = layer.weight[list(gone)].mean(0)  # type: ignore[index, operator]
    elif side == "out" or (side == "in" and getattr(layer, "groups", 1) == 1):
        weight = weight_of(layer, side)
        names = ("bias", "running_mean") if side == "out" else ()
        for value in (weight, *(getattr(layer, name, None) for name in names)):
            if isinstance(value, Tensor) and len(value) > max(gone, default=0):
                value[list(gone)] = 0


def difference(model: Model, modules: Mapping[str, nn.Module], plan: Plan, batch: Batch) -> str:
    """Return how the model cut by the plan answers a batch otherwise than the masked one; empty where it does not.

    `model`: what the modules were loaded from, whose signatures are as before the cut.
    """
    states = frozenset(name for group, _ in plan for _, name in group.ports)
    return apart((model, narrowed(model, plan)), modules, cuts_of(plan), batch, states)


def apart(
    models: tuple[Model, Model],
    modules: Mapping[str, nn.Module],
    cuts: Mapping[str, Sequence[Cut]],
    batch: Batch,
    states: frozenset[str] = frozenset(),
) -> str:
    """Return how modules with these cuts answer otherwise than masked ones; `models`: before and after them."""
    whole = {name: masked(module, cuts.get(name, ())) for name, module in modules.items()}
    try:
        small = {name: repeat(copy.deepcopy(module), cuts.get(name, ())) for name, module in modules.items()}
        before, after = (Net(*each).eval().answer(batch) for each in zip((whole, small), models, strict=True))
        return compare(before, after, states)
    except (TrimtabError, RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        return f"cannot lose any: the smaller model fails ({one_line(error)})"


def compare(wanted: Arrays, given: Arrays, states: Collection[str] = ()) -> str:
    """Return how two answers differ; a state may have another size along its last axis, and is not compared then."""
    for name, array in wanted.items():
        other = given[name]
        if name in states and array.shape[:-1] == other.shape[:-1] and array.shape != other.shape:
            continue
        if array.shape != other.shape:
            return f"cannot lose any: the smaller model gives {name} in another shape"
        found, largest = gap(other, array)
        if not found <= TOLERANCE * max(FAINTEST, largest):
            return "cannot lose any: the smaller model computes something else"
    return ""

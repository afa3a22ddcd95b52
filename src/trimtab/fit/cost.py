"""What each unit costs: measured milliseconds of its layers, or multiply-accumulates where nothing was measured.

A layer's time is fixed + scaling, told apart by timing it whole and with half of its outputs; the scaling part goes
with the product of what is left of its outputs and of its inputs. It is the gain that a cut can count on: a layer whose
time is all overhead gets no faster by getting smaller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trimtab.fit import recurrent
from trimtab.fit.facts import operations_of_layers
from trimtab.fit.units import Group, Plan, layer_size

Layer = tuple[str, str]
"""(part, name)."""


@dataclass(frozen=True)
class Costs:
    """Cost of each layer of a model, in one unit for all."""

    scaling: Mapping[Layer, float]
    """ms or operations that go with the layer's size."""
    sizes: Mapping[tuple[str, str, str], int]
    """(part, layer, side) -> how many indices that side has."""

    def removed(self, plan: Plan) -> float:
        """Return the share of all that scales which a plan removes, in [0, 1]."""
        left = dict.fromkeys(self.scaling, 1.0)
        for (part, layer, side), gone in _gone(plan).items():
            if (part, layer) in left:
                left[part, layer] *= (1 - gone / self.sizes[part, layer, side]) ** _power(side)
        whole = sum(self.scaling.values())
        return sum(self.scaling[layer] * (1 - share) for layer, share in left.items()) / whole if whole else 0.0

    def of_unit(self, group: Group) -> Tensor:
        """Return what removing one unit of a group saves at first, as a share of the whole cost."""
        one = self.removed([(group, [0])])
        return torch.tensor(max(one, 1e-9))


def _gone(plan: Plan) -> dict[tuple[str, str, str], int]:
    gone: dict[tuple[str, str, str], int] = {}
    for group, units in plan:
        for item in group.items:
            key = (item.part, item.layer, item.side)
            gone[key] = gone.get(key, 0) + len(units) * item.table.shape[1]
    return gone


def _power(side: str) -> int:
    """A hidden unit goes from the rows and from the columns of the recurrent weight."""
    return 2 if side == "hidden" else 1


Times = Mapping[str, NDArray[Any]]
"""part/layer -> ms [whole, with half of its outputs]."""
Given = Mapping[str, tuple[Tensor, ...]]
"""Part -> arguments that it was seen to take."""


def costs(
    modules: Mapping[str, nn.Module], met: Given, groups: Sequence[Group], times: Times, calls: Mapping[str, int]
) -> Costs:
    """Return the cost of every layer from `times`; multiply-accumulates where there are none, all of them scaling.

    `calls` is how often each part runs for one answer.
    No layer scales by less than its operations would take at the best rate seen: half a layer may be too quick to time.
    """
    sizes = {
        (item.part, item.layer, item.side): layer_size(modules[item.part].get_submodule(item.layer), item.side)
        for group in groups
        for item in group.items
    }
    counted = {
        (part, name): float(number * calls[part])
        for part, module in modules.items()
        for name, number in operations_of_layers(module, met[part]).items()
    }
    if not times:
        return Costs(counted, sizes)
    whole = {key: float(times["/".join(key)][0]) * calls[key[0]] for key in counted if "/".join(key) in times}
    best = max((counted[key] / max(whole[key], 1e-6) for key in whole), default=1.0)
    scaling = {}
    for (part, name), most in whole.items():
        layer = modules[part].get_submodule(name)
        measured = _scaling(layer, most, float(times[f"{part}/{name}"][1]) * calls[part])
        scaling[part, name] = max(measured, counted[part, name] / best)
    return Costs(scaling, sizes)


def _scaling(layer: nn.Module, whole: float, half: float) -> float:
    """Return the part of a layer's time that goes with its size: at half size half is left, of hidden units a quarter.

    With hidden units both sides halve: the products over hidden units quarter, those over inputs halve; a quarter is
    taken for all.
    """
    share = 0.75 if isinstance(layer, recurrent.KINDS) else 0.5
    return min(whole, max(0.0, whole - half) / share)

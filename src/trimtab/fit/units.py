"""What structure is made of: units that can be left out, and how to leave them out for real.

A unit is a channel, an attention head, a neuron of a feed-forward layer, a hidden unit of a recurrent layer. Leaving
one out removes slices of several weights at once; which, is a `Group`'s table. What was removed is plain data, a list
of cuts, so that it can be repeated on a freshly built module without tracing:

    [layer, "out" or "in", indices]    rows or columns of a layer's weight
    [layer, "heads", indices]          heads of an attention layer, whose projections are cut beside it
    [layer, "hidden", indices]         units of a recurrent layer, section x width + unit
    [layer, "rows", indices]           rows of an embedding that no id needs any more
    [layer, "swap", []]                `nn.MultiheadAttention` becomes `trimtab.fit.attention.Attention`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch_pruning
from torch import Tensor, nn

from trimtab.errors import CorruptFile
from trimtab.fit import attention, embedding, recurrent
from trimtab.values.model import Model, Part, TensorSpec

Cut = list[Any]
"""[layer name, side, removed indices]; indices count at the time of their own removal, in order."""
SIDES = ("out", "in", "heads", "hidden", "rows", "swap")


@dataclass(frozen=True)
class Item:
    """What one layer loses with each unit of a group."""

    part: str
    layer: str
    side: str
    table: Tensor
    """int64[n, k]: the k indices of the layer's side that go with each of n units."""


@dataclass(frozen=True)
class Group:
    """Units of one kind that rank against each other; each takes its slices of every item along."""

    part: str
    root: str
    """Name of the layer whose units these are."""
    kind: str
    """channels, heads, feed_forward, width or hidden."""
    scores: Tensor
    """Importance of each unit, float32[n]."""
    items: tuple[Item, ...]
    ports: tuple[tuple[str, str], ...] = ()
    """Inputs and outputs, as (part, name), whose last axis is these units: states that parts hand on."""
    kept_because: str = ""
    """Why nothing may be removed here; empty where something may."""

    @property
    def name(self) -> str:
        """What notes call the group."""
        return label(self.part, self.root)


def label(part: str, layer: str) -> str:
    """Return what notes call a layer: part/layer, or in the part named main the layer alone."""
    return layer if part == "main" else f"{part}/{layer}"


Plan = Sequence[tuple[Group, Sequence[int]]]
"""Which units of which groups go."""


def cuts_of(plan: Plan) -> dict[str, list[Cut]]:
    """Return the cuts of each part that remove the planned units, each layer's side once."""
    gone: dict[tuple[str, str, str], list[int]] = {}
    for group, units in plan:
        for item in group.items if len(units) else ():
            gone.setdefault((item.part, item.layer, item.side), []).extend(item.table[list(units)].flatten().tolist())
    parts: dict[str, list[Cut]] = {part: [] for part, _, _ in gone}
    for (part, layer, side), indices in gone.items():
        parts[part].append([layer, side, sorted(set(indices))])
    return parts


def narrowed(model: Model, plan: Plan) -> Model:
    """Return the model with the signatures it has once the planned units are gone."""
    gone = {port: len(units) for group, units in plan for port in group.ports}

    def narrow(part: str, spec: TensorSpec) -> TensorSpec:
        *rest, last = spec.shape or ("",)
        lost = gone.get((part, spec.name), 0)
        return replace(spec, shape=(*rest, last - lost)) if lost and isinstance(last, int) else spec

    def narrow_part(name: str, part: Part) -> Part:
        inputs, outputs = part.signature.inputs, part.signature.outputs
        sides = [tuple(narrow(name, spec) for spec in side) for side in (inputs, outputs)]
        return replace(part, signature=replace(part.signature, inputs=sides[0], outputs=sides[1]))

    return model.map_parts({name: narrow_part(name, part) for name, part in model.parts.items()})


def repeat(module: nn.Module, cuts: Sequence[Cut]) -> nn.Module:
    """Remove from a module what the cuts say; returns the module, changed in place.

    Raises:
        CorruptFile: the cuts do not fit the module.
    """
    graph = torch_pruning.DependencyGraph()
    for name, side, indices in cuts:
        try:
            _remove(module, graph, (name, side, list(indices)))
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise CorruptFile(f"the recorded cut of {name} does not fit the module: {error}") from error
    return module


def _remove(module: nn.Module, graph: Any, cut: tuple[str, str, list[int]]) -> None:
    name, side, indices = cut
    layer = module.get_submodule(name)
    if side == "swap":
        replace_layer(module, name, attention.swapped(layer))  # type: ignore[arg-type]
    elif side == "rows":
        replace_layer(module, name, embedding.remapped(layer, indices))
    elif side == "heads":
        attention.forget(layer, len(indices))
    elif side == "hidden":
        recurrent.cut_hidden(layer, indices)
    elif isinstance(layer, recurrent.KINDS):
        recurrent.cut_inputs(layer, indices)
    else:
        _check(layer, side, indices)
        pruner = graph.get_pruner_of_module(layer)
        (pruner.prune_out_channels if side == "out" else pruner.prune_in_channels)(layer, indices)


def _check(layer: nn.Module, side: str, indices: Sequence[int]) -> None:
    size = layer_size(layer, side)
    if indices and not 0 <= min(indices) <= max(indices) < size:
        raise ValueError(f"it has {size} channels, the cut names {max(indices)}")


def replace_layer(module: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer in the place of the one of that name."""
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, layer)


def read_cuts(data: Any) -> list[Cut]:
    """Return the cuts that JSON holds; raises CorruptFile where they are not a list of cuts."""
    whole = isinstance(data, list) and all(isinstance(entry, list) and len(entry) == 3 for entry in data)
    for name, side, indices in data if whole else ():
        numbers = isinstance(indices, list) and all(type(index) is int for index in indices)
        whole = whole and isinstance(name, str) and side in SIDES and numbers
    if not whole:
        raise CorruptFile(f"the recorded cuts are not a list of [layer, side, indices]: {str(data)[:80]}")
    return list(data)


def layer_size(layer: nn.Module, side: str) -> int:
    """Return how many indices a side of a layer has."""
    if side == "heads":
        known = attention.heads_of(layer)
        return known.count if known else 0
    if isinstance(layer, recurrent.KINDS):
        return recurrent.sections(layer) * layer.hidden_size if side == "hidden" else int(layer.input_size)
    weight = weight_of(layer, side)
    return 0 if weight is None else len(weight)


def weight_of(layer: nn.Module, side: str) -> Tensor | None:
    """Return a layer's weight as [size of the side, ...], None where it has none."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        return None
    first = isinstance(layer, nn.Embedding | nn.modules.conv._ConvTransposeNd)
    return weight.transpose(0, 1) if weight.ndim > 1 and first == (side == "out") else weight


def strength(module: nn.Module, layer: str, side: str) -> Tensor | None:
    """Return the squared L2 norm of the weights at each index of a layer's side; None where it has none."""
    found = module.get_submodule(layer)
    if side == "heads":
        return None
    if isinstance(found, recurrent.KINDS):
        return recurrent.strength(found, side)
    weight = weight_of(found, side)
    return None if weight is None else weight.detach().float().flatten(1).square().sum(1) if weight.ndim > 1 else None

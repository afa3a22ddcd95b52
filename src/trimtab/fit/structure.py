"""All units of a model that could go, over all its parts: found, scored, and proved on a real input.

Traced groups (channels, heads, feed-forward, width) and groups of hidden units meet here. Before any are cut in
earnest, a few units of each kind are: where the smaller model answers otherwise than the masked one, the kind stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trimtab.errors import Refused
from trimtab.fit import attention, channels, hidden, recurrent
from trimtab.fit.module import arguments
from trimtab.fit.program import Net
from trimtab.fit.proof import compare, difference
from trimtab.fit.units import Cut, Group, Item, label, strength
from trimtab.values.model import Model
from trimtab.values.task import Batch

KINDS = ("channels", "heads", "feed_forward", "hidden", "embedding", "width")
Arrays = Mapping[str, NDArray[np.float32]]
"""part/weight -> Taylor importance of each column of the weight; see `trimtab.fit.statistics`."""


@dataclass(frozen=True)
class Structure:
    """A model's modules, ready to be cut, and the groups of units that they have."""

    model: Model
    modules: Mapping[str, nn.Module]
    batch: Batch
    met: Mapping[str, Batch]
    """What each part was given when the batch was answered."""
    calls: Mapping[str, int]
    """How often each part ran for it: a decoder runs for every token."""
    swaps: Mapping[str, Sequence[Cut]]
    """Cuts that came before the groups were found: attention layers swapped for ones that can lose heads."""
    groups: tuple[Group, ...] = ()
    left_alone: Mapping[str, str] = field(default_factory=dict)
    """Layers that no group could be made of, and why."""

    def arguments(self, part: str) -> tuple[Tensor, ...]:
        """Return what the part takes, as its signature says."""
        return arguments(self.met[part], self.model.parts[part].signature)


def survey(net: Net, batch: Batch, kinds: Sequence[str], scoring: tuple[str, Arrays]) -> Structure:
    """Return the structure of a model's modules, which change where attention layers are swapped.

    `kinds`: of KINDS, those wanted; `scoring`: `magnitude`, `batch_norm` or `taylor`, and what Taylor scores come from.

    Raises:
        Refused: nothing of the kinds can be found, with the reason.
    """
    if net.model is None:
        raise Refused("a structure is that of a model")
    modules = dict(zip(net.names, net.parts, strict=True))
    calls = dict.fromkeys(modules, 0)
    with ExitStack() as hooks:
        for part, module in modules.items():
            hooks.callback(module.register_forward_pre_hook(_counter(calls, part)).remove)
        met = net.met(batch)
    swaps, strange = _swap(net, modules, batch) if {"heads", "width"} & {*kinds} else ({}, {})
    found = Structure(net.model, modules, batch, met, calls, swaps)
    scores = _Scores(modules, *scoring)
    groups, left_alone = _traced(found, kinds, scores)
    if {"hidden", "embedding"} & {*kinds}:
        found_too = hidden.groups(net.model, modules, met, scores)
        names = {group.name for group in found_too}
        groups = [*(group for group in groups if group.name not in names), *found_too]
    wanted = [group for group in groups if group.kind in kinds]
    return replace(found, groups=tuple(_proved(found, wanted, kinds)), left_alone={**strange, **left_alone})


def _counter(calls: dict[str, int], part: str) -> Any:
    def count(_: nn.Module, given: Any) -> None:
        calls[part] += 1

    return count


def _traced(found: Structure, kinds: Sequence[str], scores: _Scores) -> tuple[list[Group], dict[str, str]]:
    groups: list[Group] = []
    left_alone: dict[str, str] = {}
    for part, module in found.modules.items() if {*kinds} - {"hidden"} else ():
        try:
            groups += channels.groups(part, module, found.arguments(part), scores.importance, scores)
        except Refused as error:
            left_alone[part] = str(error)
        else:
            reached = {
                item.layer for group in groups for item in group.items if item.part == part and item.side == "out"
            }
            reached |= {group.root for group in groups if group.part == part}
            for name, layer in module.named_modules():
                if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear) and name not in reached:
                    left_alone[label(part, name)] = "what reads it could not be traced"
    return groups, left_alone


def _proved(found: Structure, groups: Sequence[Group], kinds: Sequence[str]) -> Iterator[Group]:
    """Yield the groups, those of a kind that cannot be cut rightly with the reason."""
    for kind in kinds:
        those = [group for group in groups if group.kind == kind]
        free = [group for group in those if not group.kept_because and len(group.scores) > 1]
        wrong = _difference(found, free) if free else ""
        if not wrong:
            yield from those
            continue
        for group in those:
            reason = group.kept_because or (_difference(found, [group]) if len(free) > 1 else wrong)
            yield replace(group, kept_because=reason)


def _difference(found: Structure, groups: Sequence[Group]) -> str:
    """Return what goes wrong when each group loses its first and its middle unit."""
    plan = [(group, sorted({0, len(group.scores) // 2} - {len(group.scores) - 1} or {0})) for group in groups]
    return difference(found.model, found.modules, plan, found.batch)


def _swap(net: Net, modules: Mapping[str, nn.Module], batch: Batch) -> tuple[dict[str, list[Cut]], dict[str, str]]:
    """Swap attention layers in place; returns the cuts that do so, and the layers that cannot be, with the reason."""
    swaps: dict[str, list[Cut]] = {}
    strange: dict[str, str] = {}
    before = net.answer(batch)
    for part, module in modules.items():
        done, kept = attention.swap(module)
        swaps |= {part: [[name, "swap", []] for name in done]} if done else {}
        strange |= {label(part, name): reason for name, reason in kept.items()}
        for name, layer in module.named_modules():
            if "attention" in type(layer).__name__.lower() and label(part, name) not in strange and _unknown(layer):
                strange[label(part, name)] = f"is attention of a kind that is not known here, {type(layer).__name__}"
    wrong = compare(before, net.answer(batch)) if swaps else ""
    if wrong:
        raise Refused("an attention layer of this model cannot be replaced by one that loses heads: answers differ")
    return swaps, strange


def _unknown(layer: nn.Module) -> bool:
    """Whether an attention layer has weights that no known layer in or around it holds."""
    inside = [child for child in layer.modules() if child is not layer]
    return not attention.is_attention(layer) and not any(
        attention.is_attention(child) or "attention" in type(child).__name__.lower() for child in inside
    )


class _Scores:
    """Importance of units by the weights that go with them, or by what Taylor statistics say."""

    def __init__(self, modules: Mapping[str, nn.Module], importance: str, taylor: Arrays) -> None:
        self.modules, self.importance, self.taylor = modules, importance, taylor

    def __call__(self, items: Sequence[Item]) -> Tensor | None:
        """Return float32[n], of mean 1 where it is a magnitude; None where it cannot be told."""
        if self.importance == "batch_norm":
            return None
        by_taylor = self.importance == "taylor"
        found = [(item, self._taylor(item) if by_taylor else self._strength(item)) for item in items]
        sums = [values[item.table].sum(1) for item, values in found if values is not None]
        if not sums:
            return None
        total = torch.stack(sums).sum(0)
        return total if by_taylor else total.sqrt() / total.sqrt().mean().clamp(min=1e-12)

    def _strength(self, item: Item) -> Tensor | None:
        return strength(self.modules[item.part], item.layer, item.side)

    def _taylor(self, item: Item) -> Tensor | None:
        """Return the first-order change of the loss when what a layer reads is silenced, by index."""
        layer = self.modules[item.part].get_submodule(item.layer)
        prefix = f"{item.part}/{item.layer}." if item.layer else f"{item.part}/"
        if isinstance(layer, recurrent.KINDS):
            columns = {name: self.taylor.get(prefix + name) for name, _ in layer.named_parameters()}
            known = {name: torch.from_numpy(value) for name, value in columns.items() if value is not None}
            return recurrent.columns(layer, item.side, known)
        values = self.taylor.get(f"{prefix}weight") if item.side == "in" else None
        return None if values is None else torch.from_numpy(values)

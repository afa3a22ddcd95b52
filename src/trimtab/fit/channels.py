"""Which channels of a net belong together, and how to remove them for real.

Removing an output channel of a convolution also removes it from the norm behind it, from every layer that reads it,
and, through a residual sum, from every layer that adds to it. torch-pruning's dependency graph finds these groups by
tracing (Fang et al. 2023, arXiv 2301.12900); what was removed is plain data, so that it can be repeated on a
freshly built module without tracing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from trimtab.errors import CorruptFile, Refused

Cut = list[Any]
"""[layer name, "out" or "in", removed indices]; a layer's indices count at the time of its own removal, in order."""


@dataclass(frozen=True)
class Group:
    """Channels that can only be removed together."""

    root: str
    """Name of the layer whose output channels these are."""
    scores: Tensor
    """Importance of each channel, mean 1 over the group, so that groups can be ranked together."""
    kept_because: str = ""
    """Why nothing may be removed here; empty where something may."""


def groups(module: nn.Module, arguments: tuple[Tensor, ...], importance: str) -> list[Group]:
    """Return the module's channel groups, scored by `magnitude` (L2 norm of weights) or `batch_norm` (scales).

    Raises:
        Refused: the module cannot be traced.
    """
    if importance == "magnitude":
        scorer = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    else:
        scorer = torch_pruning.importance.BNScaleImportance()
    with _graph(module, arguments) as graph:
        found = [*graph.get_all_groups(root_module_types=[nn.modules.conv._ConvNd, nn.Linear])]
        return sorted((_group(graph, group, scorer) for group in found), key=lambda group: group.root)


def cut(module: nn.Module, arguments: tuple[Tensor, ...], plan: Mapping[str, Sequence[int]]) -> list[Cut]:
    """Remove the planned channels (root layer -> indices) from `module` in place; returns all that was removed."""
    cuts: list[Cut] = []
    with _graph(module, arguments) as graph:
        for root, indices in plan.items():
            layer = module.get_submodule(root)
            group = graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, list(indices))
            cuts += [_cut(graph, item) for item in group.items if isinstance(item.dep.target.module, nn.Module)]
            group.prune()
    return [entry for entry in cuts if entry[0]]


def repeat(module: nn.Module, cuts: Sequence[Cut]) -> nn.Module:
    """Remove from a module what `cut` removed from another of the same build; returns the module.

    Raises:
        CorruptFile: the cuts do not fit the module.
    """
    graph = torch_pruning.DependencyGraph()
    for name, side, indices in cuts:
        try:
            layer = module.get_submodule(name)
            pruner = graph.get_pruner_of_module(layer)
            remove = pruner.prune_out_channels if side == "out" else pruner.prune_in_channels
            remove(layer, list(indices))
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise CorruptFile(f"the recorded cut of {name} does not fit the module: {error}") from error
    return module


def read_cuts(data: Any) -> list[Cut]:
    """Return the cuts that JSON holds; raises CorruptFile where they are not what `cut` returns."""
    whole = isinstance(data, list) and all(isinstance(entry, list) and len(entry) == 3 for entry in data)
    for name, side, indices in data if whole else ():
        numbers = isinstance(indices, list) and all(type(index) is int for index in indices)
        whole = whole and isinstance(name, str) and side in ("out", "in") and numbers
    if not whole:
        raise CorruptFile(f"the recorded cuts are not a list of [layer, 'out' or 'in', channels]: {str(data)[:80]}")
    return list(data)


@contextmanager
def _graph(module: nn.Module, arguments: tuple[Tensor, ...]) -> Iterator[torch_pruning.DependencyGraph]:
    trained = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    module.requires_grad_(True)
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")  # parameters outside layers: such groups are kept whole, and noted
            graph = torch_pruning.DependencyGraph().build_dependency(module, arguments, verbose=False)
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise Refused(f"this model cannot be traced for pruning: {type(error).__name__}: {first}") from error
    try:
        yield graph
    finally:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(trained[name])


def _group(graph: Any, group: Any, scorer: Any) -> Group:
    root = graph._module2name[group[0].dep.target.module]
    size = len(group[0].idxs)
    reason = next((why for why in (_reason(graph, item.dep) for item in group.items) if why), "")
    scores = None if reason else scorer(group)
    if scores is None:
        return Group(root, torch.ones(size), reason or "has no scale to rank its channels by")
    return Group(root, scores.detach().float().cpu())


def _reason(graph: Any, dependency: Any) -> str:
    layer = dependency.target.module
    if isinstance(layer, nn.Parameter):
        return "feeds a parameter outside any layer"
    if isinstance(layer, nn.GroupNorm) or (
        isinstance(layer, nn.modules.conv._ConvNd) and 1 < layer.groups < layer.out_channels
    ):
        return "is split into groups of channels"
    terminal = not dependency.target.outputs
    return "gives the model's output" if terminal and graph.is_out_channel_pruning_fn(dependency.handler) else ""


def _cut(graph: Any, item: Any) -> Cut:
    layer, indices = item.dep.target.module, sorted(int(index) for index in item.idxs)
    side = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
    has_weights = any(True for _ in layer.parameters(recurse=False)) or any(True for _ in layer.buffers(recurse=False))
    return [graph._module2name.get(layer, "") if has_weights else "", side, indices]

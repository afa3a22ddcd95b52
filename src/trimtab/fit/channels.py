"""Which channels, heads and neurons of a net belong together.

Removing an output channel of a convolution also removes it from the norm behind it, from every layer that reads it,
and, through a residual sum, from every layer that adds to it. torch-pruning's dependency graph finds these groups by
tracing (Fang et al. 2023, arXiv 2301.12900). A group in which the projections of an attention layer meet is one of
heads; in a net with attention, one that a norm or an embedding belongs to is the width of the whole encoder; in others
one that an embedding belongs to is that embedding's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from trimtab.errors import Refused, one_line
from trimtab.fit import attention, recurrent
from trimtab.fit.units import Group, Item

Score = Callable[[Sequence[Item]], Tensor | None]
"""Importance of each unit of some items; None where it cannot be told."""
WIDE = (nn.LayerNorm, nn.RMSNorm, nn.Embedding)
"""Layers that only the width of a whole encoder goes through."""


def groups(part: str, module: nn.Module, arguments: tuple[Tensor, ...], importance: str, score: Score) -> list[Group]:
    """Return a part's groups of channels, heads, feed-forward neurons and encoder width, sorted by root.

    `importance`: `magnitude` (L2 norm of weights), `batch_norm` (scales), or another, which `score` knows.

    Raises:
        Refused: the module cannot be traced.
    """
    scorers = {
        "magnitude": torch_pruning.importance.GroupMagnitudeImportance(p=2),
        "batch_norm": torch_pruning.importance.BNScaleImportance(),
    }
    reader = _Reader(part, module, scorers.get(importance), score)
    with _graph(module, arguments) as graph:
        return sorted((reader.read(graph, group) for group in _found(graph)), key=lambda group: group.root)


def _found(graph: Any) -> Iterator[Any]:
    """Yield the groups of the graph, each once; a layer whose group cannot be told has none."""
    seen: set[nn.Module] = set()
    for layer in [*graph.module2node]:
        if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear | nn.Embedding) and layer not in seen:
            pruner = graph.get_pruner_of_module(layer)
            every = list(range(pruner.get_out_channels(layer)))
            try:
                group = graph.get_pruning_group(layer, pruner.prune_out_channels, every)
            except (LookupError, TypeError, ValueError, AttributeError):  # what the tracer got wrong shows here
                continue
            seen |= {dep.target.module for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)}
            yield group


@contextmanager
def _graph(module: nn.Module, arguments: tuple[Tensor, ...]) -> Iterator[Any]:
    """Trace the module; whatever the tracer cannot follow, also while groups are read, is Refused."""
    trained = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    module.requires_grad_(True)
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")  # parameters outside layers: such groups are kept whole, and noted
            yield torch_pruning.DependencyGraph().build_dependency(module, arguments, verbose=False)
    except Exception as error:
        raise Refused(f"this model cannot be traced for pruning: {type(error).__name__}: {one_line(error)}") from error
    finally:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(trained[name])


class _Reader:
    """Turns the groups of torch-pruning's graph into ours."""

    def __init__(self, part: str, module: nn.Module, scorer: Any, score: Score) -> None:
        self.part, self.module, self.scorer, self.score = part, module, scorer, score
        layers = dict(module.named_modules())
        self.names = {layer: name for name, layer in layers.items()}
        self.heads = {
            f"{name}.{projection}": (name, known)
            for name, layer in layers.items()
            if (known := attention.heads_of(layer))
            for projection in known.projections
        }
        self.attends = any(attention.is_attention(layer) or _attends(layer) for layer in layers.values())

    def read(self, graph: Any, found: Any) -> Group:
        """Return one group with its kind, items and scores."""
        root, size = self.names[found[0].dep.target.module], len(found[0].idxs)
        reason = next((why for why in (self._reason(graph, item.dep) for item in found.items) if why), "")
        items = [] if reason else [self._item(graph, item, size) for item in found.items]
        whole = tuple(item for item in items if item is not None)
        group = Group(self.part, root, self._kind(root, whole), torch.ones(size), whole, kept_because=reason)
        if reason or any(len(item.table) != size for item in whole):
            return replace(group, kept_because=reason or "maps its channels in a way that could not be followed")
        if group.kind == "heads":
            return self._of_heads(group)
        scores = self.scorer(found) if self.scorer else self.score(whole)
        if scores is None:
            return replace(group, kept_because="has no scale to rank its channels by")
        return replace(group, scores=scores.detach().float().cpu())

    def _kind(self, root: str, items: Sequence[Item]) -> str:
        if any(item.layer in self.heads and item.side == "out" for item in items) or root in self.heads:
            return "heads"
        layers = [self.module.get_submodule(item.layer) for item in items]
        if self.attends and any(isinstance(layer, WIDE) for layer in layers):
            return "width"
        if any(isinstance(layer, nn.Embedding) for layer in (*layers, self.module.get_submodule(root))):
            return "embedding"
        return "feed_forward" if self.attends and all(isinstance(layer, nn.Linear) for layer in layers) else "channels"

    def _of_heads(self, group: Group) -> Group:
        """Return the group of channels as one of heads, each of which takes as many channels along."""
        name, known = next(self.heads[item.layer] for item in group.items if item.layer in self.heads)
        if sum(item.side == "out" for item in group.items) != 3 or len(group.scores) % known.count:
            return replace(group, root=name, kept_because="shares keys and values between its heads")
        size = len(group.scores) // known.count
        items = [replace(item, table=item.table.reshape(known.count, size)) for item in group.items]
        scores = self.score(items)
        items.append(Item(self.part, name, "heads", torch.arange(known.count).unsqueeze(1)))
        reason = "" if scores is not None else "has no scale to rank its heads by"
        scores = torch.ones(known.count) if scores is None else scores
        return replace(group, root=name, scores=scores, items=tuple(items), kept_because=reason)

    def _item(self, graph: Any, item: Any, size: int) -> Item | None:
        layer = item.dep.target.module
        plain = not isinstance(layer, nn.Module) or not any(True for _ in _weights(layer))
        if plain or layer not in self.names:
            return None
        side = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
        return Item(self.part, self.names[layer], side, _table(item.root_idxs, item.idxs, size))

    def _reason(self, graph: Any, dependency: Any) -> str:
        layer = dependency.target.module
        if isinstance(layer, nn.Parameter):
            return "feeds a parameter outside any layer"
        if isinstance(layer, recurrent.KINDS | nn.MultiheadAttention):
            return f"feeds a layer that cannot lose inputs here, a {type(layer).__name__}"
        if isinstance(layer, nn.GroupNorm) or (
            isinstance(layer, nn.modules.conv._ConvNd) and 1 < layer.groups < layer.out_channels
        ):
            return "is split into groups of channels"
        terminal = not dependency.target.outputs
        return "gives the model's output" if terminal and graph.is_out_channel_pruning_fn(dependency.handler) else ""


def _attends(layer: nn.Module) -> bool:
    return "attention" in type(layer).__name__.lower()


def _weights(layer: nn.Module) -> Iterator[Tensor]:
    yield from layer.parameters(recurse=False)
    yield from layer.buffers(recurse=False)


def _table(roots: Sequence[Any], indices: Sequence[Any], size: int) -> Tensor:
    """Return int64[size, k]: the indices that go with each channel of the root; of no rows where there is no such k."""
    rows: list[list[int]] = [[] for _ in range(size)]
    for root, index in zip(roots, indices, strict=True):
        if root is None or not 0 <= int(root) < size:
            return torch.zeros(0, 1, dtype=torch.int64)
        rows[int(root)].append(int(index))
    if len({len(row) for row in rows}) != 1 or not rows[0]:
        return torch.zeros(0, 1, dtype=torch.int64)
    return torch.tensor(rows, dtype=torch.int64)

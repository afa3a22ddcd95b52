"""Which rows of a vocabulary the training data never uses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trimtab.errors import DataError
from trimtab.fit import embedding
from trimtab.fit.module import example
from trimtab.fit.program import Net
from trimtab.fit.units import Cut, label
from trimtab.values.task import TaskView

BATCH = 256
FEWEST = 16
"""An embedding of fewer rows is no vocabulary."""


def unseen(net: Net, view: TaskView, check_time: Callable[[], None]) -> tuple[dict[str, list[Cut]], dict[str, str]]:
    """Return the cuts, by part, that remove rows whose ids no training batch holds, and layers kept with the reason.

    Raises:
        DataError: an id of the data has no row.
    """
    cuts: dict[str, list[Cut]] = {}
    kept: dict[str, str] = {}
    wanted: dict[frozenset[str], list[tuple[str, str, nn.Embedding]]] = {}
    for part, module in zip(net.names, net.parts, strict=True):
        read = _ids(net, part, module, view)
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Embedding) and layer.num_embeddings >= FEWEST:
                reason = embedding.unfit(layer) or _tied(module, layer)
                reason = reason or ("" if name in read else "reads ids that are made inside the model")
                if reason:
                    kept[label(part, name)] = reason
                else:
                    wanted.setdefault(read[name], []).append((part, name, layer))
    for ids, layers in wanted.items():
        seen = torch.cat([_seen(view, name, check_time) for name in sorted(ids)]).unique()
        for part, name, layer in layers:
            gone = _gone(layer, seen, label(part, name))
            if gone:
                cuts.setdefault(part, []).append([name, "rows", gone])
            else:
                kept[label(part, name)] = "has no unseen rows"
    return cuts, kept


def _gone(layer: nn.Embedding, seen: Tensor, name: str) -> list[int]:
    if len(seen) and not 0 <= int(seen.min()) <= int(seen.max()) < layer.num_embeddings:
        raise DataError(f"the data has the id {int(seen.max())}; {name} has {layer.num_embeddings} rows")
    left = torch.ones(layer.num_embeddings, dtype=torch.bool)
    left[seen] = False
    if layer.padding_idx is not None:
        left[layer.padding_idx] = False
    gone: list[int] = left.nonzero().flatten().tolist()
    return gone if len(gone) > 1 else []  # one row would only be replaced by the shared one


def _tied(module: nn.Module, layer: nn.Embedding) -> str:
    owners = [n for n, value in module.named_parameters(remove_duplicate=False) if value is layer.weight]
    return "shares its rows with another layer" if len(owners) > 1 else ""


@torch.no_grad()
def _ids(net: Net, part: str, module: nn.Module, view: TaskView) -> dict[str, frozenset[str]]:
    """Return the embeddings of a part that read nothing but inputs of the task as they are, and which."""
    batch, read, others = example(view), dict[str, frozenset[str]](), set[str]()

    def same(ids: Any, array: NDArray[Any]) -> bool:
        whole = isinstance(ids, Tensor) and ids.shape == array.shape
        return whole and torch.equal(ids.long(), torch.from_numpy(array).long())

    def watch(name: str) -> Any:
        def look(_: nn.Module, given: tuple[Any, ...]) -> None:
            found = {key for key, array in batch.inputs.items() if given and same(given[0], array)}
            read[name] = read.get(name, frozenset()) | found
            others.update(() if found else (name,))

        return look

    with ExitStack() as hooks:
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Embedding):
                hooks.callback(layer.register_forward_pre_hook(watch(name)).remove)
        net.answer(batch)
    return {name: ids for name, ids in read.items() if name not in others}


def _seen(view: TaskView, name: str, check_time: Callable[[], None]) -> Tensor:
    seen = torch.zeros(0, dtype=torch.int64)
    for batch in view.batches("train", BATCH):
        check_time()
        seen = torch.cat([seen, torch.from_numpy(batch.inputs[name]).long().flatten()]).unique()
    return seen

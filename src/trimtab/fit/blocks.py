"""Blocks that could be left out: layers of an encoder, residual blocks of a convolutional net, levels of an LSTM.

A block may go if what comes in has the shape of what goes out, and it stands in a list: then the next block can read
what this one would have read. Blocks of one class are compared; the class with the most of them counts. Where there are
none, the levels of a recurrent layer count (`trimtab.fit.recurrent`); a colon is in their names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.errors import CorruptFile
from trimtab.fit import recurrent

FULL = 4
"""Axes of a mask that is for heads and states, too."""
FEWEST = 2
"""A single block is no list of blocks."""


def find(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[str, ...]:
    """Return the names of the blocks that could be left out one by one, in the module's order; runs it once.

    Of the levels of a recurrent layer the first is named too, and must stay.
    """
    candidates = dict(_candidates(module))
    same: set[str] = set()

    def watch(name: str) -> Any:
        def look(_: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any], result: Any) -> None:
            before, after = first_tensor((*given, *named.values())), first_tensor(result)
            if before is not None and after is not None and before.shape == after.shape:
                same.add(name)

        return look

    with ExitStack() as hooks, torch.no_grad():
        for name, block in candidates.items():
            hooks.callback(block.register_forward_hook(watch(name), with_kwargs=True).remove)
        if candidates:
            module(*arguments)
    kinds = Counter(type(block) for name, block in candidates.items() if name in same)
    kind, count = kinds.most_common(1)[0] if kinds else (None, 0)
    if count < FEWEST:
        return recurrent.levels(module)
    return tuple(name for name, block in candidates.items() if name in same and type(block) is kind)


def _candidates(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, container in module.named_modules():
        if isinstance(container, nn.ModuleList | nn.Sequential) and len(container) >= FEWEST:
            for child, block in container.named_children():
                if any(True for _ in block.parameters()) and any(True for _ in block.children()):
                    yield f"{name}.{child}" if name else child, block


def first_tensor(value: Any) -> Tensor | None:
    """Return the first floating tensor in a module's arguments or result; None where there is none."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    if isinstance(value, Mapping):
        value = tuple(value.values())
    found = map(first_tensor, value) if isinstance(value, list | tuple) else iter(())
    return next((each for each in found if each is not None), None)


def are_levels(names: Sequence[str]) -> bool:
    """Tell whether names of blocks are those of the levels of a recurrent layer."""
    return any(":" in name for name in names)


def leave_out(module: nn.Module, names: Sequence[str]) -> nn.Module:
    """Remove blocks by name, changing the module in place, and lower the counts kept beside their lists; returns it.

    Raises:
        CorruptFile: there are no such blocks.
    """
    if are_levels(names):
        return _leave_levels_out(module, names)
    places: dict[str, list[int]] = {}
    for name in names:
        container, _, child = name.rpartition(".")
        try:
            blocks: Any = module.get_submodule(container)
            places.setdefault(container, []).append([key for key, _ in blocks.named_children()].index(child))
        except (AttributeError, ValueError) as error:
            raise CorruptFile(f"the module has no block {name} to leave out: {error}") from error
    for container, positions in places.items():
        blocks = module.get_submodule(container)
        for position in sorted(positions, reverse=True):
            try:
                del blocks[position]
            except (LookupError, TypeError) as error:
                raise CorruptFile(f"{container} is no list of blocks: {error}") from error
            _recount(module, container, len(blocks) + 1, len(blocks))
    return module


def _leave_levels_out(module: nn.Module, names: Sequence[str]) -> nn.Module:
    places = [name.rpartition(":") for name in names]
    try:
        (layer,) = {layer for layer, _, _ in places}
        shallow = recurrent.without_levels(module.get_submodule(layer), [int(level) for _, _, level in places])
    except (AttributeError, ValueError) as error:
        raise CorruptFile(f"the module has no levels {', '.join(names)} to leave out: {error}") from error
    if not layer:
        return shallow
    owner, _, child = layer.rpartition(".")
    setattr(module.get_submodule(owner), child, shallow)
    return module


class Mean(nn.Module):
    """Stands in for all layers of an encoder whose head reads one state: gives each state the mean of its text's."""

    def forward(
        self, states: Tensor, mask: Tensor | None = None, *_: Any, attention_mask: Tensor | None = None, **__: Any
    ) -> Tensor:
        """Return [N, T, W] for states [N, T, W] and a mask as layers of transformers get it, by place or by name.

        That is [N, T] with 1 for a word, or [N, 1, 1 or T, T] with true for a word, or with 0, padding being negative.
        """
        mask = attention_mask if mask is None else mask
        if mask is None:
            return states.mean(1, keepdim=True).expand_as(states)
        row = mask[:, 0, 0] if mask.ndim == FULL else mask
        words = row >= 0 if mask.ndim == FULL and mask.is_floating_point() else row > 0
        weight = words.unsqueeze(2).to(states.dtype)
        return ((states * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)).expand_as(states)


def put_mean(module: nn.Module, names: Sequence[str]) -> nn.Module:
    """Put a `Mean` where the blocks of one list were left out, changing the module in place; returns it.

    Raises:
        CorruptFile: there is no such list of blocks.
    """
    containers = {name.rpartition(".")[0] for name in names}
    try:
        (container,) = containers
        blocks: Any = module.get_submodule(container)
        blocks.insert(int(names[0].rpartition(".")[2]), Mean())
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise CorruptFile(f"the module has no one list of blocks {sorted(containers)}: {error}") from error
    _recount(module, container, len(blocks) - 1, len(blocks))
    return module


def _recount(module: nn.Module, container: str, before: int, now: int) -> None:
    """Mend what the list's owner says of its length, as `nn.TransformerEncoder.num_layers` does."""
    owner = module.get_submodule(container.rpartition(".")[0])
    for thing in (owner, getattr(owner, "config", None)):
        for name in ("num_layers", "num_hidden_layers"):
            if thing is not None and getattr(thing, name, None) == before:
                setattr(thing, name, now)

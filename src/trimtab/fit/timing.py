"""How long each layer takes here, whole and at half size: the table that says what a unit is worth.

Each kind of layer and shape is timed once, alone, on the input that it meets, as the least of a few calls: what another
program on the machine does only ever adds.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.fit import attention, recurrent
from trimtab.fit.units import layer_size, repeat

FEWEST, SECONDS = 5, 0.004
"""A time is the least of at least so many calls, which take at least so long together."""
Given = tuple[tuple[Any, ...], dict[str, Any]]


def layers(module: nn.Module, arguments: tuple[Tensor, ...], check_time: Callable[[], None]) -> dict[str, list[float]]:
    """Return [ms whole, ms at half its outputs, hidden units or heads] of each layer that can lose units, by name."""
    known: dict[Any, list[float]] = {}
    found = {}
    with torch.no_grad():
        for name, layer, given in _calls(module, arguments):
            check_time()
            key = _key(layer, given)
            if key not in known:
                known[key] = [_least(call) for call in _halves(layer, given)]
            found[name] = known[key]
    return found


def _calls(module: nn.Module, arguments: tuple[Tensor, ...]) -> list[tuple[str, nn.Module, Given]]:
    """Return the layers with what each was first called with."""
    first: dict[str, Given] = {}

    def watch(name: str) -> Any:
        return lambda _, given, named: first.setdefault(name, (given, named)) and None

    with ExitStack() as hooks:
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd | recurrent.KINDS) or attention.heads_of(layer):
                hooks.callback(layer.register_forward_pre_hook(watch(name), with_kwargs=True).remove)
        module(*arguments)
    return [(name, module.get_submodule(name), given) for name, given in first.items()]


def _key(layer: nn.Module, given: Given) -> Any:
    shapes = tuple(tuple(value.shape) for value in (*given[0], *given[1].values()) if isinstance(value, Tensor))
    heads = attention.heads_of(layer)
    return type(layer), heads, tuple(tuple(value.shape) for value in layer.parameters()), shapes, str(layer)


def _halves(layer: nn.Module, given: Given) -> Iterator[Callable[[], Any]]:
    """Yield the call of the layer as it is, and with half of its units."""
    known = attention.heads_of(layer)
    if known is not None:
        x = next(value for value in (*given[0], *given[1].values()) if isinstance(value, Tensor) and value.ndim == 3)
        size = layer.get_submodule(known.projections[0]).out_features // known.count  # type: ignore[operator]
        for count in (known.count, max(1, known.count // 2)):
            heads = torch.randn(1, count, x.shape[1], int(size))
            yield lambda heads=heads: F.scaled_dot_product_attention(heads, heads, heads)  # type: ignore[misc]
        return
    yield lambda: layer(*given[0], **given[1])
    half, narrower = _half(layer, given)
    yield lambda: half(*narrower[0], **narrower[1])


def _half(layer: nn.Module, given: Given) -> tuple[nn.Module, Given]:
    """Return the layer with half of its outputs and the input it takes then; itself where it cannot be halved."""
    box = nn.ModuleDict({"layer": copy.deepcopy(layer)})
    groups = getattr(layer, "groups", 1)
    if isinstance(layer, recurrent.KINDS):
        if recurrent.unfit(layer) or len(given[0]) > 1 or given[1] or layer.hidden_size < 2:
            return layer, given
        width, count = int(layer.hidden_size), recurrent.sections(layer)
        gone = [section * width + unit for section in range(count) for unit in range(width // 2)]
        repeat(box, [["layer", "hidden", gone]])
        return box["layer"], given
    size = layer_size(layer, "out")
    if (groups > 1 and groups != size) or size < 2:
        return layer, given
    repeat(box, [["layer", "out", list(range(size // 2))]])
    x = given[0][0][:, size // 2 :] if groups > 1 else given[0][0]
    return box["layer"], ((x, *given[0][1:]), given[1])


def _least(call: Callable[[], Any]) -> float:
    """Return the least wall time of a call, in ms."""
    call()
    best, spent, count = float("inf"), 0.0, 0
    while count < FEWEST or spent < SECONDS:
        begun = time.perf_counter()
        call()
        taken = time.perf_counter() - begun
        best, spent, count = min(best, taken), spent + taken, count + 1
    return 1e3 * best

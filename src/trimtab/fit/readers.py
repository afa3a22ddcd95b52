"""Finds by experiment what reads the hidden units of recurrent layers, within a part and from part to part.

A unit of a layer's output, or of a part's input, is moved by a fixed amount while the part runs on a real input. A
layer whose input moves at one feature only reads that unit as it is; what lies further down moves everywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from trimtab.fit import recurrent
from trimtab.fit.module import arguments
from trimtab.fit.program import by_name
from trimtab.values.model import Signature
from trimtab.values.task import Batch

STEP = 1.0
"""How far a unit is moved: about as far as a hidden state goes."""
Seen = dict[tuple[str, int], list[Tensor]]
"""(layer, position among its arguments) -> what came in at each call; the part's outputs have the layer ""."""


@dataclass(frozen=True)
class Source:
    """Units that something gives: a section of a recurrent layer, an embedding, or a part's input without a layer."""

    layer: str
    section: int = 0
    input: str = ""


@dataclass(frozen=True)
class Reader:
    """Where a source's units come in as they are, its first unit at feature `offset`."""

    layer: str
    """Empty for the part's outputs."""
    position: int
    """Among the tensors that come in; among the outputs, in the order of the signature."""
    offset: int


class Probe:
    """One part with a real input for it."""

    def __init__(self, module: nn.Module, signature: Signature, example: Batch) -> None:
        self.module, self.signature = module.eval(), signature
        self.arguments = arguments(example, signature)
        self.layers = {name: layer for name, layer in module.named_modules() if any(True for _ in _own(layer))}
        self.still = self._run(None, 0)

    def recurrent(self) -> dict[str, nn.Module]:
        """Return the recurrent layers by name."""
        return {name: layer for name, layer in self.layers.items() if isinstance(layer, recurrent.KINDS)}

    def readers(self, source: Source, width: int) -> list[Reader]:
        """Return what reads the source's units as they are, each of three units at its own feature.

        A cell in a loop is moved in its first call, and in its last: what happens in between moves everything after.
        """
        calls = len(self.still.get((source.layer, 0), [])) if source.layer else 1
        read: dict[Reader, None] = {}
        for call in sorted({0, max(0, calls - 1)}):
            found: list[dict[tuple[str, int], int]] = []
            for unit in sorted({0, width // 2, width - 1}):
                seen = self._run(source, unit, call)
                moved = {key: self._feature(key, seen.get(key, [])) for key in self.still}
                found.append({key: feature - unit for key, feature in moved.items() if feature is not None})
            same = {key: at for key, at in found[0].items() if all(each.get(key) == at for each in found)}
            read |= {Reader(*key, at): None for key, at in same.items()}
        return [*read]

    def _feature(self, key: tuple[str, int], seen: list[Tensor]) -> int | None:
        """Return the one feature that moved at the places where least moved; None where more than one did."""
        layer, (before, after) = self.layers.get(key[0]), (self.still[key], seen)
        axis = 1 if isinstance(layer, nn.modules.conv._ConvNd) else -1
        for old, new in zip(before, after, strict=False):
            if old.shape != new.shape or not old.ndim or torch.equal(old, new):
                continue
            rows = (old != new).movedim(axis, -1).flatten(0, -2)
            counts = rows.sum(1)
            least = rows[counts == counts[counts > 0].min()]
            if int(least[0].sum()) == 1 and len(least.any(0).nonzero()) == 1:
                return int(least[0].nonzero())
            return None
        return None

    @torch.no_grad()
    def _run(self, source: Source | None, unit: int, call: int = 0) -> Seen:
        seen: Seen = {}
        given = list(self.arguments)
        with ExitStack() as hooks:
            if source and source.layer:
                hooks.enter_context(_moved(self.layers[source.layer], source.section, unit, call))
            elif source:
                place = [spec.name for spec in self.signature.inputs].index(source.input)
                given[place] = given[place].clone()
                given[place][..., unit] += STEP
            for name, layer in self.layers.items():
                hooks.enter_context(_watched(layer, name, seen))
            outputs = by_name(self.module(*given), self.signature)
        return seen | {("", place): [value] for place, value in enumerate(outputs.values())}


def _own(layer: nn.Module) -> Iterator[Tensor]:
    yield from layer.parameters(recurse=False)


@contextmanager
def _watched(layer: nn.Module, name: str, seen: Seen) -> Iterator[None]:
    def watch(_: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        for position, value in enumerate(_tensors((*given, *named.values()))):
            if value.is_floating_point():
                seen.setdefault((name, position), []).append(value.detach().clone())

    handle = layer.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, PackedSequence):
        yield value.data
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


@contextmanager
def _moved(layer: nn.Module, section: int, unit: int, call: int) -> Iterator[None]:
    """Move one unit in all that a layer gives at one of its calls."""
    move, calls = _mover(layer, section, unit), itertools.count()
    handle = layer.register_forward_hook(lambda _, given, result: move(result) if next(calls) == call else None)
    try:
        yield
    finally:
        handle.remove()


def _mover(layer: Any, section: int, unit: int) -> Callable[[Any], Any]:
    def add(value: Tensor, *place: Any) -> Tensor:
        value = value.clone()
        value[(*place, ..., unit)] += STEP
        return value

    def state(value: Any) -> Any:
        return tuple(add(each, section) for each in value) if isinstance(value, tuple) else add(value, section)

    def steps(value: Any) -> Any:
        shown = recurrent.last_sections(layer)
        if section not in shown:
            return value
        data = (value.data if isinstance(value, PackedSequence) else value).clone()
        data[..., shown.index(section) * layer.hidden_size + unit] += STEP
        return value._replace(data=data) if isinstance(value, PackedSequence) else data

    if isinstance(layer, nn.RNNBase):
        return lambda result: (steps(result[0]), state(result[1]))
    return lambda result: tuple(map(add, result)) if isinstance(result, tuple) else add(result)

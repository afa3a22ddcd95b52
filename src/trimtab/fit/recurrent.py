"""Hidden units of LSTM and GRU layers: how to score and remove them, and who reads them.

A unit is a row in every gate of its layer (4 in an LSTM, 3 in a GRU), a column of the recurrent weight, and a column of
whatever reads the layer's output. Readers are found by experiment: a unit's output is moved, and a layer whose input
moves at one feature only reads that unit; further down everything moves. No graph is needed, so loops over cells,
masks and gathers are no obstacle, and a cut is proved on real inputs before it is used (`trimtab.fit.proof`).

A layer has a section of units for each of its levels and directions, in the order of its `h_n`. Levels above the first
can be left out whole: each reads what the one below gives, in the same shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

KINDS = nn.RNNBase | nn.RNNCellBase
Layer = Any
"""One of KINDS: they share the names used here, but no type."""
GATES: Mapping[type[nn.Module], int] = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3, nn.RNN: 1, nn.RNNCell: 1}


def sections(layer: Layer) -> int:
    """Return how many sections of hidden units a recurrent layer has: levels x directions, 1 for a cell."""
    return layer.num_layers * _directions(layer) if isinstance(layer, nn.RNNBase) else 1


def last_sections(layer: Layer) -> list[int]:
    """Return the sections that the layer's output shows, in the order of its features."""
    return list(range(sections(layer)))[-_directions(layer) :]


def unfit(layer: Layer) -> str:
    """Return why the layer's units cannot be removed; empty where they can."""
    if type(layer) not in GATES:
        return f"is a {type(layer).__name__}, not one of {', '.join(kind.__name__ for kind in GATES)}"
    return "projects its hidden state" if getattr(layer, "proj_size", 0) else ""


def _weights(layer: Layer, section: int) -> dict[str, str]:
    """Return the names of a section's parameters by what they are: weight_ih, weight_hh, bias_ih, bias_hh."""
    suffix = ""
    if isinstance(layer, nn.RNNBase):
        level, backward = divmod(section, 2) if layer.bidirectional else (section, 0)
        suffix = f"_l{level}{'_reverse' if backward else ''}"
    names = {what: f"{what}{suffix}" for what in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    return {what: name for what, name in names.items() if isinstance(getattr(layer, name, None), Tensor)}


def strength(layer: Layer, side: str) -> Tensor:
    """Return the squared L2 norm of the weights of each hidden unit [sections x width] or each input [features]."""
    if side != "hidden":
        return _inputs(layer).detach().float().square().sum(0)
    return weigh_units(layer, {name: value.detach().square() for name, value in layer.named_parameters()})


def weigh_units(layer: Layer, values: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of `values`, one for each weight by parameter name, over each unit's gates [sections x width]."""
    gates, sums = GATES[type(layer)], []
    for section in range(sections(layer)):
        names = _weights(layer, section)
        rows = sum(values[name].float().reshape(gates, layer.hidden_size, -1).sum((0, 2)) for name in names.values())
        columns = values[names["weight_hh"]].float().sum(0)
        sums.append(rows + columns)
    return torch.cat(sums)


def columns(layer: Layer, side: str, values: Mapping[str, Tensor]) -> Tensor | None:
    """Return the sum of `values`, one for each column of a weight by parameter name, over what reads each index.

    Hidden units are read by their own section's recurrent weight and by the next level; None where values lack.
    """
    width, directions = int(layer.hidden_size), _directions(layer)
    names = [_weights(layer, section) for section in range(sections(layer))]
    if any(name not in values for section in names for what, name in section.items() if what.startswith("weight")):
        return None
    if side == "in":
        return torch.stack([values[name["weight_ih"]] for name in names[:directions]]).sum(0)
    total = torch.stack([values[name["weight_hh"]] for name in names])
    for section in range(directions, sections(layer)):
        below = section // directions * directions - directions
        total[below : below + directions] += values[names[section]["weight_ih"]].reshape(directions, width)
    return total.flatten()


def _inputs(layer: Layer) -> Tensor:
    """Return all weights that read the layer's input [rows, features]."""
    return torch.cat([getattr(layer, _weights(layer, section)["weight_ih"]) for section in range(_directions(layer))])


@torch.no_grad()
def silence(layer: Layer, side: str, gone: Sequence[int]) -> None:
    """Zero the weights of hidden units, which then stay 0 from a state of 0, or those that read input features."""
    width, gates = int(layer.hidden_size), GATES[type(layer)]
    for section in range(sections(layer)):
        names = _weights(layer, section)
        if side == "in":
            if section < _directions(layer):
                getattr(layer, names["weight_ih"])[:, list(gone)] = 0
            continue
        units = [index - section * width for index in gone if index // width == section]
        for name in names.values():
            getattr(layer, name)[[gate * width + unit for gate in range(gates) for unit in units]] = 0


def _directions(layer: Layer) -> int:
    return 2 if getattr(layer, "bidirectional", False) else 1


def cut_inputs(layer: Layer, gone: Sequence[int]) -> None:
    """Remove input features of a recurrent layer; raises ValueError where they do not fit."""
    left = _left(int(layer.input_size), gone)
    for section in range(_directions(layer)):
        name = _weights(layer, section)["weight_ih"]
        _set(layer, name, getattr(layer, name)[:, left])
    layer.input_size = len(left)


def cut_hidden(layer: Layer, gone: Sequence[int]) -> None:
    """Remove hidden units, given as section x width + unit, as many in each section.

    Raises:
        ValueError: the layer is of another kind, or the units do not fit it.
    """
    reason, width, count = unfit(layer), int(layer.hidden_size), sections(layer)
    if reason:
        raise ValueError(f"it {reason}")
    left = _left(width * count, gone)
    kept = [[index - section * width for index in left if index // width == section] for section in range(count)]
    if len({len(units) for units in kept}) > 1 or not kept[0]:
        raise ValueError(f"{count} sections of {width} units cannot keep {[len(units) for units in kept]}")
    gates, directions = GATES[type(layer)], _directions(layer)
    for section, units in enumerate(kept):
        rows = [gate * width + unit for gate in range(gates) for unit in units]
        for what, name in _weights(layer, section).items():
            value = getattr(layer, name)[rows]
            if what == "weight_hh":
                value = value[:, units]
            elif what == "weight_ih" and section >= directions:
                below = section // directions * directions - directions
                value = value[:, [d * width + unit for d in range(directions) for unit in kept[below + d]]]
            _set(layer, name, value)
    layer.hidden_size = len(kept[0])


def levels(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the levels of the deepest recurrent layer, `LAYER:0` and on; none where it has just one."""
    stacks = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.RNNBase)}
    deep = {name: layer.num_layers for name, layer in stacks.items() if layer.num_layers > 1 and not unfit(layer)}
    deepest = max(deep, key=lambda name: deep[name], default="")
    return tuple(f"{deepest}:{level}" for level in range(deep.get(deepest, 0)))


def without_levels(layer: Layer, gone: Sequence[int]) -> nn.Module:
    """Return a recurrent layer without some of its levels, the others' weights as they are.

    Raises:
        ValueError: the layer is of another kind, or is left without its first level, which alone reads the inputs.
    """
    if not isinstance(layer, nn.RNNBase) or unfit(layer):
        raise ValueError(f"it {unfit(layer) or 'has one level only'}")
    kept = [level for level in range(layer.num_layers) if level not in gone]
    if kept[:1] != [0] or len(kept) + len(set(gone)) != layer.num_layers:
        raise ValueError(f"of its levels 0 to {layer.num_layers - 1} any but the first can go, not {list(gone)}")
    names = ["input_size", "hidden_size", "bias", "batch_first", "bidirectional"]
    said = {name: getattr(layer, name) for name in [*names, *["nonlinearity"][: isinstance(layer, nn.RNN)]]}
    said |= {"num_layers": len(kept), "dropout": layer.dropout if len(kept) > 1 else 0.0}
    like = next(layer.parameters())
    shallow = type(layer)(**said, device=like.device, dtype=like.dtype)
    directions = _directions(layer)
    for section in range(sections(shallow)):
        level, direction = divmod(section, directions)
        old = _weights(layer, kept[level] * directions + direction)
        for what, name in _weights(shallow, section).items():
            _set(shallow, name, getattr(layer, old[what]))
    return shallow.train(layer.training)


def _left(size: int, gone: Sequence[int]) -> list[int]:
    if any(not 0 <= index < size for index in gone) or len(set(gone)) >= size:
        raise ValueError(f"it has {size} units, the cut names {len(gone)} up to {max(gone, default=-1)}")
    away = set(gone)
    return [index for index in range(size) if index not in away]


def _set(layer: Layer, name: str, value: Tensor) -> None:
    old = getattr(layer, name)
    setattr(layer, name, nn.Parameter(value.detach().clone().contiguous(), requires_grad=old.requires_grad))

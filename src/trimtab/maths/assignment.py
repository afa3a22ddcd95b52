"""Which layers to quantize: the most time saved for a harm that stays within a budget.

The harms of layers quantized one at a time add up to about the harm of all of them together, while they are small, so
that the choice is a knapsack: each layer weighs its harm and is worth the time it saves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

LOOKS = 50_000
"""Branches looked at before the best choice so far is taken; tens of layers rarely need a thousandth of them."""


def knapsack(values: ArrayLike, weights: ArrayLike, budget: float) -> NDArray[np.bool_]:
    """Tell which of n things to take: the greatest sum of values[n] whose sum of weights[n] is at most `budget`.

    Things of no positive value are left; things without weight are always taken. Exact, by branch and bound in order
    of value per weight, unless `LOOKS` branches do not suffice: then at least as good as taking greedily in that order.

    >>> knapsack([60, 100, 120], [10, 20, 30], 50).tolist()
    [False, True, True]

    Raises:
        ValueError: a weight below zero, a number that is not finite, or lengths that differ.

    Source: the bound is Dantzig's (1957), Operations Research 5:266: the next thing may be taken in part.
    """
    worth, load = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if worth.shape != load.shape or worth.ndim != 1:
        raise ValueError(f"values have shape {worth.shape} and weights {load.shape}; one of each a thing")
    if not (np.isfinite(worth).all() and np.isfinite(load).all()) or (load < 0).any():
        raise ValueError("values and weights are finite, and weights not below zero")
    taken: NDArray[np.bool_] = (worth > 0) & (load == 0)
    rated = np.flatnonzero((worth > 0) & (load > 0) & (load <= budget))
    with np.errstate(over="ignore"):  # next to nothing weighs next to nothing: it comes first
        order = rated[np.argsort(-worth[rated] / load[rated], kind="stable")]
    taken[order[_search(worth[order], load[order], budget)]] = True
    return taken


def _search(worth: NDArray[np.float64], load: NDArray[np.float64], budget: float) -> list[int]:
    """Walk depth first, taking before leaving; the first leaf reached is the greedy choice."""
    best, chosen = -1.0, list[int]()
    pending: list[tuple[int, float, float, list[int]]] = [(0, budget, 0.0, [])]
    looks = 0
    while pending and looks < LOOKS:
        start, room, value, picked = pending.pop()
        looks += 1
        if value > best:
            best, chosen = value, picked
        if start == len(worth) or value + _bound(worth[start:], load[start:], room) <= best:
            continue
        pending.append((start + 1, room, value, picked))
        if load[start] <= room:
            pending.append((start + 1, room - load[start], value + worth[start], [*picked, start]))
    return chosen


def _bound(worth: NDArray[np.float64], load: NDArray[np.float64], room: float) -> float:
    """Return the greatest value that fits if the first thing that does not fit may be taken in part."""
    sums = np.cumsum(load)
    whole = int(np.searchsorted(sums, room, side="right"))
    value = float(worth[:whole].sum())
    if whole == len(worth):
        return value
    left = room - (float(sums[whole - 1]) if whole else 0.0)
    return value + float(worth[whole]) * (left / float(load[whole]))

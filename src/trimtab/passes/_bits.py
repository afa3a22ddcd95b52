"""What passes that lower the number of bits share: what they reach, where products saturate, what stays in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.passes import Context, Statistics
from trimtab.run import onnx_layers, onnx_mixed
from trimtab.run import onnx_statistics as measured
from trimtab.values.facts import Facts
from trimtab.values.model import Model

KINDS: Mapping[str, tuple[str, ...]] = {
    "static": ("conv", "linear", "lstm"),
    "dynamic": ("linear", "lstm", "attention", "embedding"),
    "weights": ("conv", "linear", "lstm", "gru", "rnn", "attention", "embedding"),
}
"""Kinds of layer that each method finds a kernel for."""
RECURRENT = ("lstm", "gru", "rnn")
RATE = 1e10
"""Multiply-accumulates a second at which one core runs a graph to look at its layers."""
LEAST_SHARE = 0.2
"""Of a net's work, below which a method is not worth trying."""


def is_quantized(facts: Facts) -> bool:
    """Tell whether weights or activations are held in few bits already."""
    return facts.weight_bits < 16 or facts.activation_bits < 16


def has(facts: Facts, kinds: Sequence[str]) -> bool:
    """Tell whether there is a layer of one of these kinds."""
    return any(facts.layers.get(kind) for kind in kinds)


def share(counts: Mapping[str, int], kinds: Sequence[str]) -> float:
    """Return the share of work or weights that lies in these kinds of layers; 1 where they were not told apart."""
    total = sum(counts.values())
    return sum(counts.get(kind, 0) for kind in kinds) / total if total else 1.0


def reaches(method: str, facts: Facts) -> bool:
    """Tell whether the method has kernels for a good part of such a net's work."""
    if not has(facts, KINDS[method]) or share(facts.operations_by, KINDS[method]) < LEAST_SHARE:
        return False
    if method == "static":
        return has(facts, ("conv", "linear")) and (has(facts, ("conv",)) or not has(facts, RECURRENT))
    known = bool(facts.operations_by)
    return known or method == "weights" or not has(facts, ("conv", "gru", "rnn"))


def mixing_runs(facts: Facts, harm: float) -> int:
    """Return how often a net is run to try each of its layers alone, which a mix of precisions is chosen by."""
    return measured.FEWEST * sum(facts.layers.values()) if harm < 1 else 0


def statistics(model: Model, context: Context, wanted: frozenset[str]) -> Statistics:
    """Return what the workshop gathered, and gather here what it did not."""
    absent = sorted(wanted - set(context.statistics))
    if not absent:
        return context.statistics
    context.progress("calibrating", 0.0)
    own = measured.collect(model, context.task, absent, context.seed, context.check_time)
    return {**context.statistics, **own}


def chosen(
    layers: Sequence[onnx_layers.Layer], known: Statistics, part: str, method: str, harm: float
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return a record for each layer, by its harm and its milliseconds, and why each one left in float is.

    None are left where every harm is allowed. `method`: the kind of statistic that tells of the harm.
    """
    if harm >= 1:
        return [], {}
    kind = "weights" if method == "weights4" else method
    harms, times = (measured.of_part(known[name], part) for name in (method, "milliseconds"))
    records = onnx_mixed.assign(layers, harms, times, kind, harm)
    return records, {record["layer"]: record["left"] for record in records if "left" in record}

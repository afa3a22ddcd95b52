"""Counts a torch module: parameters, multiply-accumulates for one example, and layers by kind.

Operations are counted where they happen, by `torch.utils.flop_counter` on the operators that run: every convolution,
matrix product and scaled dot-product attention, also those in functional code, loops, LSTM and GRU cells. Fused CPU
kernels that hide their products (oneDNN's recurrent layers, the transformer fast path) are off while counting.
Element-wise work, normalization, pooling and embedding look-ups are not counted.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from trimtab.fit import attention, blocks
from trimtab.values.facts import Facts

KINDS: Mapping[str, tuple[type[nn.Module], ...]] = {
    "conv": (nn.modules.conv._ConvNd,),
    "lstm": (nn.LSTM,),
    "gru": (nn.GRU,),
    "attention": (nn.MultiheadAttention,),
    "linear": (nn.Linear, nn.LSTMCell, nn.GRUCell, nn.RNNCell, nn.Bilinear),
    "embedding": (nn.Embedding, nn.EmbeddingBag),
    "norm": (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
}


def count(module: nn.Module, arguments: tuple[Tensor, ...]) -> Facts:
    """Return the facts of a module in eval mode, run on the first example of `arguments` (batch axis in front)."""
    counted = _counted(module, arguments)
    return Facts(
        "torch",
        sum(parameter.numel() for parameter in module.parameters()),
        sum(counted.get("Global", {}).values()),
        layers(module),
        operations_by=_operations_by(module, counted),
        parameters_by=_parameters_by(module),
        blocks=len(blocks.find(module, tuple(argument[:1] for argument in arguments))),
    )


def operations(module: nn.Module, arguments: tuple[Tensor, ...]) -> int:
    """Return multiply-accumulates for the first example of `arguments`."""
    return sum(_counted(module, arguments).get("Global", {}).values())


def operations_of_layers(module: nn.Module, arguments: tuple[Tensor, ...]) -> dict[str, int]:
    """Return multiply-accumulates for the first example by name of layer, those without any left out.

    An attention layer that keeps its projections as layers of their own has the products of its heads alone.
    """
    counted, found = _counted(module, arguments), {}
    for name, layer in module.named_modules():
        if kind_of(layer) or attention.heads_of(layer):
            inside = [child for child, _ in layer.named_children()] if attention.heads_of(layer) else []
            names = [f"{name}.{child}" if name else child for child in inside]
            found[name] = sum(counted.get(name, {}).values()) - sum(sum(counted.get(n, {}).values()) for n in names)
    return {name: number for name, number in found.items() if number > 0}


def _counted(module: nn.Module, arguments: tuple[Tensor, ...]) -> dict[str, dict[str, int]]:
    """Return multiply-accumulates by name of module, "Global" for all, and operator."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), _unfused(), counter:
        module(*(argument[:1] for argument in arguments))
    root = type(module).__name__
    found = {}
    for name, operators in counter.get_flop_counts().items():
        own = "" if name == root else name.removeprefix(f"{root}.")
        found[own] = {str(operator): int(flops) // 2 for operator, flops in operators.items()}
    return found


def _operations_by(module: nn.Module, counted: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Return operations by kind of layer; products outside layers go to attention, but for those of plain functions."""
    kinds: Counter[str] = Counter()
    outside = Counter(counted.get("Global", {}))
    for name, kind in _kinds(module).items():
        kinds[kind] += sum(counted.get(name or "Global", {}).values())
        outside.subtract(counted.get(name or "Global", {}))
    for operator, number in outside.items():
        kind = "conv" if "conv" in operator else "linear" if "mm" in operator and "bmm" not in operator else "attention"
        kinds[kind] += number
    return {kind: number for kind, number in kinds.items() if number > 0}


def _parameters_by(module: nn.Module) -> dict[str, int]:
    """Return parameters by kind of layer, tied ones once; "other" has those outside any."""
    kinds, seen = Counter[str](), set[int]()
    for name, kind in (*_kinds(module).items(), ("", "other")):
        for parameter in module.get_submodule(name).parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                kinds[kind] += parameter.numel()
    return {kind: number for kind, number in kinds.items() if number}


def _kinds(module: nn.Module) -> dict[str, str]:
    """Return the kind of each layer by name; projections inside an `nn.MultiheadAttention` belong to it."""
    inside = {id(child) for m in module.modules() if isinstance(m, nn.MultiheadAttention) for child in m.children()}
    kinds = {name: kind_of(layer) for name, layer in module.named_modules() if id(layer) not in inside}
    return {name: kind for name, kind in kinds.items() if kind}


def layers(module: nn.Module) -> dict[str, int]:
    """Return how many layers of each kind there are.

    Projections inside an `nn.MultiheadAttention` belong to it; attention that keeps its projections as linear layers
    counts as attention, and they as linear.
    """
    kinds = Counter(_kinds(module).values())
    kinds.update("attention" for layer in module.modules() if attention.heads_of(layer))
    return dict(kinds)


def kind_of(layer: nn.Module) -> str:
    """Return the kind of one layer, empty for what has no kind of its own."""
    return next((kind for kind, types in KINDS.items() if isinstance(layer, types)), "")


@contextmanager
def _unfused() -> Iterator[None]:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # setting the flags speaks of Intel GPUs
            with torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def written(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[int, int]:
    """Return the numbers that layers with operations write for the first example, and how many such layers there are.

    `trimtab.run.onnx_facts.activations` tells the same of an ONNX graph.
    """
    found, names = 0, operations_of_layers(module, arguments)

    def add(layer: nn.Module, given: Any, result: Any) -> None:
        nonlocal found
        found += sum(value.numel() for value in tree_leaves(result) if isinstance(value, Tensor))

    hooks = [module.get_submodule(name).register_forward_hook(add) for name in names]
    try:
        with torch.no_grad():
            module(*(argument[:1] for argument in arguments))
    finally:
        for hook in hooks:
            hook.remove()
    return found, len(names)

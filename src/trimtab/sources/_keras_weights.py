"""Puts Keras's weights into the torch modules of `trimtab.sources._keras_net`: other axes, other orders of gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trimtab.sources._keras_net import Config, Net, key, need

DEPTHWISE = ("DepthwiseConv2D", "SeparableConv2D")
Arrays = Sequence[NDArray[Any]]


def fill(net: Net, plan: Mapping[str, Any], arrays: Mapping[str, Arrays]) -> None:
    """Put Keras's weights into the net; raises Unknown where a layer has others than expected."""
    for step in plan["steps"]:
        found = arrays.get(step["name"], ())
        module = net.layers[key(step["name"])]
        wanted = [m for m in module.modules() if next(m.parameters(recurse=False), None) is not None]
        if not wanted:
            need(not len(found), f"weights of {step['kind']} ({step['name']})")
            continue
        state = STATES.get(step["kind"], _kernels)(step, found, wanted)
        for layer, values in zip(wanted, state, strict=True):
            tensors = {name: torch.from_numpy(np.array(value, np.float32)) for name, value in values.items()}
            strange = layer.load_state_dict(tensors, strict=False)
            need(not strange.unexpected_keys, f"weights of {step['kind']} ({step['name']})")


State = list[dict[str, NDArray[Any]]]


def _kernels(step: Config, found: Arrays, layers: Sequence[nn.Module]) -> State:
    """Convolutions and dense layers: a kernel each, and a bias for the last."""
    kernels = [_turned(step, kernel, layer) for kernel, layer in zip(found, layers, strict=False)]
    state = [{"weight": kernel} for kernel in kernels]
    if step["config"]["use_bias"]:
        state[-1]["bias"] = found[-1]
    return state


def _turned(step: Config, kernel: NDArray[Any], layer: nn.Module) -> NDArray[Any]:
    if isinstance(layer, nn.Linear):
        order = step["config"].get("order")
        if order:
            height, width, channels = order
            kernel = kernel.reshape(height, width, channels, -1).transpose(2, 0, 1, 3).reshape(-1, kernel.shape[-1])
        return kernel.T
    if isinstance(layer, nn.Conv1d):
        return kernel.transpose(2, 1, 0)
    if step["kind"] in DEPTHWISE and isinstance(layer, nn.Conv2d) and layer.groups > 1:
        kernel = kernel.reshape(*kernel.shape[:2], 1, -1)  # from [h, w, channels, multiplier]
    return kernel.transpose(3, 2, 0, 1)


def _norm(step: Config, found: Arrays, layers: Sequence[nn.Module]) -> State:
    names = ["weight"] * step["config"]["scale"] + ["bias"] * step["config"]["center"]
    names += ["running_mean", "running_var"] * (step["kind"] == "BatchNormalization")
    return [dict(zip(names, found, strict=True))]


def _gates(step: Config, found: Arrays, layers: Sequence[nn.Module]) -> State:
    state: dict[str, NDArray[Any]] = {}
    for suffix, (kernel, recurrent_kernel, bias) in zip(("_l0", "_l0_reverse"), _threes(found), strict=False):
        into, again = (bias, np.zeros_like(bias)) if bias.ndim == 1 else bias
        turn = _reset_first if bias.ndim == 2 else np.asarray
        state |= {f"weight_ih{suffix}": turn(kernel.T), f"weight_hh{suffix}": turn(recurrent_kernel.T)}
        state |= {f"bias_ih{suffix}": turn(into), f"bias_hh{suffix}": turn(again)}
    return [state]


def _threes(found: Arrays) -> list[Arrays]:
    return [found[i : i + 3] for i in range(0, len(found), 3)]


def _reset_first(rows: NDArray[Any]) -> NDArray[Any]:
    """Keras keeps a GRU's gates as update, reset, new; torch as reset, update, new."""
    update, reset, new = np.split(rows, 3)
    return np.concatenate([reset, update, new])


STATES: Mapping[str, Callable[[Config, Arrays, Sequence[nn.Module]], State]] = {
    "BatchNormalization": _norm,
    "LayerNormalization": _norm,
    "Embedding": lambda step, found, layers: [{"weight": found[0]}],
    "LSTM": _gates,
    "GRU": _gates,
    "Bidirectional": _gates,
}

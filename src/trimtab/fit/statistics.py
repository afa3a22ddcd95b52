"""Statistics of a torch model on calibration data: one run gathers whatever the passes need.

    input_moment  part/layer -> E[x x^T], float32[n, n], of what a linear layer or convolution reads: a convolution its
                  unfolded patches (channels x kernel) where these have at most LARGEST features, else its channels.
                  Layers that read more than LARGEST features have none.
    taylor        part/weight -> float32[columns]: the loss that silencing what a column reads would cost, to first
                  order: |sum over the column of w dL/dw|, averaged over batches (Molchanov et al. 2019, arXiv
                  1906.10771, equation 8, whose square is left out so that units add up).
    block         part/block -> float32[1]: 1 - cosine similarity of what comes into a block and what goes out, averaged
                  over valid positions (Men et al. 2024, arXiv 2403.03853, equation 1).
    time          part/layer -> float32[2]: milliseconds of one call on one example, whole and with half its outputs.

Names are those after `nn.MultiheadAttention` was swapped for `trimtab.fit.attention.Attention`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from trimtab.errors import DataError
from trimtab.fit import attention, blocks, recurrent, timing
from trimtab.fit.checkpoint import seeded
from trimtab.fit.kernels import sound_kernels
from trimtab.fit.losses import hard
from trimtab.fit.module import arguments
from trimtab.fit.program import Net
from trimtab.values.model import Greedy, Model
from trimtab.values.task import Batch, Example, TaskView

KINDS = ("input_moment", "taylor", "block", "time")
EXAMPLES = 256
BATCH = 8
ROWS = 256
"""Rows of a layer's input that count towards its moment from each batch, evenly spaced: 8,192 in all."""
LARGEST = 2048
"""Features of the largest moment: 16 MB."""
Sums = dict[str, NDArray[np.float64]]
Found = dict[str, dict[str, NDArray[Any]]]


def collect(
    model: Model, view: TaskView, kinds: Sequence[str], seed: int, check_time: Callable[[], None] = lambda: None
) -> Found:
    """Return the wanted kinds of statistics of a model on a seeded sample of the train split.

    Raises:
        DataError: no examples, or one whose inputs are not finite; it is named.
        TimeoutError: past the deadline.
    """
    sample = _sample(view, seed)
    net = Net.load(model).eval().requires_grad_(True)
    with seeded(seed, 1), sound_kernels(net):
        for module in net.parts:
            attention.swap(module)
        found: Found = {}
        gathered = [_GATHERERS[kind](net, view) for kind in kinds if kind in _GATHERERS]
        for start in range(0, len(sample) if gathered else 0, BATCH):
            check_time()
            batch = view.task.collate(sample[start : start + BATCH])
            _run(net, batch, gathered)
        found |= {gatherer.kind: gatherer.result() for gatherer in gathered}
        if "time" in kinds:
            found["time"] = _times(net, view, sample, check_time)
    return found


def _sample(view: TaskView, seed: int) -> list[Example]:
    examples = view.split("train")
    if not len(examples):
        raise DataError(f"the train split of {view.task.name} is empty")
    chosen = np.random.default_rng(seed).permutation(len(examples))[:EXAMPLES]
    sample = [examples[int(index)] for index in chosen]
    for example in sample:
        for name, array in example.inputs.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise DataError(f"the training example {example.id} has values in {name} that are not finite; mend it")
    return sample


class _Gatherer:
    """Gathers one kind of statistic while batches run."""

    kind = ""

    def __init__(self, net: Net, view: TaskView) -> None:
        self.net, self.view, self.batches = net, view, 0
        self.sums: Sums = {}
        self.parts = dict(zip(net.names, net.parts, strict=True))

    def hooks(self, batch: Batch) -> Iterator[Any]:
        """Yield handles of the hooks that this batch needs."""
        yield from ()

    def after(self, batch: Batch, scores: Tensor | None) -> None:
        """Look at the model once a batch was answered; `scores` is None where it could only be decoded."""

    def add(self, name: str, value: NDArray[Any]) -> None:
        """Add to what is averaged over calls."""
        self.sums[name] = self.sums.get(name, np.zeros(value.shape)) + value

    def result(self) -> dict[str, NDArray[Any]]:
        """Return the averages over batches."""
        return {name: (value / max(1, self.batches)).astype(np.float32) for name, value in self.sums.items()}


def _run(net: Net, batch: Batch, gathered: Sequence[_Gatherer]) -> None:
    forced = isinstance(net.model.program, Greedy) if net.model else False
    differentiable = not forced or batch.targets is not None
    with ExitStack() as hooks:
        for gatherer in gathered:
            for handle in gatherer.hooks(batch):
                hooks.callback(handle.remove)
        with torch.set_grad_enabled(any(gatherer.kind == "taylor" for gatherer in gathered)):
            scores = net.scores(batch) if differentiable else None
        if scores is None:
            net.answer(batch)
    for gatherer in gathered:
        gatherer.batches += 1
        gatherer.after(batch, scores)


class _Moments(_Gatherer):
    kind = "input_moment"

    def __init__(self, net: Net, view: TaskView) -> None:
        super().__init__(net, view)
        self.rows: dict[str, int] = {}

    def hooks(self, batch: Batch) -> Iterator[Any]:
        valid = _valid(batch)
        for part, module in self.parts.items():
            for name, layer in module.named_modules():
                if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d) and features(layer) <= LARGEST:
                    yield layer.register_forward_pre_hook(self._watch(f"{part}/{name}", valid))

    def _watch(self, name: str, valid: Tensor | None) -> Any:
        def look(layer: nn.Module, given: tuple[Any, ...]) -> None:
            rows = _rows(layer, given[0].detach(), valid)
            rows = rows[:: -(-len(rows) // ROWS) or 1]
            self.add(name, (rows.T @ rows).numpy())
            self.rows[name] = self.rows.get(name, 0) + len(rows)

        return look

    def result(self) -> dict[str, NDArray[Any]]:
        return {name: (value / max(1, self.rows[name])).astype(np.float32) for name, value in self.sums.items()}


def features(layer: nn.Module) -> int:
    """Return how many features a layer's moment has: inputs, unfolded patches, or where they are too many, channels."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    if not isinstance(layer, nn.Conv1d | nn.Conv2d) or layer.groups > 1:
        return LARGEST + 1
    patch = int(np.prod(layer.weight.shape[1:]))
    return patch if patch <= LARGEST else layer.in_channels


def _rows(layer: nn.Module, x: Tensor, valid: Tensor | None) -> Tensor:
    """Return what the layer reads at each place, float32[places, features]."""
    if isinstance(layer, nn.Linear):
        counted = valid is not None and x.ndim == 3 and x.shape[:2] == valid.shape
        return x[valid].float() if counted else x.reshape(-1, x.shape[-1]).float()
    if isinstance(layer, nn.Conv2d) and features(layer) == int(np.prod(layer.weight.shape[1:])):
        kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
        x = F.pad(x, layer._reversed_padding_repeated_twice)
        patches = F.unfold(x.float(), kernel, dilation=dilation, stride=stride)
        return patches.transpose(1, 2).reshape(-1, patches.shape[1])
    return x.movedim(1, -1).reshape(-1, x.shape[1]).float()


class _Taylor(_Gatherer):
    kind = "taylor"

    def after(self, batch: Batch, scores: Tensor | None) -> None:
        if scores is None or not scores.requires_grad:
            return
        self.net.zero_grad(set_to_none=True)
        task = self.view.task
        if batch.targets is None or task.objective == "none":
            loss = scores.float().square().mean()
        else:
            loss = hard(task.objective, task.class_weights)(scores, torch.from_numpy(np.asarray(batch.targets)))
        loss.backward()
        for part, module in self.parts.items():
            for name, weight in _weights(module):
                if weight.grad is not None:
                    self.add(f"{part}/{name}", _columns(weight, weight.grad).numpy())
        self.net.zero_grad(set_to_none=True)


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights that read features: of linear layers, plain convolutions and recurrent layers."""
    for name, layer in module.named_modules():
        plain = isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and getattr(layer, "groups", 1) == 1
        for own, value in layer.named_parameters(recurse=False):
            if (plain and own == "weight") or (isinstance(layer, recurrent.KINDS) and value.ndim > 1):
                yield f"{name}.{own}" if name else own, value


def _columns(weight: Tensor, gradient: Tensor) -> Tensor:
    """Return |sum over rows, and places of a kernel, of w dL/dw| for each column."""
    products = (weight.detach() * gradient).double()
    return products.flatten(2).sum(2).sum(0).abs() if weight.ndim > 2 else products.sum(0).abs()


class _Blocks(_Gatherer):
    kind = "block"

    def __init__(self, net: Net, view: TaskView) -> None:
        super().__init__(net, view)
        met = net.met(view.task.collate([view.split("train")[0]]))
        self.names = {
            part: blocks.find(module, arguments(met[part], net.model.parts[part].signature)) if net.model else ()
            for part, module in self.parts.items()
            if part in met
        }

    def hooks(self, batch: Batch) -> Iterator[Any]:
        valid = _valid(batch)
        for part, names in self.names.items():
            for name in () if blocks.are_levels(names) else names:
                layer = self.parts[part].get_submodule(name)
                yield layer.register_forward_hook(self._watch(f"{part}/{name}", valid), with_kwargs=True)

    def _watch(self, name: str, valid: Tensor | None) -> Any:
        def look(_: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any], result: Any) -> None:
            before, after = blocks.first_tensor((*given, *named.values())), blocks.first_tensor(result)
            if before is not None and after is not None:
                axis = 1 if before.ndim == 4 else -1
                near = F.cosine_similarity(before.detach().float(), after.detach().float(), dim=axis)
                near = near[valid] if valid is not None and near.shape == valid.shape else near
                self.add(name, np.array([1 - float(near.mean())]))

        return look


_GATHERERS: Mapping[str, type[_Gatherer]] = {kind.kind: kind for kind in (_Moments, _Taylor, _Blocks)}


def _valid(batch: Batch) -> Tensor | None:
    """Return which places [N, T] are no padding, as the batch's mask or lengths say; None where it has neither."""
    if "attention_mask" in batch.inputs:
        return torch.from_numpy(batch.inputs["attention_mask"]) > 0
    if "length" in batch.inputs:
        length = torch.from_numpy(np.asarray(batch.inputs["length"])).reshape(-1, 1)
        return torch.arange(int(length.max())) < length
    return None


def _times(
    net: Net, view: TaskView, sample: Sequence[Example], check_time: Callable[[], None]
) -> dict[str, NDArray[np.float32]]:
    """Return the times of each part's layers on the example of middle size alone."""
    middle = sorted(sample, key=lambda example: sum(array.size for array in example.inputs.values()))[len(sample) // 2]
    met = net.met(view.task.collate([middle]))
    found = {}
    for part, module in zip(net.names, net.parts, strict=True):
        if net.model is not None and part in met:
            given = arguments(met[part], net.model.parts[part].signature)
            for name, pair in timing.layers(module, given, check_time).items():
                found[f"{part}/{name}"] = np.asarray(pair, np.float32)
    return found

"""Layers as products of two smaller ones, of the rank that keeps their answers on real inputs best.

Plain SVD keeps the weight; what counts is the answer. With the input's second moment S = E[x x^T] the error of a weight
W' is E|Wx - W'x|^2, and the best W' of rank r is U U^T W, where U holds the r strongest eigenvectors of E[y y^T] =
W S W^T; its error is the sum of the eigenvalues left out. It is the truncation of the whitened weight W L, S = L L^T,
of Wang et al. 2024 (SVD-LLM, arXiv 2403.07378, section 3.1): U is that SVD's left side, and L cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from trimtab.errors import CorruptFile
from trimtab.fit.units import replace_layer

STEP = 8
"""Ranks are multiples of it, because vector kernels work in eights."""
ROUNDS = 50
Splittable = nn.Linear | nn.Conv1d | nn.Conv2d


class Factors(nn.Sequential):
    """Two layers in the place of one, `down` to the rank and `up` again."""

    @property
    def weight(self) -> Tensor:
        """The weight of the layer that the two stand for, as libraries that look at it expect."""
        down, up = cast(Tensor, self[0].weight), cast(Tensor, self[1].weight)
        return (up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])

    @property
    def bias(self) -> Tensor | None:
        """The bias of the layer that the two stand for."""
        return cast("Tensor | None", self[1].bias)


@dataclass(frozen=True)
class Spectrum:
    """What each rank of one layer would cost in error and in operations."""

    name: str
    errors: Tensor
    """float64[options]: relative error of each rank in `ranks`, the last, 0, of the whole layer."""
    ranks: tuple[int, ...]
    """Multiples of STEP that save operations; the whole layer comes last as 0."""
    costs: Tensor
    """float64[options]: operations of each."""
    basis: Tensor
    """float64[outputs, most]: the directions of the layer's answers, strongest first."""


def sides(layer: nn.Module) -> tuple[int, int]:
    """Return (features read, outputs) of a layer that can be split: a kernel's places count as features."""
    weight = cast(Tensor, layer.weight)
    return weight[0].numel(), len(weight)


def unfit(layer: nn.Module) -> str:
    """Return why a layer cannot be split; empty where it can."""
    if not isinstance(layer, Splittable) or type(layer).__name__ == "NonDynamicallyQuantizableLinear":
        return "is no linear layer or convolution in one or two dimensions"
    if getattr(layer, "groups", 1) > 1:
        return "is split into groups of channels"
    read, given = sides(layer)
    return "" if STEP * (read + given) < read * given else "is too small to be cheaper as two"


def spectrum(name: str, layer: nn.Module, moment: Tensor, operations: int) -> Spectrum:
    """Return errors and costs of a layer's ranks; `operations` are those of the whole layer on one example."""
    read, given = sides(layer)
    values, basis = _directions(layer, moment)
    left = values.sum() - values.cumsum(0)
    ranks = [rank for rank in range(STEP, min(read, given), STEP) if rank * (read + given) < read * given]
    errors = [max(0.0, float(left[rank - 1] / values.sum().clamp(min=1e-30))) for rank in ranks]
    costs = [operations * rank * (read + given) / (read * given) for rank in ranks]
    exact = torch.tensor([*errors, 0.0], dtype=torch.float64)
    return Spectrum(name, exact, (*ranks, 0), torch.tensor([*costs, float(operations)], dtype=torch.float64), basis)


def least_error(spectra: Sequence[Spectrum], most: float) -> dict[str, int]:
    """Return the rank of each layer, those that stay whole left out, of the least total error at a cost up to `most`.

    Each layer takes the option of least error + price x cost; the price is found by bisection (Everett 1963, Operations
    Research 11:399: what a price picks is the best there is at the cost that it comes to).
    """
    low, high = 0.0, 1.0
    while _cost(spectra, _picks(spectra, high)) > most and high < 1e12:
        high *= 4
    for _ in range(ROUNDS):
        price = (low + high) / 2
        low, high = (low, price) if _cost(spectra, _picks(spectra, price)) <= most else (price, high)
    return _ranks(spectra, _picks(spectra, high))


def _picks(spectra: Sequence[Spectrum], price: float) -> list[int]:
    whole = sum(float(one.costs[-1]) for one in spectra)
    return [int((one.errors + price * one.costs / whole).argmin()) for one in spectra]


def _cost(spectra: Sequence[Spectrum], picks: Sequence[int]) -> float:
    return sum(float(one.costs[pick]) for one, pick in zip(spectra, picks, strict=True))


def within(spectra: Sequence[Spectrum], error: float) -> dict[str, int]:
    """Return the least rank of each layer whose relative error is at most `error`, those that stay whole left out."""
    return _ranks(spectra, [int((one.errors <= error).nonzero()[0]) for one in spectra])


def _ranks(spectra: Sequence[Spectrum], picks: Sequence[int]) -> dict[str, int]:
    ranks = {one.name: one.ranks[pick] for one, pick in zip(spectra, picks, strict=True)}
    return {name: rank for name, rank in ranks.items() if rank}


def error_at(one: Spectrum, rank: int) -> float:
    """Return a layer's relative error at one of its ranks."""
    return float(one.errors[one.ranks.index(rank)])


def _directions(layer: nn.Module, moment: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues of W S W^T, largest first, and its eigenvectors, as many as W has rank at most."""
    read, given = sides(layer)
    weight, moment = cast(Tensor, layer.weight).detach().double().reshape(given, read), moment.double()
    if len(moment) < read:  # of channels alone: the places of a kernel are taken as independent
        moment = torch.kron(moment, torch.eye(read // len(moment), dtype=torch.float64))
    if given <= read:
        values, basis = torch.linalg.eigh(weight @ moment @ weight.T)
        return values.flip(0).clamp(min=0), basis.flip(1)
    inner, turned = torch.linalg.eigh(moment)
    root = turned * inner.clamp(min=0).sqrt()
    left, values, _ = torch.linalg.svd(weight @ root, full_matrices=False)
    return values.square(), left


def split(module: nn.Module, ranks: Mapping[str, int]) -> nn.Module:
    """Put two layers of random weights in the place of each layer named, in place; returns the module.

    Raises:
        CorruptFile: a layer is not there, or cannot have that rank.
    """
    for name, rank in ranks.items():
        try:
            layer = module.get_submodule(name)
            reason = unfit(layer)
            if reason or not 0 < rank <= min(sides(layer)):
                raise ValueError(reason or f"it has no rank {rank}")
            replace_layer(module, name, _pair(layer, rank))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise CorruptFile(f"the recorded rank of {name} does not fit the module: {error}") from error
    return module


def _pair(layer: nn.Module, rank: int) -> Factors:
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        pair = [nn.Linear(layer.in_features, rank, False), nn.Linear(rank, layer.out_features, bias)]
    elif isinstance(layer, nn.Conv1d | nn.Conv2d):
        kind = type(layer)
        same = {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "padding_mode")}
        down = kind(layer.in_channels, rank, layer.kernel_size, bias=False, **same)  # type: ignore[arg-type]
        pair = [down, kind(rank, layer.out_channels, 1, bias=bias)]  # type: ignore[list-item]
    else:
        raise ValueError(unfit(layer))
    return Factors(*pair).train(layer.training)


@torch.no_grad()
def fill(module: nn.Module, one: Spectrum, name: str, layer: nn.Module) -> None:
    """Give the two layers of that name the weights that stand for `layer` best; `one`: the layer's spectrum."""
    factors = cast(Factors, module.get_submodule(name))
    down, up = cast(Tensor, factors[0].weight), cast(Tensor, factors[1].weight)
    basis = one.basis[:, : len(down)]
    weight = cast(Tensor, layer.weight).double().flatten(1)
    down.copy_((basis.T @ weight).reshape(down.shape))
    up.copy_(basis.reshape(up.shape))
    if factors.bias is not None:
        factors.bias.copy_(cast(Tensor, layer.bias))

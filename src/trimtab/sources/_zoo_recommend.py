"""Recommenders: who gets to see what? Both score every thing for a person at once, from their numbers alone.

Neural matrix factorization (He et al. 2017, arXiv 1708.05031, section 3.4) adds a product of factors and a perceptron
that sees person and thing. Its first layer on the pair is written as a sum, W[p; q] = Up + Vq, so that Vq is computed
once for all people (and becomes a constant in an exported graph); the weights h of the product are in the people's
factors. Two towers compare a person's vector with each thing's, and cost one product of matrices.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

SPREAD = 0.05
"""Standard deviation of factors at the start: scores begin near 0."""


def neumf(shape: Sequence[int], classes: int, width: int = 64, depth: int = 2, vocabulary: int = 0) -> nn.Module:
    """Return neural matrix factorization: `vocabulary` people, `classes` things, factors of `width`."""
    _check(shape, vocabulary)
    return NeuMF(vocabulary, classes, width, depth)


def two_tower(shape: Sequence[int], classes: int, width: int = 64, depth: int = 1, vocabulary: int = 0) -> nn.Module:
    """Return two towers of `depth` hidden layers: `vocabulary` people, `classes` things, vectors of `width`."""
    _check(shape, vocabulary)
    return TwoTower(vocabulary, classes, width, depth)


class NeuMF(nn.Module):
    """A product of factors plus a perceptron on the pair."""

    def __init__(self, people: int, things: int, width: int, depth: int) -> None:
        super().__init__()
        self.person, self.thing = _factors(people, width), _factors(things, width)
        self.person_in, self.thing_in = _factors(people, width), _factors(things, width)
        self.from_person, self.from_thing = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        sizes = [max(width >> layer, 1) for layer in range(depth)]
        hidden = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(sizes)]
        self.tower = nn.Sequential(*hidden, nn.Linear(sizes[-1], 1))

    def forward(self, user: Tensor) -> Tensor:
        """Return scores [N, things] of people's numbers [N]."""
        product = self.person(user) @ self.thing.weight.T
        pair = self.from_person(self.person_in(user)).unsqueeze(1) + self.from_thing(self.thing_in.weight)
        return product + self.tower(torch.relu(pair)).squeeze(2)  # type: ignore[no-any-return]


class TwoTower(nn.Module):
    """A person's vector against each thing's, plus how popular the thing is."""

    def __init__(self, people: int, things: int, width: int, depth: int) -> None:
        super().__init__()
        self.person, self.thing = (nn.Sequential(*_tower(width, depth)) for _ in range(2))
        self.people, self.things = _factors(people, width), _factors(things, width)
        self.popular = nn.Parameter(torch.zeros(things))

    def forward(self, user: Tensor) -> Tensor:
        """Return scores [N, things] of people's numbers [N]."""
        return self.person(self.people(user)) @ self.thing(self.things.weight).T + self.popular  # type: ignore[no-any-return]


def _tower(width: int, depth: int) -> list[nn.Module]:
    hidden = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    return [*hidden, nn.Linear(width, width)]


def _factors(count: int, width: int) -> nn.Embedding:
    factors = nn.Embedding(count, width)
    nn.init.normal_(factors.weight, std=SPREAD)
    return factors


def _check(shape: Sequence[int], vocabulary: int) -> None:
    if len(shape) or not vocabulary:
        raise ValueError(f"it takes a person's number, a whole number without axes; the task gives {list(shape)}")

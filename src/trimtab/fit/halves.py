"""Cuts a net in two between its blocks, so that easy examples may leave after the first half.

The first half gives its own answer and `hidden`, the second takes `hidden` and goes on where the first ended. Where to
cut is plain for an `nn.Sequential`: after a residual block, or after a pooling layer. Other nets know it themselves:
their `places()` is the number of blocks that run one after the other, their `halves(after, inputs)` gives `Halves`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from trimtab.errors import Refused

POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.MaxPool1d, nn.AvgPool1d)


class Halves(NamedTuple):
    """Both halves of a net, and the inputs of the net that the second half takes after `hidden`, by name."""

    body: nn.Module
    """Takes what the net takes; gives (pooled [N, W], hidden)."""
    main: nn.Module
    takes: tuple[str, ...]


class First(nn.Module):
    """The first half with an exit of its own."""

    def __init__(self, body: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.body = body
        self.exit = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, given: Tensor, second: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the exit's logits [N, classes] and `hidden`."""
        pooled, hidden = self.body(given) if second is None else self.body(given, second)
        return self.exit(pooled), hidden


class Pupil(nn.Module):
    """The first half while its exit learns: the blocks stay as they are, batch norms included."""

    def __init__(self, first: First) -> None:
        super().__init__()
        self.first = first
        first.body.requires_grad_(False)

    def train(self, mode: bool = True) -> Pupil:
        """Stay in eval mode: nothing but the exit's weights may change."""
        return super().train(False)

    def forward(self, given: Tensor, second: Tensor | None = None) -> Tensor:
        """Return the exit's logits [N, classes]."""
        logits: Tensor = self.first(given, second)[0]
        return logits


class _Pooled(nn.Module):
    """The first children of a net of pixels [N, C, ...], and the mean of each of their channels."""

    def __init__(self, children: Sequence[nn.Module]) -> None:
        super().__init__()
        self.children_ = nn.Sequential(*children)

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.children_(given)
        return hidden.flatten(2).mean(2), hidden


def places(module: nn.Module) -> int:
    """Return how many blocks run one after the other; a net can be cut after each but the last.

    Raises:
        Refused: it cannot be told where this net could be cut.
    """
    if hasattr(type(module), "halves"):
        return int(module.places())  # type: ignore[operator]
    if not isinstance(module, nn.Sequential):
        raise Refused(
            f"{type(module).__name__} does not say where it could be cut in two: early_exit takes an nn.Sequential, "
            "and nets with the methods places() and halves(after, inputs)"
        )
    return len(_ends(module)) + 1


def cut(module: nn.Module, after: int, inputs: Sequence[str]) -> Halves:
    """Return both halves of a net that takes `inputs`, cut after its block number `after`, counted from 1.

    Raises:
        Refused: there is no such place.
    """
    count = places(module)
    if not 0 < after < count:
        where = f"1 to {count - 1}" if count > 1 else "nowhere: it has one block"
        raise Refused(f"a net of {count} blocks that run one after the other can be cut after {where}; got {after}")
    if not isinstance(module, nn.Sequential):
        halves: Halves = module.halves(after, tuple(inputs))  # type: ignore[operator]
        return halves
    end = _ends(module)[after - 1]
    return Halves(_Pooled(list(module)[:end]), nn.Sequential(*list(module)[end:]), ())


def rebuilt(module: nn.Module, edit: Mapping[str, Any]) -> nn.Module:
    """Cut a freshly built net as an edit {"half", "after", "inputs", "width", "classes"} says; returns that half."""
    halves = cut(module, int(edit["after"]), edit["inputs"])
    return halves.main if edit["half"] == "main" else First(halves.body, int(edit["width"]), int(edit["classes"]))


def _ends(module: nn.Sequential) -> list[int]:
    """Return how many children come before each cut: blocks of several layers end one, else pooling layers do."""
    children = list(module)
    blocks = [i + 1 for i, child in enumerate(children) if _composed(child)]
    if len(blocks) > 1:
        return blocks[:-1]
    return [i + 1 for i, child in enumerate(children) if isinstance(child, POOLS)]


def _composed(child: nn.Module) -> bool:
    return any(True for _ in child.children()) and any(True for _ in child.parameters())

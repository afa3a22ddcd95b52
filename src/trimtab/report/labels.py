"""Puts labels beside the points of a plot so that they cover neither each other nor the points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CHARACTER, LINE = 6.9, 15.0
"""Generous width and height in pixels of a character in the plots' 12-pixel type."""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Return the area that two boxes share."""
        if other.left >= self.right or other.right <= self.left or other.top >= self.bottom or other.bottom <= self.top:
            return 0.0
        width = min(self.right, other.right) - max(self.left, other.left)
        return width * (min(self.bottom, other.bottom) - max(self.top, other.top))

    def inside(self, other: Box) -> bool:
        """Say whether this box lies within another."""
        across = other.left <= self.left and self.right <= other.right
        return across and other.top <= self.top and self.bottom <= other.bottom


def around(x: float, y: float, reach: float) -> Box:
    """Return the square of half-width `reach` around a point."""
    return Box(x - reach, y - reach, x + reach, y + reach)


def text_box(x: float, y: float, text: str) -> Box:
    """Return the box of a text whose left end and middle line are at (x, y)."""
    return Box(x, y - LINE / 2, x + CHARACTER * len(text), y + LINE / 2)


def beside(point: tuple[float, float], text: str, reach: float) -> list[Box]:
    """Return the places for a text around a point, the best first."""
    x, y = point
    width, gap = CHARACTER * len(text), reach + 3
    tops = (y, y - gap - LINE / 2, y + gap + LINE / 2)
    lefts = (x + gap, x - gap - width)
    sides = [text_box(left, top, text) for top in tops for left in lefts]
    middle = [text_box(x - width / 2, top, text) for top in tops[1:]]
    far = [text_box(left, y + shift, text) for shift in (-2.6 * LINE, 2.6 * LINE) for left in (*lefts, x - width / 2)]
    return [*sides[:2], *middle, *sides[2:], *far]


def place(places: Sequence[Box], taken: Iterable[Box], frame: Box, must: bool) -> Box | None:
    """Return the first free place within the frame; if none is free the least bad one where `must`, else None."""
    within = [box for box in places if box.inside(frame)]
    obstacles = list(taken)
    costs = []
    for box in within:
        costs.append(sum(box.overlap(other) for other in obstacles))
        if costs[-1] <= 1.0:
            return box
    return within[costs.index(min(costs))] if must and costs else None

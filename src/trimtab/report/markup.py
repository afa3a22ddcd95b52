"""HTML that cannot be injected into: text is escaped unless `tag` itself made it."""

from __future__ import annotations

from html import escape

VOID = frozenset({"br", "wbr", "meta", "col"})


class Markup(str):
    """Text that is HTML already; only this module's functions make it.

    >>> tag("b", "1 < 2")
    '<b>1 &lt; 2</b>'
    """

    __slots__ = ()


Child = str | None
Attribute = str | float | None


def tag(name: str, *children: Child, **attributes: Attribute) -> Markup:
    """Make an element; `class_` and `stroke_width` are written class and stroke-width, None is left out.

    >>> tag("p", "a", tag("br"), "b", class_="wide", title=None)
    '<p class="wide">a<br>b</p>'
    """
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    opening = f"<{name}{shown}>"
    return Markup(opening if name in VOID else f"{opening}{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """Put children side by side, escaping those that are plain text."""
    return Markup("".join(c if isinstance(c, Markup) else escape(c) for c in children if c))


def _value(value: str | float) -> str:
    return escape(value, quote=True) if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")

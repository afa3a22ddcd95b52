"""Reads amounts with units, as people type them: tokens, durations, money, samples by epochs."""

from __future__ import annotations

import math
import re

from trimtab.errors import UsageError

SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
NUMBER = r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?)"


def count(text: str) -> float:
    """Return an amount such as `300e9`, `300b` or `1.28e6x90`, which is samples times epochs.

    >>> count("300e9"), count("300B"), count("1.28e6x90")
    (300000000000.0, 300000000000.0, 115200000.0)

    Raises:
        UsageError: it is none.
    """
    parts = text.lower().replace(" ", "").split("x")
    found = [re.fullmatch(NUMBER + r"([kmbt]?)", part) for part in parts]
    if len(parts) > 2 or not all(found):
        raise UsageError(f"{text!r} is no amount; write 300e9, 300b, or samples times epochs: 1.28e6x90")
    return _positive(text, math.prod(float(each[1]) * COUNTS[each[2]] for each in found if each))


def seconds(text: str) -> float:
    """Return a duration such as `60d`, `0.5s` or `50ms`.

    >>> seconds("60d"), seconds("50ms")
    (5184000.0, 0.05)

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(NUMBER + r"(ms|s|m|h|d|w)", text.lower().replace(" ", ""))
    if not found:
        raise UsageError(f"{text!r} is no duration; write a number and ms, s, m, h, d or w: 90s, 5m, 2h, 60d")
    return _positive(text, float(found[1]) * SECONDS[found[2]])


def usd(text: str) -> float:
    """Return an amount of money such as `5e6usd` or `$20000`.

    >>> usd("5e6usd"), usd("$2m")
    (5000000.0, 2000000.0)

    Raises:
        UsageError: it is none, or in another currency.
    """
    found = re.fullmatch(r"\$?" + NUMBER + r"([kmb]?)(?:usd|\$)?", text.lower().replace(" ", ""))
    if not found:
        raise UsageError(f"{text!r} is no amount of money; prices are in US dollars: 5e6usd")
    return _positive(text, float(found[1]) * COUNTS[found[2]])


def _positive(text: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise UsageError(f"{text!r} is not above 0 and finite")
    return value

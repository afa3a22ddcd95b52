"""How numbers are written, the same on both faces: three significant digits and the unit that reads best."""

from __future__ import annotations

import math

DASH = "–"
Ladder = tuple[tuple[float, str], ...]
TIME: Ladder = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
BYTES: Ladder = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
ENERGY: Ladder = ((1e3, "kJ"), (1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"))
COUNT: Ladder = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
MACS: Ladder = ((1e9, "GMAC"), (1e6, "MMAC"), (1e3, "kMAC"), (1.0, "MAC"))
LADDERS: dict[str, tuple[float, Ladder]] = {
    "s": (1.0, TIME),
    "ms": (1e-3, TIME),
    "us": (1e-6, TIME),
    "µs": (1e-6, TIME),
    "b": (1.0, BYTES),
    "bytes": (1.0, BYTES),
    "kb": (1e3, BYTES),
    "mb": (1e6, BYTES),
    "gb": (1e9, BYTES),
    "j": (1.0, ENERGY),
    "mj": (1e-3, ENERGY),
    "": (1.0, COUNT),
    "count": (1.0, COUNT),
    "1": (1.0, COUNT),
    "mac": (1.0, MACS),
    "operations": (1.0, COUNT),
    "parameters": (1.0, COUNT),
}
"""Unit -> its size in the ladder's base unit, and the units the ladder offers, largest first."""
SHARES = ("share", "fraction")


def decimals(value: float, digits: int = 3) -> int:
    """Return how many decimals show `digits` significant digits of `value`.

    >>> decimals(97.13), decimals(0.0123), decimals(12345.0)
    (1, 4, 0)
    """
    if value == 0 or not math.isfinite(value):
        return 0
    exponent = math.floor(math.log10(abs(value)))
    rounded = abs(round(value, digits - 1 - exponent))
    return max(0, digits - 1 - (exponent + (rounded >= 10.0 ** (exponent + 1))))


def plain(value: float, places: int, signed: bool = False) -> str:
    """Write a number with fixed decimals and a true minus; very large and very small ones in powers of ten.

    >>> plain(-1234.5, 0), plain(0.25, 1, signed=True), plain(-0.001, 1), plain(3.2e-7, 9)
    ('−1,234', '+0.2', '0.0', '3.20e−7')
    """
    if places > 6 or abs(value) >= 1e9:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        text = f"{mantissa}e{int(exponent)}"
    else:
        text = f"{value:,.{places}f}"
    if not any(digit in text for digit in "123456789"):
        return text.lstrip("-")
    return ("+" if signed and value > 0 else "") + text.replace("-", "−")


def scaled(value: float, unit: str) -> tuple[float, str]:
    """Return the factor and the unit in which `value` reads best.

    >>> scaled(0.85, "ms"), scaled(0.97, "share"), scaled(2.1, "furlong")
    ((1000.0, 'µs'), (100.0, '%'), (1.0, 'furlong'))
    """
    if unit in SHARES:
        return 100.0, "%"
    if unit.lower() not in LADDERS:
        return 1.0, {"x": "×", "usd": "$"}.get(unit.lower(), unit)
    size, ladder = LADDERS[unit.lower()]
    for step, name in ladder:
        if abs(value) * size >= step * 0.9995:
            return _ratio(size, step), name
    return (1.0, unit) if value == 0 else (_ratio(size, ladder[-1][0]), ladder[-1][1])


def _ratio(size: float, step: float) -> float:
    return float(f"{size / step:.12g}")


def quantity(value: float | None, unit: str, like: float | None = None) -> str:
    """Write one value with its unit, in the unit of `like` where one is given.

    >>> quantity(0.8534, "ms"), quantity(0.97131, "share"), quantity(7.1, "x"), quantity(None, "ms")
    ('853 µs', '97.1%', '7.10×', '–')
    >>> quantity(0.8534, "ms", like=4.2)
    '0.853 ms'
    """
    if value is None:
        return DASH
    factor, name = scaled(like or value, unit)
    return with_unit(plain(value * factor, decimals(value * factor)), name)


def with_unit(text: str, name: str) -> str:
    """Set a unit beside its number."""
    if name == "$":
        return f"${text}"
    return f"{text}{name}" if name in ("×", "%") else f"{text} {name}".strip()


def interval(value: float, ends: tuple[float | None, float | None], unit: str, like: float | None = None) -> str:
    """Write an interval in the unit and with the decimals of its value; empty where there is none.

    >>> interval(0.9712, (0.9641, 0.9775), "share"), interval(7.1, (6.8, 7.4), "x"), interval(7.1, (None, None), "x")
    ('[96.4, 97.8]', '[6.80, 7.40]', '')
    """
    low, high = ends
    if low is None or high is None:
        return ""
    factor, _ = scaled(like or value, unit)
    places = decimals(value * factor) if value else decimals(max(abs(low), abs(high)) * factor)
    return f"[{plain(low * factor, places)}, {plain(high * factor, places)}]"


def difference(value: float | None, unit: str) -> str:
    """Write a signed change; shares change by points.

    >>> difference(-0.0048, "share"), difference(0.25, "nats")
    ('−0.48 points', '+0.250 nats')
    """
    if value is None:
        return DASH
    return f"{signed(value, unit)} {difference_unit(unit)}".strip()


def signed(value: float, unit: str) -> str:
    """Write a change without its unit; shares in points with two decimals."""
    return plain(value * 100, 2, signed=True) if unit in SHARES else plain(value, decimals(value), signed=True)


def difference_unit(unit: str) -> str:
    """Return the unit in which a change of `unit` is written."""
    return "points" if unit in SHARES else unit


def difference_interval(low: float | None, high: float | None, unit: str) -> str:
    """Write the interval of a change; empty where there is none.

    >>> difference_interval(-0.009, 0.001, "share")
    '[−0.90, +0.10]'
    """
    return "" if low is None or high is None else f"[{signed(low, unit)}, {signed(high, unit)}]"


def duration(seconds: float | None) -> str:
    """Write a span of time as people say it.

    >>> duration(0.52), duration(75.4), duration(7325), duration(None)
    ('0.5 s', '1 min 15 s', '2 h 2 min', '–')
    """
    if seconds is None:
        return DASH
    if seconds < 10:
        return f"{plain(seconds, 1)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def factor_in_words(log_error: float) -> str:
    """Write a typical |log(predicted / measured)| in words.

    >>> factor_in_words(0.113), factor_in_words(0.92)
    ('12%', 'a factor of 2.5')
    """
    factor = math.exp(min(log_error, 20.0))
    return f"{100 * (factor - 1):.{0 if factor >= 1.095 else 1}f}%" if factor < 2 else f"a factor of {factor:,.1f}"

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.report import numbers


@given(st.floats(1e-7, 1e7), st.sampled_from(["ms", "s", "MB", "J"]))
def test_a_quantity_keeps_three_digits_whatever_its_unit(value, unit):
    shown = numbers.quantity(value, unit)
    digits, _, name = shown.partition(" ")
    size = (
        {"s": 1e3, "ms": 1.0, "µs": 1e-3, "ns": 1e-6}
        if unit in ("ms", "s")
        else {"GB": 1e3, "MB": 1, "kB": 1e-3, "B": 1e-6}
    )
    size = size if unit != "J" else {"kJ": 1e3, "J": 1.0, "mJ": 1e-3, "µJ": 1e-6}
    base = 1e3 if unit == "s" else 1.0
    assert float(digits.replace(",", "")) * size[name] == pytest.approx(value * base, rel=0.0051)


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.9999, "share", "100%"),
        (0.09994, "share", "9.99%"),
        (999.96, "ms", "1.00 s"),
        (0.0, "ms", "0 ms"),
        (11_173_962, "count", "11.2 M"),
        (2.5, "usd", "$2.50"),
        (-0.25, "nats", "−0.250 nats"),
    ],
)
def test_quantities_as_people_write_them(value, unit, shown):
    assert numbers.quantity(value, unit) == shown


@given(st.floats(-1e12, 1e12), st.integers(0, 9))
def test_zero_is_never_negative_and_minus_is_a_minus(value, places):
    shown = numbers.plain(value, places)
    assert not shown.startswith("-")
    assert shown.startswith("−") == (value < 0 and any(c in "123456789" for c in shown))

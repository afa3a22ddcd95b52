"""From watts and seconds to joules and money: small sums, written once so that every figure uses the same."""

JOULES_PER_KWH = 3.6e6
MILLION = 1e6


def energy_j(power_w: float, seconds: float) -> float:
    """Energy in joules of a mean power in watts over some seconds.

    >>> energy_j(15.0, 60.0)
    900.0
    """
    return power_w * seconds


def modelled_power_w(idle_w: float, full_w: float, utilisation: float) -> float:
    """Power in watts at a utilisation between 0 and 1, on the line from idle to full.

    A model, not a measurement, so label figures from it "modelled".

    >>> modelled_power_w(10.0, 30.0, 0.25)
    15.0

    Source: Fan, Weber and Barroso (2007), ISCA, section 3.2, the linear model.

    Raises:
        ValueError: if the utilisation is outside 0..1.
    """
    if not 0 <= utilisation <= 1:
        raise ValueError(f"utilisation is {utilisation}; it is a share of full load, between 0 and 1")
    return idle_w + (full_w - idle_w) * utilisation


def money_usd(seconds: float, usd_per_hour: float) -> float:
    """Rent of a machine, in US dollars.

    >>> money_usd(1800.0, 0.5)
    0.25
    """
    return seconds / 3600 * usd_per_hour


def electricity_usd(energy_joules: float, usd_per_kwh: float) -> float:
    """Price of energy, in US dollars.

    >>> electricity_usd(7.2e6, 0.25)
    0.5
    """
    return energy_joules / JOULES_PER_KWH * usd_per_kwh


def per_million(amount: float, count: float) -> float:
    """An amount spent on `count` answers (or tokens), for a million of them, in the amount's unit.

    >>> per_million(0.5, 2000)
    250.0

    Raises:
        ValueError: if the count is not positive.
    """
    if count <= 0:
        raise ValueError(f"count is {count}; a rate takes at least one answer")
    return amount / count * MILLION

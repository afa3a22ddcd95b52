"""Grams of CO2-equivalents of a kilowatt-hour, by country or cloud region, each with its source."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from trimtab import machines
from trimtab.errors import UnknownName

FOLDER = Path(machines.__file__).parent
WORLD = "WLD"
WORLD_G = 475.0
"""Of the world's mean: IEA 2019, as CodeCarbon takes where it knows no country."""


@dataclass(frozen=True)
class Region:
    """A place whose electricity is used."""

    name: str
    g_per_kwh: float
    pue: float | None
    source: str


@lru_cache(maxsize=1)
def regions() -> dict[str, Region]:
    """Return every place by its name: `DEU`, `gcp:europe-west4`, `WLD`."""
    found = {WORLD: Region(WORLD, WORLD_G, None, "IEA 2019, the world's mean")}
    for row in _rows("countries.csv"):
        if row["carbon_gco2_per_kwh"]:
            grams = float(row["carbon_gco2_per_kwh"])
            found[row["iso3"]] = Region(row["iso3"], grams, None, f"{row['source']}, year {row['year']}")
    for row in _rows("regions.csv"):
        if row["gco2_per_kwh"]:
            name, pue = f"{row['provider']}:{row['region']}", float(row["pue"]) if row["pue"] else None
            found[name] = Region(name, float(row["gco2_per_kwh"]), pue, f"{row['source']}; {row['note']}")
    return found


def region(name: str) -> Region:
    """Return a place; raises UnknownName with the nearest."""
    found = regions()
    if name not in found:
        raise UnknownName("region", name, found)
    return found[name]


def _rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))

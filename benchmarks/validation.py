"""Writes what `trimtab validate` says of the published tables as two tabs, which the documents print.

python benchmarks/validation.py            takes under a minute
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import tabs
from trimtab.plan.validate import validate

SHARES = (
    "median_ape",
    "held_out_ape",
    "mean_ape",
    "max_ape",
    "bias",
    "coverage50",
    "coverage90",
    "skill",
    "rank_correlation",
)


def lines(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each number of each table as a line, the table being its group."""
    for one in document["tables"]:
        numbers = {"rows": one["scored"], **{name: one[name] for name in SHARES}}
        numbers["naive_ape"] = min(one["naive"].values()) if one["naive"] else None
        for name, value in numbers.items():
            unit = "count" if name == "rows" else "" if name in ("skill", "rank_correlation") else "share"
            shown = "–" if value is None else value if unit == "share" else round(value, 2)
            yield {"name": name, "group": one["table"], "value": shown, "unit": unit}


def rest(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what holds for all tables together, and why rows were not scored."""
    for name, value in document["pooled"].items():
        yield {"name": name, "value": value, "unit": "count" if name == "scored" else "share"}
    for reason, count in document["not_scored"].items():
        yield {"name": "not_scored", "value": count, "unit": "count", "conditions": {"reason": reason}}


def main() -> int:
    document = validate()
    print(tabs.write("validation", lines(document)))
    print(tabs.write("validation-rest", rest(document)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

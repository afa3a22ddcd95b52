"""Writes a benchmark's figures as a tab: one JSON object a line, what the documents' tables are printed from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

TABS = Path(__file__).parent / "tabs" / os.environ.get("TABS_OF", "")
"""What is measured on a second machine has a folder of its own: `TABS_OF=amx python workloads.py record`."""


def write(name: str, lines: Iterable[Mapping[str, Any]]) -> Path:
    """Replace `tabs/NAME.jsonl`."""
    TABS.mkdir(parents=True, exist_ok=True)
    path = TABS / f"{name}.jsonl"
    path.write_text("".join(json.dumps(dict(line)) + "\n" for line in lines))
    return path


def kept(name: str, lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the lines of `tabs/NAME.jsonl` whose group has none among `lines`: what was measured elsewhere stays."""
    path, new = TABS / f"{name}.jsonl", {line["group"] for line in lines}
    old = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [line for line in old if line["group"] not in new]


def figures(document: Mapping[str, Any], group: str) -> list[dict[str, Any]]:
    """Return one map of figures of a result document (`base`, `chosen`, `ratios`) as lines."""
    return [{"name": name, "group": group, **figure} for name, figure in document[group].items()]

"""Writes a benchmark's figures as a tab: one JSON object a line, what the documents' tables are printed from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

TABS = Path(__file__).parent / "tabs"


def write(name: str, lines: Iterable[Mapping[str, Any]]) -> Path:
    """Replace `tabs/NAME.jsonl`."""
    TABS.mkdir(exist_ok=True)
    path = TABS / f"{name}.jsonl"
    path.write_text("".join(json.dumps(dict(line)) + "\n" for line in lines))
    return path


def figures(document: Mapping[str, Any], group: str) -> list[dict[str, Any]]:
    """Return one map of figures of a result document (`base`, `chosen`, `ratios`) as lines."""
    return [{"name": name, "group": group, **figure} for name, figure in document[group].items()]

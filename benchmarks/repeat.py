"""Runs the demo twice with one seed and nothing shared, and says whether both runs choose alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import demo
import tabs


def run(folder: Path) -> dict[str, Any]:
    """Run the demo's command with a run folder and a store of its own; return its result."""
    out = folder / "run"
    words = [str(out) if word == str(demo.OUT) else word for word in demo.WORDS]
    environment = {**os.environ, "TRIMTAB_CACHE": str(folder / "cache")}
    subprocess.run([sys.executable, "-m", "trimtab", *words], env=environment, stdout=subprocess.DEVNULL, check=True)
    document: dict[str, Any] = json.loads((out / "result.json").read_text())
    return document


def compare(first: dict[str, Any], second: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each run's choice and gain, and whether they are the same or their intervals overlap."""
    gains = [document["ratios"]["latency_ms"] for document in (first, second)]
    overlap = gains[0]["low"] <= gains[1]["high"] and gains[1]["low"] <= gains[0]["high"]
    lines = [
        {"name": "latency_ratio", "group": f"run {number}", **gain, "conditions": {"recipe": document["recipe"]}}
        for number, (gain, document) in enumerate(zip(gains, (first, second), strict=True), 1)
    ]
    same = first["recipe"] == second["recipe"]
    alike = {"name": "chose_alike", "group": "both", "value": int(same or overlap), "unit": ""}
    return [*lines, alike | {"conditions": {"same_recipe": same, "intervals_overlap": overlap}}]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        found = compare(run(Path(one)), run(Path(other)))
    for line in found:
        print(line)
    tabs.write("repeat", found)

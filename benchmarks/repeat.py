"""Runs the demo three times with one seed and nothing shared, and writes what each run chose and gained."""

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

RUNS = 3


def run(folder: Path) -> dict[str, Any]:
    """Run the demo's command with a run folder and a store of its own; return its result."""
    out = folder / "run"
    words = [str(out) if word == str(demo.OUT) else word for word in demo.WORDS]
    environment = {**os.environ, "TRIMTAB_CACHE": str(folder / "cache")}
    subprocess.run([sys.executable, "-m", "trimtab", *words], env=environment, stdout=subprocess.DEVNULL, check=True)
    document: dict[str, Any] = json.loads((out / "result.json").read_text())
    return document


def line(number: int, document: dict[str, Any]) -> dict[str, Any]:
    """Return the line of a run: how many times faster than the base its choice is, and which that was."""
    gain = {"name": "latency_ratio", "group": f"run {number}", **document["ratios"]["latency_ms"]}
    return gain | {"conditions": {"recipe": document["recipe"], "verdict": document["verdict"]}}


if __name__ == "__main__":
    found = []
    for number in range(1, RUNS + 1):
        with tempfile.TemporaryDirectory() as folder:
            found.append(line(number, run(Path(folder))))
        print(found[-1])
    tabs.write("repeat", found)

"""The main job on real data: `make demo` runs it and prints the tab; `--record` also writes tabs/demo.jsonl.

A residual net is trained on 2,000 MNIST digits, then trimmed: the cheapest model found whose accuracy is certified, on
2,500 sealed digits, to be no more than one point worse, and in no class more than five.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tabs
from trimtab.cli import main

OUT = Path("runs/demo")
WORDS = [
    "trim",
    "zoo:resnet | train(epochs=5)",
    "mnist5k",
    "--promise",
    "accuracy >= base - 0.01",
    "--promise",
    "accuracy[class=*] >= base - 0.05",
    "--for",
    "latency",
    "--within",
    "3m",
    "--out",
    str(OUT),
]


def record() -> None:
    """Write the finished run's figures to a tab."""
    document = json.loads((OUT / "result.json").read_text())
    run = [{"name": name, "group": "run", "value": value, "unit": "s"} for name, value in document["times"].items()]
    about = {"machine": document["conditions"]["machine"], "versions": document["conditions"]["versions"]}
    said = {"name": "verdict", "group": "run", "value": document["verdict"], "unit": "", "recipe": document["recipe"]}
    groups = [line for group in ("base", "chosen", "ratios") for line in tabs.figures(document, group)]
    tabs.write("demo", [said | {"conditions": about}, *run, *groups])


if __name__ == "__main__":
    status = main(WORDS)
    if "--record" in sys.argv:
        record()
    print(f"the report: {OUT / 'report.html'}")
    sys.exit(status)

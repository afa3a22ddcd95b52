"""How much later than a bare interpreter `import trimtab` and `trimtab --help` are ready: alternating runs, medians."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import tabs

RUNS = 21
COMMANDS = {
    "bare": [sys.executable, "-c", "pass"],
    "import": [sys.executable, "-c", "import trimtab"],
    "help": [str(Path(sys.executable).parent / "trimtab"), "--help"],
}


def milliseconds(command: list[str]) -> float:
    """Time one whole process."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return 1e3 * (time.perf_counter() - start)


def measure() -> list[dict[str, object]]:
    """Run each command in turn, and compare runs of the same round."""
    rounds = [{name: milliseconds(command) for name, command in COMMANDS.items()} for _ in range(RUNS + 1)][1:]
    lines: list[dict[str, object]] = []
    for name in ("import", "help"):
        above = sorted(each[name] - each["bare"] for each in rounds)
        bounds = {"low": above[RUNS // 10], "high": above[-1 - RUNS // 10]}
        about = {"what": "above `python -c pass`", "interval": "middle 80% of rounds"}
        line = {"name": f"{name}_ms", "value": statistics.median(above), "unit": "ms", "n": RUNS, "conditions": about}
        lines.append(line | bounds)
    return lines


if __name__ == "__main__":
    for line in measure():
        print(line)
    tabs.write("startup", measure())

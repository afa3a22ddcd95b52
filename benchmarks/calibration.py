"""Measures this machine, then holds the planner against nets that it did not see; writes tabs/calibration.jsonl.

    python benchmarks/calibration.py           about ten minutes, with nothing beside it

Two groups of lines: `seen`, the suite's own nets, each told from costs that the others were fitted on (its operators
were timed); and `new`, other widths and depths, whose operators are scaled from the nearest that were timed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import tabs
from trimtab import calibrate, machines
from trimtab.calibrate import Order
from trimtab.plan import host
from trimtab.report.progress import Live

NEW = (
    ("zoo:resnet(width=32)", "images"),
    ("zoo:mlp(width=384)", "images"),
    ("zoo:lstm(width=96, depth=2)", "sequences"),
    ("zoo:gru(width=160)", "sequences"),
    ("zoo:transformer(width=96)", "sequences"),
    ("zoo:vgg(width=48)", "images"),
)
BATCHES = {"train": (24,), "infer": (8,)}


def measured_anew(profile: host.Profile, threads: int) -> Iterator[dict[str, Any]]:
    """Yield a line for each step of nets that are not in the suite."""
    with tempfile.TemporaryDirectory() as scratch:
        tasks = calibrate.made_up(Path(scratch))
        for model, kind in NEW:
            order = Order(model, tasks[kind], BATCHES, threads)
            found = calibrate.apart(calibrate.timed, order, {})
            for phase, batch, steps, seconds in found["steps"]:
                memory = calibrate.apart(calibrate.memory_of, replace(order, phase=phase))
                yield {
                    "model": model,
                    "phase": phase,
                    "batch": batch,
                    "threads": threads,
                    "measured_s": seconds,
                    "predicted_s": profile.seconds(steps, phase, threads),
                    "measured_bytes": memory,
                    "predicted_bytes": profile.bytes(steps, phase),
                    "timed_share": profile.timed_share(steps, threads),
                    "covered": covered(profile, steps, phase, threads, seconds),
                }


def covered(profile: host.Profile, steps: host.Steps, phase: str, threads: int, seconds: float) -> bool:
    """Tell whether the 90% interval holds what was measured."""
    low, high = profile.interval(profile.seconds(steps, phase, threads), phase)
    return low <= seconds <= high


def lines(kind: str, checks: list[dict[str, Any]], about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each net's error, and the medians of all."""
    for one in checks:
        name = f"{one['model'].removeprefix('zoo:')}, {one['phase']} {one['batch']}, {one['threads']} threads"
        step = {"unit": "share", "origin": "predicted", "conditions": {**about, **one}}
        yield {"name": name, "group": kind, "value": one["predicted_s"] / one["measured_s"] - 1, **step}
    for phase in calibrate.PHASES:
        errors = [abs(one["predicted_s"] / one["measured_s"] - 1) for one in checks if one["phase"] == phase]
        yield {"name": f"median_{phase}", "group": kind, "value": median(errors), "unit": "share"}
    held = [one for one in checks if one["measured_bytes"]]
    memory = [abs(one["predicted_bytes"] / one["measured_bytes"] - 1) for one in held]
    yield {"name": "median_memory", "group": kind, "value": median(memory), "unit": "share"}
    yield {"name": "largest_memory", "group": kind, "value": max(memory), "unit": "share"}
    inside = [one["covered"] for one in checks if "covered" in one]
    if inside:
        yield {"name": "in_interval", "group": kind, "value": sum(inside) / len(inside), "unit": "share"}


def main() -> int:
    with Live() as progress:
        seen = calibrate.calibrate(tell=progress.doing)["checks"]
    machine = machines.here()
    profile = host.load(machine, calibrate.torch_release())
    about = {"cpu": machine.cpu, "cores": machine.cores, "torch": profile.torch, "date": profile.date}
    new = [line for threads in profile.times for line in measured_anew(profile, int(threads))]
    print(tabs.write("calibration", [*lines("seen", seen, about), *lines("new", new, about)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

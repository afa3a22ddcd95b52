"""Makes the tabs of a contest: times slower than ours by peer and workload, and a line for each artefact.

A cell of tabs/peers.jsonl is a figure only where the peer's artefact is certified; a peer that breaks the promise or
cannot do the workload has its word instead, and its figures and reason stand in tabs/artefacts.jsonl.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tabs
from trimtab.report.numbers import DASH, interval, quantity

OURS, BASE = "trimtab", "base"
MEAN, BEST = "geometric-mean", "best-peer"
Line = dict[str, Any]


def write(runs: Path, workloads: Sequence[str], peers: Sequence[str]) -> list[Path]:
    """Write both tabs from every contest that was held here; other workloads keep their lines."""
    paths = [runs / f"{name}-peers" / "contest.json" for name in workloads]
    texts = (path.read_text().replace(f"{runs}/", "") for path in paths if path.is_file())  # no path of one machine
    held = [json.loads(text) for text in texts]
    ratios = _merged("peers", [line for contest in held for line in cells(contest)], workloads)
    rows = [*ratios, *means(ratios, [*peers, BASE, BEST])]
    found = _merged("artefacts", [line for contest in held for line in artefacts(contest)], workloads)
    return [tabs.write("peers", rows), tabs.write("artefacts", found)]


def _merged(name: str, lines: Sequence[Line], workloads: Sequence[str]) -> list[Line]:
    together = [dict(line) for line in (*lines, *tabs.kept(name, lines)) if line["group"] in workloads]
    return sorted(together, key=lambda line: workloads.index(line["group"]))


def cells(contest: Mapping[str, Any]) -> Iterator[Line]:
    """Yield for each artefact how many times slower than ours it is, or the word that stands there instead."""
    race, group = contest["race"], contest["workload"]
    about = {"group": group, "conditions": {"processor": contest["machine"]["cpu"], **race.get("load", {})}}
    certified = []
    for known in contest["entrants"]:
        line = {"name": known["name"], **about}
        ratio = race["ratios"].get(known["name"]) if race.get("first") == OURS else None
        if known["name"] == OURS:
            yield line | {"value": known.get("verdict", DASH), "unit": ""}
        elif "dash" in known or ratio is None:
            yield line | {
                "value": DASH,
                "unit": "",
                "reason": known.get("dash", "ours has no artefact to compare with"),
            }
        elif known["name"] != BASE and known["verdict"] != "PASS":
            yield line | {"value": f"{known['verdict']} ({quantity(ratio['value'], 'x')})", "unit": ""}
        else:
            figure = {key: ratio.get(key) for key in ("value", "unit", "low", "high", "n")}
            certified += [] if known["name"] == BASE else [figure]
            yield line | figure
    if certified:
        yield {"name": BEST, **about, **min(certified, key=lambda figure: figure["value"])}


def means(lines: Sequence[Line], names: Sequence[str]) -> Iterator[Line]:
    """Yield the geometric mean of each row's figures, over the workloads that it has."""
    for name in names:
        values = [line["value"] for line in lines if line["name"] == name and not isinstance(line["value"], str)]
        line = {"name": name, "group": MEAN, "n": len(values), "unit": "x"}
        mean = math.exp(math.fsum(map(math.log, values)) / len(values)) if values else DASH
        yield line | {"value": mean}


def artefacts(contest: Mapping[str, Any]) -> Iterator[Line]:
    """Yield a line for each artefact: verdict, latency, size, runtime, or a dash and the reason."""
    for known in contest["entrants"]:
        line = {"name": known["name"], "group": contest["workload"], "unit": ""}
        latency = contest["race"]["latency"].get(known["name"])
        if "dash" in known or latency is None:
            yield line | {"value": DASH, "latency": "", "size": "", "runtime": "", "reason": known.get("dash", "")}
            continue
        ends = latency.get("low"), latency.get("high")
        shown = f"{quantity(latency['value'], 'ms')} {interval(latency['value'], ends, 'ms')}".strip()
        yield line | {
            "value": known["verdict"],
            "latency": shown,
            "latency_ms": latency["value"],
            "size": quantity(known["size_mb"], "MB"),
            "size_mb": known["size_mb"],
            "runtime": known["runtime"],
            "reason": "; ".join([*known.get("notes", []), *_losses(known)]),
            "knobs": known.get("knobs", {}),
            "took_s": known.get("took_s"),
        }


def _losses(known: Mapping[str, Any]) -> list[str]:
    """Say by how much the promise's metric changed."""
    first = known["judgements"][0]
    change = first["difference"] if first["difference"] is not None else first["trimmed"]
    return [f"{first['promise'].partition(' ')[0]} {change:+.4f}" if first["base"] is not None else f"{change:.4f}"]

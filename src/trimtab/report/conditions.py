"""The last sections of the page: under which conditions it was found, and how to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from trimtab.report import numbers
from trimtab.report.document import Result, mapping, number, text, title
from trimtab.report.markup import Markup, join, tag
from trimtab.report.parts import cell, section, table
from trimtab.values.machine import HERE

USUAL_CONFIDENCE = 0.95
"""What `verify` takes where it is told no confidence; told no machine, it takes this one."""


def conditions(result: Result) -> Markup:
    """State under which conditions all this was found; elsewhere it is not verified."""
    data = mapping(result.raw.get("conditions"))
    openings = number(data.get("test_openings"))
    groups = [_group("Run", _run_facts(result, data)), _group("Machine", _facts(mapping(data.get("machine"))))]
    groups += [_group(title(key), _facts(mapping(data.get(key)))) for key in ("versions", "load", "task")]
    warn = "The test split was opened more than once: the confidence stated holds for the first opening only."
    lead = "The verdict belongs to this model file, these versions, this kind of machine, and data like these splits."
    caution = tag("p", warn, class_="note warn") if openings and openings > 1 else None
    return section(
        "Conditions", lead, caution, tag("div", *groups, class_="groups"), _splits(mapping(data.get("splits")))
    )


def _run_facts(result: Result, data: Mapping[str, Any]) -> dict[str, str]:
    times = mapping(result.raw.get("times"))
    spent = {
        title(key): numbers.duration(number(times.get(key)))
        for key in ("total_s", "training_s", "converting_s", "measuring_s", "other_s")
    }
    known = {
        "Date": "date",
        "Seed": "seed",
        "Validation examples that candidates were compared on": "compared_on",
        "Openings of the test split": "test_openings",
    }
    facts = {name: text(data.get(key)) or numbers.DASH for name, key in known.items()}
    named = {"Limits": ", ".join(result.texts("limits")), "Run": result.text("run"), "Bundle": result.text("bundle")}
    return (
        facts
        | {f"{name} time": value for name, value in spent.items()}
        | {k: v or numbers.DASH for k, v in named.items()}
    )


def _facts(data: Mapping[str, Any]) -> dict[str, str]:
    known = {key: value for key, value in data.items() if value not in (None, "", [], {})}
    return {key.replace("_", " "): _flat(value) for key, value in known.items()}


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{text(key)} {_flat(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_flat(item) for item in value)
    read = number(value)
    return text(value) if read is None or isinstance(value, int) else f"{read:.6g}"


def _group(name: str, facts: Mapping[str, str]) -> Markup | None:
    if not facts:
        return None
    pairs = (join(tag("dt", key), tag("dd", value)) for key, value in facts.items())
    return tag("div", tag("h3", name), tag("dl", *pairs, class_="list"))


def _splits(data: Mapping[str, Any]) -> Markup | None:
    rows = []
    for name, raw in data.items():
        split = mapping(raw)
        n = number(split.get("n"))
        hashed = tag("code", text(split.get("sha256")) or numbers.DASH, class_="hash")
        count = numbers.DASH if n is None else f"{n:,.0f}"
        rows.append(
            tag("tr", tag("th", name, scope="row"), cell("Examples", count, kind="number"), cell("SHA-256", hashed))
        )
    return table(["Split", "Examples", "SHA-256"], rows, "splits", "Splits of the data") if rows else None


def repeat(result: Result) -> Markup:
    """Give the commands that repeat the run and the verdict."""
    commands = [result.text("command") or _trim_command(result)]
    if result.text("bundle"):
        commands.append(_verify_command(result))
    lead = (
        "The first command repeats the search, the second only the verdict; "
        "verifying opens the test split once more, and that is counted."
    )
    return section(
        "How to repeat it", lead if len(commands) > 1 else None, *(tag("pre", tag("code", c)) for c in commands)
    )


def _verify_command(result: Result) -> str:
    """Return the command that repeats the verdict, with what the search was asked for where it is not usual."""
    parts = ["trimtab", "verify", result.text("bundle"), result.text("task"), "--against", result.text("model")]
    parts += _options("--promise", result.texts("promise"))
    confidence = number(result.raw.get("confidence"))
    parts += ["--confidence", f"{confidence:g}"] if confidence not in (None, USUAL_CONFIDENCE) else []
    try:
        words = shlex.split(result.text("command"))
    except ValueError:  # quotes that do not close: no command line of ours
        words = []
    machine = next((value for flag, value in pairwise(words) if flag == "--on"), HERE)
    parts += ["--on", machine] if machine != HERE else []
    return shlex.join([*parts, *(["--trust"] if "--trust" in words else [])])


def _trim_command(result: Result) -> str:
    parts = [
        "trimtab",
        "trim",
        result.text("model"),
        result.text("task"),
        *_options("--promise", result.texts("promise")),
    ]
    parts += ["--for", result.text("objective"), *_options("--limit", result.texts("limits"))]
    parts += _options("--confidence", [text(result.raw.get("confidence"))])
    parts += _options("--seed", [text(mapping(result.raw.get("conditions")).get("seed"))])
    return shlex.join([*parts, *_options("--out", [result.text("run")])])


def _options(flag: str, found: Iterable[str]) -> list[str]:
    return [word for value in found if value for word in (flag, value)]

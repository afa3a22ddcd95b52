"""The planner's verbs as the command line and Python call them: words in, a document out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from trimtab.errors import DataError, UsageError
from trimtab.maths import scaling
from trimtab.plan import chips, misses, models, nets, trainings, units
from trimtab.plan.carbon import WORLD
from trimtab.plan.costs import Limits, Terms
from trimtab.plan.evidence import read_rows
from trimtab.plan.layout import Layout
from trimtab.plan.servings import ServeOrder, plan_serving
from trimtab.run import onnx_facts
from trimtab.values.chip import Chip

TRAINED = ("bf16", "fp16", "fp8")
"""Number formats of products in a training; weights and Adam's state are kept as such trainings keep them."""
TRAINING_WORDS = ("tokens", "samples", "seq", "count", "budget", "deadline", "stack", "lora")
SERVING_WORDS = ("prompt", "output", "ttft", "tpot")
LAYOUT = ("tp", "pp", "dp", "cp", "ep", "zero", "shard", "micro_batch", "interleave", "recompute")
"""Fields of a layout that can be fixed."""
NET_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ALIASES = {"parameters": ("parameters", "params", "n"), "tokens": ("tokens", "samples", "d"), "loss": ("loss",)}
"""What the columns of a table of runs may be called, whatever their case."""


def train(words: Mapping[str, Any], net: nets.Work | None = None) -> dict[str, Any]:
    """Plan a training; words: the command's, see `trimtab plan train --help`; a net that was opened instead of a name.

    Raises:
        UsageError: something cannot be read, contradicts itself, or cannot be kept; says what would.
    """
    shelf, counts = _shelf(words.get("on")), _counts(words.get("count"))
    dtype = words.get("dtype") or "bf16"
    if dtype not in TRAINED:
        raise UsageError(f"trainings are planned in {', '.join(TRAINED)}, got {dtype}")
    net = net or _net(str(words["model"]))
    if net is not None:
        only(
            words,
            (*LAYOUT, "tokens", "seq", "stack", "lora"),
            f"{net.name}, which trains on samples with data parallelism",
        )
        samples = units.count(_needed(words, "samples", "1.28e6x90"))
        order = nets.NetOrder(net, samples, words.get("batch") or 256, dtype, _terms(words), _limits(words))
        about = {"kind": "train", "model": net.name, "parameters": net.parameters, "samples": samples}
        found = ((chip, nets.ways(order, chip, counts or NET_COUNTS)) for chip in shelf)
        return trainings.choose(about | {"batch": order.batch, "dtype": order.dtype}, order.limits, found)
    only(words, ("samples",), f"{words['model']}, which trains on --tokens")
    plan = _order(words, dtype, units.count(_needed(words, "tokens", "300e9")))
    _check_fixed(plan, counts)
    return trainings.plan(plan, shelf, counts or _counts_of(plan.fixed) or trainings.COUNTS)


def _order(words: Mapping[str, Any], dtype: str, tokens: float) -> trainings.Order:
    return trainings.Order(
        models.parse(str(words["model"])),
        tokens,
        words.get("seq") or 2048,
        words.get("batch") or 0,
        dtype,
        words.get("stack") or "",
        {name: words[name] for name in LAYOUT if words.get(name) is not None},
        _terms(words),
        _limits(words),
        bool(words.get("lora")),
    )


def missed(words: Mapping[str, Any], path: Path, explain: bool = False) -> dict[str, Any]:
    """Hold measured runs against their plans; a run's own columns stand before the command's words.

    Raises:
        UsageError: a run cannot be planned for; tells its line.
        DataError: the table cannot be read.
    """
    found: list[misses.Miss] = []
    for line, run in enumerate(misses.read_runs(path), misses.first_line(path)):
        if not misses.is_measured(run):
            continue
        told = {**words, **run}
        try:
            chip, count = _one_chip(told), _counts(told.get("count"))
            order = _order(told, told.get("dtype") or "bf16", 1.0)
            _check_fixed(order, count)
            found += misses.misses_of(order, chip, (count or _counts_of(order.fixed) or [1])[0], run)
        except UsageError as error:
            raise UsageError(f"{path}, line {line}: {error}") from error
    terms = {"terms": misses.explained(found)} if explain else {}
    return {"kind": "misses", "model": words["model"], "runs": [one.to_json() for one in found], **terms}


def _one_chip(words: Mapping[str, Any]) -> Chip:
    named = words.get("on")
    names = [named] if isinstance(named, str) else list(named or ())
    if len(names) != 1:
        raise UsageError("which chip did it run on? a column `on`, or --on with one chip")
    return chips.load(names[0])


def only(words: Mapping[str, Any], others: Sequence[str], what: str) -> None:
    """Raise UsageError where words were given that mean nothing here."""
    given = [f"--{name.replace('_', '-')}" for name in others if words.get(name) is not None]
    if given:
        raise UsageError(f"{' and '.join(given)} do not apply to {what}")


def _counts_of(fixed: Mapping[str, Any]) -> list[int]:
    """Return the numbers of chips that a layout with fixed replicas can have."""
    if "dp" not in fixed:
        return []
    whole = fixed["dp"] * fixed.get("cp", 1)
    shares, stages = ([fixed[name]] if name in fixed else [1, 2, 4, 8, 16] for name in ("tp", "pp"))
    return sorted({whole * tp * pp for tp in shares for pp in stages})


def _check_fixed(order: trainings.Order, counts: Sequence[int]) -> None:
    """Raise UsageError with the rules that degrees break which are all fixed, whatever the others are."""
    fixed = order.fixed
    needed = math.prod(fixed.get(name, 1) for name in ("tp", "pp", "cp"))
    if counts and all(count % needed for count in counts):
        raise UsageError(f"tp x pp x cp = {needed} does not divide --count {', '.join(map(str, counts))}")
    numbers = {name: fixed.get(name, 1) for name in ("tp", "pp", "dp", "cp", "ep", "micro_batch", "interleave")}
    zero = fixed.get("zero", 3 if "shard" in fixed else 1)
    layout = Layout(**numbers, zero=zero, shard=fixed.get("shard", 0), recompute=fixed.get("recompute", "none"))
    batches = {order.on(count).sequences for count in counts or _counts_of(fixed)} or {order.sequences}
    broken = [
        [text for degrees, text in layout.rules(order.arch, batch) if degrees <= fixed.keys()] for batch in batches
    ]
    if all(broken):
        raise UsageError("; ".join(broken[0]))


def serve(words: Mapping[str, Any]) -> dict[str, Any]:
    """Plan how to serve a model; words: the command's, see `trimtab plan serve --help`.

    Raises:
        UsageError: something cannot be read, or no way keeps the limits.
    """
    only(words, (*(name for name in LAYOUT if name != "tp"), *TRAINING_WORDS), "serving")
    order = ServeOrder(
        models.parse(str(words["model"])),
        words.get("prompt") or 1024,
        words.get("output") or 256,
        words.get("dtype") or "bf16",
        units.seconds(words["ttft"]) if words.get("ttft") else None,
        units.seconds(words["tpot"]) if words.get("tpot") else None,
        words.get("batch") or 0,
        words.get("tp") or 0,
        _terms(words),
    )
    return plan_serving(order, _shelf(words.get("on")))


def choose(words: Mapping[str, Any]) -> dict[str, Any]:
    """Plan a training where tokens or samples were given, else serving.

    Raises:
        UsageError: as `train` and `serve`, or words of the one were given for the other.
    """
    if not words.get("tokens") and not words.get("samples"):
        return serve(words)
    only(words, SERVING_WORDS, "a training; leave --tokens and --samples out to plan serving")
    return train(words)


def forecast(path: Path, compute: float | None = None) -> dict[str, Any]:
    """Fit a scaling law to a table of runs, and tell what a compute budget is best spent on.

    Raises:
        DataError: the table cannot be read, lacks a column, or has too few runs.
    """
    runs = _runs(path)
    try:
        found = scaling.forecast(*runs.T)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    largest = int(np.argmax(runs[:, 0] * runs[:, 1]))
    operations = compute or 10 * scaling.PER_OPERATION * float(runs[largest, 0] * runs[largest, 1])
    size, tokens = found.law.best(operations)
    low, high = found.interval(size, tokens)
    return {
        "runs": [dict(zip(("parameters", "tokens", "loss"), map(float, row), strict=True)) for row in runs],
        "law": {name: getattr(found.law, name) for name in ("E", "A", "alpha", "B", "beta")},
        "fitted_on": found.runs,
        "left_out": list(found.left_out),
        "unidentified": list(found.unidentified),
        "compute": operations,
        "best": {"parameters": size, "tokens": tokens, "loss": found.law.loss(size, tokens)},
        "interval": {"parameters": found.best_interval(operations), "loss": (low, high), "confidence": 0.9},
        "marginal": found.law.marginal(size, tokens),
        "curve": _curve(found, operations, runs),
    }


def _curve(found: scaling.Forecast, operations: float, runs: Any) -> list[dict[str, float]]:
    """Return the loss of the best model by compute, from the least run to the budget."""
    least = scaling.PER_OPERATION * float((runs[:, 0] * runs[:, 1]).min())
    curve = []
    for spent in np.geomspace(least, max(operations, 2 * least), 25):
        best = found.law.best(float(spent))
        low, high = found.interval(*best)
        curve.append({"compute": float(spent), "loss": found.law.loss(*best), "low": low, "high": high})
    return curve


def _runs(path: Path) -> Any:
    rows = read_rows(path)
    columns = {name.strip().lower(): name for name in (rows[0] if rows else {}) if name}
    named = {want: next((columns[one] for one in known if one in columns), None) for want, known in ALIASES.items()}
    missing = [want for want, name in named.items() if name is None]
    if missing:
        raise DataError(f"{path} lacks the column {missing[0]}; it has {', '.join(columns) or 'no rows'}")
    values = []
    for line, row in enumerate(rows, 2):
        try:
            values.append([float(row[str(name)]) for name in named.values()])
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}, line {line}: {error}") from error
    return np.array(values).reshape(-1, len(named))


def _net(text: str) -> nets.Work | None:
    if text in nets.NETS:
        return nets.NETS[text]
    if not text.startswith("onnx:"):
        return None
    path = Path(text[5:])
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # onnx raises whatever its parser does
        raise DataError(f"{path} cannot be read as an ONNX model: {error}") from error
    facts = onnx_facts.facts(model)
    numbers, layers = onnx_facts.activations(model)
    return nets.Work(path.stem, 2.0 * facts.operations, float(numbers), float(facts.parameters), layers)


def _needed(words: Mapping[str, Any], name: str, example: str) -> str:
    value = words.get(name)
    if not value:
        raise UsageError(f"how much is to be trained on? give --{name} {example}")
    return str(value)


def _shelf(names: Sequence[str] | None) -> list[Chip]:
    """Return the chips of these names, or all."""
    wanted = [one for name in names or () for one in name.split(",")]
    return [chips.load(name) for name in wanted or chips.names()]


def _counts(text: str | None) -> list[int]:
    if not text:
        return []
    try:
        found = [int(one) for one in str(text).split(",")]
    except ValueError:
        raise UsageError(f"--count takes whole numbers such as 8 or 64,128, got {text!r}") from None
    if min(found) < 1:
        raise UsageError(f"--count is from 1 on, got {text!r}")
    return found


def _terms(words: Mapping[str, Any]) -> Terms:
    return Terms.of(words.get("region") or WORLD, bool(words.get("spot")), words.get("price"))


def _limits(words: Mapping[str, Any]) -> Limits:
    budget = units.usd(words["budget"]) if words.get("budget") else None
    return Limits(budget, units.seconds(words["deadline"]) if words.get("deadline") else None)

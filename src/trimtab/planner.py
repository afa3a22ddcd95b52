"""Plans for models that are opened: nets of one's own on any chip, and steps of them on this machine (`--on here`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab import machines
from trimtab.calibrate import opened, steps_of, torch_release
from trimtab.errors import DataError, UsageError
from trimtab.maths.cost import JOULES_PER_KWH, energy_j, modelled_power_w, money_usd
from trimtab.maths.pareto import frontier
from trimtab.plan import host, units, verbs
from trimtab.plan.carbon import WORLD
from trimtab.plan.costs import Terms
from trimtab.plan.host import Profile, Steps
from trimtab.plan.memory import GIB
from trimtab.plan.nets import Work
from trimtab.values.figure import Figure
from trimtab.values.machine import HERE, Machine
from trimtab.values.tab import Tab

OPENED = ("zoo:", "torch:", "keras:")
"""Sources whose nets are opened to be planned for; `hf:` too, where a task is given."""
HERE_BATCH = {"train": 16, "infer": 1}
MOST_PARTS = 8
ONLY_HERE = (
    *("count", "budget", "deadline", "stack", "lora", "spot", "dtype", "tokens", "seq"),
    *("prompt", "output", "ttft", "tpot"),
)
"""Words that mean nothing for one net on one machine."""


def train(words: Mapping[str, Any]) -> dict[str, Any]:
    """Plan a training: of a named transformer, or of a net that is opened; see `trimtab plan train --help`.

    Raises:
        UsageError: something cannot be read, contradicts itself, or cannot be kept; says what would.
    """
    if _is_here(words):
        return on_here(words, "train")
    if _is_opened(words):
        return verbs.train(words, _work(words))
    _check_unopened(words)
    return verbs.train(words)


def serve(words: Mapping[str, Any]) -> dict[str, Any]:
    """Plan how to serve: a named transformer on any chip, or a net on this machine."""
    if _is_here(words):
        return on_here(words, "infer")
    if _is_opened(words):
        raise UsageError(f"how {words['model']} answers is planned for this machine only: --on here")
    _check_unopened(words)
    return verbs.serve(words)


def choose(words: Mapping[str, Any]) -> dict[str, Any]:
    """Plan a training where tokens or samples were given, else serving."""
    if _is_opened(words) or _is_here(words):
        return train(words) if words.get("samples") or words.get("tokens") else serve(words)
    _check_unopened(words)
    return verbs.choose(words)


def missed(words: Mapping[str, Any]) -> dict[str, Any]:
    """Hold the runs of --measured against their plans."""
    _check_unopened(words)
    verbs.only(words, ("page", "out"), "--measured, which is shown and printed with --json")
    return verbs.missed(words, words["measured"], bool(words.get("explain_miss")))


def write_tab(document: Mapping[str, Any], folder: Path) -> None:
    """Append every figure of a document's plans to a run folder's tab, one record a plan."""
    with Tab.open(folder) as tab:
        for plan in document["plans"]:
            about = {"model": document["model"], "what": document["kind"]}
            tab.append("planned", **about, **{key: plan[key] for key in ("chip", "count", "layout", "figures")})


def on_here(words: Mapping[str, Any], phase: str) -> dict[str, Any]:
    """Plan a step of a net on this machine, with one thread and with all; the net runs three steps, none is timed.

    Raises:
        UsageError: the machine was not calibrated, the model is no net that can be opened, or words do not apply.
    """
    if list(words["on"]) != [HERE]:
        raise UsageError("--on here stands alone: other chips have other figures")
    verbs.only(words, (*verbs.LAYOUT, *ONLY_HERE), "a net on this machine")
    if not _is_opened(words):
        raise UsageError(f"{words['model']} is no net that can be opened here: give zoo:, torch:, keras: or hf: --task")
    machine = machines.here()
    profile = host.load(machine, torch_release())
    batch = words.get("batch") or HERE_BATCH[phase]
    net, view = opened(str(words["model"]), _task(words))
    steps = steps_of(net, view, phase, batch)
    samples = units.count(words["samples"]) if words.get("samples") else 0.0
    terms = Terms.of(words.get("region") or WORLD, usd_per_hour=words.get("price"))
    plans = [
        _plan((profile, machine, terms), steps, phase, (batch, int(threads), samples)) for threads in profile.times
    ]
    points = [[one["figures"]["step_ms"]["value"], one["figures"]["energy_j"]["value"]] for one in plans]
    return {
        "kind": "step",
        "phase": phase,
        "model": words["model"],
        "parameters": sum(each.numel() for each in net.parameters()),
        "batch": batch,
        "place": terms.told,
        "calibrated": profile.date,
        "plans": plans,
        "pareto": sorted(map(int, frontier(points, ["min", "min"]))),
        "rejected": [],
    }


def _plan(
    around: tuple[Profile, Machine, Terms], steps: Steps, phase: str, sizes: tuple[int, int, float]
) -> dict[str, Any]:
    """Return the plan of a step; sizes: batch, threads, samples of the whole run."""
    profile, machine, terms = around
    batch, threads, samples = sizes
    seconds = profile.seconds(steps, phase, threads)
    ends = profile.interval(seconds, phase)
    conditions = {"confidence": 0.9, "timed_share": profile.timed_share(steps, threads), "threads": threads}

    def told(name: str, value: float, low: float, high: float, unit: str) -> Figure:
        return Figure(name, value, unit, low, high, origin="predicted", conditions=conditions)

    def times(name: str, factor: float, unit: str) -> Figure:
        return told(name, seconds * factor, ends[0] * factor, ends[1] * factor, unit)

    watts = modelled_power_w(machine.idle_w, machine.full_w, min(1.0, threads / machine.cores))
    price = machine.usd_per_hour if terms.usd_per_hour is None else terms.usd_per_hour
    rate = told("samples_per_s", batch / seconds, batch / ends[1], batch / ends[0], "1/s")
    held = profile.bytes(steps, phase) / GIB
    memory = told("memory_gib", held, *profile.memory_interval(held, phase), "GiB")
    figures = [times("step_ms", 1e3, "ms"), rate, memory, times("energy_j", energy_j(watts, 1.0), "J")]
    if samples:
        count = samples / batch
        kwh = energy_j(watts, count) / JOULES_PER_KWH
        figures += [
            times("hours", count / 3600, "h"),
            times("money_usd", money_usd(count, price), "USD"),
            times("energy_kwh", kwh, "kWh"),
            times("co2_kg", kwh * terms.place.g_per_kwh / 1e3, "kg"),
        ]
    return {
        "chip": HERE,
        "count": 1,
        "layout": f"threads={threads} batch={batch}",
        "figures": {figure.name: figure.to_json() for figure in figures},
        "time_parts": _parts(profile, steps, phase, threads),
        "memory_parts": {
            "libraries": profile.base_bytes[phase] / GIB,
            "weights and their state": profile.held[phase] * steps.resident / GIB,
            "made in a step": profile.held[phase] * steps.peak / GIB,
        },
    }


def _parts(profile: Profile, steps: Steps, phase: str, threads: int) -> dict[str, float]:
    """Return shares of a step's time: kinds of operators, the largest first, and what they do not show."""
    costs = profile.costs[f"{phase}-{threads}"]
    parts: Counter[str] = Counter()
    for name, seconds in profile.alone(steps, threads).items():
        parts[host.operator_of(name).split(".")[1]] += seconds  # type: ignore[assignment]
    shown = dict(parts.most_common(MOST_PARTS))
    shown["other operators"] = sum(parts.values()) - sum(shown.values())
    shown["calls"] = costs.step + costs.calls(steps)  # type: ignore[assignment]
    shown["new memory"] = costs.byte * steps.allocated  # type: ignore[assignment]
    known = {name: max(0.0, value) for name, value in shown.items()}
    return {name: value / sum(known.values()) for name, value in known.items() if value}


def _is_here(words: Mapping[str, Any]) -> bool:
    return HERE in (words.get("on") or ())


def _is_opened(words: Mapping[str, Any]) -> bool:
    model = str(words["model"])
    return model.startswith(OPENED) or (model.startswith("hf:") and bool(words.get("task")))


def _check_unopened(words: Mapping[str, Any]) -> None:
    """Raise UsageError where a task was given that nothing would run on."""
    verbs.only(words, ("task",), f"{words['model']}, which is not opened")


def _task(words: Mapping[str, Any]) -> str:
    if not words.get("task"):
        raise DataError(f"{words['model']} needs examples to be seen at work: --task mnist5k, or one's own data")
    return str(words["task"])


def _work(words: Mapping[str, Any]) -> Work:
    """Return what one sample takes, read off the net at work."""
    from trimtab.fit.facts import written
    from trimtab.fit.module import arguments, example

    net, view = opened(str(words["model"]), _task(words))
    model, batch = net.model, example(view, 1)
    met = net.met(batch)
    numbers, layers, operations = 0, 0, 0.0
    for name, part in model.parts.items():
        if name in met:
            module = net.parts[net.names.index(name)]
            more, count = written(module, arguments(met[name], part.signature))
            numbers, layers = numbers + more, layers + count
            operations += 2.0 * part.facts.operations * part.facts.calls
    parameters = sum(each.numel() for each in net.parameters())
    return Work(str(words["model"]).partition("|")[0].strip(), operations, float(numbers), float(parameters), layers)

"""The verb `calibrate`: measures this machine, so that `plan ... --on here` can tell what steps of nets take on it.

Every net runs in a process of its own, which times each operator alone and then whole steps; a further process for
each net and phase shows the memory that it takes from the system. Nothing else should run meanwhile.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from trimtab import machines
from trimtab.apply import Workshop, set_quiet_threads
from trimtab.errors import DataError, SessionError
from trimtab.plan import host
from trimtab.plan.host import Check, Profile, Steps
from trimtab.run.worker import die_with, status_bytes
from trimtab.tasks import open_task
from trimtab.values.store import Store, make_folder, write_atomically

PHASES = ("train", "infer")
SECONDS = 1.5
"""For a whole step."""
SHAPES = {"images": (1, 28, 28), "pictures": (3, 64, 64), "sequences": (24, 12)}
"""Of the made-up examples that the suite's nets take."""
SUITE = (
    ("zoo:resnet", "images"),
    ("zoo:vgg", "images"),
    ("zoo:efficientnet_lite0", "pictures"),
    ("zoo:lstm", "sequences"),
    ("zoo:gru", "sequences"),
    ("zoo:transformer", "sequences"),
    ("zoo:resnet(width=24)", "images"),
    ("zoo:vgg(width=64)", "images"),
    ("zoo:lstm(width=256, depth=2)", "sequences"),
    ("zoo:transformer(width=128)", "sequences"),
)
"""Nets that are run, and what they take."""
SMALLEST = ("zoo:mlp(width=8, depth=1)", "images")
"""What is left of its memory is the libraries'."""
BATCHES = {"train": (16,), "infer": (1, 16)}
EXAMPLES, CLASSES = 200, 10
Tell = Callable[[str, float], None]


@dataclass(frozen=True)
class Order:
    """A net and what is to be measured of it, as a process of its own is told."""

    model: str
    task: str
    batches: Mapping[str, tuple[int, ...]]
    threads: int = 1
    phase: str = ""
    """Whose memory is wanted."""
    effort: float = 1.0
    """Of the usual time that a measurement takes."""


@dataclass(frozen=True)
class Measured:
    """One step of one net, whole."""

    model: str
    phase: str
    batch: int
    steps: Steps
    seconds: float
    memory: float
    """Bytes that its process took, at most."""


@dataclass
class Begun:
    """What was measured so far, also on disk: a calibration that was stopped goes on from there on the same day."""

    profile: Profile
    scratch: str
    """The folder of made-up examples, another in every run."""
    known: dict[str, list[Measured]] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Its file."""
        return host.path_of(self.profile.cpu, self.profile.cores).with_suffix(".part.json")

    @classmethod
    def open(cls, fresh: Profile, scratch: str) -> Begun:
        """Return what was begun today with this release of torch, or a fresh profile."""
        begun = cls(fresh, scratch)
        try:
            data = json.loads(begun.path.read_text())
            profile = Profile.from_json(data["profile"])
            known = {key: [_measured_from(one) for one in each] for key, each in data["measured"].items()}
        except (OSError, *host.DAMAGED):
            return begun
        same = (profile.torch, profile.date) == (fresh.torch, fresh.date)
        profile.checks = []  # they are made anew, from all that is known
        return cls(profile, scratch, known) if same else begun

    def measured(self, order: Order) -> list[Measured]:
        """Return the steps of a net, measured now if they were not yet; one's own net may have changed since."""
        if self.scratch not in order.task:
            return list(_measured(order, self.profile))
        key = repr(order).replace(self.scratch, "")
        if key not in self.known:
            self.known[key] = list(_measured(order, self.profile))
            measured = {key: [asdict(one) for one in each] for key, each in self.known.items()}
            make_folder(self.path.parent)
            write_atomically(self.path, json.dumps({"profile": self.profile.to_json(), "measured": measured}))
        return self.known[key]


def _measured_from(data: dict[str, Any]) -> Measured:
    return Measured(**{**data, "steps": Steps(**data["steps"])})


def calibrate(
    models: Sequence[str] = (), task: str = "", batch: int = 16, tell: Tell = lambda *_: None, effort: float = 1.0
) -> dict[str, Any]:
    """Measure this machine with the suite's nets, and with one's own; return the document.

    Less effort than 1 takes less time, and tells less well. Stopped, it goes on where it was on the same day.

    Raises:
        DataError: a model of one's own without a task, or one that does not fit it.
        SessionError: a process was killed.
    """
    if models and not task:
        raise DataError(f"{models[0]} needs examples to run on: --task TASK")
    set_quiet_threads()
    machine = machines.here()
    with tempfile.TemporaryDirectory() as scratch:
        tasks = made_up(Path(scratch))
        batches = dict.fromkeys(PHASES, (batch,))
        orders = [Order(model, task, batches, effort=effort) for model in models]  # first: they may not open
        orders += [Order(net, tasks[kind], BATCHES, effort=effort) for net, kind in SUITE]
        begun = Begun.open(Profile(machine.cpu, machine.cores, torch_release(), date.today().isoformat()), scratch)
        profile = begun.profile
        profile.base_bytes = profile.base_bytes or _base(Order(SMALLEST[0], tasks[SMALLEST[1]], BATCHES))
        threads = sorted({1, machine.cores})
        whole = len(orders) * len(threads)
        for place, count in enumerate(threads):
            measured: list[Measured] = []
            for number, order in enumerate(orders):
                tell(f"measuring {order.model}, {count} threads", (place * len(orders) + number) / whole)
                measured += begun.measured(replace(order, threads=count))
            _settle(profile, measured, count)
    path = host.save(profile)
    begun.path.unlink(missing_ok=True)
    return told(profile) | {"profile": str(path)}


def torch_release() -> str:
    """Return the release of torch that is installed; empty where none is."""
    return machines.versions().get("torch", "")


def told(profile: Profile) -> dict[str, Any]:
    """Return what a profile says, without the operators."""
    checks = [asdict(one) | {"error": one.predicted_s / one.measured_s - 1} for one in profile.checks]
    return {
        "cpu": profile.cpu,
        "cores": profile.cores,
        "torch": profile.torch,
        "date": profile.date,
        "operators": {threads: len(times) for threads, times in profile.times.items()},
        "costs": {key: asdict(costs) for key, costs in profile.costs.items()},
        "checks": checks,
    }


def opened(model: str, task: str, seed: int = 0) -> tuple[Any, Any]:
    """Return a model's net and the view of its task.

    Raises:
        DataError: the model cannot be opened on the task, or is no torch model.
    """
    shop = Workshop(open_task(task), Store(), machines.here(), seed=seed)
    made = shop.open(model)
    if made.model.format != "torch":
        raise DataError(f"{model} is a {made.model.format} model; steps are told of torch models (zoo:, torch:, hf:)")
    from trimtab.fit.program import Net

    return Net.load(made.model, editable=True), shop.view


def steps_of(net: Any, view: Any, phase: str, batch: int, timed_into: dict[str, float] | None = None) -> Steps:
    """Return what a step does, by running three: the first ones set up what later ones find."""
    from trimtab.fit.steps import step_of
    from trimtab.fit.tape import recorded

    step = step_of(phase, net, view, batch)
    step()
    step()
    tape = recorded(step, net, timed_into)
    weights = sum(each.numel() * each.element_size() for each in net.parameters())
    others = sum(each.numel() * each.element_size() for each in net.buffers())
    copies = 4 if phase == "train" else 1  # weights, gradients and both of Adam's moments
    return Steps(dict(tape.counts), tape.work, tape.modules, tape.allocated, tape.peak, copies * weights + others)


def _measured(order: Order, profile: Profile) -> Iterator[Measured]:
    """Measure a net, its operators into the profile; its memory once, with one thread and the largest batch."""
    found = apart(timed, order, profile.times.get(str(order.threads), {}))
    profile.times[str(order.threads)] = found["times"]
    memory = _memory(order) if order.threads == 1 else {}
    for phase, batch, steps, seconds in found["steps"]:
        profile.work.update(steps.work)
        largest = batch == max(order.batches[phase])
        yield Measured(order.model, phase, batch, steps, seconds, memory.get(phase, 0.0) if largest else 0.0)


def _memory(order: Order) -> dict[str, float]:
    return {phase: apart(memory_of, replace(order, phase=phase)) for phase in order.batches}


def _base(order: Order) -> dict[str, float]:
    """Return the memory of a process by phase; the net is made before, in another."""
    apart(memory_of, replace(order, phase="infer"))
    return _memory(order)


def _settle(profile: Profile, measured: Sequence[Measured], threads: int) -> None:
    """Fit the costs of each phase, and hold each net against costs that the others were fitted on."""
    for phase in PHASES:
        own = [one for one in measured if one.phase == phase]
        for model in dict.fromkeys(one.model for one in own):
            _fit(profile, [one for one in own if one.model != model], phase, threads)
            profile.checks += [_check(profile, one, threads) for one in own if one.model == model]
        _fit(profile, own, phase, threads)


def _fit(profile: Profile, measured: Sequence[Measured], phase: str, threads: int) -> None:
    profile.costs[f"{phase}-{threads}"] = host.fitted([(one.steps, one.seconds) for one in measured], profile, threads)
    held = [(one.steps, one.memory) for one in measured if one.memory]
    if held:
        profile.held[phase] = host.held_share(held, profile.base_bytes[phase])


def _check(profile: Profile, one: Measured, threads: int) -> Check:
    seconds, memory = profile.seconds(one.steps, one.phase, threads), profile.bytes(one.steps, one.phase)
    return Check(one.model, one.phase, one.batch, threads, one.seconds, seconds, one.memory, memory)


def made_up(folder: Path) -> dict[str, str]:
    """Write examples of noise, and return the tasks that read them."""
    random, found = np.random.default_rng(0), {}
    targets = np.arange(EXAMPLES) % CLASSES
    for name, shape in SHAPES.items():
        path = folder / f"{name}.npz"
        arrays = {"x": random.standard_normal((EXAMPLES, *shape)).astype(np.float32), "target": targets}
        np.savez(path, **arrays)  # type: ignore[arg-type]
        found[name] = f"arrays:{path}"
    return found


def apart(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call in a fresh process, so that threads, memory and libraries are only its own; it ends with this one."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=die_with, initargs=(os.getpid(),)) as pool:
        try:
            return pool.submit(call, *arguments).result()
        except BrokenProcessPool as error:
            raise SessionError(f"a measuring process was killed, perhaps for its memory: {error}") from error


def timed(order: Order, times: dict[str, float]) -> dict[str, Any]:
    """Time the steps of a net and their operators; called in a process of its own."""
    net, view = opened(order.model, order.task)
    from trimtab.fit.steps import step_of, use_threads
    from trimtab.fit.tape import steady_s

    use_threads(order.threads)
    found = []
    for phase, batches in order.batches.items():
        for batch in batches:
            seconds = steady_s(step_of(phase, net, view, batch), SECONDS * order.effort)
            found.append((phase, batch, steps_of(net, view, phase, batch, times), seconds))
    return {"times": times, "steps": found}


def memory_of(order: Order) -> float:
    """Return the bytes that this process took at most for a few steps; called in a process of its own."""
    net, view = opened(order.model, order.task)
    from trimtab.fit.steps import step_of, use_threads

    use_threads(order.threads)
    step = step_of(order.phase, net, view, max(order.batches[order.phase]))
    for _ in range(3):
        step()
    return float(status_bytes("VmHWM"))

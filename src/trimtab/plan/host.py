"""What this machine was measured to do, and what a step of a net will take on it: `trimtab calibrate` and `--on here`.

A step is its operators, each timed alone once (as Zhu et al. 2020, Daydream, USENIX ATC, section 4, and Yu et al. 2021,
Habitat, do on accelerators), and costs that operators alone do not show: of the step itself, of each operator's
bookkeeping, of each module's call, and of each new byte, whose pages the system hands out. They are fitted to whole
steps of the nets that the calibration ran. An operator of a shape that was not timed is scaled from the nearest of its
kind.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from trimtab.errors import CorruptFile, UsageError
from trimtab.values.machine import Machine
from trimtab.values.store import default_root, make_folder, write_atomically

VERSION = 1
DAMAGED = (AttributeError, KeyError, TypeError, ValueError)
"""What reading a profile raises where it is none."""
LEAST_S = 1e-9
LEAST_SHARE = 0.25
"""Of what its operators take alone, a step takes at least, however little each saves within others."""
FEW_BYTES = 1e4
"""Up to which an operator's time says nothing of bytes."""
MOST_HELD = 3.0
MOST_SAVED_S = 5e-6
"""Of an operator that runs within another, at most: alone it was called from Python."""


@dataclass(frozen=True)
class Steps:
    """What one step of a net does, as `trimtab.fit.tape` records it."""

    counts: Mapping[str, int]
    """Operator -> how often it runs."""
    work: Mapping[str, Sequence[float]]
    """Operator -> (additions and multiplications, bytes read and written)."""
    modules: int
    allocated: float
    """Bytes of all that is made."""
    peak: float
    """Bytes of what is made that live at once, at most."""
    resident: float
    """Bytes of weights, and in training of gradients and the optimizer's state."""

    @property
    def operators(self) -> int:
        """How many run."""
        return sum(self.counts.values())

    @property
    def operations(self) -> float:
        """Additions and multiplications."""
        return sum(count * self.work[name][0] for name, count in self.counts.items())


@dataclass(frozen=True)
class Check:
    """A whole step that was measured, beside what the others let expect of it."""

    model: str
    phase: str
    batch: int
    threads: int
    measured_s: float
    predicted_s: float
    measured_bytes: float
    predicted_bytes: float


@dataclass(frozen=True)
class Costs:
    """Seconds that operators alone do not show; never negative but for an operator's, which alone is called anew."""

    step: float
    operator: float
    module: float
    byte: float

    def of(self, steps: Steps) -> float:
        """Return their sum over a step."""
        return self.step + self.calls(steps) + self.byte * steps.allocated

    def calls(self, steps: Steps) -> float:
        """Return what calls of operators and modules take."""
        return self.operator * steps.operators + self.module * steps.modules


@dataclass
class Profile:
    """What a machine was measured to do."""

    cpu: str
    cores: int
    torch: str
    date: str
    times: dict[str, dict[str, float]] = field(default_factory=dict)
    """Threads -> operator -> seconds alone."""
    work: dict[str, Sequence[float]] = field(default_factory=dict)
    """Operator -> (additions and multiplications, bytes read and written)."""
    costs: dict[str, Costs] = field(default_factory=dict)
    """`PHASE-THREADS` -> costs."""
    base_bytes: dict[str, float] = field(default_factory=dict)
    """Phase -> bytes of a process that has loaded its libraries and runs a net of no size."""
    held: dict[str, float] = field(default_factory=dict)
    """Phase -> bytes that the system hands out for each byte that is held at once."""
    checks: list[Check] = field(default_factory=list)

    def seconds(self, steps: Steps, phase: str, threads: int) -> float:
        """Return the time of a step."""
        alone = sum(self.alone(steps, threads).values())
        return max(LEAST_SHARE * alone, LEAST_S, alone + self.costs[f"{phase}-{threads}"].of(steps))

    def bytes(self, steps: Steps, phase: str) -> float:
        """Return the memory of a process that runs such steps, at most."""
        return self.base_bytes[phase] + self.held[phase] * (steps.resident + steps.peak)

    def timed_share(self, steps: Steps, threads: int) -> float:
        """Return the share of a step's time alone that is of operators which were timed as they are."""
        parts = self.alone(steps, threads)
        known = sum(part for name, part in parts.items() if name in self.times[str(threads)])
        return known / max(sum(parts.values()), LEAST_S)

    def alone(self, steps: Steps, threads: int) -> dict[str, float]:
        """Return the time of each operator of a step, all its runs, without what it takes to call any."""
        times = self.times[str(threads)]
        call = min(times.values(), default=0.0)
        net = {name: max(0.0, seconds - call) for name, seconds in times.items()}
        return {
            name: count * (net[name] if name in net else self._scaled(name, steps.work[name], net))
            for name, count in steps.counts.items()
        }

    def _scaled(self, name: str, work: Sequence[float], net: Mapping[str, float]) -> float:
        """Return the time of an operator that was not timed, from the nearest of its kind; else from its bytes."""
        alike = (other for other in net if operator_of(other) == operator_of(name))
        near = min(alike, key=lambda other: _distance(self.work[other], work), default=None)
        if near is None:
            rates = [seconds / self.work[other][1] for other, seconds in net.items() if self.work[other][1] > FEW_BYTES]
            return work[1] * float(np.median(rates)) if rates else 0.0
        known = self.work[near]
        ratio = work[0] / known[0] if known[0] and work[0] else work[1] / max(known[1], 1.0)
        return net[near] * ratio

    def interval(self, value: float, phase: str) -> tuple[float, float]:
        """Return the 90% interval of a predicted time, from what the calibration's own nets were off."""
        off = [one.measured_s / one.predicted_s for one in self.checks if one.phase == phase and one.predicted_s]
        return _around(value, off)

    def memory_interval(self, value: float, phase: str) -> tuple[float, float]:
        """Return the 90% interval of a predicted memory, likewise; memory was measured of some checks only."""
        held = [one for one in self.checks if one.phase == phase and one.measured_bytes]
        return _around(value, [one.measured_bytes / one.predicted_bytes for one in held])

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Profile:
        """Read what `to_json` wrote; raises one of `DAMAGED` for anything else."""
        if data.pop("version") != VERSION:
            raise ValueError("of another version of trimtab")
        data["costs"] = {key: Costs(**each) for key, each in data["costs"].items()}
        data["checks"] = [Check(**each) for each in data["checks"]]
        return cls(**data)


def _around(value: float, ratios: Sequence[float]) -> tuple[float, float]:
    """Return the interval of a value from ratios measured / predicted; without any, from half to twice of it."""
    if not ratios:
        return 0.5 * value, 2.0 * value
    low, high = np.quantile(ratios, (0.05, 0.95))
    return value * min(1.0, float(low)), value * max(1.0, float(high))


def operator_of(name: str) -> str:
    """Return which operator it is, whatever the shapes.

    >>> operator_of("aten.mul.Tensor(float32[2, 3], float)")
    'aten.mul.Tensor'
    """
    return name.partition("(")[0]


def _distance(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(abs(math.log((a + 1.0) / (b + 1.0))) for a, b in zip(one, other, strict=True))


def fitted(measured: Iterable[tuple[Steps, float]], profile: Profile, threads: int) -> Costs:
    """Return the costs that let whole steps (steps, seconds) be told from their operators, by relative least squares.

    Lawson and Hanson 1974, chapter 23: least squares whose solution is not negative.
    """
    rows, rest = [], []
    for steps, seconds in measured:
        alone = sum(profile.alone(steps, threads).values())
        rows.append([1 / seconds, steps.operators / seconds, steps.modules / seconds, steps.allocated / seconds])
        rest.append((seconds - alone + MOST_SAVED_S * steps.operators) / seconds)
    scale = np.maximum(np.abs(np.array(rows)).max(axis=0), LEAST_S)
    found, _ = nnls(np.array(rows) / scale, np.array(rest))
    step, operator, module, byte = (float(value) for value in found / scale)
    return Costs(step, operator - MOST_SAVED_S, module, byte)


def held_share(measured: Iterable[tuple[Steps, float]], base: float) -> float:
    """Return the bytes beyond a base that the system hands out for each byte held at once, by least squares.

    Of small nets, which hold little, that says nothing: it is between one and a few.

    `measured`: (steps, bytes of their process).
    """
    pairs = [(steps.resident + steps.peak, taken - base) for steps, taken in measured]
    found = sum(a * b for a, b in pairs) / max(sum(a * a for a, _ in pairs), 1.0)
    return min(MOST_HELD, max(1.0, found))


def path_of(cpu: str, cores: int) -> Path:
    """Return the file of a machine's profile."""
    word = "".join(letter if letter.isalnum() else "-" for letter in f"{cpu}-{cores}".lower())
    return default_root() / "profiles" / f"{word}.json"


def save(profile: Profile) -> Path:
    """Write a profile, in one piece; raises OutputError where that cannot be done."""
    path = path_of(profile.cpu, profile.cores)
    make_folder(path.parent)
    write_atomically(path, json.dumps(profile.to_json()))
    return path


def load(machine: Machine, torch: str) -> Profile:
    """Return the profile of a machine with a release of torch.

    Raises:
        UsageError: it was not calibrated, or with another release.
        CorruptFile: the file cannot be read.
    """
    path = path_of(machine.cpu, machine.cores)
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise UsageError("this machine was not measured yet: `trimtab calibrate` does, in a few minutes") from None
    except (OSError, ValueError) as error:
        raise CorruptFile(f"{path} cannot be read ({error}); `trimtab calibrate` writes it anew") from error
    try:
        found = Profile.from_json(data)
    except DAMAGED as error:
        raise CorruptFile(f"{path} holds no profile ({error}); `trimtab calibrate` writes it anew") from error
    if found.torch != torch:
        raise UsageError(
            f"this machine was measured with torch {found.torch}, here is {torch}: `trimtab calibrate` anew"
        )
    return found

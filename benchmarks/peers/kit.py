"""What every peer's script is given, and how it hands back what it would ship. Runs in the peer's own environment.

    python SCRIPT IN OUT SECONDS [VARIANT]

IN, the same for all peers:

    meta.json         kind of model, task, promise, parts with their signatures, seed
    base/             the base as trimtab keeps it: `base/model.json`, for torch bases the weights and how to build it
    parts/NAME.onnx   the base in ONNX, float
    calibration.npz   what each part was called with on training examples: `NAME/0007/input`, one example a call
    base_rows.npy     the base's score rows on the validation split

OUT gets a folder for each part and `artefact.json`. A tool that cannot do this model raises `Unable` with the reason.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FILES = {"onnx": "model.onnx", "openvino": "model.xml", "torch": "torch.json"}
"""What the folder of a part holds at least, by format."""
EXPORTED = "exported.pt2"
LINE = 300
"""Characters of a reason."""
FEW, ELSEWHERE = 3, "logs above"
"""A message of fewer words says little, and one that points elsewhere does."""
PACKAGES = "site-packages"
SHARE = 0.9
"""Of the time given: where a tool stops by itself, so that what it has is written."""
PROCESSOR = Path("/proc/cpuinfo")
WIDE = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Instruction sets that add products of 8 bits in 32."""


Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""Answers a batch."""


class Unable(Exception):
    """The tool cannot do this model; the message is the reason that stands beside the dash."""


@dataclass(frozen=True)
class Needs:
    """What an artefact needs to be loaded, besides its environment's libraries."""

    imports: Sequence[str] = ()
    """Modules that must be imported before it."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of the process."""


@dataclass
class Job:
    """One model to be made cheaper."""

    given: Path
    out: Path
    seconds: float
    variant: str = ""
    begun: float = field(default_factory=time.monotonic)

    @functools.cached_property
    def meta(self) -> dict[str, Any]:
        """What `meta.json` says."""
        return json.loads((self.given / "meta.json").read_text())

    @property
    def kind(self) -> str:
        """cnn, rnn, transformer, detector or recommender."""
        return self.meta["kind"]

    @property
    def parts(self) -> list[str]:
        """The names of the parts, one in most models."""
        return list(self.meta["parts"])

    @property
    def left(self) -> float:
        """Seconds left, keeping back some for what comes after."""
        return SHARE * self.seconds - (time.monotonic() - self.begun)

    def only(self, what: str) -> str:
        """Return the one part's name; raises Unable where there are several."""
        if len(self.parts) > 1:
            raise Unable(f"{what} takes one network; this model has the parts {', '.join(self.parts)}")
        return self.parts[0]

    def onnx(self, part: str) -> Path:
        """Return the float ONNX file of a part."""
        return self.given / "parts" / f"{part}.onnx"

    def feeds(self, part: str, limit: int = 300) -> list[dict[str, np.ndarray]]:
        """Return what a part was called with, one example a call."""
        found: dict[str, dict[str, np.ndarray]] = {}
        with np.load(self.given / "calibration.npz", allow_pickle=False) as file:
            for key in file.files:
                name, number, tensor = key.split("/", 2)
                if name == part:
                    found.setdefault(number, {})[tensor] = file[key]
        return [found[number] for number in sorted(found)[:limit]]

    def folder(self, part: str) -> Path:
        """Return the folder for a part's files, made."""
        path = self.out / part
        path.mkdir(parents=True, exist_ok=True)
        return path

    def ship(self, form: str, notes: Sequence[str] = (), needs: Needs | None = None, **knobs: Any) -> None:
        """Say what lies in OUT: its format, what was done, what it needs to be loaded, and the knobs used."""
        lacks = [part for part in self.parts if not (self.out / part / FILES[form]).is_file()]
        if lacks:
            raise Unable(f"it wrote no {FILES[form]} for {', '.join(lacks)}")
        about = {"format": form, "notes": list(notes), "needs": asdict(needs or Needs()), "knobs": knobs}
        (self.out / "artefact.json").write_text(json.dumps(about, indent=1, default=str))


def saturates() -> bool:
    """Tell whether products of 8 bits add up in 16 here: x86 with neither VNNI nor AMX."""
    words = frozenset(PROCESSOR.read_text().split()) if PROCESSOR.is_file() else frozenset()
    return "avx" in words and not words & WIDE


@functools.cache
def view(task: str) -> Any:
    """Open the task without its test split, through trimtab: the same data and metrics for every peer."""
    from trimtab.tasks import open_task
    from trimtab.values.task import TaskView

    return TaskView(open_task(task))


class Yardstick:
    """The promise's metric on the validation split, the greater the better, and by how much it may drop."""

    def __init__(self, job: Job) -> None:
        from trimtab.values.promise import Promise

        self.view, promise = view(job.meta["task"]), Promise.parse(job.meta["promises"][0])
        self.metric = promise.check(self.view.task)
        self.sign = 1.0 if self.metric.better == "higher" else -1.0
        self.rows = np.load(job.given / "base_rows.npy", allow_pickle=False)
        both = np.hstack([self.rows, self.rows]) if self.metric.paired else self.rows
        base = float(self.metric.reduce(both, np.ones((1, len(both))))[0])
        self.base = self.sign * base
        self.margin = abs(base - (promise.factor * base + promise.offset))

    def of(self, run: Run, chosen: Sequence[int] = ()) -> float:
        """Return the metric of a model that answers batches, on the whole split or on the chosen examples."""
        return self.each(run, chosen)[0]

    def each(self, run: Run, chosen: Sequence[int] = ()) -> tuple[float, list[float] | None]:
        """Return the metric, and the value of each example where the metric is their mean."""
        examples, task = self.view.split("validation"), self.view.task
        wanted = list(chosen) or list(range(len(examples)))
        batches = [task.collate([examples[i] for i in wanted[at : at + 64]]) for at in range(0, len(wanted), 64)]
        rows = np.concatenate([task.score(run(batch.inputs), batch) for batch in batches])
        both = np.hstack([rows, self.rows[wanted]]) if self.metric.paired else rows
        values = self.metric.values(both)
        value = float(self.metric.reduce(both, np.ones((1, len(rows))))[0])
        return self.sign * value, None if values is None else [self.sign * float(one) for one in values]

    def keeps(self, value: float) -> bool:
        """Whether this is within the margin."""
        return self.base - value <= self.margin


def torch_answers(net: Any, part: Any) -> Run:
    """Return a function that answers batches by a torch module."""
    import torch

    @torch.no_grad()
    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = net(*(torch.from_numpy(inputs[spec.name].copy()) for spec in part.signature.inputs))
        listed = found if isinstance(found, tuple | list) else (found,)
        return {spec.name: value.numpy() for spec, value in zip(part.signature.outputs, listed, strict=True)}

    return run


def torch_base(job: Job, what: str) -> tuple[Any, Any]:
    """Return the base's module in eval mode and its part; raises Unable where the base is no single torch network."""
    from trimtab.fit import module
    from trimtab.values.model import Model

    model = Model.open(job.given / "base")
    if model.format != "torch":
        raise Unable(f"{what} works on torch modules; this model comes as {model.format}")
    job.only(what)
    return module.load(model.main, editable=True), model.main


def export_torch(net: Any, part: Any, job: Job) -> None:
    """Write a torch module as an exported program with free axes, as trimtab keeps modules from elsewhere."""
    import torch

    specs = part.signature.inputs
    dynamic = torch.export.Dim.DYNAMIC
    shapes = tuple({i: dynamic for i, n in enumerate(spec.shape) if isinstance(n, str)} for spec in specs)
    with torch.no_grad():
        program = torch.export.export(net, example(job, specs), dynamic_shapes=shapes)
    folder = job.folder(job.parts[0])
    torch.export.save(program, folder / EXPORTED)
    digest = hashlib.sha256((folder / EXPORTED).read_bytes()).hexdigest()
    build = {"ref": "live:peer", "arguments": {}, "sha256": None}
    about = {"build": build, "edits": [], "tied": {}, "extra": {}, "exported": digest}
    (folder / FILES["torch"]).write_text(json.dumps(about))


def example(job: Job, specs: Sequence[Any]) -> tuple[Any, ...]:
    """Return two training examples as positional tensors."""
    import torch

    batch = next(view(job.meta["task"]).batches("train", 2))
    return tuple(torch.from_numpy(batch.inputs[spec.name].copy()) for spec in specs)


def main(work: Callable[[Job], None]) -> None:
    """Run a peer's script: `work` writes the artefact, or raises."""
    given, out, seconds, *rest = sys.argv[1:]
    job = Job(Path(given), Path(out), float(seconds), *rest)
    job.out.mkdir(parents=True, exist_ok=True)
    try:
        work(job)
    except Unable as reason:
        _give_up(job, str(reason))
    except Exception as error:
        traceback.print_exc()
        _give_up(job, f"it fails with {told(error)}", again=True)


class Heard(logging.Handler):
    """Keeps the first line of the last error that a tool's logger wrote."""

    def __init__(self, logger: str) -> None:
        super().__init__(logging.ERROR)
        self.last = ""
        logging.getLogger(logger).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Take in a record."""
        self.last = record.getMessage().partition("\n")[0]


def told(error: Exception, logged: str = "") -> str:
    """Return an error's kind and message, and where the message says little, the line of the tool that failed.

    In the place of a message that points to the logs stands what was `logged`.
    """
    elsewhere = ELSEWHERE in str(error)
    where = origin(error) if elsewhere or len(str(error).split()) < FEW else ""
    return f"{type(error).__name__}: {(elsewhere and logged) or short(error)}{where and f' ({where})'}"


def origin(error: Exception) -> str:
    """Return file and line of the innermost frame of the tool's own code; empty where none of it was running.

    The tool is the package of the first frame in site-packages: `torch_pruning/pruner/function.py: assert x == 1`.
    """
    frames = [(Path(frame.filename).parts, frame.line) for frame in traceback.extract_tb(error.__traceback__)]
    inside = [(parts[parts.index(PACKAGES) + 1 :], line) for parts, line in frames if PACKAGES in parts]
    own = [f"{'/'.join(parts)}: {line}" for parts, line in inside if parts[0] == inside[0][0][0]]
    return own[-1] if own else ""


def short(error: Exception) -> str:
    """Return an error's message in one line that fits a table."""
    words = " ".join(str(error).split()) or "no message"
    return words if len(words) <= LINE else f"{words[:LINE]}..."


def _give_up(job: Job, reason: str, again: bool = False) -> None:
    """Leave a dash and the reason; `again`: it may pass, so the peer is asked once more next time."""
    (job.out / "artefact.json").write_text(json.dumps({"dash": reason, "again": again}, indent=1))

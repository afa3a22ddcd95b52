"""trimtab in Python: the verbs on the user's own modules and data, in a few lines.

import trimtab

result = trimtab.trim(model, (train_loader, test_loader), "accuracy >= base - 0.01", within="5m")
print(result.verdict, result.recipe)
answer = trimtab.load(result.bundle).predict(images)
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab import machines
from trimtab.apply import Workshop, set_quiet_threads
from trimtab.errors import CorruptFile, UnknownName, UsageError
from trimtab.plan import units
from trimtab.report.page import write_page
from trimtab.report.progress import Live
from trimtab.request import Request
from trimtab.tasks import open_task
from trimtab.trimmer import RESULT_FILE, Progress
from trimtab.trimmer import trim as run_trim
from trimtab.values.registry import missing, registry
from trimtab.values.store import Store, writing
from trimtab.values.tab import TAB_FILE
from trimtab.values.task import Task

REPORT_FILE = "report.html"
SETTINGS = frozenset({"objective", "limits", "on", "tries", "train", "seed", "confidence", "memory_limit_mb"})


@dataclass(frozen=True)
class Result:
    """What a trim run gave; `document` holds everything, as `--json` prints it."""

    document: dict[str, Any]

    @property
    def verdict(self) -> str:
        """PASS, UNDECIDED, INFEASIBLE or BASE."""
        return str(self.document["verdict"])

    @property
    def recipe(self) -> str:
        """The recipe chosen; empty where none is certified."""
        return str(self.document["recipe"])

    @property
    def bundle(self) -> Path | None:
        """The folder that `trimtab.load` opens; None where nothing is certified."""
        return Path(self.document["bundle"]) if self.document["bundle"] else None

    @property
    def report(self) -> Path:
        """The HTML page."""
        return Path(self.document["run"]) / REPORT_FILE


def trim(model: Any, task: Any, promise: str | Sequence[str], out: str | Path = "runs/trim", **settings: Any) -> Result:
    """Find the cheapest model that keeps the promise.

    Args:
        model: text as on the command line, or a `torch.nn.Module`.
        task: text as on the command line, a `Task`, or (train, test) or (train, validation, test) DataLoaders.
        promise: one promise, or several.
        out: the run folder; the same call goes on with an unfinished run in it.
        settings: fields of `Request` (objective, limits, tries, train, seed, confidence), `within` ("5m"),
            `store` and `progress`.

    Raises:
        UsageError: something in the request cannot be right.
    """
    within = parse_duration(str(settings.pop("within", "10m")))
    store, progress = settings.pop("store", None), settings.pop("progress", None)
    for name in settings.keys() - SETTINGS:
        raise UnknownName("setting of trim", name, {*SETTINGS, "within", "store", "progress", "out"})
    settings |= {name: tuple(_texts(settings[name])) for name in ("limits", "tries") if name in settings}
    ready = given_task(task)
    request = Request(
        model=given_model(model),
        task=ready if isinstance(ready, str) else str(ready),
        promises=tuple(_texts(promise)),
        within_s=within,
        **settings,
    )
    return run(request, Path(out), progress, store, None if isinstance(ready, str) else ready)


def _texts(given: str | Sequence[str]) -> Sequence[str]:
    return (given,) if isinstance(given, str) else given


def run(
    request: Request,
    out: Path,
    progress: Progress | None = None,
    store: Store | None = None,
    task: Task | None = None,
) -> Result:
    """Run a request and write its report beside the result."""
    set_quiet_threads()
    document = run_trim(request, out, progress, store, task)
    with writing(out):
        write_page(document, out / REPORT_FILE)
    return Result(document)


def given_model(model: Any) -> str:
    """Return the text of a model: as it is, or `live:KEY` for a module of this process."""
    if isinstance(model, str | Path):
        return str(model)
    try:
        from torch import nn

        from trimtab.fit.module import register_live
    except ModuleNotFoundError as error:
        raise missing(error, "a model in memory") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is a {type(model).__name__}; it takes text such as 'zoo:resnet' or a torch.nn.Module")
    return f"torch:live:{register_live(model)}"


def given_task(task: Any) -> str | Task:
    """Return a task's text, the task itself, or one made of two or three DataLoaders."""
    if isinstance(task, str | Path):
        return str(task)
    if isinstance(task, Task):
        return task
    if isinstance(task, tuple | list) and len(task) in (2, 3):
        train, *validation, test = task
        loaders = registry("tasks").take("loaders")
        ready: Task = loaders(train=train, test=test, validation=validation[0] if validation else None)
        return ready
    raise UsageError(f"task is a {type(task).__name__}; it takes text, a Task, or (train, test) loaders")


def parse_duration(text: str) -> float:
    """Return seconds, which a bare number is too; raises UsageError.

    >>> parse_duration("5m"), parse_duration("90"), parse_duration("1.5h")
    (300.0, 90.0, 5400.0)
    """
    text = text.strip()
    return units.seconds(text if text[-1:].isalpha() else f"{text}s")


def read_result(folder: Path) -> dict[str, Any]:
    """Return a run's result document; raises UsageError where the folder holds no finished run."""
    path = folder / RESULT_FILE
    if not path.is_file():
        hint = "an unfinished run: repeat its command to go on" if (folder / TAB_FILE).is_file() else "no run"
        raise UsageError(f"{folder} holds {hint}; a finished one has {RESULT_FILE}")
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        lacks = {"verdict", "recipe", "candidates", "conditions"} - document.keys()
    except (ValueError, AttributeError) as error:
        raise CorruptFile(f"{path} is not a result: {error}; remove it, and repeat the run's command") from error
    if lacks:
        raise CorruptFile(f"{path} is not a result: it lacks {sorted(lacks)[0]}; remove it, and repeat the command")
    return document


@contextlib.contextmanager
def open_workshop(task: str, on: str, seed: int, trust: bool = False, measures: bool = True) -> Iterator[Workshop]:
    """Open a workshop with the user's store, and progress on stderr.

    `measures`: figures are to be read, so `on` may not name a machine that is only told of.
    """
    machine = machines.measurable(on) if measures else machines.load(on)
    with Live() as progress:
        yield Workshop(
            open_task(task), Store(), machine, seed, machines.here().cores, trust=trust, progress=progress.doing
        )

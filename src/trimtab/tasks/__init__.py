"""Tasks: what a model must do. A built-in (`mnist5k`), the user's data (`reviews.csv`), or the user's own `Task`.

One file is one task: a frozen dataclass whose fields are the arguments of its reference, `digits(seed=1)`.

A classification or regression of the user's own needs one method, `read`, if it starts from `Labelled`; splits,
cleaning, metrics and description then come with it. Anything else is a `Task`, written in full.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.errors import DataError, suggest
from trimtab.values.notation import Step
from trimtab.values.registry import registry
from trimtab.values.task import Task
from trimtab.values.usercode import import_file

if TYPE_CHECKING:
    from trimtab.tasks._data import Data as Data
    from trimtab.tasks._labelled import Labelled as Labelled

CONTRACT = Task

KINDS = {".csv": "table", ".tsv": "table", ".parquet": "table", ".npz": "arrays"}
"""File endings and the task that reads them; a folder is `images`."""


def __getattr__(name: str) -> Any:
    """Import `Data` and `Labelled` when asked for: they need numpy."""
    if name not in ("Data", "Labelled"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}._{name.lower()}"), name)


def open_task(ref: str) -> Task:
    """Open a task by its reference.

        mnist5k   digits(seed=1)                        built in
        reviews.csv(target='label')   data.parquet(...) a table; also table:reviews.csv(...)
        arrays.npz   photos/                            arrays; a folder of images for each class
        my_task.py:MyTask(seed=1)                       the user's own Task, a class or an instance in their file

    Raises:
        UnknownName: no such task.
        DataError: the file is absent, or holds no such task.
        RecipeError: an argument that the task does not take.
    """
    if not ref.strip():
        raise DataError("the task's reference is empty; it looks like mnist5k or data.csv(target='label')")
    path, arguments = _parts(ref.strip())
    kind, colon, rest = path.partition(":")
    if colon and kind in registry("tasks").names():
        return _from_file(kind, Path(rest), arguments)
    if colon or path.endswith(".py"):
        file, _, name = path.rpartition(":") if colon else (path, "", "")
        return _from_code(Path(file), name, arguments)
    known = "images" if Path(path).is_dir() or path.endswith("/") else KINDS.get(Path(path).suffix.lower())
    if known:
        return _from_file(known, Path(path), arguments)
    if Path(path).exists() or "/" in path:
        raise DataError(f"cannot tell how to read {path}; a task's data is a folder or one of: {', '.join(KINDS)}, .py")
    step = Step.parse(f"{path}{arguments}")
    return _built(registry("tasks").take(step.name), step)


def _parts(ref: str) -> tuple[str, str]:
    """Split `data (1).csv(target='y')` into path and arguments; a path that exists as written has none."""
    if Path(ref).exists() or not ref.endswith(")"):
        return ref, ""
    opens = [position for position, char in enumerate(ref) if char == "("]
    end = next((position for position in opens if Path(ref[:position]).exists()), opens[0] if opens else len(ref))
    return ref[:end], ref[end:]


def _from_file(kind: str, path: Path, arguments: str) -> Task:
    found = _existing(path)
    given = Step.parse(f"{kind}{arguments}")
    return _built(registry("tasks").take(kind), Step(kind, (str(found), *given.positional), given.named))


def _existing(path: Path) -> Path:
    if not path.exists():
        beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"there is no {path}{suggest(path.name, beside)}")
    return path


def _built(kind: type[Any], step: Step) -> Task:
    """Fill a task's fields; positional values first go to those that are positional in Python too."""
    order = sorted(fields(kind), key=lambda each: bool(each.kw_only)) if is_dataclass(kind) else []
    named = {each.name: value for each, value in zip(order, step.positional, strict=False)}
    rest = step.positional[len(named) :]
    twice = sorted({*named} & {*step.named})
    if twice:
        raise DataError(f"{step.name} gets {twice[0]} twice: {step}")
    task: Task = Step(step.name, rest, {**named, **step.named}).build(kind)
    return task


def _from_code(path: Path, name: str, arguments: str) -> Task:
    found = _existing(path)
    contents = vars(import_file(found))
    own = {
        key: value
        for key, value in contents.items()
        if isinstance(value, Task)
        or (inspect.isclass(value) and issubclass(value, Task) and not inspect.isabstract(value))
    }
    defined = [key for key, value in own.items() if getattr(value, "__module__", "") == contents["__name__"]]
    if not name and len(defined) == 1:
        name = defined[0]
    if name not in own:
        raise DataError(f"{path} has no task {name!r}{suggest(name, defined)}; write {path}:NAME")
    thing = own[name]
    if isinstance(thing, Task):
        return thing
    if not is_dataclass(thing) and not arguments:
        task: Task = thing()
        return task
    return _built(thing, Step.parse(f"task{arguments}"))
